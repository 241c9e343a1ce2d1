//! What is asked of a view's table, as SQL. Pure.

use std::fmt;

use crate::error::ViewError;
#[cfg(feature = "postgres")]
use crate::projection::server::view::sql as server;
use crate::projection::view::path::{JsonPath, Rank};
use crate::projection::view::query::{Direction, SortBy, ViewQuery};
use crate::projection::view::token::{Place, SortPlace};

/// Whose SQL it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    #[cfg(feature = "sqlite")]
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
}

/// SQL with its parameters, all of them texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sql {
    pub(crate) dialect: Dialect,
    pub(crate) text: String,
    pub(crate) parameters: Vec<String>,
}

impl Sql {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            text: String::new(),
            parameters: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, part: fmt::Arguments<'_>) {
        // Writing to a text cannot fail.
        let _ = fmt::Write::write_fmt(&mut self.text, part);
    }

    /// Another parameter. Gives its number.
    pub(crate) fn parameter(&mut self, text: String) -> usize {
        self.parameters.push(text);
        self.parameters.len()
    }

    /// A text.
    pub(crate) fn text(&mut self, text: String) {
        match self.dialect {
            #[cfg(feature = "sqlite")]
            Dialect::Sqlite => {
                let number = self.parameter(text);
                self.push(format_args!("?{number}"));
            }
            #[cfg(feature = "postgres")]
            Dialect::Postgres => server::text(self, &text),
        }
    }

    /// What always holds, or never does.
    pub(crate) fn truth(&mut self, truth: bool) {
        match self.dialect {
            #[cfg(feature = "sqlite")]
            Dialect::Sqlite => self.push(format_args!("{}", u8::from(truth))),
            #[cfg(feature = "postgres")]
            Dialect::Postgres => self.push(format_args!("{truth}")),
        }
    }

    /// The kind of what stands at a path.
    pub(crate) fn rank(&self, path: &JsonPath) -> String {
        match self.dialect {
            #[cfg(feature = "sqlite")]
            Dialect::Sqlite => path.rank(),
            #[cfg(feature = "postgres")]
            Dialect::Postgres => server::rank(path),
        }
    }

    /// Compares what stands at a path, which is of a kind, with a value of that kind as JSON.
    pub(crate) fn compare(&mut self, path: &JsonPath, rank: Rank, operator: &str, json: String) {
        match self.dialect {
            #[cfg(feature = "sqlite")]
            Dialect::Sqlite => {
                let _ = rank;
                let number = self.parameter(json);
                // SQLite reads it as it reads the documents, so that equal ones are equal.
                self.push(format_args!(
                    "{} {operator} json_extract(?{number}, '$')",
                    path.value()
                ));
            }
            #[cfg(feature = "postgres")]
            Dialect::Postgres => server::compare(self, path, rank, operator, json),
        }
    }

    /// Compares what stands at a path, which is of a kind, with several values of that kind as JSON: whether it is one of them.
    pub(crate) fn equals_any(&mut self, path: &JsonPath, rank: Rank, values: impl Iterator<Item = String>) {
        match self.dialect {
            #[cfg(feature = "sqlite")]
            Dialect::Sqlite => {
                let _ = rank;
                self.push(format_args!("{} IN (", path.value()));
                for (index, json) in values.enumerate() {
                    let number = self.parameter(json);
                    let comma = if index > 0 { ", " } else { "" };
                    self.push(format_args!("{comma}json_extract(?{number}, '$')"));
                }
                self.push(format_args!(")"));
            }
            #[cfg(feature = "postgres")]
            Dialect::Postgres => {
                for (index, json) in values.enumerate() {
                    self.push(format_args!("{}", if index > 0 { " OR (" } else { "((" }));
                    server::compare(self, path, rank, "=", json);
                    self.push(format_args!(")"));
                }
                self.push(format_args!(")"));
            }
        }
    }

    /// Compares a text that stands at a path with a text.
    pub(crate) fn compare_text(&mut self, path: &JsonPath, operator: &str, text: String) {
        match self.dialect {
            #[cfg(feature = "sqlite")]
            Dialect::Sqlite => {
                self.push(format_args!("{} {operator} ", path.value()));
                self.text(text);
            }
            #[cfg(feature = "postgres")]
            Dialect::Postgres => server::compare_text(self, path, operator, &text),
        }
    }

    /// What documents are sorted by that are sorted by a path: their kind, and then this.
    fn columns(&self, path: &JsonPath) -> Vec<String> {
        match self.dialect {
            #[cfg(feature = "sqlite")]
            Dialect::Sqlite => vec![path.value()],
            #[cfg(feature = "postgres")]
            Dialect::Postgres => server::columns(path),
        }
    }
}

/// What finds the documents of a page: statements to be asked one after the other until the page is full.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) stretches: Vec<Sql>,
    /// How rank and value are found of the path by which it is sorted.
    pub(crate) sort_place: Option<String>,
    /// Tells queries apart whose pages have nothing to do with each other.
    pub(crate) fingerprint: u64,
}

/// The rows for which a query's condition holds.
pub(crate) fn condition(dialect: Dialect, query: &ViewQuery) -> Result<Sql, ViewError> {
    let mut sql = Sql::new(dialect);
    query.condition.write(&mut sql)?;
    Ok(sql)
}

