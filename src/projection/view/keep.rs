//! A view as a projection: documents are read when an event concerns them, changed in memory, and written back once per
//! transaction.

use std::sync::Arc;

use rusqlite::{CachedStatement, OptionalExtension, Transaction};

use crate::error::{BoxError, ReadModelError, ViewError};
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::projection::projection::Projection;
use crate::projection::view::cache::Cache;
use crate::projection::view::definition::{Document, Evolving, Settings, View};
use crate::projection::view::path::JsonPath;
use crate::projection::view::statement::Dialect;
use crate::projection::view::table;
use crate::sync::Mutex;

/// Cloning shares the shelf: the clone that a transaction is tried with takes the cache from there, and puts it back in the end.
pub(crate) struct ViewProjection<D> {
    settings: Arc<Settings>,
    schema: Arc<str>,
    evolving: Evolving<D>,
    /// The cache between transactions. Nothing: a transaction has it, or the last one failed.
    shelf: Arc<Mutex<Option<Cache<D>>>>,
    /// What the transaction under way has.
    in_hand: Option<Cache<D>>,
}

impl<D> Clone for ViewProjection<D> {
    fn clone(&self) -> Self {
        Self {
            settings: Arc::clone(&self.settings),
            schema: Arc::clone(&self.schema),
            evolving: self.evolving.clone(),
            shelf: Arc::clone(&self.shelf),
            in_hand: None,
        }
    }
}

impl<D: Document> ViewProjection<D> {
    /// Refuses an index whose path is none.
    pub(crate) fn new(view: View<D>) -> Result<Self, ReadModelError> {
        let settings = view.settings;
        let refused = |problem: String| ReadModelError::Refused {
            name: settings.name.clone(),
            problem,
        };
        let mut paths = Vec::<JsonPath>::new();
        for pointer in &settings.indexes {
            let path =
                JsonPath::parse(Dialect::Sqlite, pointer).map_err(|error| refused(error.to_string()))?;
            if paths.contains(&path) {
                return Err(refused(format!("the path {pointer:?} is indexed twice")));
            }
            paths.push(path);
        }
        Ok(Self {
            schema: Arc::from(table::schema(&paths)),
            settings: Arc::new(settings),
            evolving: view.stage,
            shelf: Arc::new(Mutex::new(None)),
            in_hand: None,
        })
    }

    fn unreadable(&self, id: &str, error: serde_json::Error) -> ViewError {
        ViewError::UnreadableDocument {
            name: self.settings.name.clone(),
            id: id.to_owned(),
            version: self.settings.version,
            // What a version writes to is its own.
            written_by: self.settings.version,
            source: Arc::new(error),
        }
    }

    /// Where the cache has a document, which is read if it is not there yet.
    fn find(&self, tx: &Transaction<'_>, cache: &mut Cache<D>, id: &str) -> Result<usize, BoxError> {
        if let Some(at) = cache.find(id) {
            return Ok(at);
        }
        while let Some(evicted) = cache.make_room() {
            if evicted.is_changed {
                let mut pen = Pen::new(tx, &self.settings.name)?;
                pen.write(&evicted.id, evicted.document.as_ref())?;
            }
        }
        let stored = tx
            .prepare_cached("SELECT json FROM document WHERE id = ?1")?
            .query_row([id], |row| {
                let text = row.get_ref(0)?.as_str()?;
                Ok((serde_json::from_str(text), text.len()))
            })
            .optional()?;
        Ok(match stored {
            Some((document, bytes)) => {
                let document = document.map_err(|error| self.unreadable(id, error))?;
                cache.insert(id, Some(document), bytes)
            }
            None => cache.insert(id, None, 0),
        })
    }

    fn evolve(
        &self,
        tx: &Transaction<'_>,
        cache: &mut Cache<D>,
        id: &str,
        event: &EventRecord,
    ) -> Result<(), BoxError> {
        let at = self.find(tx, cache, id)?;
        cache.change(at, |document| (self.evolving.evolve)(id, document, event))
    }
}

impl<D: Document> Projection for ViewProjection<D> {
    fn name(&self) -> &str {
        &self.settings.name
    }

    fn version(&self) -> u32 {
        self.settings.version
    }

    fn query(&self) -> EventQuery {
        self.settings.query.clone()
    }

    fn schema(&self) -> &str {
        &self.schema
    }

    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        let mut cache = match self.in_hand.take() {
            Some(cache) => cache,
            None => {
                let shelved = self.shelf.lock().take();
                shelved.unwrap_or_else(|| Cache::new(self.settings.cache))
            }
        };
        let mut ids = Vec::new();
        for event in batch {
            let failed = |error: BoxError| ViewError::on_event(&self.settings.name, event.sequence(), error);
            self.evolving.ids(event, &mut ids).map_err(failed)?;
            for id in &ids {
                self.evolve(tx, &mut cache, id, event).map_err(failed)?;
            }
        }
        // After an error the cache is gone, and with it what it made of the documents.
        self.in_hand = Some(cache);
        Ok(())
    }

    fn before_commit(&mut self, tx: &Transaction<'_>) -> Result<(), BoxError> {
        let Some(mut cache) = self.in_hand.take() else {
            return Ok(());
        };
        let mut pen = Pen::new(tx, &self.settings.name)?;
        cache.write_back(|id, document| pen.write(id, document))?;
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

/// Writes documents, with statements that are looked up once for many.
struct Pen<'a> {
    name: &'a str,
    put: CachedStatement<'a>,
    remove: CachedStatement<'a>,
    text: Vec<u8>,
}

impl<'a> Pen<'a> {
    fn new(tx: &'a Transaction<'_>, name: &'a str) -> rusqlite::Result<Self> {
        Ok(Self {
            name,
            put: tx.prepare_cached(
                "INSERT INTO document (id, json) VALUES (?1, ?2)
                 ON CONFLICT (id) DO UPDATE SET json = excluded.json",
            )?,
            remove: tx.prepare_cached("DELETE FROM document WHERE id = ?1")?,
            text: Vec::new(),
        })
    }

    /// Writes what has become of a document, and says how large it is.
    fn write<D: Document>(&mut self, id: &str, document: Option<&D>) -> Result<usize, BoxError> {
        let Some(document) = document else {
            self.remove.execute([id])?;
            return Ok(0);
        };
        self.text.clear();
        serde_json::to_writer(&mut self.text, document).map_err(|error| ViewError::UnwritableDocument {
            name: self.name.to_owned(),
            id: id.to_owned(),
            source: Arc::new(error),
        })?;
        self.put.execute((id, std::str::from_utf8(&self.text)?))?;
        Ok(self.text.len())
    }
}
