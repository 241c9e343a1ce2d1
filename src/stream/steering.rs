//! What a stream makes of the words from outside: pure.
//!
//! Words may come twice, late and out of order: from the committer after each commit, from its look-around, and from the
//! registration of the stream. Their numbers say which of them is news.

use std::sync::Arc;

use crate::error::StopCause;
use crate::log::cursor::{Pause, RollCall, StoredCursor};
use crate::log::owner::InstanceId;
use crate::log::retry_request::RetryRequest;
use crate::log::steer::{Stands, Word};

/// How a running stream is to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Another epoch than the loop's own: it starts over, at the position.
    pub(crate) epoch: u64,
    pub(crate) position: u64,
    pub(crate) paused: Option<Pause>,
    pub(crate) duty: Duty,
}

impl Standing {
    /// How the row says that its owner is to stand.
    pub(crate) fn of(row: &StoredCursor) -> Self {
        Self {
            epoch: row.epoch,
            position: row.position,
            paused: row.paused.clone(),
            duty: Duty::Runs,
        }
    }
}

/// What a loop is to do with its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    Runs,
    /// It runs the stream, and is to give it to another instance.
    Yields {
        heir: InstanceId,
    },
    /// Another instance runs it.
    StandsBy,
    /// Another instance ran it, and does no more.
    TakesOver,
}

/// What follows from a word.
#[derive(Clone, Debug)]
pub(crate) enum Consequence {
    End(StopCause),
    Stand(Standing),
}

/// What a running stream has heard.
#[derive(Clone, Debug)]
pub(crate) struct Hearing {
    /// The epoch of the stream's registration.
    owner: u64,
    /// The number of the newest word that was heard.
    heard: u64,
    /// The epoch under which the stream is to run; 0: it is not.
    epoch: u64,
    /// Where that epoch begins.
    position: u64,
    paused: Option<Pause>,
    duty: Duty,
    /// The newest word to the owner that was heard while another instance was that.
    missed: Option<Box<Word>>,
    /// The number of the newest request to retry letters that was heard.
    asked: u64,
}

/// A request to retry dead letters, for the owner who is to begin it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) request: Box<RetryRequest>,
    pub(crate) owner: u64,
}

impl Hearing {
    pub(crate) fn of(registered: &StoredCursor) -> Self {
        Self {
            owner: registered.owner,
            heard: registered.steering,
            epoch: registered.epoch,
            position: registered.position,
            paused: registered.paused.clone(),
            duty: Duty::Runs,
            missed: None,
            asked: 0,
        }
    }

    /// Of a stream that another instance runs.
    pub(crate) fn standing_by(registered: &StoredCursor) -> Self {
        let mut hearing = Self::of(registered);
        hearing.gave_away();
        hearing
    }

    /// The stream is to be given to another instance, if it is not already.
    pub(crate) fn yields(&mut self, heir: InstanceId) -> Option<Standing> {
        if self.duty != Duty::Runs {
            return None;
        }
        self.duty = Duty::Yields { heir };
        Some(self.standing())
    }

    /// It was not given away.
    pub(crate) fn keeps(&mut self) {
        self.duty = Duty::Runs;
    }

    /// Another instance runs the stream.
    pub(crate) fn gave_away(&mut self) {
        self.duty = Duty::StandsBy;
        self.epoch = 0;
        self.paused = None;
    }

    /// Nobody runs the stream. Nothing follows for who runs it himself.
    pub(crate) fn vacant(&self) -> Option<Standing> {
        (self.duty == Duty::StandsBy).then(|| Standing {
            duty: Duty::TakesOver,
            ..self.standing()
        })
    }

    /// The stream was registered anew, and what follows from what was said to it meanwhile.
    pub(crate) fn takes_over(&mut self, row: &StoredCursor) -> Option<Consequence> {
        let missed = self.missed.take();
        *self = Self::of(row);
        self.hear(*missed?)
    }

    fn standing(&self) -> Standing {
        Standing {
            epoch: self.epoch,
            position: self.position,
            paused: self.paused.clone(),
            duty: self.duty.clone(),
        }
    }

    /// Who paused the stream, as far as it has heard.
    pub(crate) fn paused(&self) -> Option<&Pause> {
        self.paused.as_ref()
    }

