//! What an operator asks of a whole log: where a time is, what it holds, whether it is sound, and a copy of it.

#[cfg(feature = "sqlite")]
use std::path::{Path, PathBuf};
#[cfg(feature = "sqlite")]
use std::sync::Arc;
use std::time::SystemTime;

#[cfg(feature = "sqlite")]
use tokio::runtime::Handle;
#[cfg(feature = "sqlite")]
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::error::ReadError;
#[cfg(feature = "sqlite")]
use crate::error::{BackupError, VerifyError};
#[cfg(feature = "sqlite")]
use crate::log::LogReader;
#[cfg(feature = "sqlite")]
use crate::log::backup::{BackedUp, BackupProgress};
#[cfg(feature = "sqlite")]
use crate::log::page::More;
use crate::log::statistics::LogStatistics;
#[cfg(feature = "sqlite")]
use crate::log::verification::Verification;
use crate::store::Store;

impl Store {
    /// The last sequence before the first event that was recorded at `time` or later: read
    /// [after](crate::EventReader::after) it to begin with that time.
    ///
    /// Recorded times never fall along the log, so that it is searched for and not read. It is never before what pruning left.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use millstream::{EventQuery, NewEvent, Store};
    /// use std::time::{Duration, SystemTime};
    ///
    /// # let store = Store::in_memory()?;
    /// store.append([NewEvent::new("greeted", "hello")]).await?;
    /// let an_hour_ago = SystemTime::now() - Duration::from_secs(60 * 60);
    /// let position = store.position_at(an_hour_ago).await?;
    /// let of_this_hour = store.read(&EventQuery::all()).after(position);
    /// # assert_eq!(position, 0);
    /// # drop(of_this_hour);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The store is closed, or the storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn position_at(&self, time: SystemTime) -> Result<u64, ReadError> {
        self.check_open()?;
        self.log().position_at(time.into()).await
    }

    /// Counts what the log holds: events, types, days, bytes. Costs a walk along the index of the types, and reads no event.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use millstream::{NewEvent, Store};
    /// # let store = Store::in_memory()?;
    /// store.append([NewEvent::new("greeted", "hello"), NewEvent::new("greeted", "again")]).await?;
    /// let statistics = store.statistics().await?;
    /// assert_eq!((statistics.events, statistics.days.len()), (2, 1));
    /// assert_eq!(statistics.types[0].event_type, "greeted");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The store is closed, or the storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn statistics(&self) -> Result<LogStatistics, ReadError> {
        self.check_open()?;
        self.log().statistics().await
    }

    /// Copies the log into a new file, while it is written to: a backup. The copy is the log as it was when this was called,
    /// whole and in order, cursors included, and is opened like any other log.
    ///
    /// The copy is made with SQLite's online backup in steps of 1 MiB, beside the target, under a name that ends in
    /// `.partial`; it gets its name when it is complete and on the disk. So a target that is there is a whole backup. Appends
    /// and streams go on; the write-ahead log is not reset until the backup ends, and grows by what is appended meanwhile.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use millstream::{NewEvent, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, target) = (folder.path().join("shop.db"), folder.path().join("shop-backup.db"));
    /// # let store = Store::open(&path)?;
    /// store.append([NewEvent::new("greeted", "hello")]).await?;
    /// let backed_up = store.backup_to(&target).await?;
    /// assert_eq!(backed_up.head, 1);
    /// assert!(Store::open(&target)?.verify().await?.is_sound());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// There is a file at the target already: nothing is overwritten. The log is in memory. The target cannot be written, or
    /// the storage fails; then there is nothing at the target.
    ///
    /// # Cancel safety
    /// Dropped, the future stops the backup after the step that is under way, and nothing is left of it.
    #[cfg(feature = "sqlite")]
    pub async fn backup_to(&self, target: impl AsRef<Path>) -> Result<BackedUp, BackupError> {
        self.backup_with_progress(target, |_| ()).await
    }

    /// [`backup_to`](Store::backup_to), which tells after each step how far it is. `tell` is called on the thread that copies,
    /// and holds it up.
    ///
    /// # Errors
    /// As [`backup_to`](Store::backup_to).
    ///
    /// # Cancel safety
    /// As [`backup_to`](Store::backup_to).
    #[cfg(feature = "sqlite")]
    pub async fn backup_with_progress(
        &self,
        target: impl AsRef<Path>,
        mut tell: impl FnMut(BackupProgress) + Send + 'static,
    ) -> Result<BackedUp, BackupError> {
        self.check_open().map_err(|_| BackupError::Closed)?;
        let target: PathBuf = target.as_ref().to_owned();
        let work = move |reader: &dyn LogReader, is_wanted: &mut dyn FnMut() -> More| {
            reader.backup_to(&target, &mut |progress| {
                tell(progress);
                is_wanted()
            })
        };
        self.on_a_thread(work).await.unwrap_or(Err(BackupError::Closed))
    }

    /// Checks every invariant of the log's file, and says what is broken. Nothing is written, nothing is mended.
    ///
    /// Looked at are: SQLite's own integrity check; sequences without holes, beyond what was pruned or removed by hand; batches
    /// that are whole; recorded times that do not fall; types that have names; payloads, tags and metadata that can be read; runs
    /// of the index that can be searched, with an entry for whatever an event carries, and none else; cursors that are of this log
    /// and inside it, and dead letters and idempotency keys too. Every event is read, once.
    ///
    /// All of it is looked at in one snapshot. Appends and streams go on; the write-ahead log is not reset until the
    /// verification ends, and grows by what is appended meanwhile. A [backup](Store::backup_to) can be verified instead.
    ///
    /// # Errors
    /// The store is closed, the log is in memory, or the file cannot be read at all. Damage is no error: it is
    /// [found](Verification::findings).
    ///
    /// # Cancel safety
    /// Dropped, the future stops the verification soon.
    #[cfg(feature = "sqlite")]
    pub async fn verify(&self) -> Result<Verification, VerifyError> {
        self.check_open().map_err(|_| VerifyError::Closed)?;
        let work = |reader: &dyn LogReader, is_wanted: &mut dyn FnMut() -> More| reader.verify(is_wanted);
        self.on_a_thread(work).await.unwrap_or(Err(VerifyError::Closed))
    }

    /// Does long work on a thread where it holds up nobody; without a runtime, right here. The work is told when nobody waits
    /// for it any more. Nothing: the runtime ended first.
    #[cfg(feature = "sqlite")]
    pub(crate) async fn on_a_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn LogReader, &mut dyn FnMut() -> More) -> T + Send + 'static,
    ) -> Option<T> {
        let reader = Arc::clone(&self.log().reader);
        // Dropped with this future.
        let (_waits, mut gone) = oneshot::channel::<()>();
        let mut is_wanted = move || match gone.try_recv() {
            Err(TryRecvError::Closed) => More::No,
            _ => More::Yes,
        };
        let Ok(runtime) = Handle::try_current() else {
            return Some(work(&*reader, &mut is_wanted));
        };
        let task = runtime.spawn_blocking(move || work(&*reader, &mut is_wanted));
        match task.await {
            Ok(done) => Some(done),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => None,
        }
    }
}
