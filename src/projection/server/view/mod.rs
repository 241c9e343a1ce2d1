//! Views on the log's server: the same documents by key, as rows of JSONB.
//!
//! A document is stored as `serde_json` writes it, with two exceptions that JSONB needs. Texts must not have the character NUL, so another one
//! stands for it, in the order of texts too. Numbers are compared as views compare them, by the value of the 64-bit integer or float that
//! they are, so floats are written out. Where the document cannot be read back from that, its own text stands beside it.
//!
//! In reading order: `body` (how a document is stored; pure), `sql` (how the server is asked; pure), `keep` (the projection), `table` (asking),
//! `register` and `documents` (the handle).

mod body;
pub(crate) mod documents;
mod keep;
mod register;
pub(crate) mod sql;
mod table;
