//! What the user writes: which events concern which documents, and what becomes of these.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{BoxError, ViewError};
use crate::event::query::EventQuery;
use crate::event::record::EventRecord;
use crate::projection::view::cache::CacheLimits;

/// Documents by key, kept from events: a [`Projection`](crate::Projection) without SQL.
///
/// [`key`](View::key) says which document an event concerns, and `evolve` what becomes of it: it is given the document, or nothing when there is none,
/// and gives what is to be there afterwards, or nothing when it is to be removed. The document is any type that goes through
/// JSON and comes back the same.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use millstream::{Condition, EventQuery, EventRecord, NewEvent, ReadModels, Store, View, ViewQuery};
/// use serde::{Deserialize, Serialize};
/// use serde_json::json;
///
/// #[derive(Serialize, Deserialize)]
/// struct Account {
///     owner: String,
///     cents: i64,
/// }
///
/// # fn account_view() -> View<Account> {
/// let view = View::<Account>::new("account", 1)
///     .select(EventQuery::types(["opened", "deposited"]))
///     .index("/owner")
///     .key(|event| event.tags().next().map(str::to_owned))
///     .try_evolve(|account, event| {
///         let account = match account {
///             Some(account) => Account { cents: account.cents + event.payload().decode::<i64>()?, ..account },
///             None => Account { owner: event.payload().decode()?, cents: 0 },
///         };
///         Ok::<_, millstream::DecodeError>(Some(account))
///     });
/// # view }
/// # let view = account_view();
///
/// # let folder = tempfile::tempdir()?;
/// let store = Store::open(folder.path().join("bank.db"))?;
/// let models = ReadModels::open(folder.path().join("views.db"))?;
/// let accounts = models.view(&store, view).await?;
///
/// let opened = NewEvent::new("opened", "anna").tag("account:7");
/// let deposited = NewEvent::new("deposited", 1250).tag("account:7");
/// let appended = store.append([opened, deposited]).await?;
/// accounts.wait_for(appended).await?;
/// assert_eq!(accounts.get("account:7").await?.map(|account| account.cents), Some(1250));
///
/// let of_anna = ViewQuery::filter(Condition::equals("/owner", "anna")).sort_by("/cents").descending();
/// assert_eq!(accounts.query(&of_anna).await?.documents[0].0, "account:7");
/// # Ok(()) }
/// ```
///
/// **What is stored.** One row per document in the table `document`: `id`, and `json` as `serde_json` writes it. A document is read from there when the
/// first event concerns it, changed in memory, and written back once per transaction. It stays in a bounded cache, so a document may
/// go through JSON after any event, or after none: what JSON does not carry, such as skipped fields, does not belong into it.
///
/// **Versions.** The version changes whenever the type, the key, or what `evolve` does changes: nothing of that can be seen from
/// outside. A changed query or index is noticed when the view is registered.
#[derive(Clone)]
#[must_use = "a view does nothing until it is registered with `ReadModels::view`"]
pub struct View<D, S = Evolving<D>> {
    pub(crate) settings: Settings,
    pub(crate) stage: S,
    documents: PhantomData<fn() -> D>,
}

/// What may be a document. Every type that goes through JSON is one.
pub trait Document: Serialize + DeserializeOwned + Send + 'static {}

impl<D: Serialize + DeserializeOwned + Send + 'static> Document for D {}

/// What is said of a view besides its functions.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) query: EventQuery,
    pub(crate) indexes: Vec<String>,
    pub(crate) cache: CacheLimits,
}

/// Puts the ids of the documents that an event concerns into the list.
pub(crate) type Keys = dyn Fn(&EventRecord, &mut Vec<String>) -> Result<(), BoxError> + Send + Sync;
/// Makes of a document what an event makes of it.
pub(crate) type Evolve<D> =
    dyn Fn(&str, Option<D>, &EventRecord) -> Result<Option<D>, BoxError> + Send + Sync;

/// A view that does not know yet which documents its events concern.
#[derive(Clone)]
pub struct Unkeyed(());

/// A view whose events concern one document each.
#[derive(Clone)]
pub struct OneKey(Arc<Keys>);

/// A view whose events may concern several documents.
#[derive(Clone)]
pub struct ManyKeys(Arc<Keys>);

