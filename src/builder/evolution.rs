//! How a program says what has become of its events since they were stored.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::builder::StoreBuilder;
use crate::error::BoxError;

impl StoreBuilder {
    /// Brings events of a type from one [schema version](crate::NewEvent::schema_version) to the next: the closure makes the payload
    /// of `from_version + 1` of that of `from_version`. Upcasters follow each other, so one per version is enough.
    ///
    /// Everybody meets the events as they are after that: queries, conditions, handlers and readers, live as in a replay, wherever
    /// they were appended. What is stored stays as it is. The closure takes and gives what serde can read and write, a
    /// [`serde_json::Value`] or types of yours.
    ///
    /// It has to be a pure function of the payload, and quick: it is called by whoever appends or reads an older event, again
    /// each time that it is read, and on the committer's thread for what other processes append and for the context of an
    /// [`append_if`](crate::Store::append_if). It must not use the store. Numbers pass through serde: an integer that does not
    /// fit 64 bits becomes the nearest float.
    ///
    /// An event that cannot be brought to the newest version is **undecodable**: there is no upcaster from its version, it is of a
    /// newer one than the upcasters lead to, or the closure failed or panicked. A read that selects it fails with
    /// [`ReadError::Undecodable`](crate::ReadError::Undecodable), an `append_if` with
    /// [`AppendError::Undecodable`](crate::AppendError::Undecodable), and a stream does not call its handler with it but fails
    /// with the category [`Undecodable`](crate::FailureCategory::Undecodable), for which
    /// [a durable stream may have a policy](crate::DurableStream::on). It counts as selected by the type that it is stored with, by
    /// the one that it would have, and whatever its payload would be. Streams and reads that do not select it do not notice it.
    /// An append of such an event is refused. Events of types without an upcaster are shown in whatever version they are, unless
    /// [`newest_version`](Self::newest_version) says otherwise.
    ///
    /// Queries by type and tag are served by the index as ever. An [indexed payload path](Self::index_payload) is one into the
    /// payload as it is stored: of types with an upcaster the events of the type are read instead.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("shop.db");
    /// use millstream::{EventFilter, NewEvent, Store};
    /// use serde_json::{Value, json};
    ///
    /// let store = Store::open(&path)?;
    /// store.append([NewEvent::new("order-placed", json!({"order": 7, "total": 12}))]).await?;
    /// store.close().await?;
    ///
    /// // Totals are in cents now, and the type has a better name.
    /// let store = Store::builder()
    ///     .upcast("order-placed", 1, |mut payload: Value| {
    ///         let total = payload["total"].as_u64().ok_or("there is no total")?;
    ///         payload["total"] = json!(total * 100);
    ///         Ok::<_, &str>(payload)
    ///     })
    ///     .rename_type("order-placed", "order-received")
    ///     .open(&path)?;
    /// let received = EventFilter::types(["order-received"]).payload(json!({"total": 1200}));
    /// let found = store.query(&received.into()).await?;
    /// assert_eq!(found.events[0].schema_version(), 2);
    /// # Ok(()) }
    /// ```
    ///
    /// Two upcasters from one version, and a gap between two of them, are refused by `open` and `in_memory` with
    /// [`OpenError::Evolution`](crate::OpenError::Evolution).
    pub fn upcast<P, Q, E>(
        mut self,
        event_type: impl Into<String>,
        from_version: u32,
        upcast: impl Fn(P) -> Result<Q, E> + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned,
        Q: Serialize,
        E: Into<BoxError>,
    {
        self.evolution.upcast(event_type.into(), from_version, upcast);
        self
    }

    /// Shows events of a type under another name. Queries find them by that name, and no longer by the old one.
    ///
    /// First come the [upcasters](Self::upcast) of the old name; where they end the event goes on under the new name, with the
    /// version that it has then and the upcasters that the new name has from there. So upcasters that a program has stay as they
    /// are when a rename is added, and two types may become one. Renames follow each other. A circle, a second rename of a type,
    /// and one that arrives at a version which the new name's upcasters do not know, are refused by `open` and `in_memory`.
    ///
    /// The stored query of a durable stream names the types that it was registered with: a stream that now asks for the new name
    /// has changed its query, see [`OnMismatch`](crate::OnMismatch).
    pub fn rename_type(mut self, event_type: impl Into<String>, renamed: impl Into<String>) -> Self {
        self.evolution.rename(event_type.into(), renamed.into());
        self
    }

    /// Says what the newest schema version of a type is that the program knows: events of a newer one are undecodable, and so are
    /// those of an older one without an upcaster.
    ///
    /// Types with upcasters need it not: theirs is the version after the last upcaster. It protects a program that has none yet
    /// from events of the next one while both run.
    ///
    /// ```
    /// use millstream::Store;
    ///
    /// let store = Store::builder().newest_version("order-placed", 1).in_memory()?;
    /// # Ok::<(), millstream::OpenError>(())
    /// ```
    pub fn newest_version(mut self, event_type: impl Into<String>, version: u32) -> Self {
        self.evolution.newest(event_type.into(), version);
        self
    }
}

/// The page on evolution, so that its code is tested.
#[cfg(doctest)]
#[doc = include_str!("../../docs/evolution.md")]
struct Page;
