//! Who runs a durable stream (D6): instances, their claims to names, and how they are known to live.
//!
//! An instance is one opening of a log by which durable streams are run: a store. It is known by a random id, and the log holds
//! something for it that ends with its process: a lock. So there is one lock for an instance and not one for a stream. A claim
//! says that an instance runs a stream, or stands by for it. Claims are rows of the log, and change in the committer's transaction, which nobody
//! writes beside; so of several who want a name exactly one gets it. Liveness only decides who may take a name over. What an owner
//! that lost it may write is decided by the epoch alone.
//!
//! In reading order: this page (the words, and what a log provides), `silence` (for how long an instance gave no sign of life) and
//! `share` (who takes over, and who gives away). Both are pure.

pub(crate) mod share;
pub(crate) mod silence;

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::error::{Instance, StorageError};

/// What becomes of a registration whose name is owned by another living store: in another process, or in this one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("shop.db");
/// use millstream::{DurableStream, HandleStream, NewEvent, Ownership, Store, StreamError};
///
/// # let handle = || HandleStream::new(|_| async { Ok::<_, std::io::Error>(()) });
/// let (store, other) = (Store::open(&path)?, Store::open(&path)?);
/// let ledger = DurableStream::new("ledger");
/// let stream = store.stream_all_durable(&ledger, handle()).await?;
///
/// let refused = other.stream_all_durable(&ledger, handle()).await;
/// assert!(matches!(refused, Err(StreamError::OwnedElsewhere { .. })));
///
/// let waits = ledger.ownership(Ownership::Standby);
/// let standby = other.stream_all_durable(&waits, handle()).await?;
/// stream.unsubscribe();
/// standby.owned().await?;
/// let appended = other.append([NewEvent::new("order-placed", 7)]).await?;
/// standby.wait_for(appended).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ownership {
    /// The registration fails with [`StreamError::OwnedElsewhere`](crate::StreamError::OwnedElsewhere), which names the owner.
    #[default]
    Fail,
    /// The registration succeeds, and the stream [stands by](crate::StreamState::Standby): its handler is not called before the owner
    /// ends, dies, gives no [sign of life](crate::StoreBuilder::owner_silence_max), or gives the stream away because it owns
    /// at least two more of the streams that are stood by for than this store does.
    Standby,
    /// The stream is taken over at once. Its owner stops with [`StopCause::OwnershipLost`](crate::StopCause::OwnershipLost) when it
    /// notices, within its poll interval; what it had handled beyond its stored cursor is handled again here, as after a crash (D3).
    TakeOver,
}

/// The random id of an instance.
pub type InstanceId = Arc<str>;

/// What an instance has to do with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It runs it, and gives it to somebody who stands by when that is fair. There is one owner at the most.
    Owner,
    /// It runs it, and gives it to nobody.
    SoleOwner,
    /// The owner gave it the stream, and it has yet to take it. It counts as the owner.
    Heir,
    /// It waits to run it.
    Standby,
}

/// That an instance runs a stream, or stands by for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub(crate) stream: Arc<str>,
    pub(crate) instance: InstanceId,
    pub(crate) role: Role,
    pub(crate) since: Timestamp,
    pub(crate) host: Arc<str>,
    pub(crate) process: u32,
}

impl Role {
    /// Whether the stream is this one's, and no other may take it.
    pub(crate) fn holds(self) -> bool {
        !matches!(self, Self::Standby)
    }
}

impl Claim {
    /// Who claims, as users see it.
    pub(crate) fn claimant(&self) -> Instance {
        Instance::new(&self.host, self.process, self.since.into())
    }
}

/// What is known of the life of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It has ended, in order or not. No other instance gets its id.
    Gone,
    /// Its process holds what ends with it. The number changes with every beat, and says nothing else.
    #[cfg_attr(
        not(feature = "sqlite"),
        allow(dead_code, reason = "nobody else has a log in memory open")
    )]
    Beat(i128),
}

/// What a log provides for the owners of its streams. Where not said otherwise, called inside a transaction.
pub trait ClaimWriter {
    /// Holds, from the first call on and until `leave` or the end of the process, what others see that this opening of the log
    /// lives by, and gives the id under which they find it. Inside a transaction or outside.
    fn enter(&mut self) -> Result<InstanceId, StorageError>;

    /// Gives a sign of life, outside a transaction. Cheap, and no write to the log.
    fn beat(&mut self) -> Result<(), StorageError>;

    /// Looks for a sign of life of another instance, inside a transaction or outside. Cheap, and no write to the log.
    fn sign(&mut self, instance: &str) -> Result<Sign, StorageError>;

    /// Lets go of what others see that this opening lives by, outside a transaction.
    fn leave(&mut self);

    /// The claims to one stream.
    fn claims_of(&mut self, stream: &str) -> Result<Vec<Claim>, StorageError>;

    /// The claims to all streams that somebody stands by for or was given, inside a transaction or outside.
    fn contested(&mut self) -> Result<Vec<Claim>, StorageError>;

    /// Stores a claim, in place of an earlier one of the same instance to the same stream.
    fn put_claim(&mut self, claim: &Claim) -> Result<(), StorageError>;

    /// Removes a claim, if it is there. `false`: it is not.
    fn remove_claim(&mut self, stream: &str, instance: &str) -> Result<bool, StorageError>;

    /// Removes all claims to a stream.
    fn remove_claims(&mut self, stream: &str) -> Result<(), StorageError>;

    /// Whether an instance that has gone may come back under its id: what it lived by was a connection, and that was lost. It keeps the claims
    /// that nobody takes from it.
    fn may_come_back(&self) -> bool {
        false
    }

    /// Removes an instance that has gone for good, with all its claims. `false`: it has none.
    fn strike(&mut self, instance: &str) -> Result<bool, StorageError>;
}

/// The name of this machine, where the system keeps it in a file or in the environment.
pub(crate) fn host_name() -> Arc<str> {
    let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let from_file = files.iter().find_map(|path| std::fs::read_to_string(path).ok());
    let variables = ["COMPUTERNAME", "HOSTNAME", "HOST"];
    let from_variable = || variables.iter().find_map(|name| std::env::var(name).ok());
    let found = from_file.or_else(from_variable).unwrap_or_default();
    match found.trim() {
        "" => "unknown".into(),
        name => name.into(),
    }
}