/// A view that can be registered.
pub struct Evolving<D> {
    pub(crate) keys: Arc<Keys>,
    pub(crate) evolve: Arc<Evolve<D>>,
}

impl<D> Clone for Evolving<D> {
    fn clone(&self) -> Self {
        Self {
            keys: Arc::clone(&self.keys),
            evolve: Arc::clone(&self.evolve),
        }
    }
}

/// Bytes of a document's id.
pub(crate) const ID_BYTES_MAX: usize = 1_024;

impl<D> View<D> {
    /// A view of all events. Its name and version are those of its read model: see [`Projection`](crate::Projection).
    pub fn new(name: impl Into<String>, version: u32) -> View<D, Unkeyed> {
        View {
            settings: Settings {
                name: name.into(),
                version,
                query: EventQuery::all(),
                indexes: Vec::new(),
                cache: CacheLimits::default(),
            },
            stage: Unkeyed(()),
            documents: PhantomData,
        }
    }
}

impl<D> View<D, Unkeyed> {
    /// Which document an event concerns; none, when it concerns none. An id has from 1 to 1,024 bytes, otherwise the event counts as failed.
    pub fn key(
        self,
        key: impl Fn(&EventRecord) -> Option<String> + Send + Sync + 'static,
    ) -> View<D, OneKey> {
        self.staged(OneKey(Arc::new(move |event, ids| {
            ids.extend(key(event));
            Ok(())
        })))
    }

    /// The same where the key has to be decoded, which may fail. An error fails the event, as one of `evolve` does.
    pub fn try_key<E: Into<BoxError>>(
        self,
        key: impl Fn(&EventRecord) -> Result<Option<String>, E> + Send + Sync + 'static,
    ) -> View<D, OneKey> {
        self.staged(OneKey(Arc::new(move |event, ids| {
            ids.extend(key(event).map_err(Into::into)?);
            Ok(())
        })))
    }

    /// Which documents an event concerns, where it may be several. Each of them evolves once, in the order given, and `evolve`
    /// is told which one it is.
    ///
    /// ```
    /// use millstream::{BoxError, EventQuery, View};
    ///
    /// type Transfer = (String, String, i64);
    /// let balances = View::<i64>::new("balance", 1)
    ///     .select(EventQuery::types(["transferred"]))
    ///     .try_keys(|event| {
    ///         let (from, to, _) = event.payload().decode::<Transfer>()?;
    ///         Ok::<_, BoxError>(vec![from, to])
    ///     })
    ///     .try_evolve(|id, balance, event| {
    ///         let (from, _, cents) = event.payload().decode::<Transfer>()?;
    ///         let cents = if id == from { -cents } else { cents };
    ///         Ok::<_, BoxError>(Some(balance.unwrap_or(0) + cents))
    ///     });
    /// # let _ = balances;
    /// ```
    pub fn keys(
        self,
        keys: impl Fn(&EventRecord) -> Vec<String> + Send + Sync + 'static,
    ) -> View<D, ManyKeys> {
        self.staged(ManyKeys(Arc::new(move |event, ids| {
            *ids = keys(event);
            Ok(())
        })))
    }

    /// The same where the keys have to be decoded, which may fail. An error fails the event, as one of `evolve` does.
    pub fn try_keys<E: Into<BoxError>>(
        self,
        keys: impl Fn(&EventRecord) -> Result<Vec<String>, E> + Send + Sync + 'static,
    ) -> View<D, ManyKeys> {
        self.staged(ManyKeys(Arc::new(move |event, ids| {
            *ids = keys(event).map_err(Into::into)?;
            Ok(())
        })))
    }
}

impl<D> View<D, OneKey> {
    /// What an event makes of its document: nothing removes it.
    pub fn evolve(
        self,
        evolve: impl Fn(Option<D>, &EventRecord) -> Option<D> + Send + Sync + 'static,
    ) -> View<D> {
        let keys = Arc::clone(&self.stage.0);
        self.evolving(keys, move |_, document, event| Ok(evolve(document, event)))
    }

