//! The same in the other place: a read model in the log's own file. After each kill its rows are a fold over the log up to its
//! position, the cursor of its stream is not before that, and no event was applied twice (R1).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use millstream::rusqlite::Connection;
use millstream::{FailurePolicy, InLogModel, InLogOptions, ReadModels, Retry, Store};

use crate::Dice;
use crate::models::{Counted, pairs};

pub(crate) const NAME: &str = "inside";
const STREAM: &str = "inside@1";

pub(crate) async fn keep(store: &Store, projection: Counted, dice: &Dice) -> InLogModel {
    let options = InLogOptions::default()
        .retry(Retry::never())
        .transaction_events_max(1 + dice.below(60) as usize)
        // A machine that is busy is not what is tested here.
        .budget(Duration::from_secs(60))
        .on_failure(FailurePolicy::park().letters_max(1_000_000));
    let models = ReadModels::in_log(store).expect("the log is a file");
    let model = models.project_with(projection, &options).await;
    model.expect("a read model in the log goes on after a crash")
}

/// Has what was set aside applied, and waits for the rest.
pub(crate) async fn finish(store: &Store, model: &InLogModel) {
    model.caught_up().await.expect("it catches up");
    let retried = store.dead_letters(STREAM).retry_all().await;
    let retried = retried.expect("letters can be retried");
    assert_eq!(retried.failed, 0, "{retried:?}");
}

/// What SQL finds in the log's file.
pub(crate) struct Inside {
    log: BTreeMap<i64, String>,
    position: i64,
    cursor: i64,
    seen: BTreeSet<i64>,
    counted: BTreeMap<String, i64>,
    pub(crate) letters: BTreeSet<i64>,
}

impl Inside {
    /// Nothing: the process died before it made the tables.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        let log = Connection::open(dir.join("log.db")).unwrap();
        let position = "SELECT position FROM millstream_model";
        let position = log.query_row(position, [], |row| row.get(0)).ok()?;
        let cursor = format!("SELECT position FROM cursor WHERE name = '{STREAM}'");
        let cursor = log.query_row(&cursor, [], |row| row.get(0)).unwrap_or(0);
        let letters =
            format!("SELECT first_sequence, last_sequence FROM dead_letter WHERE stream = '{STREAM}'");
        let letters: BTreeMap<i64, i64> = pairs(&log, &letters);
        Some(Self {
            log: pairs(
                &log,
                "SELECT sequence, name FROM event JOIN event_type ON id = type",
            ),
            position,
            cursor,
            seen: pairs::<i64, i64>(&log, "SELECT sequence, 0 FROM seen")
                .into_keys()
                .collect(),
            counted: pairs(&log, "SELECT type, count FROM counted"),
            letters: letters
                .into_iter()
                .flat_map(|(first, last)| first..=last)
                .collect(),
        })
    }

    pub(crate) fn check(&self, orders: &str) {
        let mut folded = BTreeMap::new();
        for (sequence, name) in &self.log {
            if self.seen.contains(sequence) {
                *folded.entry(name.clone()).or_insert(0) += 1;
            } else if *sequence <= self.position.max(self.cursor) {
                let is_letter = self.letters.contains(sequence);
                assert!(
                    is_letter,
                    "{sequence} is lost inside, at {}\nafter {orders}",
                    self.position
                );
            }
        }
        assert_eq!(self.counted, folded, "inside\nafter {orders}");
        let beyond = self.seen.range(self.position + 1..).next();
        assert_eq!(beyond, None, "applied beyond {}\nafter {orders}", self.position);
    }

    /// Everything is applied.
    pub(crate) fn check_end(&self) {
        assert!(self.letters.is_empty(), "{:?}", self.letters);
        let all: BTreeSet<i64> = self.log.keys().copied().collect();
        assert_eq!(self.seen, all);
    }
}
