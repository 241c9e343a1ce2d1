//! What is measured, the same for every peer.
//!
//! A peer is one small program: it implements [`Peer`] and calls [`main`], which reads a [`Plan`] from the command
//! line, runs it, and prints an [`Outcome`] as the last line of its output. The driver knows only [`protocol`].

pub mod protocol;

#[cfg(feature = "run")]
mod order;
#[cfg(feature = "run")]
mod peer;
#[cfg(feature = "run")]
mod process;
#[cfg(feature = "run")]
mod run;
#[cfg(feature = "run")]
mod sink;

#[cfg(feature = "run")]
pub use crate::order::{Order, number_in};
#[cfg(feature = "run")]
pub use crate::peer::{Cannot, Failure, Kind, Peer, Subscription, Wants, Writer};
#[cfg(feature = "run")]
pub use crate::run::main;
#[cfg(feature = "run")]
pub use crate::sink::Sink;
