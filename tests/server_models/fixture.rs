//! A read model that counts by type, and what it is to hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::TryStreamExt;
use millstream::tokio_postgres::Transaction;
use millstream::tokio_postgres::types::Type;
use millstream::{
    BoxError, EventBatch, EventQuery, HandlerError, NewEvent, ServerModel, ServerModels, ServerProjection,
    Store,
};

use crate::common::postgres::{Database, database};

/// What tests do to the projection from outside.
#[derive(Default)]
pub(crate) struct Sabotage {
    /// Fails on batches with one of these events.
    pub(crate) bad: Mutex<BTreeSet<u64>>,
    /// Panics instead.
    pub(crate) panics: AtomicBool,
    /// Has no end instead.
    pub(crate) hangs: AtomicBool,
    /// Names the event with `HandlerError::at`.
    pub(crate) names: AtomicBool,
    /// Is executed after what a bad batch writes, in place of a failure.
    pub(crate) sql: Mutex<Option<&'static str>>,
    /// The ranges of all calls.
    pub(crate) calls: Mutex<Vec<(u64, u64)>>,
    pub(crate) rollbacks: AtomicU64,
    /// How often a fresh state was made.
    pub(crate) anews: AtomicU64,
}

impl Sabotage {
    pub(crate) fn is_bad(&self, sequence: u64) {
        self.bad.lock().unwrap().insert(sequence);
    }

    pub(crate) fn heal(&self) {
        self.bad.lock().unwrap().clear();
    }

    pub(crate) fn calls(&self) -> Vec<(u64, u64)> {
        self.calls.lock().unwrap().clone()
    }
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
    pub(crate) in_memory: i64,
}

pub(crate) const SCHEMA: &str = "CREATE TABLE counted (type text PRIMARY KEY, count bigint NOT NULL);
     CREATE TABLE seen (sequence bigint PRIMARY KEY, in_memory bigint NOT NULL, transaction xid8 NOT NULL DEFAULT pg_current_xact_id())";

impl Counts {
    pub(crate) fn new(version: u32) -> Self {
        Self {
            name: "counts",
            version,
            query: EventQuery::all(),
            schema: SCHEMA.to_owned(),
            sabotage: Arc::default(),
            in_memory: 0,
        }
    }

    pub(crate) fn with(sabotage: &Arc<Sabotage>) -> Self {
        Self {
            sabotage: Arc::clone(sabotage),
            ..Self::new(1)
        }
    }

    async fn fail(&self, tx: &Transaction<'_>, sequence: u64) -> Result<(), BoxError> {
        let sql = *self.sabotage.sql.lock().unwrap();
        if let Some(sql) = sql {
            let Some(sql) = sql.strip_prefix('?') else {
                // A projection that does not look what became of its statements.
                let _ = tx.batch_execute(sql).await;
                return Ok(());
            };
            return Ok(tx.batch_execute(sql).await?);
        }
        assert!(!self.sabotage.panics.load(Ordering::SeqCst), "told to panic");
        if self.sabotage.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Err(match self.sabotage.names.load(Ordering::SeqCst) {
            true => HandlerError::at(sequence, "told to fail").into(),
            false => "told to fail".into(),
        })
    }
}

impl ServerProjection for Counts {
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

    async fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        let range = (batch.first_sequence(), batch.last_sequence());
        self.sabotage.calls.lock().unwrap().push(range);
        for event in batch {
            self.in_memory += 1;
            let (sequence, name) = (event.sequence() as i64, event.event_type());
            // A sequence that is applied twice violates the primary key.
            let seen = "INSERT INTO seen (sequence, in_memory) VALUES ($1, $2)";
            tx.execute_typed(seen, &[(&sequence, Type::INT8), (&self.in_memory, Type::INT8)])
                .await?;
            let count = "INSERT INTO counted VALUES ($1, 1) ON CONFLICT (type) DO UPDATE SET count = counted.count + 1";
            tx.execute_typed(count, &[(&name, Type::TEXT)]).await?;
            let is_bad = self.sabotage.bad.lock().unwrap().contains(&event.sequence());
            if is_bad {
                self.fail(tx, event.sequence()).await?;
            }
        }
        Ok(())
    }

    fn rolled_back(&mut self) {
        self.sabotage.rollbacks.fetch_add(1, Ordering::SeqCst);
    }

    fn anew(&self) -> Self {
        self.sabotage.anews.fetch_add(1, Ordering::SeqCst);
        self.clone()
    }
}

/// A log on a server, with read models there.
pub(crate) struct Place {
    pub(crate) database: Database,
}

impl Place {
    /// Nothing: there is no server.
    pub(crate) fn new() -> Option<Self> {
        Some(Self {
            database: database()?,
        })
    }

    pub(crate) async fn store(&self) -> Store {
        let builder = self.database.builder();
        builder.connect(&*self.database.address).await.expect("opens")
    }
}

impl Place {
    /// The schemas of all builds that there are.
    pub(crate) fn builds(&self) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM pg_namespace WHERE starts_with(nspname, '{}_')",
            self.database.schema
        );
        self.database.number(&sql)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.database.remove_models();
    }
}

/// What the rows hold.
pub(crate) async fn rows(model: &ServerModel) -> BTreeMap<String, u64> {
    let rows = model
        .read(async |tx| tx.query("SELECT type, count FROM counted", &[]).await)
        .await
        .unwrap();
    let rows = rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1) as u64));
    rows.collect()
}

/// How often it was counted in memory, by event.
pub(crate) async fn in_memory(model: &ServerModel) -> Vec<(u64, u64)> {
    let rows = model
        .read(async |tx| {
            tx.query("SELECT sequence, in_memory FROM seen ORDER BY sequence", &[])
                .await
        })
        .await
        .unwrap();
    let rows = rows
        .iter()
        .map(|row| (row.get::<_, i64>(0) as u64, row.get::<_, i64>(1) as u64));
    rows.collect()
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

pub(crate) fn models(store: &Store) -> ServerModels {
    ServerModels::of(store).unwrap()
}
