//! The committer, which owns the writing half of the log.
//!
//! It takes what is queued, opens one transaction, applies every request in turn, commits once, publishes the batches in
//! order, and answers the callers (L1, L2, L3). Publishing is its work and not that of the caller's future, so dropping
//! an `append` future loses nothing.

mod append;
#[cfg(feature = "sqlite")]
mod beside;
mod durable;
mod hear;
pub(crate) mod own;
mod react;
mod takeover;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{AppendError, PruneError, ReadError, SteerError, StorageError, StreamError};
use crate::event::batch::CommittedBatch;
use crate::fault::{FaultPoint, Faults};
#[cfg(feature = "sqlite")]
use crate::log::beside::BesideWork;
use crate::log::committer::own::Owners;
use crate::log::committer::react::GroupReactions;
use crate::log::crew::{Duty, Expects, Turn};
use crate::log::cursor::{CursorCell, CursorFailure};
use crate::log::letter::LetterRequest;
use crate::log::page::{PageBounds, Range};
use crate::log::prune;
use crate::log::queue::{Growth, Queue, Taken, Work};
use crate::log::request::{Answer, Condition, Expectation, Request};
use crate::log::steer::{self, Heard, Word};
use crate::log::tempo::Tempo;
use crate::log::{LogWriter, Pace, Sync, Tail};
use crate::meter::LogMeter;

/// The one way out of the log: gets the batches of each commit, in order. An empty slice says that the poll interval is over.
pub(crate) type Publish = Box<dyn FnMut(&[Arc<CommittedBatch>]) + Send>;

/// The other way out: what was said to streams from outside.
pub(crate) type Tell = Box<dyn FnMut(Heard) + Send>;

pub(crate) struct Committer<W> {
    pub(crate) writer: W,
    pub(crate) queue: Arc<Queue<Request>>,
    pub(crate) publish: Publish,
    pub(crate) tell: Tell,
    pub(crate) tempo: Arc<Tempo>,
    pub(crate) meter: LogMeter,
    /// The last sequence that was published.
    pub(crate) head: u64,
    pub(crate) log_id: String,
    pub(crate) poll_interval: Duration,
    pub(crate) faults: Faults,
    pub(crate) clock: Clock,
    /// The log's data version when other processes' commits were followed last.
    pub(crate) data_version: Option<i64>,
    /// What the group says to streams, once it is committed.
    pub(crate) words: Vec<Word>,
    /// The newest number when what other processes say to streams was listened to last.
    pub(crate) epoch_heard: Option<u64>,
    /// The cells that were taken from the queue; when the committer panics, their streams are told.
    pub(crate) in_hand: Vec<Arc<CursorCell>>,
    pub(crate) cursor_retries: HashMap<Arc<str>, u32>,
    /// Upkeep failed and is not tried again before this time.
    pub(crate) upkeep_rests_until: Option<Instant>,
    /// Changes of dead letters, which come after the group.
    pub(crate) letters: Vec<LetterRequest>,
    pub(crate) reactions: GroupReactions,
    /// What is written beside the log, which comes after the group.
    #[cfg(feature = "sqlite")]
    pub(crate) beside: Vec<Box<dyn BesideWork>>,
    pub(crate) owners: Owners,
    /// How many requests the next group may wait for, as the last one tells.
    pub(crate) expected: usize,
    /// When it looks next for what others did.
    pub(crate) look_at: Instant,
    /// From when on there is nothing else to do, unless something comes.
    pub(crate) idle_from: Option<Instant>,
}

/// From how many callers on they are served in two halves. With fewer, the sync of another commit costs more than it gains.
const HALVES_FROM: usize = 24;
/// How many pieces of upkeep the next group may have to wait for.
const CHORES_PER_GROUP_MAX: usize = 8;
/// The pause after upkeep that failed.
const UPKEEP_RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long nothing is to come before upkeep is done that could wait.
const IDLE_AFTER: Duration = Duration::from_millis(1);
/// How much of another process's commits is read at once.
const FOLLOW_BOUNDS: PageBounds = PageBounds {
    batches_max: 1024,
    bytes_max: 1 << 20,
};

