//! `dead-letters retry`: whoever runs the stream is asked to handle letters again.

use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use futures::TryStreamExt;
use millstream::{
    DeadLetter, DeadLetterState, ReadError, RetryLetters, RetryProgress, RetryState, RetryTicket, Store,
    Withdrawal,
};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use crate::commands::dead_letters::outcome::{self, Retried};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::progress::{Progress, Unit};
use crate::tally::counted;
use crate::terminal;
use crate::who::Who;

/// Let the process that runs a stream handle dead letters again: one, those of a key in order, or all that wait
///
/// A letter that is handled is gone; one that fails again stays, with the new cause, and the later ones of its key are not tried.
/// The cursor does not move. Nothing is retried later: when no process begins in time, the request is gone.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The name of the stream
    name: String,
    /// The sequence with which the letter begins, as `list` has it
    #[arg(required_unless_present_any = ["key", "all"])]
    sequence: Option<u64>,
    /// The letters of this key, in order, until one fails
    #[arg(long, conflicts_with = "sequence", value_parser = NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// All letters that wait; what was skipped is left alone
    #[arg(long, conflicts_with_all = ["sequence", "key"])]
    all: bool,
    #[command(flatten)]
    who: Who,
    /// How many seconds the process that runs the stream may take to begin
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    begin_within: u64,
    /// How many seconds to wait for the end; what was begun goes on after that
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 300,
        conflicts_with = "no_wait",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    timeout: u64,
    /// Ask, and do not wait for what becomes of it
    #[arg(long)]
    no_wait: bool,
}

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Arguments {
    fn letters(&self) -> RetryLetters {
        match (self.sequence, &self.key) {
            (Some(first_sequence), _) => RetryLetters::One(first_sequence),
            (None, Some(key)) => RetryLetters::Key(key.clone()),
            (None, None) => RetryLetters::All,
        }
    }

    fn is_meant(&self, letter: &DeadLetter) -> bool {
        match self.letters() {
            RetryLetters::One(first_sequence) => letter.first_sequence == first_sequence,
            RetryLetters::Key(key) => letter.key.as_ref() == Some(&key),
            _ => letter.state != DeadLetterState::Skipped,
        }
    }
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let name = &arguments.name;
    let control = store.stream(name).await?;
    let mut before = list(&store, name).await?;
    before.retain(|letter| arguments.is_meant(letter));
    if before.is_empty() && arguments.all {
        store.close().await?;
        return outcome::tell(&Retried::nothing(name), &mut context.output);
    }
    // Whoever interrupts it takes back what was asked, so this is there before anything is asked.
    let interrupted = terminal::interruption().await;
    let begin_within = Duration::from_secs(arguments.begin_within);
    let ticket = control
        .ask_for_retry(arguments.letters(), &arguments.who.by, begin_within)
        .await?;
    if arguments.no_wait {
        store.close().await?;
        return asked(&arguments, before.len() as u64, context);
    }
    let waited = wait(&ticket, &arguments, before.len() as u64, interrupted).await;
    let after = list(&store, name).await?;
    store.close().await?;
    let progress = waited?;
    let retried = Retried::new(name, &before, &after, &progress);
    let told = outcome::tell(&retried, &mut context.output)?;
    match (&progress.state, &progress.problem) {
        (RetryState::Ended, None) => Ok(told),
        (RetryState::Ended, Some(problem)) => Err(Failure::Failed(problem.clone())),
        _ => Err(Failure::Failed(format!(
            "the process that retried the letters of {name:?} has ended or lost the stream meanwhile; see what is left with `dead-letters list`"
        ))),
    }
}

async fn list(store: &Store, name: &str) -> Result<Vec<DeadLetter>, ReadError> {
    store.dead_letters(name).list().try_collect().await
}

/// What is told when nobody waits.
fn asked(arguments: &Arguments, letters: u64, context: &mut Context) -> Result<Exit, Failure> {
    let Arguments {
        name, begin_within, ..
    } = arguments;
    let told = json!({
        "name": name,
        "state": "asked",
        "letters": letters,
        "begin_within_seconds": begin_within,
    });
    context.output.tell(&told, || {
        let letters = counted(letters, "dead letter", "dead letters");
        format!("asked for a retry of {letters} of {name:?}; unless it is begun within {begin_within} s, it will not be")
    })?;
    Ok(Exit::Fine)
}

/// Waits until the request has ended, somebody interrupts it, or the time is over.
async fn wait(
    ticket: &RetryTicket,
    arguments: &Arguments,
    letters: u64,
    mut interrupted: impl Future<Output = std::io::Result<()>> + Unpin,
) -> Result<RetryProgress, Failure> {
    let bar = Progress::start("retrying", Unit::Letters, Some(letters));
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout);
    loop {
        let progress = ticket.progress().await?;
        bar.reached(progress.handled + progress.failed);
        match progress.state {
            RetryState::Waiting | RetryState::UnderWay => {}
            RetryState::Expired => return Err(nobody_began(arguments)),
            RetryState::Gone => {
                return Err(Failure::Failed(String::from(
                    "somebody else has asked for another retry meanwhile; see what is left with `dead-letters list`",
                )));
            }
            _ => return Ok(progress),
        }
        let why = tokio::select! {
            () = sleep(LOOK_EVERY) => continue,
            () = sleep_until(deadline) => "the time is over",
            _ = &mut interrupted => "interrupted",
        };
        drop(bar);
        return Err(match ticket.withdraw().await? {
            Withdrawal::Withdrawn if why == "interrupted" => Failure::Failed(String::from(
                "interrupted; nothing was retried, and no request is left",
            )),
            Withdrawal::Withdrawn => nobody_began(arguments),
            _ => Failure::GoesOn(format!(
                "{why}; the process that runs {:?} goes on with the retry, see what is left with `dead-letters list`",
                arguments.name
            )),
        });
    }
}

fn nobody_began(arguments: &Arguments) -> Failure {
    let seconds = arguments.begin_within.min(arguments.timeout);
    Failure::NobodyRuns(format!(
        "no process has begun within {seconds} s: the one that ran {:?} has died or hangs; nothing was retried, and no request is left",
        arguments.name
    ))
}
