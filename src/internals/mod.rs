//! What this crate's own proofs need and users do not: failure points, broken logs, and the pure parts under test.
//!
//! Nothing here is part of the public interface; it changes without notice.

use crate::builder::StoreBuilder;
use crate::bus;
use crate::clock::Timestamp;
use crate::event::batch::CommittedBatch;
use crate::event::draft::Drafts;
use crate::event::limits::Limits;
use crate::event::matching;
use crate::event::new_event::NewEvent;
#[cfg(feature = "sqlite")]
use crate::event::query::EventFilter;
use crate::event::query::EventQuery;
use crate::fault::Faults;
#[cfg(feature = "sqlite")]
use crate::log::sqlite;
#[cfg(feature = "sqlite")]
use crate::log::sqlite::index::path::{PATHS_MAX, PayloadPath};
#[cfg(feature = "sqlite")]
use crate::log::sqlite::index::upkeep::Sizes;
#[cfg(feature = "sqlite")]
use crate::tenant;

mod machine;
#[cfg(feature = "sqlite")]
mod models;
#[cfg(feature = "sqlite")]
mod view;

pub use crate::fault::FaultPoint;
pub use crate::internals::machine::drive_machine;
#[cfg(feature = "sqlite")]
pub use crate::internals::models::{ModelList, Place};
#[cfg(feature = "sqlite")]
pub use crate::internals::view::DocumentTable;
pub use crate::log::broken::Sabotage;

/// Calls `hook` at every failure point of the store; where it returns `true`, the operation fails.
pub fn with_faults(
    builder: StoreBuilder,
    hook: impl Fn(FaultPoint) -> bool + Send + Sync + 'static,
) -> StoreBuilder {
    builder.faults(Faults::new(hook))
}

/// Makes the parts of a file's index so small that a few batches spill and merge them.
#[cfg(feature = "sqlite")]
pub fn with_small_index(builder: StoreBuilder) -> StoreBuilder {
    builder.index_sizes(Sizes {
        stage_entries: 12,
        stage_events: 40,
        step_blocks: 1,
    })
}

/// Lets the file grow to so many pages, or keeps it as large as it is, as if the disk were full then.
#[cfg(feature = "sqlite")]
pub fn with_pages_max(builder: StoreBuilder, pages: u32) -> StoreBuilder {
    builder.pages_max(pages)
}

/// Lets whatever log is opened break a promise.
pub fn with_broken_log(builder: StoreBuilder, sabotage: Sabotage) -> StoreBuilder {
    builder.sabotage(sabotage)
}

/// Which of the queries select any of the events, found as the bus finds them. Refused events are left out.
pub fn select_by_index(queries: &[EventQuery], events: Vec<NewEvent>) -> Vec<usize> {
    bus::select_by_index(queries, &batch(events))
}

/// Which of the events each query selects, as sequences from 1 on, found as the SQL of the log finds them. Some paths are
/// indexed: members that the queries' predicates have.
#[cfg(feature = "sqlite")]
pub fn select_by_sql(queries: &[EventQuery], events: Vec<NewEvent>) -> Vec<Vec<u64>> {
    let filters = queries.iter().flat_map(EventQuery::filters);
    let predicates = filters.filter_map(EventFilter::payload_predicates).flatten();
    let members = predicates.filter_map(|predicate| predicate.as_object()).flatten();
    let pointers = members.map(|(key, _)| format!("/{}", key.replace('~', "~0").replace('/', "~1")));
    // Every other one, so that predicates without an index are tried too.
    let paths = pointers.filter_map(|pointer| PayloadPath::parse(&pointer).ok());
    let paths: Vec<PayloadPath> = paths.step_by(2).take(PATHS_MAX).collect();
    sqlite::select(queries, &paths, batch(events))
}

/// The same, asking each query about each event.
pub fn select_naively(queries: &[EventQuery], events: Vec<NewEvent>) -> Vec<Vec<u64>> {
    let batch = batch(events);
    let selected = |query: &EventQuery| {
        let events = batch.events.iter().filter(|event| query.matches(event));
        events.map(|event| event.sequence).collect()
    };
    queries.iter().map(selected).collect()
}

/// How a log on a server that has indexes of these paths searches for what a query can concern: the statement, and its parameters behind
/// the range. Nothing: the query selects nothing.
#[cfg(feature = "postgres")]
pub fn server_search(query: &EventQuery, pointers: &[&str]) -> Option<(String, Vec<Vec<String>>)> {
    crate::log::postgres::search(query, pointers)
}

/// Whether all that the predicate says is said by the payload too.
pub fn is_subset(predicate: &serde_json::Value, payload: &serde_json::Value) -> bool {
    matching::is_subset(predicate, payload)
}

/// The path, below this folder, of the log of the tenant of this name; nothing, when the name is refused.
#[cfg(feature = "sqlite")]
pub fn tenant_log(folder: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    tenant::log_path(folder, name)
}

fn batch(events: Vec<NewEvent>) -> CommittedBatch {
    let limits = Limits::default();
    let mut drafts = Drafts::default();
    for event in events {
        // Half a refused event leaves nothing behind: it is placed after all checks.
        let _ = event.draft(&limits, &mut drafts);
    }
    CommittedBatch::stamp(drafts.finish(Timestamp::EPOCH), 1, Timestamp::EPOCH)
}