impl<W: LogWriter> Duty for Committer<W> {
    fn turn(&mut self) -> Turn {
        let back_at = self.back_at();
        let work = match self.queue.take(back_at) {
            Taken::Work(work) => work,
            Taken::Nothing { until } => {
                let expects = match self.expected {
                    0 => Expects::Nobody,
                    1 => Expects::One,
                    2.. => Expects::Many,
                };
                return Turn::Rest { until, expects };
            }
        };
        self.idle_from = None;
        let is_idle = work.requests.is_empty() && work.cursors.is_empty();
        let is_done = work.is_closed && is_idle;
        let has_news = work.has_news;
        self.expected = self.work(work);
        // The callers are answered: whatever the log has to do for itself is done here, in small steps.
        self.keep_up(if is_idle && !is_done {
            Pace::Idle
        } else {
            Pace::Busy
        });
        self.writer.tidy();
        self.look_where_it_is_time(has_news);
        if is_done {
            self.leave();
            return Turn::Over;
        }
        Turn::Again
    }
}

impl<W: LogWriter> Committer<W> {
    /// When it wants to be back, although there is nothing to do.
    fn back_at(&mut self) -> Instant {
        let mut back_at = self.look_at;
        if let Some(tidy_at) = self.writer.tidy_at() {
            back_at = back_at.min(tidy_at);
        }
        if self.has_chore(Pace::Busy) {
            back_at = Instant::now();
        } else if self.has_chore(Pace::Idle) {
            let idle_from = self.idle_from.unwrap_or_else(|| Instant::now() + IDLE_AFTER);
            self.idle_from = Some(idle_from);
            back_at = back_at.min(idle_from);
        }
        self.owners
            .look_at()
            .map_or(back_at, |look_at| back_at.min(look_at))
    }

    /// Looks for what others did, when that is due or somebody said that there is something.
    fn look_where_it_is_time(&mut self, has_news: bool) {
        if Instant::now() >= self.look_at {
            self.look_around();
            self.look_at = Instant::now() + self.poll_interval;
        } else if has_news && let Err(error) = self.hear_news() {
            tracing::debug!(%error, "news could not be looked at, the next look tries again");
        }
        let looks_for_owners = self.owners.look_at();
        if looks_for_owners.is_some_and(|look_at| Instant::now() >= look_at) {
            self.look_for_owners();
        }
    }

    /// Works off what was taken, and says how many requests the next group may wait for.
    fn work(&mut self, work: Work<Request>) -> usize {
        if !work.requests.is_empty() {
            let requests = self.commit_group(work);
            for request in std::mem::take(&mut self.letters) {
                self.change_letters(request);
            }
            #[cfg(feature = "sqlite")]
            self.write_beside();
            return requests;
        }
        if !work.cursors.is_empty() {
            self.flush_cursors(&work.cursors);
        }
        0
    }

    /// Does the log's upkeep: some of what is due after a group, or one piece when there is nothing else to do. Each piece
    /// is a transaction of its own, and a piece that fails comes up again.
    fn keep_up(&mut self, pace: Pace) {
        let chores_max = match pace {
            Pace::Busy => CHORES_PER_GROUP_MAX,
            Pace::Idle => 1,
        };
        for _ in 0..chores_max {
            if !self.has_chore(pace) {
                return;
            }
            let outcome = self.begin(Sync::Ordered).and_then(|_| {
                self.writer.do_chore()?;
                if self.faults.hit(FaultPoint::BeforeUpkeep) {
                    return Err(injected("keep the log up"));
                }
                self.writer.commit()
            });
            if let Err(error) = outcome {
                self.writer.rollback();
                self.upkeep_rests_until = Some(Instant::now() + UPKEEP_RETRY_AFTER);
                tracing::warn!(%error, "the upkeep of the log failed, it is tried again later");
                return;
            }
            self.faults.hit(FaultPoint::AfterUpkeep);
        }
    }

