//! A log moves: into another file or onto a server, with everything that belongs to it.

use std::ffi::OsStr;

use crate::error::CopyError;
use crate::log::LogReader;
use crate::log::copy::run::{self, Sides};
use crate::log::copy::{Copied, CopyProgress, CopyTarget};
use crate::log::location::{LogLocation, Place};
use crate::log::page::More;
#[cfg(feature = "postgres")]
use crate::log::postgres;
use crate::log::sqlite;
use crate::store::Store;

impl Store {
    /// Copies the log to another location, with cursors, dead letters, the pauses of streams and idempotency keys: a move. Also a log in
    /// memory, into a file.
    ///
    /// **The same log.** The copy keeps the id of the log, and of every event its sequence, time, type, schema version, tags, metadata and
    /// the text of its payload; boundaries of batches stay, and holes that pruning left. So durable streams go on in the copy where they
    /// stood in the source, and read models that were built from the source are kept from the copy. From then on there are two logs
    /// with one id: go on with one of them, as with a [backup](Store::backup_to). Read models have files of their own, and stay there.
    ///
    /// **Nobody runs in it.** Streams are as after an end in order: paused if they were paused, and free for whoever registers them. A
    /// request to retry dead letters that has not ended stays behind.
    ///
    /// **While the source is in use.** Appends and streams go on. Events go over page by page; at the end cursors, letters and the
    /// head are read in one snapshot, and the copy is the log as it was then: [`Copied::head`] says through where. To lose nothing
    /// in a move, end the programs that append, and copy then; a copy that was made before cannot be brought up to date.
    ///
    /// **Cut off and taken up again.** Until it has ended the target says that it is a copy in the making:
    /// whoever opens it is refused with [`OpenError::PartialCopy`](crate::OpenError::PartialCopy). The same copy again goes on where
    /// it was, however it was ended. A target that is anything else is refused and left untouched.
    ///
    /// **Compared.** Before the target becomes a log, all events and keys of both sides are read again and compared by count and checksum,
    /// and everything else row by row.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use millstream::{NewEvent, Store};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, target) = (folder.path().join("shop.db"), folder.path().join("moved.db"));
    /// let store = Store::open(&path)?;
    /// store.append([NewEvent::new("greeted", "hello")]).await?;
    /// let copied = store.copy_to(&target).await?;
    /// assert_eq!((copied.head, copied.events), (1, 1));
    /// let moved = Store::open(&target)?;
    /// assert_eq!(moved.log_id(), store.log_id());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The target is a log already, or a copy of another log; it is not what the source is, when both are compared
    /// ([`CopyError::Differs`]); either side cannot be read or written; the store is closed. See [`CopyError`].
    ///
    /// # Cancel safety
    /// Dropped, the future stops the copy after the page that is under way. What was copied stays, and the same call goes on there.
    pub async fn copy_to(&self, target: impl AsRef<OsStr>) -> Result<Copied, CopyError> {
        self.copy_with_progress(target, |_| ()).await
    }

    /// [`copy_to`](Store::copy_to), which tells after each page how far it is. `tell` is called on the thread that copies, and holds
    /// it up.
    ///
    /// # Errors
    /// As [`copy_to`](Store::copy_to).
    ///
    /// # Cancel safety
    /// As [`copy_to`](Store::copy_to).
    pub async fn copy_with_progress(
        &self,
        target: impl AsRef<OsStr>,
        mut tell: impl FnMut(CopyProgress) + Send + 'static,
    ) -> Result<Copied, CopyError> {
        self.check_open().map_err(|_| CopyError::Closed)?;
        let target = LogLocation::parse(target)?;
        let work = move |source: &dyn LogReader, is_wanted: &mut dyn FnMut() -> More| {
            let mut target = Target::open(&target, source)?;
            let sides = Sides {
                source,
                target: &mut *target.writer,
                target_reader: &*target.reader,
            };
            run::run(sides, &mut |progress| {
                tell(progress);
                is_wanted()
            })
        };
        self.on_a_thread(work).await.unwrap_or(Err(CopyError::Closed))
    }
}

/// Both halves of what is to become a copy.
struct Target {
    writer: Box<dyn CopyTarget>,
    reader: Box<dyn LogReader>,
}

impl Target {
    fn open(location: &LogLocation, source: &dyn LogReader) -> Result<Self, CopyError> {
        match location.place() {
            Place::File(path) => {
                let (writer, reader) = sqlite::copy::open_target(path, source)?;
                Ok(Self::of(writer, reader))
            }
            #[cfg(feature = "postgres")]
            Place::Server(address) => {
                let options = postgres::Options::default();
                let (writer, reader) = postgres::copy::open_target(address, &options, source.log_id())?;
                Ok(Self::of(writer, reader))
            }
        }
    }

    fn of(writer: impl CopyTarget + 'static, reader: impl LogReader + 'static) -> Self {
        Self {
            writer: Box::new(writer),
            reader: Box::new(reader),
        }
    }
}
