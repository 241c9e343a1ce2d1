//! Streams: where the log and the bus meet.
//!
//! A stream is a position and a query. One loop delivers it:
//!
//! ```text
//!          +--------------------------------------------------+
//!          v                                                  |
//!        look --- batches of the window ----> deliver --------+   the position passes a batch
//!         | |                                  |   ^          |   when its handler returned Ok, or when
//!         | |                                  |   |          |   what was set aside of it is stored (D2)
//!         | +---- behind ---> read a page -----+   |          |
//!         |                   of the log           |          |
//!         |                              fails -> back off    |
//!         |                                        |          |
//!         |                              gives up  v          |
//!         |                                     dispose ------+   set aside: goes on behind it
//!         +---- nothing ---> rest                stop         |
//!                             |                               |
//!                             +------- woken by the bus ------+
//! ```
//!
//! Replay and live are not two modes: they are where the position happens to be. A stream that rests has no task; the bus
//! wakes it by spawning one.
//!
//! In reading order: `handler`, `policy`, `failure` and `options` (what the user says), `machine` (what happens next; pure),
//! `dispose`, `budget` and `watch` (what is set aside, when that is too much, and what the process did not survive; pure),
//! `gate` (who may start a handler call), `feed` (the window or the log), `checkpoint` (when the cursor is stored), `status`,
//! `board` and `trace` (what a stream says of itself, and who is told), `core`, `pump`, `patience` and `aside` (the loop that does what these
//! say), `group` (several batches in one call), `react` (handlers that answer), `keyed` (several keys at once), `crowd` (many loops woken at once), `handle`, `registry`, `reservation` and `hub` (all streams of a store), `letters` and
//! `retry_request` (dead letters from outside), `prune` (what they hold of an old log), `standby` (streams that another store runs), `reader` (the same feed, pulled by the user).

pub(crate) mod aside;
pub(crate) mod board;
pub(crate) mod budget;
pub(crate) mod checkpoint;
pub(crate) mod control;
pub(crate) mod core;
pub(crate) mod crowd;
pub(crate) mod dispose;
pub(crate) mod failure;
pub(crate) mod feed;
pub(crate) mod gate;
pub(crate) mod group;
pub(crate) mod handle;
pub(crate) mod handler;
pub(crate) mod health;
pub(crate) mod heed;
pub(crate) mod hub;
pub(crate) mod inside;
pub(crate) mod keyed;
pub(crate) mod letters;
pub(crate) mod machine;
pub(crate) mod nearest;
pub(crate) mod options;
pub(crate) mod patience;
pub(crate) mod policy;
pub(crate) mod prune;
pub(crate) mod pump;
pub(crate) mod rate;
pub(crate) mod react;
pub(crate) mod reader;
pub(crate) mod registry;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) mod reservation;
pub(crate) mod retry_request;
#[cfg(feature = "metrics")]
pub(crate) mod sampler;
pub(crate) mod standby;
pub(crate) mod status;
pub(crate) mod steering;
pub(crate) mod survey;
mod takeover;
pub(crate) mod trace;
pub(crate) mod wait;
pub(crate) mod watch;