/// A page of a query. The limit of a statement is its last parameter, `LIMIT ?`.
pub(crate) fn page(dialect: Dialect, query: &ViewQuery) -> Result<Asked, ViewError> {
    let condition = condition(dialect, query)?;
    let path = match &query.sort {
        SortBy::Id => None,
        SortBy::Path(pointer) => Some(JsonPath::parse(dialect, pointer)?),
    };
    let order = Order {
        path: path.as_ref(),
        direction: query.direction,
    };
    let fingerprint = order.fingerprint(&condition);
    let stretches = match &query.after {
        None => vec![order.whole(condition)],
        Some(token) => {
            token.check(fingerprint)?;
            order.stretches(&condition, token.place())?
        }
    };
    let sort_place = path.map(|path| match dialect {
        #[cfg(feature = "sqlite")]
        Dialect::Sqlite => format!(
            "SELECT {}, {} FROM document WHERE id = ?1",
            path.rank(),
            path.json()
        ),
        #[cfg(feature = "postgres")]
        Dialect::Postgres => server::sort_place(&path),
    });
    Ok(Asked {
        stretches,
        sort_place,
        fingerprint,
    })
}

struct Order<'a> {
    path: Option<&'a JsonPath>,
    direction: Direction,
}

impl Order<'_> {
    fn fingerprint(&self, condition: &Sql) -> u64 {
        let sort = self.path.map(|path| condition.columns(path));
        let sort = sort.map(|columns| columns.concat());
        let condition = (&condition.text, &condition.parameters);
        let text = format!("{:?} {sort:?} {condition:?}", self.direction);
        // FNV-1a: it has to be the same in every process.
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    fn whole(&self, condition: Sql) -> Sql {
        match self.path {
            None => self.select(condition, &["id".to_owned()]),
            Some(path) => {
                let mut columns = vec![condition.rank(path)];
                columns.extend(condition.columns(path));
                columns.push("id".to_owned());
                self.select(condition, &columns)
            }
        }
    }

    /// What comes behind a place, in such parts that each is one range of an index on the path: the rest of those with the same value, the
    /// other values of the same kind, and the other kinds.
    fn stretches(&self, condition: &Sql, place: &Place) -> Result<Vec<Sql>, ViewError> {
        let behind = self.behind();
        let id = "id".to_owned();
        let (path, sort) = match (self.path, &place.sort) {
            (None, None) => {
                let mut sql = condition.clone();
                sql.push(format_args!(" AND id {behind} "));
                sql.text(place.id.clone());
                return Ok(vec![self.select(sql, &[id])]);
            }
            (Some(path), Some(sort)) => (path, sort),
            _ => {
                let problem = "it says nothing of what the query is sorted by";
                return Err(ViewError::InvalidPage { problem });
            }
        };
        let SortPlace { rank, json } = sort;
        let of_the_rank = |operator: &str| {
            let mut sql = condition.clone();
            sql.push(format_args!(" AND {} {operator} {}", sql.rank(path), *rank as u8));
            sql
        };
        let mut stretches = Vec::new();
        let mut same = of_the_rank("=");
        match rank.has_values() {
            true => {
                same.push(format_args!(" AND "));
                same.compare(path, *rank, "=", json.clone());
            }
            // Says nothing new, but to an index that goes on to the id behind it.
            false => {
                for column in same.columns(path) {
                    same.push(format_args!(" AND {column} IS NULL"));
                }
            }
        }
        same.push(format_args!(" AND id {behind} "));
        same.text(place.id.clone());
        stretches.push(self.select(same, std::slice::from_ref(&id)));
        if rank.has_values() {
            let mut others = of_the_rank("=");
            others.push(format_args!(" AND "));
            others.compare(path, *rank, behind, json.clone());
            let mut columns = others.columns(path);
            columns.push(id.clone());
            stretches.push(self.select(others, &columns));
        }
        let kinds = of_the_rank(behind);
        let mut columns = vec![kinds.rank(path)];
        columns.extend(kinds.columns(path));
        columns.push(id);
        stretches.push(self.select(kinds, &columns));
        Ok(stretches)
    }

    fn behind(&self) -> &'static str {
        match self.direction {
            Direction::Ascending => ">",
            Direction::Descending => "<",
        }
    }

    fn select(&self, condition: Sql, columns: &[String]) -> Sql {
        let direction = match self.direction {
            Direction::Ascending => "",
            Direction::Descending => " DESC",
        };
        let columns: Vec<String> = columns
            .iter()
            .map(|column| format!("{column}{direction}"))
            .collect();
        let number = condition.parameters.len() + 1;
        let (document, limit) = match condition.dialect {
            #[cfg(feature = "sqlite")]
            Dialect::Sqlite => ("json", format!("?{number}")),
            #[cfg(feature = "postgres")]
            Dialect::Postgres => (server::DOCUMENT, format!("${number}")),
        };
        Sql {
            text: format!(
                "SELECT id, {document} FROM document WHERE {} ORDER BY {} LIMIT {limit}",
                condition.text,
                columns.join(", ")
            ),
            ..condition
        }
    }
}

/// Where a row stands in an order: its kind and its value, as SQLite says.
#[cfg(feature = "sqlite")]
pub(crate) fn sort_place(rank: u8, json: Option<String>) -> Option<SortPlace> {
    let rank = Rank::from_number(rank)?;
    Some(SortPlace {
        rank,
        json: json.unwrap_or_else(|| "null".to_owned()),
    })
}
