//! The handle of a view: its documents, typed.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use futures::Stream;
use futures::stream;
use rusqlite::Connection;

use crate::error::ViewError;
use crate::projection::model::ReadModel;
use crate::projection::view::definition::Document;
use crate::projection::view::query::{LIMIT_MAX, ViewPage, ViewQuery};
use crate::projection::view::table::{Read, Reader};

/// A view that is kept, and its documents: got with [`ReadModels::view`](crate::ReadModels::view) or
/// [`view_on_demand`](crate::ReadModels::view_on_demand). Dropping it ends the view's stream.
///
/// It is a [`ReadModel`] too: `status`, `wait_for`, `catch_up`, `rebuild` and `promote` are those of the model.
///
/// Reads go as those of [`ReadModel::read`]: each in one transaction, on a thread that may block, and neither blocks the writer nor is blocked
/// by it. What is read is what serves, which may have been written by another version. A document of that one which does not decode
/// as `D` is [`ViewError::UnreadableDocument`], which names both versions.
#[must_use = "dropping the handle ends the view's stream; keep it, or detach it"]
pub struct Documents<D> {
    model: ReadModel,
    documents: PhantomData<fn() -> D>,
}

/// How many documents a list has in memory at once.
const LISTED_AT_ONCE: usize = 256;

impl<D: Document> Documents<D> {
    pub(crate) fn new(model: ReadModel) -> Self {
        Self {
            model,
            documents: PhantomData,
        }
    }

    /// A document, if it is there.
    ///
    /// # Errors
    /// It does not decode as `D`; the storage fails.
    ///
    /// # Cancel safety
    /// A read that has begun goes on to its end, and its answer is lost.
    pub async fn get(&self, id: &str) -> Result<Option<D>, ViewError> {
        let ids = [id.to_owned()];
        let read = move |reader: Reader, connection: &Connection| reader.get(connection, &ids);
        let found: Vec<(String, D)> = self.ask(read).await?;
        Ok(found.into_iter().next().map(|(_, document)| document))
    }

    /// Those of some documents that are there, all as of one moment. At most 10,000 ids.
    ///
    /// # Errors
    /// As [`get`](Self::get); there are too many ids.
    ///
    /// # Cancel safety
    /// As [`get`](Self::get).
    pub async fn get_many<I: Into<String>>(
        &self,
        ids: impl IntoIterator<Item = I>,
    ) -> Result<BTreeMap<String, D>, ViewError> {
        let ids: Vec<String> = ids.into_iter().map(Into::into).take(LIMIT_MAX + 1).collect();
        if ids.len() > LIMIT_MAX {
            return Err(ViewError::InvalidLimit {
                option: "the number of ids",
                value: ids.len(),
                max: LIMIT_MAX,
            });
        }
        let read = move |reader: Reader, connection: &Connection| reader.get(connection, &ids);
        Ok(self.ask(read).await?.into_iter().collect())
    }

    /// All documents whose id begins with a prefix, in the order of their ids, byte by byte. An empty prefix: all there are.
    ///
    /// They are read 256 at a time, while the stream is read. What changes meanwhile is seen or not; what does not is there exactly once.
    ///
    /// ```
    /// # async fn print(accounts: &millstream::Documents<u64>) -> Result<(), millstream::ViewError> {
    /// use futures::TryStreamExt;
    ///
    /// let mut listed = std::pin::pin!(accounts.list("account:"));
    /// while let Some((id, account)) = listed.try_next().await? {
    ///     println!("{id}: {account:?}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get); the stream ends then.
    pub fn list(&self, prefix: &str) -> impl Stream<Item = Result<(String, D), ViewError>> + Send {
        let listing = Listing {
            documents: self,
            prefix: prefix.to_owned(),
            page: Vec::new().into_iter(),
            last: None,
            is_over: false,
        };
        stream::try_unfold(listing, |mut listing| async {
            let next = listing.next().await?;
            Ok(next.map(|next| (next, listing)))
        })
    }

    /// A page of the documents that a query finds.
    ///
    /// ```
    /// # async fn print(accounts: &millstream::Documents<u64>) -> Result<(), millstream::ViewError> {
    /// use millstream::{Condition, ViewQuery};
    ///
    /// let query = ViewQuery::filter(Condition::equals("/owner", "anna")).limit(20);
    /// let mut page = accounts.query(&query).await?;
    /// while let Some(next) = page.next.take() {
    ///     page = accounts.query(&query.clone().after(next)).await?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// A path, the condition, the limit or the page token is refused; as [`get`](Self::get).
    ///
    /// # Cancel safety
    /// As [`get`](Self::get).
    pub async fn query(&self, query: &ViewQuery) -> Result<ViewPage<D>, ViewError> {
        let query = query.clone();
        self.ask(move |reader, connection| reader.page(connection, &query))
            .await
    }

    /// How many documents a query finds, whatever its limit and page.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    ///
    /// # Cancel safety
    /// As [`get`](Self::get).
    pub async fn count(&self, query: &ViewQuery) -> Result<u64, ViewError> {
        let query = query.clone();
        self.ask(move |reader, connection| reader.count(connection, &query))
            .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(Reader, &Connection) -> Read<T> + Send + 'static,
    ) -> Result<T, ViewError> {
        let reader = Reader {
            name: self.model.name().to_owned(),
            version: self.model.version(),
        };
        self.model.read(move |connection| ask(reader, connection)).await?
    }
}

impl<D> Documents<D> {
    /// The read model alone: to detach it, for instance.
    pub fn into_model(self) -> ReadModel {
        self.model
    }
}

impl<D> Deref for Documents<D> {
    type Target = ReadModel;

    fn deref(&self) -> &ReadModel {
        &self.model
    }
}

impl<D> fmt::Debug for Documents<D> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Documents").field(&self.model).finish()
    }
}

/// Where a list is.
struct Listing<'a, D> {
    documents: &'a Documents<D>,
    prefix: String,
    page: std::vec::IntoIter<(String, D)>,
    /// The last id of the page.
    last: Option<String>,
    /// There is no page behind this one.
    is_over: bool,
}

impl<D: Document> Listing<'_, D> {
    async fn next(&mut self) -> Result<Option<(String, D)>, ViewError> {
        if self.page.len() == 0 && !self.is_over {
            let (prefix, after) = (self.prefix.clone(), self.last.take());
            let page: Vec<(String, D)> = self
                .documents
                .ask(move |reader, connection| {
                    reader.list(connection, &prefix, after.as_deref(), LISTED_AT_ONCE)
                })
                .await?;
            self.is_over = page.len() < LISTED_AT_ONCE;
            self.last = page.last().map(|(id, _)| id.clone());
            self.page = page.into_iter();
        }
        Ok(self.page.next())
    }
}
