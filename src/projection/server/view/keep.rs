//! A view as a projection on the server: documents are read when a batch concerns them, changed in memory, and written back once per
//! transaction.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use crate::error::{BoxError, ReadModelError, ViewError};
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::log::postgres::text::{loaded, stored};
use crate::projection::server::projection::ServerProjection;
use crate::projection::server::view::body::Body;
use crate::projection::server::view::sql::DOCUMENT;
use crate::projection::server::view::table;
use crate::projection::view::cache::Cache;
use crate::projection::view::definition::{Document, Evolving, Settings, View};
use crate::projection::view::path::JsonPath;
use crate::projection::view::statement::Dialect;
use crate::sync::Mutex;

/// Cloning shares the shelf: the clone that a transaction is tried with takes the cache from there, and puts it back in the end.
pub(super) struct ServerView<D> {
    rules: Rules<D>,
    schema: Arc<str>,
    /// The cache between transactions. Nothing: a transaction has it, or the last one failed.
    shelf: Arc<Mutex<Option<Cache<D>>>>,
    /// What the transaction under way has.
    in_hand: Option<Cache<D>>,
}

impl<D> Clone for ServerView<D> {
    fn clone(&self) -> Self {
        Self {
            rules: self.rules.clone(),
            schema: Arc::clone(&self.schema),
            shelf: Arc::clone(&self.shelf),
            in_hand: None,
        }
    }
}

/// What the user says of the view. Threads share it, whatever the documents are.
struct Rules<D> {
    settings: Arc<Settings>,
    evolving: Evolving<D>,
}

impl<D> Clone for Rules<D> {
    fn clone(&self) -> Self {
        Self {
            settings: Arc::clone(&self.settings),
            evolving: self.evolving.clone(),
        }
    }
}

/// What the table holds of documents, as JSON; nothing, where it holds none.
type Fetched = HashMap<String, Option<String>>;

/// Documents to be written, as JSON; nothing: they are to be removed.
#[derive(Default)]
struct Changes {
    ids: Vec<String>,
    bodies: Vec<String>,
    /// Their own texts, where the body does not say all.
    texts: Vec<Option<String>>,
    removed: Vec<String>,
}

impl Changes {
    /// Gives the size of the document.
    fn add(&mut self, id: &str, json: Option<String>) -> Result<usize, serde_json::Error> {
        let id = stored(id).into_owned();
        let Some(json) = json else {
            self.removed.push(id);
            return Ok(0);
        };
        let bytes = json.len();
        let Body { body, is_whole } = Body::of(&serde_json::from_str::<Value>(&json)?);
        self.ids.push(id);
        self.bodies.push(body);
        self.texts.push((!is_whole).then_some(json));
        Ok(bytes)
    }

    async fn write(self, tx: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        if !self.ids.is_empty() {
            let put = "INSERT INTO document (id, body, json)
                SELECT id, body::jsonb, json FROM unnest($1, $2, $3) AS changed (id, body, json)
                ON CONFLICT (id) DO UPDATE SET body = excluded.body, json = excluded.json";
            tx.execute_typed(
                put,
                &[
                    (&self.ids, Type::TEXT_ARRAY),
                    (&self.bodies, Type::TEXT_ARRAY),
                    (&self.texts, Type::TEXT_ARRAY),
                ],
            )
            .await?;
        }
        if !self.removed.is_empty() {
            let remove = "DELETE FROM document WHERE id = ANY($1)";
            tx.execute_typed(remove, &[(&self.removed, Type::TEXT_ARRAY)])
                .await?;
        }
        Ok(())
    }
}

/// What one event concerns.
struct Concern<'a> {
    event: &'a EventRecord,
    ids: Vec<String>,
}

impl<D: Document> ServerView<D> {
    /// Refuses an index whose path is none.
    pub(super) fn new(view: View<D>) -> Result<Self, ReadModelError> {
        let settings = view.settings;
        let refused = |problem: String| ReadModelError::Refused {
            name: settings.name.clone(),
            problem,
        };
        let mut paths = Vec::<JsonPath>::new();
        for pointer in &settings.indexes {
            let path =
                JsonPath::parse(Dialect::Postgres, pointer).map_err(|error| refused(error.to_string()))?;
            if paths.contains(&path) {
                return Err(refused(format!("the path {pointer:?} is indexed twice")));
            }
            paths.push(path);
        }
        Ok(Self {
            schema: Arc::from(table::schema(&paths)),
            rules: Rules {
                settings: Arc::new(settings),
                evolving: view.stage,
            },
            shelf: Arc::new(Mutex::new(None)),
            in_hand: None,
        })
    }
}

impl<D: Document> Rules<D> {
    fn json(&self, id: &str, document: Option<&D>) -> Result<Option<String>, ViewError> {
        let json = document.map(serde_json::to_string).transpose();
        json.map_err(|error| self.unwritable(id, error))
    }

    fn unwritable(&self, id: &str, error: serde_json::Error) -> ViewError {
        ViewError::UnwritableDocument {
            name: self.settings.name.clone(),
            id: id.to_owned(),
            source: Arc::new(error),
        }
    }

    fn on_event(&self, event: &EventRecord, error: BoxError) -> ViewError {
        ViewError::on_event(&self.settings.name, event.sequence(), error)
    }

