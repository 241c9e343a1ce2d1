//! What is asked of a view's table, as SQL. Pure.

use std::fmt;

use crate::error::ViewError;
use crate::projection::view::path::{JsonPath, Rank};
use crate::projection::view::query::{Direction, SortBy, ViewQuery};
use crate::projection::view::token::{Place, SortPlace};

/// SQL with its parameters, all of them texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sql {
    pub(crate) text: String,
    pub(crate) parameters: Vec<String>,
}

impl Sql {
    pub(crate) fn push(&mut self, part: fmt::Arguments<'_>) {
        // Writing to a text cannot fail.
        let _ = fmt::Write::write_fmt(&mut self.text, part);
    }

    /// A text.
    pub(crate) fn text(&mut self, text: String) {
        self.parameters.push(text);
        let number = self.parameters.len();
        self.push(format_args!("?{number}"));
    }

    /// A value that is given as JSON: SQLite reads it as it reads the documents, so that equal ones are equal.
    pub(crate) fn json(&mut self, json: String) {
        self.parameters.push(json);
        let number = self.parameters.len();
        self.push(format_args!("json_extract(?{number}, '$')"));
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
pub(crate) fn condition(query: &ViewQuery) -> Result<Sql, ViewError> {
    let mut sql = Sql::default();
    query.condition.write(&mut sql)?;
    Ok(sql)
}

/// A page of a query. The limit of a statement is its last parameter, `LIMIT ?`.
pub(crate) fn page(query: &ViewQuery) -> Result<Asked, ViewError> {
    let condition = condition(query)?;
    let path = match &query.sort {
        SortBy::Id => None,
        SortBy::Path(pointer) => Some(JsonPath::parse(pointer)?),
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
    let sort_place = path.map(|path| {
        format!(
            "SELECT {}, {} FROM document WHERE id = ?1",
            path.rank(),
            path.json()
        )
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
        let sort = self.path.map(JsonPath::value);
        let text = format!("{:?} {sort:?} {condition:?}", self.direction);
        // FNV-1a: it has to be the same in every process.
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    fn whole(&self, condition: Sql) -> Sql {
        match self.path {
            None => self.select(condition, &["id".to_owned()]),
            Some(path) => self.select(condition, &[path.rank(), path.value(), "id".to_owned()]),
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
            sql.push(format_args!(" AND {} {operator} {}", path.rank(), *rank as u8));
            sql
        };
        let mut stretches = Vec::new();
        let mut same = of_the_rank("=");
        match rank.has_values() {
            true => {
                same.push(format_args!(" AND {} = ", path.value()));
                same.json(json.clone());
            }
            // Says nothing new, but to an index that goes on to the id behind it.
            false => same.push(format_args!(" AND {} IS NULL", path.value())),
        }
        same.push(format_args!(" AND id {behind} "));
        same.text(place.id.clone());
        stretches.push(self.select(same, std::slice::from_ref(&id)));
        if rank.has_values() {
            let mut others = of_the_rank("=");
            others.push(format_args!(" AND {} {behind} ", path.value()));
            others.json(json.clone());
            stretches.push(self.select(others, &[path.value(), id.clone()]));
        }
        let kinds = of_the_rank(behind);
        stretches.push(self.select(kinds, &[path.rank(), path.value(), id]));
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
        let limit = condition.parameters.len() + 1;
        Sql {
            text: format!(
                "SELECT id, json FROM document WHERE {} ORDER BY {} LIMIT ?{limit}",
                condition.text,
                columns.join(", ")
            ),
            parameters: condition.parameters,
        }
    }
}

/// Where a row stands in an order: its kind and its value, as SQLite says.
pub(crate) fn sort_place(rank: u8, json: Option<String>) -> Option<SortPlace> {
    let rank = Rank::from_number(rank)?;
    Some(SortPlace {
        rank,
        json: json.unwrap_or_else(|| "null".to_owned()),
    })
}
