//! Opening a log on a PostgreSQL server with default options.

use crate::error::OpenError;
use crate::store::Store;

impl Store {
    /// Opens the log on this PostgreSQL server with default options, or makes it.
    ///
    /// Everything else is as with a log in a file: the same calls, the same streams, the same promises, however many processes share it.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use millstream::{NewEvent, Store};
    ///
    /// let store = Store::connect("postgres://shop:secret@localhost/shop").await?;
    /// store.append([NewEvent::new("order-placed", 7)]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`StoreBuilder::connect`](crate::StoreBuilder::connect).
    ///
    /// # Cancel safety
    /// As [`StoreBuilder::connect`](crate::StoreBuilder::connect).
    pub async fn connect(address: impl Into<String>) -> Result<Self, OpenError> {
        Self::builder().connect(address).await
    }
}
