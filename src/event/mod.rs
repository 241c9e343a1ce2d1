//! The vocabulary: events, batches, queries, and what it means that a query selects an event.
//!
//! Everything here is pure: no I/O, no locks, no tasks. The parts in reading order:
//!
//! - `text`: text that many values share without copying it;
//! - `payload`: JSON that keeps its text and is parsed on demand;
//! - `record`: what is written ([`NewEvent`](crate::NewEvent)) and what is read back ([`EventRecord`](crate::EventRecord));
//! - `draft`: events in the making, whose texts share one buffer;
//! - `batch`: the events of one append, committed and delivered as one;
//! - `limits`: what is refused before it reaches a log;
//! - `query`, its `names` and `matching`: which events matter, as data and as the one function that decides it;
//! - `digest` and `fingerprint`: whether two appends say the same;
//! - `lineage` and `evolution`: events of older schema versions, and how they become events of today;
//! - `codec`: serde enums as typed events.

pub(crate) mod batch;
pub(crate) mod cause;
pub(crate) mod codec;
pub(crate) mod digest;
pub(crate) mod draft;
pub(crate) mod evolution;
pub(crate) mod fingerprint;
pub(crate) mod intake;
pub(crate) mod limits;
pub(crate) mod lineage;
pub(crate) mod matching;
pub(crate) mod names;
pub(crate) mod new_event;
pub(crate) mod payload;
pub(crate) mod query;
pub(crate) mod record;
pub(crate) mod text;