    fn has_chore(&mut self, pace: Pace) -> bool {
        if self
            .upkeep_rests_until
            .is_some_and(|until| Instant::now() < until)
        {
            return false;
        }
        self.upkeep_rests_until = None;
        self.writer.has_chore(pace)
    }

    /// Commits, publishes and answers one group, and says how large the next one is to be. When anything fails, everything does.
    fn commit_group(&mut self, work: Work<Request>) -> usize {
        let started = Instant::now();
        let mut growth = Growth {
            requests: 0,
            expected: self.expected,
            since: started,
        };
        let mut requests = work.requests.into_iter();
        let mut answers = Vec::with_capacity(requests.len());
        let mut batches = Vec::with_capacity(requests.len());
        let mut cursors = work.cursors;
        self.in_hand.clone_from(&cursors);
        self.words.clear();
        let mut moves = Vec::with_capacity(cursors.len());
        let outcome = self.begin(Sync::Durable).and_then(|mut tail| {
            while requests.len() > 0 {
                growth.requests += requests.len();
                for request in requests.by_ref() {
                    self.apply(request, &mut tail, &mut batches, &mut answers)?;
                }
                requests = self.queue.more(growth).into_iter();
            }
            if let Err(error) = self.move_cursors(&cursors, &mut moves) {
                // The appends do not suffer for it; the cursors are tried again.
                self.writer.undo_moves()?;
                moves.clear();
                self.retry_cursors(&cursors, &error);
                cursors.clear();
            }
            if self.faults.hit(FaultPoint::BeforeCommit) {
                return Err(injected("commit"));
            }
            self.writer.commit()?;
            if self.faults.hit(FaultPoint::AfterCommit) {
                return Err(injected("hear of the commit"));
            }
            Ok(())
        });
        // Who is not waiting by now was answered with the last group, and has not come back.
        let waiting = self.queue.waiting();
        match outcome {
            Ok(()) => {
                self.publish(&batches);
                self.pass_on_words();
                self.reactions_are_committed();
                self.settle_cursors(moves);
                self.faults.hit(FaultPoint::AfterPublish);
                let took = started.elapsed();
                self.tempo.note(took, growth.requests);
                self.meter.committed(&batches, growth.requests, took);
                answers.into_iter().for_each(Answer::send);
            }
            Err(error) => {
                self.writer.rollback();
                // Nothing of what they say happened, and no cursor may follow them.
                self.reactions = GroupReactions::default();
                self.retry_cursors(&cursors, &error);
                tracing::error!(%error, "a group could not be committed");
                for answer in answers {
                    answer.fail(&error);
                }
                for request in requests {
                    Answer::refused(request, &error).send();
                }
            }
        }
        next_group(growth.requests, waiting)
    }

