//! Opening a log wherever it is.

use crate::builder::StoreBuilder;
use crate::error::OpenError;
use crate::log::location::{LogLocation, Place};
use crate::store::Store;

impl StoreBuilder {
    /// Opens the log at this location, or makes it; [`must_exist`](Self::must_exist) is heeded. Meant for programs that are told
    /// where the log is, as the command line is.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let told = folder.path().join("shop.db");
    /// use millstream::{LogLocation, Store};
    ///
    /// let location = LogLocation::parse(&told)?;
    /// let store = Store::builder().open_at(&location).await?;
    /// # store.close().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`open`](Self::open), or as `connect` for the address of a server.
    ///
    /// # Cancel safety
    /// When the future is dropped nothing is open.
    pub async fn open_at(self, location: &LogLocation) -> Result<Store, OpenError> {
        match location.place() {
            Place::File(path) => self.open(path),
            #[cfg(feature = "postgres")]
            Place::Server(address) => self.connect(address.clone()).await,
        }
    }
}
