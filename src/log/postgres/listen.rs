//! Wake-ups between processes: what was committed here is told to the others, and what they say is passed on.
//!
//! A word says only that there is something to look at: anybody may say it. Who hears it asks the log at once, over the connection on which it
//! came, so that the committer is woken with an answer and not with a question.
//!
//! The writer sends it right behind its commit, as a transaction of its own that asks
//! for no sync: in the transaction itself it would take a lock that all transactions of the database with words share, and hold it
//! through the sync of the commit. Words are heard over another connection, which says them once more a little later, one for many: the writer's may be lost before it
//! has said it. A word that is lost, because its connection or its process is gone, delays the others until their next look at the poll interval.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::log::postgres::heard::Heard;
use crate::log::postgres::news::{self, Answer};
use crate::log::postgres::server::{Role, Server};
use crate::log::postgres::session::Session;
use crate::log::postgres::trouble::Trouble;

/// The pauses between two tries to listen.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How many words may wait. One says as much as many.
const WORDS_MAX: usize = 16;
/// When words are said once more. Not at once: then those who hear them are at work on the first.
const REPEAT_AFTER: Duration = Duration::from_millis(10);
/// How long the committer waits for what a word is about, before it asks for itself.
const ANSWER_WITHIN: Duration = Duration::from_millis(20);

/// Tells, listens, and connects again when the connection is lost.
pub(super) struct Herald {
    pub(super) server: Arc<Server>,
    pub(super) channel: String,
    /// Something was committed here.
    pub(super) own: Arc<Notify>,
    /// The number of the writer's session.
    pub(super) writer: Arc<AtomicI32>,
    /// What is found on a word.
    pub(super) heard: Arc<Heard<Answer>>,
    /// Somebody else has committed something.
    pub(super) call: Arc<dyn Fn() + Send + Sync>,
    pub(super) closing: watch::Receiver<bool>,
}

/// The channel of a log: no other log has it, not even one in the same database.
pub(super) fn channel(log_id: &str) -> String {
    format!("millstream_{log_id}")
}

/// What the writer sends behind a commit.
pub(super) fn word(log_id: &str) -> String {
    let channel = channel(log_id);
    format!("BEGIN; SET LOCAL synchronous_commit = off; NOTIFY {channel}; COMMIT")
}

/// The number of a session at the server, with which its words come.
pub(super) async fn own_number(session: &mut Session) -> Result<i32, Trouble> {
    let row = session.client.query_one("SELECT pg_backend_pid()", &[]).await?;
    Ok(row.try_get(0)?)
}

/// How a stretch of listening ended.
enum End {
    Closing,
    Lost,
}

impl Herald {
    pub(super) async fn run(self) {
        let mut is_told = false;
        let mut pauses = pauses();
        loop {
            match self.listen(&mut is_told).await {
                Ok(End::Closing) => return,
                Ok(End::Lost) => {
                    // It worked for a while, so it will again soon.
                    pauses = self::pauses();
                    tracing::info!(server = %self.server.name, "the connection for wake-ups was lost, it is made anew");
                }
                Err(trouble) if !is_told => {
                    is_told = true;
                    tracing::warn!(
                        server = %self.server.name, %trouble,
                        "wake-ups of other processes cannot be heard, they are looked for at the poll interval"
                    );
                }
                Err(_) => {}
            }
            let pause = pauses.next().unwrap_or(PAUSE_MAX);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = closed(&self.closing) => return,
            }
        }
    }

    async fn listen(&self, is_told: &mut bool) -> Result<End, Trouble> {
        let (heard, mut words) = mpsc::channel(WORDS_MAX);
        let connecting = tokio::time::timeout(self.server.patience(), self.connect(heard));
        let limit = self.server.patience();
        let (mut session, own_number) = tokio::select! {
            connected = connecting => connected.map_err(|_| Trouble::NoAnswer { limit })??,
            () = closed(&self.closing) => return Ok(End::Closing),
        };
        *is_told = false;
        // What was said before nobody heard.
        (self.call)();
        let tell = format!("NOTIFY {}", self.channel);
        let mut repeat_at = None;
        loop {
            tokio::select! {
                () = closed(&self.closing) => return Ok(End::Closing),
                word = words.recv() => match word {
                    None => return Ok(End::Lost),
                    // Relaxed: see where it is stored.
                    Some(number) if number == own_number || number == self.writer.load(Ordering::Relaxed) => {}
                    Some(_) => {
                        // What was said until now is answered together.
                        while words.try_recv().is_ok() {}
                        if self.pass_on(&mut session).await.is_err() {
                            return Ok(End::Lost);
                        }
                    }
                },
                () = self.own.notified(), if repeat_at.is_none() => {
                    repeat_at = Some(Instant::now() + REPEAT_AFTER);
                }
                () = tokio::time::sleep_until(repeat_at.unwrap_or_else(Instant::now)), if repeat_at.is_some() => {
                    repeat_at = None;
                    let told = tokio::time::timeout(limit, session.client.batch_execute(&tell)).await;
                    match told {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) | Err(_) => return Ok(End::Lost),
                    }
                }
            }
        }
    }

    /// Asks what a word is about, and wakes the committer. Without an answer, or while one is long in coming, it asks for itself, and
    /// meets what is wrong.
    async fn pass_on(&self, session: &mut Session) -> Result<(), Trouble> {
        let Some(after) = self.heard.wanted() else {
            (self.call)();
            return Ok(());
        };
        let limit = self.server.patience();
        let mut asking = pin!(tokio::time::timeout(limit, news::ask(session, after)));
        let answer = tokio::select! {
            answer = &mut asking => answer,
            () = tokio::time::sleep(ANSWER_WITHIN) => {
                (self.call)();
                tokio::select! {
                    answer = asking => answer,
                    () = closed(&self.closing) => return Ok(()),
                }
            }
        };
        let outcome = match answer {
            Ok(Ok(answer)) => {
                self.heard.put(after, answer);
                Ok(())
            }
            Ok(Err(trouble)) if trouble.is_lost() => Err(trouble),
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(Trouble::NoAnswer { limit }),
        };
        (self.call)();
        outcome
    }

    /// A session that listens, and its number.
    async fn connect(&self, heard: mpsc::Sender<i32>) -> Result<(Session, i32), Trouble> {
        let mut session = self.server.connect(Role::Listener, Some(heard)).await?;
        session
            .client
            .batch_execute(&format!("LISTEN {}", self.channel))
            .await?;
        let number = own_number(&mut session).await?;
        Ok((session, number))
    }
}

async fn closed(closing: &watch::Receiver<bool>) {
    // The sender's end is the end, too.
    let _ = closing.clone().wait_for(|is_closing| *is_closing).await;
}

fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(PAUSE_MIN)
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}
