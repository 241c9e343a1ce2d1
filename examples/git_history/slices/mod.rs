//! The feature slices: each has its own tables, its own query and its own durable stream, and knows nothing of the others.

pub(crate) mod activity;
pub(crate) mod contributors;
pub(crate) mod hot_files;

use std::sync::Arc;

use futures::StreamExt;
use millstream::{DurableStream, EventBatch, EventQuery, EventStream, HandleStream, Retry, Store};
use rusqlite::Connection;
use tokio::sync::watch;

use crate::Result;
use crate::views::Views;

/// How often a batch is tried: a file that is locked for a moment deserves that, a full disk ends the stream.
const ATTEMPTS_MAX: u32 = 5;

/// Everything that makes a slice.
pub(crate) struct Slice {
    /// The name of its durable stream.
    pub(crate) name: &'static str,
    pub(crate) tables: &'static str,
    pub(crate) query: fn() -> EventQuery,
    /// Applies a batch to the tables, inside the transaction that also moves the slice's position.
    pub(crate) apply: fn(&Connection, &EventBatch) -> Result<()>,
}

pub(crate) const ALL: [&Slice; 3] = [&contributors::SLICE, &hot_files::SLICE, &activity::SLICE];

/// A slice that follows the log.
pub(crate) struct Running {
    pub(crate) slice: &'static Slice,
    pub(crate) stream: EventStream,
    /// How many batches its tables had lost and were given back.
    pub(crate) restored: u64,
}

/// Starts a slice's stream where its cursor stands.
///
/// The cursor is kept in the log's file and the rows in another one, and either file can be deleted, restored from a
/// backup or lose its newest moments to a power cut. Rows that are ahead of the cursor are met by
/// [`Views::apply_once`]. Rows that are behind it are met here: what they lack is read from the log before the first
/// delivery is let in.
pub(crate) async fn start(slice: &'static Slice, store: &Store, views: &Arc<Views>) -> Result<Running> {
    let query = (slice.query)();
    let (open, gate) = watch::channel(false);
    let handle = HandleStream::new({
        let views = Arc::clone(views);
        move |batch: EventBatch| {
            let (views, mut gate) = (Arc::clone(&views), gate.clone());
            async move {
                gate.wait_for(|open| *open).await?;
                views.apply_once(slice.name, &batch, slice.apply)
            }
        }
    })
    .retry(Retry::default().attempts_max(ATTEMPTS_MAX));
    let stream = store
        .stream_to_durable(&DurableStream::new(slice.name), &query, handle)
        .await?;

    let mut restored = 0;
    let mut lacking = store.read(&query).after(views.applied(slice.name)?);
    while let Some(batch) = lacking.next().await {
        let batch = batch?;
        if batch.first_sequence() > stream.started_after() {
            break;
        }
        views.apply_once(slice.name, &batch, slice.apply)?;
        restored += 1;
    }
    open.send_replace(true);
    Ok(Running {
        slice,
        stream,
        restored,
    })
}
