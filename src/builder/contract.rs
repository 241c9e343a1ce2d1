//! Opening a log of somebody else.

use crate::builder::StoreBuilder;
use crate::error::{OpenError, StorageError};
use crate::log::contract::decode::Decoder;
use crate::log::{LogReader, LogWriter};
use crate::store::Store;

impl StoreBuilder {
    /// Opens a store on a log that keeps the [contract](crate::contract). `open` makes its two halves; the [`Decoder`] that it gets knows
    /// the upcasters of this store. Blocks as long as `open` does.
    ///
    /// Of the options, those say nothing that tell how and where the logs of this crate are kept: `durability`, `must_exist`, `schema`,
    /// `server_limit` and [`index_payload`](Self::index_payload).
    ///
    /// # Errors
    /// An option makes no sense; upcasters do not fit together; `open` fails, or the log does not say where it ends.
    pub fn open_log<W, R>(
        self,
        open: impl FnOnce(Decoder) -> Result<(W, R), StorageError>,
    ) -> Result<Store, OpenError>
    where
        W: LogWriter + 'static,
        R: LogReader + 'static,
    {
        self.validate()?;
        let evolution = self.evolution.check()?;
        let (writer, reader) = open(Decoder::new(evolution.clone()))?;
        self.wire(writer, reader, evolution)
    }
}
