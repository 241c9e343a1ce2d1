//! The table of a view's documents: how it is made, and how it is asked.

use std::fmt::Write;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params_from_iter, types::Value};
use serde::de::DeserializeOwned;

use crate::error::ViewError;
use crate::projection::view::condition::after_prefix;
use crate::projection::view::path::JsonPath;
use crate::projection::view::query::{ViewPage, ViewQuery};
use crate::projection::view::statement::{self, Asked, Dialect, Sql};
use crate::projection::view::token::{PageToken, Place};

/// What the table and the indexes are made with. Rank, value and id in one index serve conditions, ranges, and the order.
pub(crate) fn schema(indexes: &[JsonPath]) -> String {
    let mut schema =
        "CREATE TABLE document (id TEXT NOT NULL PRIMARY KEY, json TEXT NOT NULL) STRICT, WITHOUT ROWID;\n"
            .to_owned();
    for (index, path) in indexes.iter().enumerate() {
        // Writing to a text cannot fail.
        let _ = writeln!(
            schema,
            "CREATE INDEX document_{} ON document ({}, {}, id);",
            index + 1,
            path.rank(),
            path.value()
        );
    }
    schema
}

/// Who reads: named in errors.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) name: String,
    pub(crate) version: u32,
}

/// What was read, or why it makes no sense. SQL that fails is told apart from both.
pub(crate) type Read<T> = rusqlite::Result<Result<T, ViewError>>;

impl Reader {
    /// The documents of these ids that are there.
    pub(crate) fn get<D: DeserializeOwned>(
        &self,
        connection: &Connection,
        ids: &[String],
    ) -> Read<Vec<(String, D)>> {
        // By the primary key.
        let mut statement = connection.prepare_cached("SELECT id, json FROM document WHERE id = ?1")?;
        let mut found = Vec::new();
        for id in ids {
            found.extend(statement.query_row([id], row).optional()?);
        }
        self.decode(connection, found)
    }

