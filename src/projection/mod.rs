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
//! In reading order: `projection` (what the user writes), `options`, `catalog`, `build`, `applier`, `pool`, `fit` and `own` (whose a model is, and whether it fits), `catch_up`, `lacking`
//! and `rebuild`, `resume`, `models` and `model` (the handles), `request` and `attend` (what is asked from outside), `operations`, `status`;
//! and `view` (documents by key, a use of all this). `in_log` is the other place for projections, the log's own file, and uses little of this.

mod applier;
mod attend;
pub(crate) mod build;
pub(crate) mod catalog;
mod catch_up;
mod fit;
pub(crate) mod in_log;
mod lacking;
pub(crate) mod model;
pub(crate) mod models;
mod operations;
pub(crate) mod options;
mod own;
mod pool;
#[expect(clippy::module_inception, reason = "the trait gives the folder its name")]
pub(crate) mod projection;
pub(crate) mod rebuild;
pub(crate) mod request;
mod resume;
pub(crate) mod status;
pub(crate) mod view;
