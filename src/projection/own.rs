//! Whose a read model is that is kept continuously: that of the store which owns its stream.
//!
//! The stream is claimed before the build is opened, because opening takes the build from whoever had it: who is refused, or waits,
//! must not have touched what another one keeps. And whether the build fits is looked at before the stream is claimed, because a take-over
//! ends the earlier owner: who would be refused then takes nothing over.

use std::sync::Arc;
use std::time::Duration;

use crate::error::ReadModelError;
use crate::log::handle::owner::LetsGo;
use crate::log::owner::Ownership;
use crate::log::request::Claimed;
use crate::projection::spec::{Spec, stream_name};
use crate::store::Store;
use crate::stream::reservation::Reservation;

/// How often is looked whether the owner has gone.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// That a read model's stream is registered here, and nobody else does it meanwhile. Dropping it lets go of the stream's claim, if it was
/// made for this registration and not kept.
pub(crate) struct Owned {
    // In this order: whoever registers the stream next claims it behind that.
    unless_kept: Option<LetsGo>,
    _reservation: Reservation,
}

impl Owned {
    /// The stream is there, and lets go of its claim itself when it ends.
    pub(crate) fn keep(self) {
        if let Some(unless_kept) = self.unless_kept {
            unless_kept.keep();
        }
    }
}

/// Keeps this version from being registered twice in this store.
fn reserve(store: &Store, spec: &Spec, stream: &Arc<str>) -> Result<Reservation, ReadModelError> {
    let registry = store.registry();
    let reserved = registry.reservations.reserve(stream);
    let reserved = reserved.filter(|_| registry.running(stream).is_none());
    reserved.ok_or_else(|| ReadModelError::Active {
        name: spec.name.clone(),
        version: spec.version,
    })
}

/// Ends the stream of another store that keeps the model, before its build is taken to be brought up on demand: in the log everything is refused
/// to it from then on. A dead letter as well, which it would make of what it cannot apply any more, and which would be applied twice once
/// somebody retried it. Nobody registers the stream here as long as what is given is kept.
pub(crate) async fn oust(store: &Store, spec: &Spec) -> Result<Reservation, ReadModelError> {
    let stream: Arc<str> = stream_name(&spec.name, spec.version).into();
    let reservation = reserve(store, spec, &stream)?;
    let log = store.log();
    let asked = Arc::clone(&stream);
    let claims = log.read(move |reader| Ok(reader.claims(Some(&asked))?)).await?;
    if !claims.iter().any(|claim| claim.role.holds()) {
        return Ok(reservation);
    }
    let lets_go = LetsGo::of(&stream, log);
    if let Claimed::Before = log.claim(&stream, Ownership::TakeOver).await? {
        lets_go.keep();
    }
    Ok(reservation)
}

/// Claims the stream of a read model, and waits for it when that is wanted. Of two who do that in one store at once, the second is refused.
pub(crate) async fn own(store: &Store, spec: &Spec, ownership: Ownership) -> Result<Owned, ReadModelError> {
    let stream: Arc<str> = stream_name(&spec.name, spec.version).into();
    let reservation = reserve(store, spec, &stream)?;
    let log = store.log();
    let unless_kept = LetsGo::of(&stream, log);
    let mut waits = false;
    loop {
        match log.claim(&stream, ownership).await? {
            Claimed::Now => {
                return Ok(Owned {
                    unless_kept: Some(unless_kept),
                    _reservation: reservation,
                });
            }
            Claimed::Before => {
                unless_kept.keep();
                return Ok(Owned {
                    unless_kept: None,
                    _reservation: reservation,
                });
            }
            Claimed::StandsBy(owner) => {
                if !std::mem::replace(&mut waits, true) {
                    tracing::info!(stream = &*stream, %owner, "a read model is waited for, somebody else keeps it");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}