    /// The next documents whose id begins with a prefix, in the order of their ids.
    pub(crate) fn list<D: DeserializeOwned>(
        &self,
        connection: &Connection,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Read<Vec<(String, D)>> {
        let mut sql = Sql::new(Dialect::Sqlite);
        sql.push(format_args!("SELECT id, json FROM document WHERE id >= "));
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
        sql.push(format_args!(" ORDER BY id LIMIT ?{}", sql.parameters.len() + 1));
        let rows = rows(connection, &sql, limit)?;
        self.decode(connection, rows)
    }

    /// A page of a query.
    pub(crate) fn page<D: DeserializeOwned>(
        &self,
        connection: &Connection,
        query: &ViewQuery,
    ) -> Read<ViewPage<D>> {
        let (asked, limit) = match (statement::page(Dialect::Sqlite, query), query.checked_limit()) {
            (Ok(asked), Ok(limit)) => (asked, limit),
            (Err(error), _) | (_, Err(error)) => return Ok(Err(error)),
        };
        let mut found = Vec::new();
        for stretch in &asked.stretches {
            // One more than is wanted says that there is a next page.
            found.extend(rows(connection, stretch, limit + 1 - found.len())?);
            if found.len() > limit {
                break;
            }
        }
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = match found.last() {
            Some((id, _)) if has_more => Some(token(connection, &asked, id)?),
            _ => None,
        };
        let decoded = self.decode(connection, found)?;
        Ok(decoded.map(|documents| ViewPage { documents, next }))
    }

    /// How many documents a query finds on all its pages.
    pub(crate) fn count(&self, connection: &Connection, query: &ViewQuery) -> Read<u64> {
        let condition = match statement::condition(Dialect::Sqlite, query) {
            Ok(condition) => condition,
            Err(error) => return Ok(Err(error)),
        };
        let counted = format!("SELECT count(*) FROM document WHERE {}", condition.text);
        let mut statement = connection.prepare_cached(&counted)?;
        let count: i64 = statement.query_row(params_from_iter(condition.parameters), |row| row.get(0))?;
        Ok(Ok(count as u64))
    }

    fn decode<D: DeserializeOwned>(
        &self,
        connection: &Connection,
        rows: Vec<(String, String)>,
    ) -> Read<Vec<(String, D)>> {
        let mut documents = Vec::with_capacity(rows.len());
        for (id, json) in rows {
            match serde_json::from_str(&json) {
                Ok(document) => documents.push((id, document)),
                Err(error) => return self.unreadable(connection, id, error).map(Err),
            }
        }
        Ok(Ok(documents))
    }

    fn unreadable(
        &self,
        connection: &Connection,
        id: String,
        error: serde_json::Error,
    ) -> rusqlite::Result<ViewError> {
        let written_by =
            connection.query_row("SELECT version FROM millstream_build", [], |row| row.get(0))?;
        Ok(ViewError::UnreadableDocument {
            name: self.name.clone(),
            id,
            version: self.version,
            written_by,
            source: Arc::new(error),
        })
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<(String, String)> {
    Ok((row.get(0)?, row.get(1)?))
}

fn rows(connection: &Connection, sql: &Sql, limit: usize) -> rusqlite::Result<Vec<(String, String)>> {
    let parameters = sql.parameters.iter().cloned().map(Value::Text);
    let parameters = parameters.chain([Value::Integer(limit as i64)]);
    let mut statement = connection.prepare_cached(&sql.text)?;
    statement.query_map(params_from_iter(parameters), row)?.collect()
}

/// The place of a document in the order of a query.
fn token(connection: &Connection, asked: &Asked, id: &str) -> rusqlite::Result<PageToken> {
    let sort = match &asked.sort_place {
        None => None,
        Some(place) => connection
            .prepare_cached(place)?
            .query_row([id], |row| Ok(statement::sort_place(row.get(0)?, row.get(1)?)))?,
    };
    let id = id.to_owned();
    Ok(PageToken::new(asked.fingerprint, Place { id, sort }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::view::condition::Condition;

    fn table() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        let paths = ["/owner", "/"].map(|path| JsonPath::parse(Dialect::Sqlite, path).unwrap());
        connection.execute_batch(&schema(&paths)).unwrap();
        connection
    }

    fn reader() -> Reader {
        let name = "documents".to_owned();
        Reader { name, version: 1 }
    }

    fn explain(connection: &Connection, sql: &Sql) -> String {
        let parameters = sql.parameters.iter().cloned().map(Value::Text);
        let parameters = parameters.chain([Value::Integer(10)]);
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {}", sql.text))
            .unwrap();
        let steps = statement
            .query_map(params_from_iter(parameters), |row| row.get(3))
            .unwrap();
        steps.collect::<Result<Vec<String>, _>>().unwrap().join("; ")
    }

    fn plan(query: &ViewQuery) -> String {
        let asked = statement::page(Dialect::Sqlite, query).unwrap();
        explain(&table(), &asked.stretches[0])
    }

    #[test]
    fn conditions_on_an_indexed_path_search_its_index() {
        let compared = "SEARCH document USING INDEX document_1 (<expr>=? AND <expr>";
        for condition in [
            Condition::equals("/owner", "anna"),
            Condition::equals("/owner", 7).and(Condition::exists("/other")),
            Condition::is_in("/owner", ["anna", "ben"]),
            Condition::less("/owner", 7.5),
            Condition::at_least("/owner", "b"),
            Condition::starts_with("/owner", "an"),
        ] {
            let plan = plan(&ViewQuery::filter(condition.clone()).sort_by("/cents"));
            assert!(plan.starts_with(compared), "{condition:?}: {plan}");
        }
        let exists = plan(&ViewQuery::filter(Condition::exists("/owner")).sort_by("/cents"));
        assert!(
            exists.starts_with("SEARCH document USING INDEX document_1 (<expr>>?)"),
            "{exists}"
        );
        let either = Condition::equals("/owner", "anna").or(Condition::equals("/owner", 7));
        let either = plan(&ViewQuery::filter(either).sort_by("/cents"));
        assert_eq!(either.matches("USING INDEX document_1").count(), 2, "{either}");
        let other = plan(&ViewQuery::filter(Condition::equals("/other", "anna")).sort_by("/cents"));
        assert!(other.starts_with("SCAN document;"), "{other}");
    }

    #[test]
    fn pages_in_the_order_of_an_index_are_read_from_where_they_begin() {
        let connection = table();
        for number in 0..9 {
            let json = format!(r#"{{"owner":{}}}"#, ["1", "1", "\"a\"", "null"][number % 4]);
            connection
                .execute("INSERT INTO document VALUES (?1, ?2)", (number.to_string(), json))
                .unwrap();
        }
        for query in [
            ViewQuery::all().sort_by("/owner"),
            ViewQuery::all().sort_by("/owner").descending(),
        ] {
            let first = explain(
                &connection,
                &statement::page(Dialect::Sqlite, &query).unwrap().stretches[0],
            );
            assert_eq!(first, "SCAN document USING INDEX document_1");
            let mut query = query.limit(1);
            while let Some(next) = {
                let page: ViewPage<serde_json::Value> = reader().page(&connection, &query).unwrap().unwrap();
                page.next
            } {
                query = query.after(next);
                for stretch in &statement::page(Dialect::Sqlite, &query).unwrap().stretches {
                    let plan = explain(&connection, stretch);
                    assert!(
                        plan.starts_with("SEARCH document USING INDEX document_1"),
                        "{plan}"
                    );
                    assert!(!plan.contains("TEMP B-TREE"), "nothing is sorted: {plan}");
                }
            }
        }
        let by_id = statement::page(Dialect::Sqlite, &ViewQuery::all()).unwrap();
        assert_eq!(explain(&connection, &by_id.stretches[0]), "SCAN document");
    }
}