    /// The epoch under which the stream is to run, as far as it has heard.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What a row asks for that was not heard before and that nobody has begun. Whether it came in time is decided in the log.
    pub(crate) fn asked(&mut self, row: &StoredCursor) -> Option<Asked> {
        let runs = !matches!(self.duty, Duty::StandsBy | Duty::TakesOver);
        let is_owner = runs && row.owner == self.owner;
        let request = row.retry.as_ref().filter(|_| is_owner)?;
        if request.begun_by != 0 || request.number <= self.asked {
            return None;
        }
        self.asked = request.number;
        Some(Asked {
            request: request.clone(),
            owner: self.owner,
        })
    }

    /// Nothing follows from a word that was heard before, or that was meant for an earlier owner of the name.
    pub(crate) fn hear(&mut self, word: Word) -> Option<Consequence> {
        match word.stands {
            Stands::At(ref row) if self.duty == Duty::StandsBy && row.successor().is_none() => {
                self.owner = self.owner.max(row.owner);
                self.missed = Some(Box::new(word));
                None
            }
            // It may have been given away, which the loop is yet to learn; if it was lost, the log says so when it is given away.
            Stands::At(row)
                if row.owner > self.owner
                    && matches!(self.duty, Duty::Yields { .. })
                    && row.successor().is_none() =>
            {
                None
            }
            Stands::At(row) if row.owner > self.owner => Some(Consequence::End(lost(&row))),
            Stands::At(row) if row.owner == self.owner && row.steering > self.heard => {
                self.heard = row.steering;
                self.epoch = row.epoch;
                self.position = row.position;
                self.paused = row.paused;
                Some(Consequence::Stand(self.standing()))
            }
            Stands::At(_) => None,
            _ if word.number <= self.owner.max(self.heard) => None,
            Stands::Renamed { to } => Some(Consequence::End(StopCause::Renamed { to: to.to_string() })),
            Stands::Gone => Some(Consequence::End(StopCause::Deleted)),
        }
    }

    /// What the rows of all streams say to this one.
    pub(crate) fn word(&self, name: &Arc<str>, roll_call: &RollCall) -> Word {
        find(name, Some(self.owner), roll_call)
    }
}

/// Why a stream ends whose row has another owner.
fn lost(row: &StoredCursor) -> StopCause {
    row.successor().map_or(StopCause::OwnershipLost, |by| {
        let by = by.to_string();
        StopCause::TakenOver { by }
    })
}