    /// The documents that the events of a batch concern.
    fn concerns<'a>(&self, batch: &'a EventBatch) -> Result<Vec<Concern<'a>>, ViewError> {
        let concerned = batch.iter().map(|event| {
            let mut ids = Vec::new();
            let found = self.evolving.ids(event, &mut ids);
            found.map_err(|error| self.on_event(event, error))?;
            Ok(Concern { event, ids })
        });
        concerned.collect()
    }

    /// Reads the documents that the cache does not have, all at once.
    async fn fetch(
        &self,
        tx: &Transaction<'_>,
        cache: &mut Cache<D>,
        concerns: &[Concern<'_>],
    ) -> Result<Fetched, BoxError> {
        let ids = concerns.iter().flat_map(|concern| &concern.ids);
        let missing: Vec<String> = ids.filter(|id| cache.find(id).is_none()).cloned().collect();
        read(tx, missing).await
    }

    /// Where the cache has a document, which is read if it is not there yet.
    async fn find(
        &self,
        tx: &Transaction<'_>,
        cache: &mut Cache<D>,
        fetched: &mut Fetched,
        id: &str,
    ) -> Result<usize, BoxError> {
        if let Some(at) = cache.find(id) {
            return Ok(at);
        }
        let mut changes = Changes::default();
        while let Some(evicted) = cache.make_room() {
            if evicted.is_changed {
                let json = self.json(&evicted.id, evicted.document.as_ref())?;
                let added = changes.add(&evicted.id, json.clone());
                added.map_err(|error| self.unwritable(&evicted.id, error))?;
                fetched.insert(evicted.id.to_string(), json);
            }
        }
        changes.write(tx).await?;
        let json = match fetched.remove(id) {
            Some(json) => json,
            // It was in the cache, and made room for others.
            None => read(tx, vec![id.to_owned()]).await?.remove(id).flatten(),
        };
        let Some(json) = json else {
            return Ok(cache.insert(id, None, 0));
        };
        let document = serde_json::from_str(&json).map_err(|error| ViewError::UnreadableDocument {
            name: self.settings.name.clone(),
            id: id.to_owned(),
            version: self.settings.version,
            // What a version writes to is its own.
            written_by: self.settings.version,
            source: Arc::new(error),
        })?;
        Ok(cache.insert(id, Some(document), json.len()))
    }
}

/// What the table holds of these documents.
async fn read(tx: &Transaction<'_>, ids: Vec<String>) -> Result<Fetched, BoxError> {
    if ids.is_empty() {
        return Ok(Fetched::new());
    }
    let wanted: Vec<String> = ids.iter().map(|id| stored(id).into_owned()).collect();
    // By the primary key.
    let sql = format!("SELECT id, {DOCUMENT} FROM document WHERE id = ANY($1)");
    let rows = tx.query_typed(&sql, &[(&wanted, Type::TEXT_ARRAY)]).await?;
    let mut fetched: Fetched = ids.into_iter().map(|id| (id, None)).collect();
    for row in &rows {
        fetched.insert(loaded(row.try_get(0)?), Some(row.try_get(1)?));
    }
    Ok(fetched)
}

impl<D: Document> ServerProjection for ServerView<D> {
    fn name(&self) -> &str {
        &self.rules.settings.name
    }

    fn version(&self) -> u32 {
        self.rules.settings.version
    }

    fn query(&self) -> EventQuery {
        self.rules.settings.query.clone()
    }

    fn schema(&self) -> &str {
        &self.schema
    }

    async fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        let mut cache = match self.in_hand.take() {
            Some(cache) => cache,
            None => {
                let shelved = self.shelf.lock().take();
                shelved.unwrap_or_else(|| Cache::new(self.rules.settings.cache))
            }
        };
        let rules = self.rules.clone();
        let concerns = rules.concerns(batch)?;
        let mut fetched = rules.fetch(tx, &mut cache, &concerns).await?;
        for Concern { event, ids } in &concerns {
            for id in ids {
                let found = rules.find(tx, &mut cache, &mut fetched, id).await;
                let at = found.map_err(|error| rules.on_event(event, error))?;
                let evolved = cache.change(at, |document| (rules.evolving.evolve)(id, document, event));
                evolved.map_err(|error| rules.on_event(event, error))?;
            }
        }
        // After an error the cache is gone, and with it what it made of the documents.
        self.in_hand = Some(cache);
        Ok(())
    }

    async fn before_commit(&mut self, tx: &Transaction<'_>) -> Result<(), BoxError> {
        let Some(mut cache) = self.in_hand.take() else {
            return Ok(());
        };
        let mut changes = Changes::default();
        cache.write_back(|id, document| {
            let json = self.rules.json(id, document)?;
            changes
                .add(id, json)
                .map_err(|error| self.rules.unwritable(id, error))
        })?;
        changes.write(tx).await?;
        while cache.shrink().is_some() {}
        *self.shelf.lock() = Some(cache);
        Ok(())
    }

    fn rolled_back(&mut self) {
        // The commit itself may have failed, after the cache was put back.
        *self.shelf.lock() = None;
    }

    fn anew(&self) -> Self {
        Self {
            shelf: Arc::new(Mutex::new(None)),
            ..self.clone()
        }
    }
}
