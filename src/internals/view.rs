//! A view's table without a view: for fuzzing and property tests.

use rusqlite::Connection;
use serde_json::Value;

use crate::error::ViewError;
use crate::projection::view::path::JsonPath;
use crate::projection::view::query::{ViewPage, ViewQuery};
use crate::projection::view::statement::Dialect;
use crate::projection::view::table::{self, Read, Reader};

/// Documents in memory that are asked as those of a view are.
pub struct DocumentTable(Connection);

impl DocumentTable {
    /// A table with indexes on some paths.
    ///
    /// # Errors
    /// A path is refused.
    ///
    /// # Panics
    /// When the table's SQL fails.
    pub fn new<'a>(
        documents: impl IntoIterator<Item = (&'a String, &'a Value)>,
        indexes: &[String],
    ) -> Result<Self, ViewError> {
        let paths = indexes.iter().map(|path| JsonPath::parse(Dialect::Sqlite, path));
        let paths = paths.collect::<Result<Vec<_>, _>>()?;
        let connection = Connection::open_in_memory().expect("there is memory");
        connection
            .execute_batch(&table::schema(&paths))
            .expect("the schema is right for all paths");
        for (id, document) in documents {
            connection
                .execute("INSERT INTO document VALUES (?1, ?2)", (id, document.to_string()))
                .expect("every document can be stored");
        }
        Ok(Self(connection))
    }

    /// A page of a query.
    ///
    /// # Errors
    /// As [`Documents::query`](crate::Documents::query).
    ///
    /// # Panics
    /// When the query's SQL fails.
    pub fn page(&self, query: &ViewQuery) -> Result<ViewPage<Value>, ViewError> {
        read(reader().page(&self.0, query))
    }

    /// How many documents a query finds.
    ///
    /// # Errors
    /// As [`Documents::count`](crate::Documents::count).
    ///
    /// # Panics
    /// When the query's SQL fails.
    pub fn count(&self, query: &ViewQuery) -> Result<u64, ViewError> {
        read(reader().count(&self.0, query))
    }
}

fn reader() -> Reader {
    Reader {
        name: "documents".to_owned(),
        version: 1,
    }
}

fn read<T>(read: Read<T>) -> Result<T, ViewError> {
    read.expect("whatever is asked for, SQLite accepts how")
}
