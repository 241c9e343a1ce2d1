//! The table of a view's documents on the server: how it is made, and how it is asked.

use std::fmt::Write;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row, Transaction};

use crate::error::ViewError;
use crate::log::postgres::text::{loaded, stored};
use crate::projection::server::view::sql::{DOCUMENT, indexed};
use crate::projection::view::condition::after_prefix;
use crate::projection::view::path::{JsonPath, Rank};
use crate::projection::view::query::{ViewPage, ViewQuery};
use crate::projection::view::statement::{self, Asked, Dialect, Sql};
use crate::projection::view::token::{PageToken, Place, SortPlace};

/// What the table and the indexes are made with. Kind, value and id in one index serve conditions, ranges, and the order.
pub(super) fn schema(indexes: &[JsonPath]) -> String {
    let mut schema = "CREATE TABLE document (
    id text COLLATE \"C\" PRIMARY KEY,
    body jsonb NOT NULL,
    -- The document's own text, where it cannot be read back from the body.
    json text
);
"
    .to_owned();
    for (index, path) in indexes.iter().enumerate() {
        // Writing to a text cannot fail.
        let _ = writeln!(
            schema,
            "CREATE INDEX document_{} ON document ({});",
            index + 1,
            indexed(path)
        );
    }
    schema
}

/// Who reads: named in errors.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) name: String,
    /// The version of the handle.
    pub(super) version: u32,
    /// The version that is read.
    pub(super) serving: u32,
}

/// What was read, or why it makes no sense. SQL that fails is told apart from both.
pub(super) type Read<T> = Result<Result<T, ViewError>, Error>;

impl Reader {
    /// The documents of these ids that are there.
    pub(super) async fn get<D: DeserializeOwned>(
        &self,
        tx: &Transaction<'_>,
        ids: &[String],
    ) -> Read<Vec<(String, D)>> {
        let ids: Vec<String> = ids.iter().map(|id| stored(id).into_owned()).collect();
        // By the primary key.
        let sql = format!("SELECT id, {DOCUMENT} FROM document WHERE id = ANY($1)");
        let rows = tx.query(&sql, &[&ids]).await?;
        self.decode(texts(&rows)?)
    }

    /// The next documents whose id begins with a prefix, in the order of their ids.
    pub(super) async fn list<D: DeserializeOwned>(
        &self,
        tx: &Transaction<'_>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Read<Vec<(String, D)>> {
        let mut sql = Sql::new(Dialect::Postgres);
        sql.push(format_args!("SELECT id, {DOCUMENT} FROM document WHERE id >= "));
        sql.text(prefix.to_owned());
        if let Some(end) = after_prefix(prefix) {
            sql.push(format_args!(" AND id < "));
            sql.text(end);
        }
        if let Some(after) = after {
            sql.push(format_args!(" AND id > "));
            sql.text(after.to_owned());
        }
        // By the primary key.
        sql.push(format_args!(" ORDER BY id LIMIT ${}", sql.parameters.len() + 1));
        let found = rows(tx, &sql, limit).await?;
        self.decode(found)
    }

    /// A page of a query.
    pub(super) async fn page<D: DeserializeOwned>(
        &self,
        tx: &Transaction<'_>,
        query: &ViewQuery,
    ) -> Read<ViewPage<D>> {
        let (asked, limit) = match (statement::page(Dialect::Postgres, query), query.checked_limit()) {
            (Ok(asked), Ok(limit)) => (asked, limit),
            (Err(error), _) | (_, Err(error)) => return Ok(Err(error)),
        };
        let mut found = Vec::new();
        for stretch in &asked.stretches {
            // One more than is wanted says that there is a next page.
            found.extend(rows(tx, stretch, limit + 1 - found.len()).await?);
            if found.len() > limit {
                break;
            }
        }
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = match found.last() {
            Some((id, _)) if has_more => Some(token(tx, &asked, id).await?),
            _ => None,
        };
        Ok(self.decode(found)?.map(|documents| ViewPage { documents, next }))
    }

    /// How many documents a query finds on all its pages.
    pub(super) async fn count(&self, tx: &Transaction<'_>, query: &ViewQuery) -> Read<u64> {
        let condition = match statement::condition(Dialect::Postgres, query) {
            Ok(condition) => condition,
            Err(error) => return Ok(Err(error)),
        };
        let counted = format!("SELECT count(*) FROM document WHERE {}", condition.text);
        let parameters: Vec<&(dyn ToSql + Sync)> =
            condition.parameters.iter().map(|text| text as _).collect();
        let count: i64 = tx.query_one(&counted, &parameters).await?.try_get(0)?;
        Ok(Ok(count as u64))
    }

    fn decode<D: DeserializeOwned>(&self, rows: Vec<(String, String)>) -> Read<Vec<(String, D)>> {
        let decoded = rows
            .into_iter()
            .map(|(id, json)| match serde_json::from_str(&json) {
                Ok(document) => Ok((id, document)),
                Err(error) => Err(ViewError::UnreadableDocument {
                    name: self.name.clone(),
                    id,
                    version: self.version,
                    written_by: self.serving,
                    source: Arc::new(error),
                }),
            });
        Ok(decoded.collect())
    }
}

/// Ids and documents.
fn texts(rows: &[Row]) -> Result<Vec<(String, String)>, Error> {
    let texts = rows
        .iter()
        .map(|row| Ok((loaded(row.try_get(0)?), row.try_get(1)?)));
    texts.collect()
}

async fn rows(tx: &Transaction<'_>, sql: &Sql, limit: usize) -> Result<Vec<(String, String)>, Error> {
    let limit = limit as i64;
    let mut parameters: Vec<&(dyn ToSql + Sync)> = sql.parameters.iter().map(|text| text as _).collect();
    parameters.push(&limit);
    texts(&tx.query(&sql.text, &parameters).await?)
}

/// The place of a document in the order of a query.
async fn token(tx: &Transaction<'_>, asked: &Asked, id: &str) -> Result<PageToken, Error> {
    let sort = match &asked.sort_place {
        None => None,
        Some(place) => {
            let row = tx.query_one(place, &[&stored(id).as_ref()]).await?;
            sort_place(row.try_get(0)?, row.try_get(1)?)
        }
    };
    let id = id.to_owned();
    Ok(PageToken::new(asked.fingerprint, Place { id, sort }))
}

/// Where a row stands in an order: its kind and its value.
fn sort_place(rank: i32, json: Option<String>) -> Option<SortPlace> {
    let rank = u8::try_from(rank).ok().and_then(Rank::from_number)?;
    let json = json.unwrap_or_else(|| "null".to_owned());
    let json = match serde_json::from_str(&json) {
        // As it was before it was stored.
        Ok(Value::String(text)) => Value::from(loaded(text)).to_string(),
        _ => json,
    };
    Some(SortPlace { rank, json })
}