    /// Applies one request inside the transaction. An error here is one of the storage, which fails the group; a refusal
    /// is an answer.
    fn apply(
        &mut self,
        request: Request,
        tail: &mut Tail,
        batches: &mut Vec<Arc<CommittedBatch>>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), StorageError> {
        match request {
            Request::Append(mut request) => {
                let appended = self.append(&mut request, tail, batches);
                keep(
                    appended,
                    |outcome| {
                        answers.push(Answer::Append(request, outcome));
                    },
                    AppendError::Storage,
                )
            }
            Request::React(mut request) => {
                let reacted = self.react(&mut request, tail, batches).map(Ok);
                keep(
                    reacted,
                    |outcome| {
                        answers.push(Answer::React(request, outcome));
                    },
                    |error| error,
                )
            }
            Request::OpenCursor(request) => {
                let outcome = match self.open_cursor(&request.claim, *tail) {
                    Err(StreamError::Storage(error)) => Err(error),
                    outcome => Ok(outcome),
                };
                keep(
                    outcome,
                    |outcome| {
                        answers.push(Answer::OpenCursor(request, outcome));
                    },
                    StreamError::Storage,
                )
            }
            Request::Claim(request) => {
                let claimed = match self.claim(&request.name, request.ownership) {
                    Err(StreamError::Storage(error)) => Err(error),
                    outcome => Ok(outcome),
                };
                keep(
                    claimed,
                    |outcome| answers.push(Answer::Claim(request, outcome)),
                    StreamError::Storage,
                )
            }
            Request::LetGo(request) => keep(
                self.let_go(&request.name).map(Ok),
                |outcome| answers.push(Answer::LetGo(request, outcome)),
                |error| error,
            ),
            Request::HandOver(request) => keep(
                self.hand_over(&request).map(Ok),
                |outcome| answers.push(Answer::HandOver(request, outcome)),
                |error| error,
            ),
            Request::Prune(request) => {
                let done = prune::step(&mut self.writer, &request.step, tail, self.head, &self.log_id);
                keep(
                    done.map(Ok),
                    |outcome| {
                        answers.push(Answer::Prune(request, outcome));
                    },
                    PruneError::Storage,
                )
            }
            Request::Letter(request) => {
                self.letters.push(request);
                Ok(())
            }
            #[cfg(feature = "sqlite")]
            Request::Beside(work) => {
                self.beside.push(work);
                Ok(())
            }
            Request::Steer(request) => {
                let obeyed = match steer::obey(&mut self.writer, &request.order, tail, &self.log_id) {
                    Ok((obeyed, word)) => {
                        self.words.extend(word);
                        Ok(Ok(obeyed))
                    }
                    Err(SteerError::Storage(error)) => Err(error),
                    Err(refusal) => Ok(Err(refusal)),
                };
                keep(
                    obeyed,
                    |outcome| {
                        answers.push(Answer::Steer(request, outcome));
                    },
                    SteerError::Storage,
                )
            }
            Request::Barrier(reply) => {
                answers.push(Answer::Barrier(reply));
                Ok(())
            }
        }
    }

    /// Compares the expected context with the log, as the transaction shows it (L3).
    fn check(&mut self, condition: Option<&Condition>, pruned_through: u64) -> Result<(), AppendError> {
        let Some(Condition { query, expected }) = condition else {
            return Ok(());
        };
        let (after, expects) = match expected.0 {
            Expectation::Version(version) => (version, format!("version {version}")),
            Expectation::NothingAfter(head) => (head, format!("nothing after {head}")),
        };
        let conflict = |found: String| AppendError::Conflict {
            expected: expects,
            found,
        };
        if let Expectation::NothingAfter(head) = expected.0
            && head < pruned_through
        {
            // What was selected after it may be gone, and nobody can know any more.
            return Err(conflict(format!(
                "a log that was pruned through {pruned_through}"
            )));
        }
        if let Expectation::Version(version @ 1..) = expected.0
            && !self.writer.matches_at(query, version).map_err(storage)?
        {
            return Err(conflict(format!("no event that the query selects at {version}")));
        }
        match self.writer.first_match(query, after).map_err(storage)? {
            None => Ok(()),
            Some(sequence) => Err(conflict(format!("an event that the query selects at {sequence}"))),
        }
    }

    /// Opens a transaction, and publishes first what another process committed meanwhile.
    fn begin(&mut self, sync: Sync) -> Result<Tail, StorageError> {
        let tail = self.writer.begin(sync)?;
        self.follow(tail).map_err(|error| match error {
            ReadError::Storage(error) => error,
            error => StorageError::new("read what another process appended", error),
        })?;
        Ok(Tail {
            head: tail.head.max(self.head),
            recorded_at: self.clock.now_after(tail.recorded_at),
            pruned_through: tail.pruned_through,
        })
    }

