//! Streams: where the log and the bus meet.
//!
//! A stream is a position and a query. One loop delivers it:
//!
//! ```text
//!          +--------------------------------------------------+
//!          v                                                  |
//!        look --- batches of the window ----> deliver --------+   the position passes a batch
//!         | |                                  |   ^          |   when its handler returned Ok (D2)
//!         | +---- behind ---> read a page -----+   |          |
//!         |                   of the log           |          |
//!         |                              fails -> back off    |
//!         |                                        |          |
//!         |                              gives up  v          |
//!         +---- nothing ---> rest                stop         |
//!                             |                               |
//!                             +------- woken by the bus ------+
//! ```
//!
//! Replay and live are not two modes: they are where the position happens to be. A stream that rests has no task; the bus
//! wakes it by spawning one.
//!
//! In reading order: `handler`, `policy` and `options` (what the user says), `machine` (what happens next; pure), `gate`
//! (who may start a handler call), `feed` (the window or the log), `checkpoint` (when the cursor is stored), `status`
//! and `board` (what a stream says of itself, and who is told), `core` and `pump` (the loop that does what the machine says), `crowd` (many
//! loops woken at once), `handle`, `registry` and `hub` (all streams of a store), `prune` (what they hold of an old log),
//! `reader` (the same feed, pulled by the user).

pub(crate) mod board;
pub(crate) mod checkpoint;
pub(crate) mod control;
pub(crate) mod core;
pub(crate) mod crowd;
pub(crate) mod feed;
pub(crate) mod gate;
pub(crate) mod handle;
pub(crate) mod handler;
pub(crate) mod health;
pub(crate) mod heed;
pub(crate) mod hub;
pub(crate) mod inside;
pub(crate) mod machine;
pub(crate) mod nearest;
pub(crate) mod options;
pub(crate) mod policy;
pub(crate) mod prune;
pub(crate) mod pump;
pub(crate) mod rate;
pub(crate) mod reader;
pub(crate) mod registry;
pub(crate) mod status;
pub(crate) mod steering;
pub(crate) mod survey;
pub(crate) mod wait;