    /// The same where it may fail: `event.decode::<T>()?` fails as an undecodable event does. The whole transaction is rolled back then, and the
    /// view's [options](crate::ModelOptions) say what happens with the batch.
    pub fn try_evolve<E: Into<BoxError>>(
        self,
        evolve: impl Fn(Option<D>, &EventRecord) -> Result<Option<D>, E> + Send + Sync + 'static,
    ) -> View<D> {
        let keys = Arc::clone(&self.stage.0);
        self.evolving(keys, move |_, document, event| {
            evolve(document, event).map_err(Into::into)
        })
    }
}

impl<D> View<D, ManyKeys> {
    /// What an event makes of each document that it concerns, which is named by its id: nothing removes it.
    pub fn evolve(
        self,
        evolve: impl Fn(&str, Option<D>, &EventRecord) -> Option<D> + Send + Sync + 'static,
    ) -> View<D> {
        let keys = Arc::clone(&self.stage.0);
        self.evolving(keys, move |id, document, event| Ok(evolve(id, document, event)))
    }

    /// The same where it may fail: `event.decode::<T>()?` fails as an undecodable event does. The whole transaction is rolled back then, and the
    /// view's [options](crate::ModelOptions) say what happens with the batch.
    pub fn try_evolve<E: Into<BoxError>>(
        self,
        evolve: impl Fn(&str, Option<D>, &EventRecord) -> Result<Option<D>, E> + Send + Sync + 'static,
    ) -> View<D> {
        let keys = Arc::clone(&self.stage.0);
        self.evolving(keys, move |id, document, event| {
            evolve(id, document, event).map_err(Into::into)
        })
    }
}

impl<D, S> View<D, S> {
    /// Which events the view is kept from. Default: all.
    pub fn select(mut self, query: EventQuery) -> Self {
        self.settings.query = query;
        self
    }

    /// Indexes a path into the documents, for [conditions](crate::Condition) on it and for sorting by it. It is written as a JSON pointer through the members of
    /// objects, `/owner` or `/address/city`; an empty one is the whole document.
    ///
    /// An index is a part of the view's schema: adding one or taking one away needs a new version.
    pub fn index(mut self, pointer: impl Into<String>) -> Self {
        self.settings.indexes.push(pointer.into());
        self
    }

    /// How many documents are kept in memory between events and transactions, those that are known not to be there among them. At least 1. Default 20,000.
    pub fn cache_documents_max(mut self, documents: usize) -> Self {
        self.settings.cache.documents_max = documents.max(1);
        self
    }

    /// How many bytes these may have as JSON, as of when they were last read or written. One document is kept whatever its
    /// size. Default 32 MiB.
    pub fn cache_bytes_max(mut self, bytes: usize) -> Self {
        self.settings.cache.bytes_max = bytes;
        self
    }

    fn staged<T>(self, stage: T) -> View<D, T> {
        View {
            settings: self.settings,
            stage,
            documents: PhantomData,
        }
    }

    fn evolving(
        self,
        keys: Arc<Keys>,
        evolve: impl Fn(&str, Option<D>, &EventRecord) -> Result<Option<D>, BoxError> + Send + Sync + 'static,
    ) -> View<D> {
        let evolve = Arc::new(evolve);
        self.staged(Evolving { keys, evolve })
    }
}

impl<D> Evolving<D> {
    /// The ids of the documents that an event concerns, each once, in place of what is in the list.
    pub(crate) fn ids(&self, event: &EventRecord, ids: &mut Vec<String>) -> Result<(), BoxError> {
        ids.clear();
        (self.keys)(event, ids)?;
        let mut kept = 0;
        for index in 0..ids.len() {
            let bytes = ids[index].len();
            if bytes == 0 || bytes > ID_BYTES_MAX {
                let max = ID_BYTES_MAX;
                return Err(ViewError::InvalidId { bytes, max }.into());
            }
            // There are few, and mostly one.
            if !ids[..kept].contains(&ids[index]) {
                ids.swap(kept, index);
                kept += 1;
            }
        }
        ids.truncate(kept);
        Ok(())
    }
}

impl<D, S> fmt::Debug for View<D, S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("View")
            .field("name", &self.settings.name)
            .field("version", &self.settings.version)
            .field("indexes", &self.settings.indexes)
            .finish_non_exhaustive()
    }
}
