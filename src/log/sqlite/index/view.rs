//! One connection's way to the index.

use std::collections::VecDeque;
use std::sync::Arc;

use rusqlite::Connection;

use crate::log::page::Range;
use crate::log::sqlite::index::entry::Entry;
use crate::log::sqlite::index::path::PayloadPath;
use crate::log::sqlite::index::run::{self, Runs};
use crate::log::sqlite::index::scan::{RunScan, Sequences, StageScan, TypeScan};
use crate::log::sqlite::index::search::{Intersection, Union};
use crate::log::sqlite::index::segment::{Source, segments};
use crate::log::sqlite::index::stage::Stage;
use crate::log::sqlite::index::tier::Run;
use crate::sync::Mutex;

/// One search of the index; a query is the union of some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// The events of a type.
    Type(String),
    /// The events that have all of these keys.
    Keys(Vec<i64>),
}

/// What all connections of a process share: the stage, and the paths that its entries were made with.
pub(crate) struct Shared {
    pub(crate) stage: Stage,
    pub(crate) paths: Arc<[PayloadPath]>,
}

/// The index as a process begins with it: it knows nothing and follows the log from there.
pub(crate) fn shared() -> Arc<Mutex<Shared>> {
    Arc::new(Mutex::new(Shared {
        stage: Stage::behind(0),
        paths: Arc::default(),
    }))
}

/// What a connection asks the index with.
pub(crate) struct IndexView {
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) runs: Runs,
    /// The entries of the transaction under way; only the writer has some.
    pub(super) pending: Pending,
}

/// Entries of events that are not committed. They follow those of the stage.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) entries: Vec<Entry>,
    /// How far they reach; 0, when there are none.
    pub(super) through: u64,
}

/// What the stage knew of some keys, taken before the snapshot was.
pub(crate) struct Staged {
    found: Vec<(i64, VecDeque<u64>)>,
    covers: Range,
}

/// A stretch of a range, and how its candidates are found.
pub(crate) struct Stretch {
    pub(crate) range: Range,
    /// Nothing: every event of the stretch is one.
    pub(crate) sequences: Option<Box<dyn Sequences>>,
}

impl IndexView {
    pub(crate) fn new(shared: Arc<Mutex<Shared>>) -> Self {
        Self {
            shared,
            runs: Runs::default(),
            pending: Pending::default(),
        }
    }

    /// The paths by which payloads can be found.
    pub(crate) fn paths(&self) -> Arc<[PayloadPath]> {
        Arc::clone(&self.shared.lock().paths)
    }

    /// Asks the stage. What it lets go afterwards is in a run that a later snapshot sees, so this comes before the snapshot.
    pub(crate) fn staged(&self, searches: &[Search], range: Range) -> Staged {
        let keys = searches.iter().flat_map(|search| match search {
            Search::Keys(keys) => keys.as_slice(),
            Search::Type(_) => &[],
        });
        let Pending { entries, through } = &self.pending;
        let shared = self.shared.lock();
        let stage = &shared.stage;
        let found = keys.map(|key| {
            let of_transaction = entries.iter().filter(|entry| entry.key == *key);
            let of_transaction = of_transaction.map(|entry| entry.sequence);
            (*key, stage.sequences(*key, range).chain(of_transaction).collect())
        });
        Staged {
            found: found.collect(),
            covers: Range {
                after: stage.covers().after,
                through: stage.covers().through.max(*through),
            },
        }
    }

    /// The stretches of a range, in order. Asked inside the snapshot in which they are read.
    pub(crate) fn stretches(
        &mut self,
        connection: &Connection,
        searches: &[Search],
        range: Range,
        staged: &Staged,
    ) -> rusqlite::Result<Vec<Stretch>> {
        let has_keys = searches.iter().any(|search| matches!(search, Search::Keys(_)));
        // Types have an index that knows all events.
        let stand = if has_keys {
            run::stand(connection)?
        } else {
            run::Stand {
                indexed_through: u64::MAX,
                generation: 0,
            }
        };
        let no_runs = Arc::default();
        let runs = match has_keys {
            true => self.runs.at(connection, stand.generation)?,
            false => &no_runs,
        };
        let stretch = |(source, range): (Source, Range)| Stretch {
            range,
            sequences: (source != Source::Rows).then(|| {
                let members = searches.iter();
                Union::of(
                    members
                        .map(|search| sequences(search, source, range, runs, staged))
                        .collect(),
                )
            }),
        };
        let segments = segments(range, stand.indexed_through, staged.covers);
        Ok(segments.map(stretch).collect())
    }
}

fn sequences(
    search: &Search,
    source: Source,
    range: Range,
    runs: &Arc<[Run]>,
    staged: &Staged,
) -> Box<dyn Sequences> {
    let of_key = |key: &i64| -> Box<dyn Sequences> {
        if source == Source::Runs {
            return Box::new(RunScan::new(*key, range, runs));
        }
        let found = staged.found.iter().find(|(known, _)| known == key);
        Box::new(StageScan::new(
            found.map_or(VecDeque::new(), |(_, found)| found.clone()),
        ))
    };
    match search {
        Search::Type(name) => Box::new(TypeScan::new(name, range)),
        Search::Keys(keys) => Intersection::of(keys.iter().map(of_key).collect()),
    }
}
