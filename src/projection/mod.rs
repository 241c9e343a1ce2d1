//! Read models: tables that are kept from events exactly once, and can be thrown away (R1, R2).
//!
//! A *catalogue* (`ReadModels::open("views.db")`) lists the builds that there are; each *build* of each version is a database file
//! of its own beside it. Its writes and its position commit in one transaction there, so the position in the build is the truth;
//! the cursor that the log has of its stream follows it, for those who steer and watch.
//!
//! ```text
//!     log ----> stream, catch-up or rebuild ----> applier: one at a time ----> build (tables, position)
//!                                                                                |
//!     catalogue: which build serves <---- promoted, when caught up ---------------+
//!         |
//!         +----> pool: readers of the build that serves now
//! ```
//!
//! That a build takes the place of another is one row of the catalogue: readers see the old one complete until then (R2).
//!
//! In reading order: `projection` (what the user writes), `options`, `standing` (which build serves; pure), `catalog`, `build`, `applier`, `pool`, `fit` and `own` (whose a model is, and whether it fits), `catch_up`, `lacking`,
//! `rebuilding`, `rebuild` and `promotion`, `resume`, `models` and `model` (the handles), `request` and `attend` (what is asked from outside), `operations`, `status`;
//! and `view` (documents by key, a use of all this). `in_log` and `server` are the other places for projections, the log's own file and its
//! server. The server's uses all of this that knows no file; `spec` is what all have in common.

#[cfg(feature = "sqlite")]
mod applier;
mod attend;
#[cfg(feature = "sqlite")]
pub(crate) mod build;
#[cfg(feature = "sqlite")]
pub(crate) mod catalog;
mod catch_up;
#[cfg(feature = "sqlite")]
mod fit;
#[cfg(feature = "sqlite")]
pub(crate) mod in_log;
mod keeping;
mod lacking;
#[cfg(feature = "sqlite")]
pub(crate) mod model;
#[cfg(feature = "sqlite")]
pub(crate) mod models;
#[cfg(feature = "sqlite")]
mod operations;
#[cfg_attr(
    not(feature = "sqlite"),
    allow(unreachable_pub, reason = "exported with files of read models")
)]
pub(crate) mod options;
mod own;
#[cfg(feature = "sqlite")]
mod pool;
#[cfg(feature = "sqlite")]
#[expect(clippy::module_inception, reason = "the trait gives the folder its name")]
pub(crate) mod projection;
mod promotion;
#[cfg(feature = "sqlite")]
mod rebuild;
pub(crate) mod rebuilding;
pub(crate) mod request;
mod resume;
#[cfg(feature = "postgres")]
pub(crate) mod server;
pub(crate) mod spec;
mod standing;
pub(crate) mod status;
pub(crate) mod view;
