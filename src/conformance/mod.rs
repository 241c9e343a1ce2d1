//! The proofs of all promises, to be run on any log: the feature `conformance`, for `[dev-dependencies]`.
//!
//! Whoever writes a log on the [contract](crate::contract) says in one small type how it is opened, and has a test for each proof:
//!
//! ```
//! use millstream::conformance::{Capability, Subject, TestLog};
//! use millstream::{OpenError, Store, StoreBuilder};
//!
//! /// The log in memory; what is opened here would be yours.
//! struct InMemory;
//!
//! impl TestLog for InMemory {
//!     fn open(&self, builder: StoreBuilder) -> Result<Store, OpenError> {
//!         builder.in_memory()
//!     }
//!
//!     fn has(&self, _: Capability) -> bool {
//!         false
//!     }
//! }
//!
//! # mod proofs_of_memory { use super::*;
//! millstream::conformance_tests!(Subject::new(InMemory));
//! millstream::conformance_guards!(Subject::new(InMemory));
//! # }
//! ```
//!
//! - [`conformance_tests!`](crate::conformance_tests) makes a `#[tokio::test]` of each proof. Those that need a [`Capability`] that the log
//!   does not have are ignored, and the test runner says which, and why.
//! - [`conformance_guards!`](crate::conformance_guards) makes a test of each way in which a log may [break a promise](Sabotage): your log is made
//!   to, and the proofs of that promise have to notice. A kit that cannot fail proves nothing.
//! - [`PROOFS`] is the list, for whoever wants to run one, or some; [`run`] runs what is chosen and [reports](Report).
//!
//! The names of proofs begin with the number of the [`Promise`] that they prove. A proof that fails panics with what it found.
//!
//! `docs/conformance.md` goes from an empty file to a log that holds.

mod guard;
mod list;
#[cfg(doctest)]
#[doc = include_str!("../../docs/conformance.md")]
mod page {}
mod promise;
#[allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "the name of a proof is its claim, and to panic is how it says that the claim is wrong"
)]
pub mod proofs;
mod run;
mod subject;
#[doc(hidden)]
#[allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "what the proofs are written with"
)]
pub mod tools;

#[doc(hidden)]
pub use crate::conformance::guard::hold_guard;
pub use crate::conformance::guard::{Caught, guard};
pub use crate::conformance::list::PROOFS;
pub use crate::conformance::promise::{PROMISES, Promise};
pub use crate::conformance::run::{Outcome, Proof, Report, TIME_MAX, proof, run};
#[doc(hidden)]
pub use crate::conformance::run::{hold_capabilities, hold_named};
pub use crate::conformance::subject::{Capability, Subject, Tampering, TestLog};
pub use crate::log::broken::Sabotage;
