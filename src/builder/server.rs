//! Opening a log on a PostgreSQL server.

use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::builder::{StoreBuilder, invalid};
use crate::clock::TIME_MAX;
use crate::error::{OpenError, StorageError};
use crate::log::postgres::{self, Opening};
use crate::store::Store;

impl StoreBuilder {
    /// The schema that the log on a PostgreSQL server lies in, so that a database can hold several. Default `millstream`. It is made
    /// when it is not there. A URL that names one, as `postgres://host/database?schema=shop` does, goes before this.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.server.schema = name.into();
        self
    }

    /// How long a PostgreSQL server is waited for: for one answer, for another process that holds the log, and until it can be
    /// reached again when a connection was lost. Then the operation fails, and says whether a retry helps. Default 30 s.
    pub fn server_limit(mut self, limit: Duration) -> Self {
        self.server.limit = limit;
        self
    }

    /// Opens the log on this PostgreSQL server, or makes it.
    ///
    /// The address is a URL like `postgres://user:password@host:5432/database`, or key words like `host=/run/postgresql dbname=shop`,
    /// as `libpq` takes them. With `sslmode=require` the connection is encrypted, and the server's certificate is checked against
    /// those that the system trusts; without it nothing is encrypted. Tables are made, and brought to the newest format, by the first who comes:
    /// however many processes start at once, one does.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use millstream::Store;
    ///
    /// let store = Store::builder()
    ///     .schema("shop")
    ///     .connect("postgres://shop:secret@db.example/production?sslmode=require")
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// An option or the address makes no sense; upcasters do not fit together; the server cannot be reached, or refuses; the schema
    /// belongs to something else, or is of a newer format. No error repeats a password.
    ///
    /// # Cancel safety
    /// When the future is dropped, the store is not opened. The tables may have been made.
    pub async fn connect(self, address: impl Into<String>) -> Result<Store, OpenError> {
        let address = address.into();
        let (give, opened) = oneshot::channel();
        // A thread of its own, so that it does not matter which runtime this is polled on.
        thread::Builder::new()
            .name(String::from("millstream-open"))
            .spawn(move || {
                // Who has gone does not need the store.
                let _ = give.send(self.connect_blocking(&address));
            })
            .map_err(|error| StorageError::new("start a thread", error))?;
        opened.await.unwrap_or_else(|_| {
            let problem = std::io::Error::other("the thread that opened it panicked");
            Err(StorageError::new("connect", problem).into())
        })
    }

    fn connect_blocking(mut self, address: &str) -> Result<Store, OpenError> {
        self.validate()?;
        let limit = self.server.limit;
        let shown = || format!("{limit:?}");
        if limit < Duration::from_millis(1) {
            return Err(invalid(
                "server_limit",
                shown(),
                "too short; at least 1 ms is needed",
            ));
        }
        if limit > TIME_MAX {
            return Err(invalid(
                "server_limit",
                shown(),
                "too long; at most a day is possible",
            ));
        }
        let evolution = self.evolution.check()?;
        let opening = Opening {
            durability: self.durability,
            absent: self.absent,
            idle_readers_max: self.readers,
            evolution: evolution.clone(),
            paths: self.paths()?,
        };
        let (writer, reader) = postgres::open(address, &self.server, opening)?;
        self.desk = Some(reader.desk());
        self.wire(writer, reader, evolution)
    }
}
