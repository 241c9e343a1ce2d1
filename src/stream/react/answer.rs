//! How a reaction gets into the log: the loop's part of it, and that of a dead letter that is retried.

use std::sync::Arc;
use std::time::Instant;

use crate::error::{DeadLetterError, FailureCategory, StopCause, StorageError, UndecodableEvent};
use crate::fault::FaultPoint;
use crate::log::letter::LetterDone;
use crate::log::reaction::{CheckedReaction, NotAppended, Reacted, Settles};
use crate::stream::aside::LETTER_ATTEMPTS_MAX;
use crate::stream::core::StreamCore;
use crate::stream::failure::Failure;
use crate::stream::machine::Input;
use crate::stream::patience::pause;
use crate::stream::policy::{Failures, Retry, Verdict};
use crate::stream::pump::{Taken, Work};
use crate::stream::react::Answer;

impl Work {
    /// The handler of a reactor answered the batch, or the part of it: the answer and the cursor are one transaction, and nothing
    /// goes on before it is committed.
    pub(crate) async fn react(
        &mut self,
        core: &StreamCore,
        answer: Answer,
        taken: Taken,
    ) -> Result<Input, StopCause> {
        let reaction = match answer {
            Answer::Append(reaction) => reaction,
            Answer::TooDeep(chain) => return Err(chain.into()),
        };
        let settles = Settles::Batch {
            cell: self.cell(),
            position: taken.through,
        };
        match append(core, &reaction, &settles).await {
            // An earlier try of this run may have got through although it was reported to have failed.
            Ok(Reacted::Done(_) | Reacted::Settled) => {
                core.faults.hit(FaultPoint::AfterReaction);
                self.handled(core, taken).await
            }
            Ok(Reacted::OwnershipLost) => Err(StopCause::OwnershipLost),
            Ok(Reacted::Conflict { expected, found }) => {
                self.failed(core, conflict(&expected, &found), taken.through)
                    .await
            }
            Ok(Reacted::Undecodable(event)) => self.failed(core, undecodable(&event), taken.through).await,
            Err(Failed::Interrupted) => Ok(Input::Woken),
            Err(Failed::Closed) => Err(StopCause::Closed),
            Err(Failed::Storage(source)) => Err(StopCause::ReactionNotStored {
                last_sequence: taken.through,
                source: Arc::new(source),
            }),
        }
    }
}

/// The handler of a reactor answered a dead letter that was retried: the answer is appended and the letter removed in one
/// transaction. Gives what became of the letter; or that it failed again.
pub(crate) async fn answer_letter(
    core: &StreamCore,
    answer: Answer,
    settles: Settles,
) -> Result<Result<LetterDone, Failure>, DeadLetterError> {
    let reaction = match answer {
        Answer::Append(reaction) => reaction,
        Answer::TooDeep(chain) => {
            let text = StopCause::from(chain).to_string();
            return Ok(Err(Failure::new(FailureCategory::Error, text)));
        }
    };
    match core.source.log.react(reaction, settles).await {
        Ok(Reacted::Done(counts)) => Ok(Ok(LetterDone::Done(counts.unwrap_or_default()))),
        Ok(Reacted::Settled) => Ok(Ok(LetterDone::NotFound)),
        Ok(Reacted::OwnershipLost) => Ok(Ok(LetterDone::OwnershipLost)),
        Ok(Reacted::Conflict { expected, found }) => Ok(Err(conflict(&expected, &found))),
        Ok(Reacted::Undecodable(event)) => Ok(Err(undecodable(&event))),
        Err(NotAppended::Storage(error)) => Err(error.into()),
        Err(NotAppended::Closed) => Err(DeadLetterError::NotRunning {
            stream: core.name_for_people(),
        }),
    }
}

fn conflict(expected: &str, found: &str) -> Failure {
    let text =
        format!("the context of the reaction moved: expected {expected}, found {found}; it is decided again");
    Failure::new(FailureCategory::Conflict, text)
}

/// The event is one of the condition's context, and may be none that the handler was given.
fn undecodable(event: &UndecodableEvent) -> Failure {
    Failure {
        at: None,
        ..Failure::undecodable(event)
    }
}

/// Why a reaction was not appended.
enum Failed {
    /// The gate has something to say first.
    Interrupted,
    Closed,
    Storage(StorageError),
}

/// Has a reaction appended. One that fails is tried again a few times: a busy file passes.
async fn append(core: &StreamCore, reaction: &CheckedReaction, settles: &Settles) -> Result<Reacted, Failed> {
    let policy = Retry::default().attempts_max(LETTER_ATTEMPTS_MAX);
    let mut failures = None;
    loop {
        let error = match core.source.log.react(reaction.clone(), settles.clone()).await {
            Ok(reacted) => return Ok(reacted),
            Err(NotAppended::Closed) => return Err(Failed::Closed),
            Err(NotAppended::Storage(error)) => error,
        };
        let now = Instant::now();
        let failures = failures.get_or_insert_with(|| Failures::new(policy, now));
        let Verdict::RetryAfter(delay) = failures.record(now) else {
            return Err(Failed::Storage(error));
        };
        tracing::warn!(stream = core.name.as_deref(), %error, "a reaction could not be appended, it is tried again");
        pause(core, delay).await;
        if core.gate.calls() {
            return Err(Failed::Interrupted);
        }
    }
}
