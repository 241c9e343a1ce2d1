//! The index of an SQLite log: which events have a key, for keys with so many values that a B-tree ordered by key would touch
//! another page with every entry.
//!
//! An entry is a key, the hash of a tag, and the sequence of an event that has it. New entries are staged in memory. From there
//! they are spilled as a run: sorted, in blocks of a page each, written one behind the other. Runs of one level are merged into
//! one of the next. All of this is upkeep, done in small transactions between groups.
//!
//! What makes it safe:
//!
//! - the rows of `event` are the truth, and every event that is found is asked itself: an entry too many does no harm;
//! - runs hold all entries up to `log.indexed_through`, which moves in the transaction that writes the run;
//! - beyond that the stage holds a stretch of entries, and whatever neither of them covers is read row by row (`segment`).
//!
//! So there is nothing to repair after a crash, and nothing to agree on between processes: a stage that is gone, or one
//! that knows nothing of what another process appended, costs a few more rows. The index follows the log on its own.
//!
//! In reading order: `entry` (a key and a sequence; blocks), `stage`, `run` (the tables), `segment` (who knows about which
//! stretch), `scan` (the sequences of one key), `search` (their unions and intersections), `tier` (which runs are merged),
//! `merge`, `upkeep`.

pub(super) mod entry;
pub(super) mod merge;
pub(crate) mod path;
pub(super) mod run;
pub(super) mod scan;
pub(super) mod search;
pub(super) mod segment;
pub(super) mod stage;
pub(super) mod tier;
pub(crate) mod upkeep;
pub(super) mod view;
