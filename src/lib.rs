#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)
)]

mod builder;
mod bus;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "contract")]
pub mod contract;
mod error;
mod event;
mod fault;
mod inspect;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod log;
mod meter;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod projection;
mod store;
mod stream;
mod sync;
#[cfg(feature = "sqlite")]
mod tenant;
#[cfg(feature = "testing")]
pub mod testing;

pub use crate::builder::StoreBuilder;
#[cfg(feature = "postgres")]
pub use crate::error::ServerModelError;
pub use crate::error::{
    AppendError, BackupError, BoxError, CloseError, DeadLetterError, DecodeError, EvolutionError,
    FailureCategory, Instance, InvalidEvent, InvalidKey, OpenError, PruneError, ReadError, SteerError,
    StopCause, StorageError, StreamError, UndecodableEvent, UpcastError, VerifyError, WaitError,
};
#[cfg(feature = "sqlite")]
pub use crate::error::{CopyError, InLogError, NameProblem, TenantError};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use crate::error::{ReadModelError, ViewError};
pub use crate::event::batch::{EventBatch, Events};
pub use crate::event::limits::Limits;
pub use crate::event::new_event::NewEvent;
pub use crate::event::payload::{Metadata, Payload};
pub use crate::event::query::{EventFilter, EventQuery};
pub use crate::event::record::EventRecord;
#[cfg(feature = "sqlite")]
pub use crate::log::backup::{BackedUp, BackupProgress};
#[cfg(feature = "sqlite")]
pub use crate::log::copy::{Copied, CopyPhase, CopyProgress};
pub use crate::log::cursor::{OnMismatch, Start};
pub use crate::log::letter::{DeadLetter, DeadLetterState};
#[cfg(feature = "sqlite")]
pub use crate::log::location::LogLocation;
pub use crate::log::once::AppendedOnce;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use crate::log::opening::Durability;
pub use crate::log::owner::Ownership;
pub use crate::log::prune::{HeldBy, Prune, Pruned};
pub use crate::log::request::{Appended, ExpectedContext};
pub use crate::log::retry_request::RetryLetters;
pub use crate::log::statistics::{DayStatistics, LogStatistics, TypeStatistics};
pub use crate::log::steer::{ExpectedCursor, Reset, Skipped};
#[cfg(feature = "sqlite")]
pub use crate::log::verification::{Finding, Verification};
#[cfg(feature = "postgres")]
pub use crate::projection::server::{
    model::ServerModel, models::ServerModels, options::ServerModelOptions, projection::ServerProjection,
    view::documents::ServerDocuments,
};
#[cfg(feature = "sqlite")]
pub use crate::projection::view::documents::Documents;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use crate::projection::view::{
    condition::Condition,
    definition::{Document, View},
    query::{ViewPage, ViewQuery},
    token::PageToken,
};
#[cfg(feature = "sqlite")]
pub use crate::projection::{
    in_log::{model::InLogModel, models::InLogModels, options::InLogOptions},
    model::ReadModel,
    models::ReadModels,
    options::ModelOptions,
    projection::Projection,
};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use crate::projection::{
    options::Promotion,
    rebuilding::{Rebuild, RebuildProgress},
    request::{Cancelled, ModelRequest, RequestReport, RequestState},
    status::{ReadModelStatus, ReadModelVersion},
};
pub use crate::store::fold::{FoldError, Folded};
pub use crate::store::{QueryResult, Store};
pub use crate::stream::control::StreamControl;
pub use crate::stream::failure::{FailurePolicy, HandlerError};
pub use crate::stream::handle::{EventStream, StatusWatch};
pub use crate::stream::handler::HandleStream;
pub use crate::stream::health::{Health, HealthLimits, LogProblem, Problem, StreamHealth};
pub use crate::stream::letters::{DeadLetters, Retried};
pub use crate::stream::options::{Checkpoint, DurableStream};
pub use crate::stream::policy::Retry;
pub use crate::stream::react::reaction::Reaction;
pub use crate::stream::react::reactor::Reactor;
pub use crate::stream::reader::EventReader;
pub use crate::stream::retry_request::{RetryProgress, RetryState, RetryTicket, Withdrawal};
pub use crate::stream::status::{StreamState, StreamStatus};
pub use crate::stream::wait::Until;
#[cfg(feature = "sqlite")]
pub use crate::tenant::{
    OpenedTenant, Tenant, TenantState, TenantStatus, Tenants, TenantsBuilder, TenantsStatus,
};
/// The SQLite library that projections are written with.
#[cfg(feature = "sqlite")]
pub use rusqlite;
/// The PostgreSQL driver that projections on the log's server are written with.
#[cfg(feature = "postgres")]
pub use tokio_postgres;
