//! Views: documents by key, kept from events without SQL.
//!
//! A view is a projection whose table has one row per document: its id and its JSON text. Documents are decoded once, changed in
//! memory, and written back once per transaction.
//!
//! Invariants:
//! - the cache holds what the table holds, or what the transaction under way is about to write: it moves into the attempt with the first
//!   batch and back with the end of the last, so what a failed attempt made of it is gone with the attempt (R1);
//! - a document that leaves the cache before it is written is written first;
//! - each build has a cache of its own;
//! - no value, id, path or token becomes SQL: values are parameters, paths are literals of one form.
//!
//! In reading order: `definition` (what the user writes), `fold` (the same in memory), `cache`, `keep` (the projection), `path`, `condition`,
//! `token`, `query` and `statement` (what is asked for, as SQL), `table` (asking it), `register` and `documents` (the handle). `server/view` is the same on a server.

pub(crate) mod cache;
pub(crate) mod condition;
pub(crate) mod definition;
#[cfg(feature = "sqlite")]
pub(crate) mod documents;
mod fold;
#[cfg(feature = "sqlite")]
mod keep;
pub(crate) mod path;
pub(crate) mod query;
#[cfg(feature = "sqlite")]
mod register;
pub(crate) mod statement;
#[cfg(feature = "sqlite")]
pub(crate) mod table;
pub(crate) mod token;

/// The code on the page about views is tested with the crate.
#[cfg(all(doctest, feature = "sqlite"))]
#[doc = include_str!("../../../docs/views.md")]
struct Page;