    /// Publishes what stands in the log after the last published sequence (S3).
    fn follow(&mut self, tail: Tail) -> Result<(), ReadError> {
        if self.head < tail.pruned_through {
            let (after, through) = (self.head, tail.pruned_through);
            tracing::warn!(
                after,
                through,
                "another process pruned events before they were seen here"
            );
        }
        while self.head < tail.head {
            let range = Range {
                after: self.head,
                through: tail.head,
            };
            let page = self.writer.page(range, FOLLOW_BOUNDS)?;
            (self.publish)(&page.batches);
            self.head = page.through;
        }
        Ok(())
    }

    fn publish(&mut self, batches: &[Arc<CommittedBatch>]) {
        if let Some(last) = batches.last() {
            assert!(
                batches[0].first_sequence > self.head,
                "batches are published in the order of the log"
            );
            self.head = last.last_sequence;
            (self.publish)(batches);
        }
    }

    /// The poll interval is over: looks for commits of other processes, and lets lost wake-ups be found (D8).
    fn look_around(&mut self) {
        if let Err(error) = self.follow_others() {
            tracing::warn!(%error, "the log could not be followed, the next look tries again");
        }
        (self.publish)(&[]);
    }

    /// Publishes the commits of other processes, if there are any since the last look that succeeded.
    fn follow_others(&mut self) -> Result<(), ReadError> {
        let version = self.writer.data_version()?;
        if self.data_version != Some(version) {
            self.hear_news()?;
        }
        Ok(())
    }

    /// Publishes what others committed, and passes on what they said to streams.
    fn hear_news(&mut self) -> Result<(), ReadError> {
        let news = self.writer.news(self.head, FOLLOW_BOUNDS)?;
        if let Some(page) = news.page {
            (self.publish)(&page.batches);
            self.head = page.through;
        }
        self.follow(news.tail)?;
        if self.epoch_heard != Some(news.epoch) {
            self.hear_all()?;
        }
        self.data_version = Some(news.version);
        Ok(())
    }
}

/// How many requests the next group waits for, after one of so many during which so many others came.
///
/// Callers who are answered together come back together. A few are waited for, so that they share a commit. Many are served
/// in two halves: while one is committed, the other prepares what comes next.
fn next_group(requests: usize, waiting: usize) -> usize {
    let callers = requests + waiting;
    if callers >= HALVES_FROM {
        callers.div_ceil(2)
    } else {
        requests
    }
}

/// Keeps the answer of a request, and passes an error of the storage on, which the request is answered with as well.
fn keep<T, E>(
    outcome: Result<Result<T, E>, StorageError>,
    push: impl FnOnce(Result<T, E>),
    as_answer: impl FnOnce(StorageError) -> E,
) -> Result<(), StorageError> {
    match outcome {
        Ok(answer) => {
            push(answer);
            Ok(())
        }
        Err(error) => {
            push(Err(as_answer(error.clone())));
            Err(error)
        }
    }
}

fn storage(error: ReadError) -> AppendError {
    match error {
        ReadError::Storage(error) => AppendError::Storage(error),
        ReadError::Undecodable(event) => AppendError::Undecodable(event),
        error => AppendError::Storage(StorageError::new("check the context", error)),
    }
}

fn injected(operation: &'static str) -> StorageError {
    StorageError::new(operation, std::io::Error::other("a failure point said so")).busy()
}

impl<W> Drop for Committer<W> {
    /// Ends the queue when the committer ends, also by a panic, so that nobody waits for it in vain.
    fn drop(&mut self) {
        self.queue.end();
        if std::thread::panicking() {
            for cell in &self.in_hand {
                cell.fail(CursorFailure::CommitterEnded);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_callers_are_served_in_halves_and_few_together() {
        assert_eq!(next_group(1, 0), 1);
        assert_eq!(next_group(16, 3), 16);
        // All of them came at once, and from then on half of them each time.
        assert_eq!(next_group(64, 0), 32);
        assert_eq!(next_group(32, 32), 32);
        // Some were late.
        assert_eq!(next_group(32, 10), 21);
    }
}
