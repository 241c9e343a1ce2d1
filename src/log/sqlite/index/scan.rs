//! The sequences that have one key, in the order of the log.

use std::collections::VecDeque;
use std::sync::Arc;

use rusqlite::Connection;

use crate::log::page::Range;
use crate::log::sqlite::index::entry::Entry;
use crate::log::sqlite::index::run;
use crate::log::sqlite::index::search::Union;
use crate::log::sqlite::index::tier::Run;
use crate::log::sqlite::names::ids_of_type;

/// Sequences that grow, found one after the other.
pub(crate) trait Sequences {
    /// The first one that is `from` or later. `from` never decreases.
    fn next(&mut self, connection: &Connection, from: u64) -> rusqlite::Result<Option<u64>>;
}

/// What the runs know of one key. Each run has the entries of a stretch of its own, so they are asked one behind the other.
pub(crate) struct RunScan {
    key: i64,
    range: Range,
    runs: Arc<[Run]>,
    /// The run that is asked next.
    next_run: usize,
    /// The run that was asked last, if it may have more.
    open_run: Option<i64>,
    found: VecDeque<u64>,
}

impl RunScan {
    pub(crate) fn new(key: i64, range: Range, runs: &Arc<[Run]>) -> Self {
        Self {
            key,
            range,
            runs: Arc::clone(runs),
            next_run: runs.partition_point(|run| run.covers.through <= range.after),
            open_run: None,
            found: VecDeque::new(),
        }
    }

    /// Asks a run for the entries of one block.
    fn ask(&mut self, connection: &Connection, run: i64, from: u64) -> rusqlite::Result<()> {
        let key = self.key;
        let mut ends_with_key = false;
        let found = &mut self.found;
        run::entries_from(connection, run, Entry { key, sequence: from }, |entry| {
            ends_with_key = entry.key == key;
            if ends_with_key {
                found.push_back(entry.sequence);
            }
        })?;
        self.open_run = ends_with_key.then_some(run);
        Ok(())
    }
}

impl Sequences for RunScan {
    fn next(&mut self, connection: &Connection, from: u64) -> rusqlite::Result<Option<u64>> {
        let from = from.max(self.range.after + 1);
        loop {
            while let Some(sequence) = self.found.front().copied() {
                if sequence > self.range.through {
                    return Ok(None);
                }
                if sequence >= from {
                    return Ok(Some(sequence));
                }
                self.found.pop_front();
            }
            if let Some(run) = self.open_run {
                self.ask(connection, run, from)?;
                continue;
            }
            let Some(run) = self.runs.get(self.next_run).copied() else {
                return Ok(None);
            };
            if run.covers.after >= self.range.through {
                return Ok(None);
            }
            self.next_run += 1;
            if run.covers.through >= from {
                self.ask(connection, run.id, from)?;
            }
        }
    }
}

/// What the stage knew of one key.
pub(crate) struct StageScan(VecDeque<u64>);

impl StageScan {
    pub(crate) fn new(sequences: VecDeque<u64>) -> Self {
        Self(sequences)
    }
}

impl Sequences for StageScan {
    fn next(&mut self, _: &Connection, from: u64) -> rusqlite::Result<Option<u64>> {
        while self.0.front().is_some_and(|sequence| *sequence < from) {
            self.0.pop_front();
        }
        Ok(self.0.front().copied())
    }
}

/// The events of one type, in all its schema versions.
pub(crate) struct TypeScan {
    name: String,
    range: Range,
    /// Nothing, before it is asked first.
    versions: Option<Box<dyn Sequences>>,
}

/// The events of one version of a type. A few at a time, so that no statement stays open between them.
struct VersionScan {
    id: i64,
    range: Range,
    found: VecDeque<u64>,
    is_over: bool,
}

/// The events of one version of a type, by `event_by_type`.
pub(crate) const OF_TYPE: &str = "SELECT sequence FROM event
    WHERE type = ?1 AND sequence >= ?2 AND sequence <= ?3
    ORDER BY sequence LIMIT 256";

impl TypeScan {
    pub(crate) fn new(name: &str, range: Range) -> Self {
        Self {
            name: name.to_owned(),
            range,
            versions: None,
        }
    }
}

impl Sequences for TypeScan {
    fn next(&mut self, connection: &Connection, from: u64) -> rusqlite::Result<Option<u64>> {
        if self.versions.is_none() {
            let scan = |id| -> Box<dyn Sequences> {
                Box::new(VersionScan {
                    id,
                    range: self.range,
                    found: VecDeque::new(),
                    is_over: false,
                })
            };
            let ids = ids_of_type(connection, &self.name)?;
            self.versions = Some(Union::of(ids.into_iter().map(scan).collect()));
        }
        match &mut self.versions {
            Some(versions) => versions.next(connection, from),
            None => Ok(None),
        }
    }
}

impl Sequences for VersionScan {
    fn next(&mut self, connection: &Connection, from: u64) -> rusqlite::Result<Option<u64>> {
        let from = from.max(self.range.after + 1);
        loop {
            while let Some(sequence) = self.found.front().copied() {
                if sequence >= from {
                    return Ok(Some(sequence));
                }
                self.found.pop_front();
            }
            if self.is_over {
                return Ok(None);
            }
            let mut statement = connection.prepare_cached(OF_TYPE)?;
            let mut rows = statement.query((self.id, from as i64, self.range.through as i64))?;
            while let Some(row) = rows.next()? {
                self.found.push_back(row.get::<_, i64>(0)? as u64);
            }
            self.is_over = self.found.is_empty();
        }
    }
}
