//! The handle of a view on the server: its documents, typed.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use futures::Stream;
use futures::stream;
use tokio_postgres::Transaction;

use crate::error::ViewError;
use crate::projection::server::model::ServerModel;
use crate::projection::server::view::table::{Read, Reader};
use crate::projection::view::definition::Document;
use crate::projection::view::query::{LIMIT_MAX, ViewPage, ViewQuery};

/// A view that is kept on the log's server, and its documents: got with [`ServerModels::view`](crate::ServerModels::view). Dropping it ends the
/// view's stream.
///
/// It is a [`ServerModel`] too: `status`, `wait_for`, `read` and the rest are those of the model. Reads go as those of
/// [`ServerModel::read`]: each in one transaction, and neither blocks the writer nor is blocked by it.
#[must_use = "dropping the handle ends the view's stream; keep it, or detach it"]
pub struct ServerDocuments<D> {
    model: ServerModel,
    documents: PhantomData<fn() -> D>,
}

/// How many documents a list has in memory at once.
const LISTED_AT_ONCE: usize = 256;

impl<D: Document> ServerDocuments<D> {
    pub(super) fn new(model: ServerModel) -> Self {
        Self {
            model,
            documents: PhantomData,
        }
    }

    /// A document, if it is there.
    ///
    /// # Errors
    /// It does not decode as `D`; the server cannot be reached.
    ///
    /// # Cancel safety
    /// A read that is dropped is given up.
    pub async fn get(&self, id: &str) -> Result<Option<D>, ViewError> {
        let ids = [id.to_owned()];
        let found = self.ask(async |reader, tx| reader.get(tx, &ids).await).await?;
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
        let found = self.ask(async |reader, tx| reader.get(tx, &ids).await).await?;
        Ok(found.into_iter().collect())
    }

    /// All documents whose id begins with a prefix, in the order of their ids, byte by byte. An empty prefix: all there are.
    ///
    /// They are read 256 at a time, while the stream is read. What changes meanwhile is seen or not; what does not is there exactly once.
    ///
    /// # Errors
    /// As [`get`](Self::get); the stream ends then.
    pub fn list(&self, prefix: &str) -> impl Stream<Item = Result<(String, D), ViewError>> {
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

    /// A page of the documents that a query finds. Conditions mean what they mean for views in files. Arrays and objects are sorted by the text
    /// that the server makes of them.
    ///
    /// # Errors
    /// A path, the condition, the limit or the page token is refused; as [`get`](Self::get).
    ///
    /// # Cancel safety
    /// As [`get`](Self::get).
    pub async fn query(&self, query: &ViewQuery) -> Result<ViewPage<D>, ViewError> {
        self.ask(async |reader, tx| reader.page(tx, query).await).await
    }

    /// How many documents a query finds, whatever its limit and page.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    ///
    /// # Cancel safety
    /// As [`get`](Self::get).
    pub async fn count(&self, query: &ViewQuery) -> Result<u64, ViewError> {
        self.ask(async |reader, tx| reader.count(tx, query).await).await
    }

    async fn ask<T>(
        &self,
        ask: impl AsyncFnOnce(&Reader, &Transaction<'_>) -> Read<T>,
    ) -> Result<T, ViewError> {
        let read = self.model.read_serving(async |tx, serving| {
            let reader = Reader {
                name: self.model.name().to_owned(),
                version: self.model.version(),
                serving: serving.version,
            };
            ask(&reader, tx).await
        });
        read.await?
    }
}

impl<D> ServerDocuments<D> {
    /// The read model alone: to detach it, for instance.
    pub fn into_model(self) -> ServerModel {
        self.model
    }
}

impl<D> Deref for ServerDocuments<D> {
    type Target = ServerModel;

    fn deref(&self) -> &ServerModel {
        &self.model
    }
}

impl<D> fmt::Debug for ServerDocuments<D> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("ServerDocuments")
            .field(&self.model)
            .finish()
    }
}

/// Where a list is.
struct Listing<'a, D> {
    documents: &'a ServerDocuments<D>,
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
            let (prefix, after) = (&self.prefix, self.last.take());
            let page: Vec<(String, D)> = self
                .documents
                .ask(async |reader, tx| reader.list(tx, prefix, after.as_deref(), LISTED_AT_ONCE).await)
                .await?;
            self.is_over = page.len() < LISTED_AT_ONCE;
            self.last = page.last().map(|(id, _)| id.clone());
            self.page = page.into_iter();
        }
        Ok(self.page.next())
    }
}
