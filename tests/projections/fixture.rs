//! A read model that counts by key, and what it is to hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::TryStreamExt;
use millstream::rusqlite::Transaction;
use millstream::{
    BoxError, EventBatch, EventQuery, HandlerError, NewEvent, Projection, ReadModel, ReadModels, Store,
};
use tempfile::TempDir;

/// What tests do to the projection from outside.
#[derive(Default)]
pub(crate) struct Sabotage {
    /// Fails on batches with this event.
    pub(crate) fails_at: AtomicU64,
    /// Fails on batches with one of these events, too.
    pub(crate) bad: Mutex<BTreeSet<u64>>,
    /// Panics instead.
    pub(crate) panics: AtomicBool,
    /// Names the event with `HandlerError::at`.
    pub(crate) names: AtomicBool,
    /// The ranges of all calls.
    pub(crate) calls: Mutex<Vec<(u64, u64)>>,
    pub(crate) rollbacks: AtomicU64,
}

/// Counts the events of each type, in rows and in memory.
#[derive(Clone)]
pub(crate) struct Counts {
    pub(crate) name: &'static str,
    pub(crate) version: u32,
    pub(crate) query: EventQuery,
    pub(crate) schema: String,
    pub(crate) sabotage: Arc<Sabotage>,
    /// What was counted since it was registered.
    pub(crate) in_memory: u64,
    /// Is executed for each event, with its sequence and type, in place of the rest.
    pub(crate) sql: Option<&'static str>,
}

pub(crate) const SCHEMA: &str = "CREATE TABLE counted (type TEXT PRIMARY KEY, count INTEGER NOT NULL);
     CREATE TABLE seen (sequence INTEGER PRIMARY KEY, in_memory INTEGER NOT NULL)";

impl Counts {
    pub(crate) fn new(version: u32) -> Self {
        Self {
            name: "counts",
            version,
            query: EventQuery::all(),
            schema: SCHEMA.to_owned(),
            sabotage: Arc::default(),
            in_memory: 0,
            sql: None,
        }
    }

    pub(crate) fn of(types: &[&str]) -> Self {
        Self {
            query: EventQuery::types(types.to_vec()),
            ..Self::new(1)
        }
    }
}

impl Projection for Counts {
    fn name(&self) -> &str {
        self.name
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn query(&self) -> EventQuery {
        self.query.clone()
    }

    fn schema(&self) -> &str {
        &self.schema
    }

    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        let range = (batch.first_sequence(), batch.last_sequence());
        self.sabotage.calls.lock().unwrap().push(range);
        for event in batch {
            self.in_memory += 1;
            if let Some(sql) = self.sql {
                tx.execute(sql, (event.sequence() as i64, event.event_type()))?;
                continue;
            }
            // A sequence that is applied twice violates the primary key.
            tx.prepare_cached("INSERT INTO seen VALUES (?1, ?2)")?
                .execute((event.sequence() as i64, self.in_memory as i64))?;
            tx.prepare_cached(
                "INSERT INTO counted VALUES (?1, 1) ON CONFLICT DO UPDATE SET count = count + 1",
            )?
            .execute([event.event_type()])?;
            let is_bad = self.sabotage.bad.lock().unwrap().contains(&event.sequence());
            if is_bad || event.sequence() == self.sabotage.fails_at.load(Ordering::SeqCst) {
                assert!(!self.sabotage.panics.load(Ordering::SeqCst), "told to panic");
                return Err(match self.sabotage.names.load(Ordering::SeqCst) {
                    true => HandlerError::at(event.sequence(), "told to fail").into(),
                    false => "told to fail".into(),
                });
            }
        }
        Ok(())
    }

    fn rolled_back(&mut self) {
        self.sabotage.rollbacks.fetch_add(1, Ordering::SeqCst);
    }
}

/// A folder with a log and read models.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(self.path("log.db")).unwrap()
    }

    pub(crate) fn models(&self) -> ReadModels {
        ReadModels::open(self.path("views.db")).unwrap()
    }

    /// The files of builds that are there.
    pub(crate) fn builds(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut builds: Vec<String> = names
            .filter(|name| name.starts_with("views.counts") && name.ends_with(".db"))
            .collect();
        builds.sort();
        builds
    }
}

/// What the rows hold.
pub(crate) async fn rows(model: &ReadModel) -> BTreeMap<String, u64> {
    let read = |connection: &rusqlite::Connection| {
        let mut statement = connection.prepare("SELECT type, count FROM counted")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
        rows.collect::<rusqlite::Result<BTreeMap<String, u64>>>()
    };
    model.read(read).await.unwrap()
}

/// What they are to hold: a fold over the log.
pub(crate) async fn folded(store: &Store, query: &EventQuery) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let mut reader = store.read(query);
    while let Some(batch) = reader.try_next().await.unwrap() {
        for event in &batch {
            *counts.entry(event.event_type().to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

pub(crate) async fn append_types(store: &Store, types: &[&str]) -> u64 {
    let events = types.iter().map(|name| NewEvent::new(*name, 1));
    store.append(events).await.unwrap().last_sequence
}