/// What the rows of all streams say to the one of this name, and of this owner, if it has one already.
pub(crate) fn find(name: &Arc<str>, owner: Option<u64>, roll_call: &RollCall) -> Word {
    let RollCall { number, rows } = roll_call;
    let by_name = rows.binary_search_by(|row| row.name.cmp(name));
    let stands = match by_name {
        Ok(index) => Stands::At(rows[index].cursor.clone()),
        // A rename keeps the owner, of whom there is no other.
        Err(_) => match rows.iter().find(|row| Some(row.cursor.owner) == owner) {
            Some(row) => Stands::Renamed {
                to: Arc::clone(&row.name),
            },
            None => Stands::Gone,
        },
    };
    Word {
        name: Arc::clone(name),
        number: *number,
        stands,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::log::cursor::NamedCursor;
    use crate::log::letter::Attempt;

    fn row(owner: u64, epoch: u64, steering: u64) -> StoredCursor {
        StoredCursor {
            position: 4,
            query: "[{}]".into(),
            log_id: "log".into(),
            epoch,
            owner,
            steering,
            paused: None,
            retry: None,
            updated_at: Timestamp::EPOCH,
            attempt: Attempt::RUNNING,
        }
    }

    fn said(number: u64, stands: Stands) -> Word {
        Word {
            name: "ledger".into(),
            number,
            stands,
        }
    }

    #[test]
    fn d6_a_word_is_heeded_once_and_only_by_the_owner_it_is_meant_for() {
        let mut hearing = Hearing::of(&row(5, 5, 2));
        let at = |row: StoredCursor| said(row.steering, Stands::At(row));
        assert!(hearing.hear(at(row(5, 5, 2))).is_none(), "known from the row");
        let Some(Consequence::Stand(standing)) = hearing.hear(at(row(5, 6, 6))) else {
            panic!("a reset is news");
        };
        assert_eq!((standing.epoch, standing.position), (6, 4));
        assert!(hearing.hear(at(row(5, 6, 6))).is_none(), "heard already");
        assert!(
            hearing.hear(at(row(3, 4, 4))).is_none(),
            "meant for an earlier owner"
        );
        let lost = hearing.hear(at(row(7, 8, 8)));
        assert!(matches!(lost, Some(Consequence::End(StopCause::OwnershipLost))));
    }

    #[test]
    fn d6_who_gives_a_stream_away_leaves_it_to_the_log_whether_it_lost_it() {
        let mut hearing = Hearing::of(&row(5, 5, 0));
        let later = || said(7, Stands::At(row(7, 7, 0)));
        let yields = hearing.yields("heir".into()).expect("it runs the stream");
        assert_eq!(yields.duty, Duty::Yields { heir: "heir".into() });
        assert!(hearing.yields("other".into()).is_none(), "it was told");
        assert!(hearing.vacant().is_none(), "it runs the stream itself");
        assert!(hearing.hear(later()).is_none());
        let Some(Consequence::Stand(standing)) = hearing.hear(said(6, Stands::At(row(5, 6, 6)))) else {
            panic!("a reset is heeded first");
        };
        assert_eq!((standing.epoch, standing.duty), (6, yields.duty));
        hearing.keeps();
        let lost = hearing.hear(later());
        assert!(matches!(lost, Some(Consequence::End(StopCause::OwnershipLost))));
    }

    #[test]
    fn d6_who_stands_by_hears_what_is_said_to_the_owner_when_it_takes_over() {
        let paused = Pause {
            by: "anna".into(),
            since: Timestamp::EPOCH,
            kind: crate::log::cursor::PauseKind::ByHand,
        };
        let mut hearing = Hearing::standing_by(&row(5, 5, 0));
        assert_eq!((hearing.epoch(), hearing.paused()), (0, None));
        assert!(
            hearing.hear(said(7, Stands::At(row(7, 7, 0)))).is_none(),
            "another owner"
        );
        assert_eq!(
            hearing.vacant().map(|standing| standing.duty),
            Some(Duty::TakesOver)
        );
        // It registers, and is paused before it knows that it is the owner.
        let pauses = StoredCursor {
            paused: Some(paused.clone()),
            ..row(8, 8, 9)
        };
        assert!(hearing.hear(said(9, Stands::At(pauses))).is_none());
        let Some(Consequence::Stand(standing)) = hearing.takes_over(&row(8, 8, 0)) else {
            panic!("the pause is heeded");
        };
        assert_eq!((standing.paused, standing.duty), (Some(paused), Duty::Runs));
        assert!(hearing.vacant().is_none());
        let mut hearing = Hearing::standing_by(&row(5, 5, 0));
        let gone = hearing.hear(said(6, Stands::Gone));
        assert!(matches!(gone, Some(Consequence::End(StopCause::Deleted))));
    }

    #[test]
    fn an_earlier_stream_of_the_name_that_was_removed_is_no_news() {
        let mut hearing = Hearing::of(&row(5, 5, 0));
        assert!(hearing.hear(said(4, Stands::Gone)).is_none());
        let gone = hearing.hear(said(6, Stands::Gone));
        assert!(matches!(gone, Some(Consequence::End(StopCause::Deleted))));
    }

    #[test]
    fn a_renamed_stream_is_found_by_its_owner() {
        let hearing = Hearing::of(&row(5, 5, 0));
        let rows = [("books", row(5, 9, 9)), ("other", row(8, 8, 0))];
        let rows = rows.map(|(name, cursor)| NamedCursor {
            name: name.into(),
            cursor,
        });
        let roll_call = RollCall {
            number: 9,
            rows: rows.into(),
        };
        let word = hearing.word(&"ledger".into(), &roll_call);
        assert!(matches!(word.stands, Stands::Renamed { to } if &*to == "books"));
        assert!(matches!(
            find(&"none".into(), None, &roll_call).stands,
            Stands::Gone
        ));
    }
}
