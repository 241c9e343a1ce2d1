//! What a killed process left, as plain SQL finds it: in the file, or on the server. Nothing of the crate under test is used.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};

use crate::check::{Checked, SPECS, ensure};
use crate::common::postgres::Database;
use crate::digest;
use crate::index::check_integrity;

/// How long a server may take to end what a killed process had begun there.
const ENDS_WITHIN: Duration = Duration::from_secs(25);

/// Where the log is that the processes share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Place {
    File(PathBuf),
    Server {
        address: String,
        schema: String,
        /// What the sessions of the processes that are killed are called.
        sessions: String,
    },
}

/// A row of the log.
pub(crate) struct Event {
    pub(crate) sequence: i64,
    pub(crate) batch_index: i64,
    pub(crate) batch_size: i64,
    pub(crate) content: u64,
    /// What the appender wrote into the payload: the batch, the place in it, and its size.
    pub(crate) id: String,
    pub(crate) index: i64,
    pub(crate) size: i64,
    pub(crate) is_selected: [bool; 3],
    /// The tag that keeps order by key.
    pub(crate) key: Option<String>,
}

/// Which events are there: how many, and the lowest and the highest sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) events: i64,
    pub(crate) after: i64,
    pub(crate) through: i64,
}

pub(crate) enum Source {
    /// Opened read-only, so that the next process finds the write-ahead log as the kill left it.
    File(Connection),
    Server(Server),
}

pub(crate) struct Server {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Place {
    /// Where the log of a database is, for processes of their own name there.
    pub(crate) fn of(database: &Database) -> Self {
        Self::Server {
            address: database.address.clone(),
            schema: database.schema.clone(),
            sessions: format!("killed_{}", database.schema),
        }
    }
}

impl Source {
    /// What the killed process left; nothing, when it was killed before there were tables.
    pub(crate) fn open(place: &Place) -> Checked<Option<Self>> {
        let mut source = match place {
            Place::File(path) => {
                if !path.exists() {
                    return Ok(None);
                }
                let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
                Self::File(connection)
            }
            Place::Server {
                address,
                schema,
                sessions,
            } => Self::Server(Server::open(address, schema, sessions)?),
        };
        let sql = match &source {
            Self::File(_) => "SELECT count(*) FROM sqlite_schema WHERE name = 'event'",
            Self::Server(_) => "SELECT count(to_regclass('event'))",
        };
        let has_tables = source.number(sql)? > 0;
        Ok(has_tables.then_some(source))
    }

    fn number(&mut self, sql: &str) -> Checked<i64> {
        match self {
            Self::File(connection) => Ok(connection.query_row(sql, [], |row| row.get(0))?),
            Self::Server(server) => Ok(server.one(sql, &[])?.try_get(0)?),
        }
    }

    pub(crate) fn pruned_through(&mut self) -> Checked<i64> {
        self.number(match self {
            Self::File(_) => "SELECT pruned_through FROM log",
            Self::Server(_) => "SELECT pruned_through FROM millstream_log",
        })
    }

    /// Where the log ends by its own account.
    pub(crate) fn head(&mut self) -> Checked<i64> {
        self.number(match self {
            Self::File(_) => "SELECT ifnull(max(sequence), 0) FROM event",
            Self::Server(_) => "SELECT head FROM millstream_log",
        })
    }

    /// How many cursors are before a sequence.
    pub(crate) fn cursors_before(&mut self, sequence: i64) -> Checked<i64> {
        self.number(&format!(
            "SELECT count(*) FROM cursor WHERE position < {sequence}"
        ))
    }

    pub(crate) fn extent(&mut self) -> Checked<Extent> {
        Ok(Extent {
            events: self.number("SELECT count(*) FROM event")?,
            after: self.number("SELECT coalesce(min(sequence), 1) - 1 FROM event")?,
            through: self.number("SELECT coalesce(max(sequence), 0) FROM event")?,
        })
    }

    /// The cursor of a stream; 0, when it has none.
    pub(crate) fn cursor(&mut self, name: &str) -> Checked<i64> {
        let sql = "SELECT position FROM cursor WHERE name = $1";
        let found = match self {
            Self::File(connection) => connection.query_row(sql, [name], |row| row.get(0)).optional()?,
            Self::Server(server) => {
                let rows = server.all(sql, &[&name])?;
                rows.first().map(|row| row.try_get(0)).transpose()?
            }
        };
        Ok(found.unwrap_or(0))
    }

    /// The events after a sequence, in order.
    pub(crate) fn events_after(&mut self, sequence: i64) -> Checked<Vec<Event>> {
        match self {
            Self::File(connection) => events_of_file(connection, sequence),
            Self::Server(server) => server.events_after(sequence),
        }
    }

    /// The batches by the key in the payload: the first and the last event of each.
    pub(crate) fn batches_by_key(&mut self) -> Checked<BTreeMap<String, Vec<(u64, u64)>>> {
        let batches = |key: &str| {
            format!(
                "SELECT {key} ->> 'key', sequence - batch_index, sequence - batch_index + batch_size - 1
                 FROM event WHERE batch_index = 0"
            )
        };
        let rows: Vec<(String, i64, i64)> = match self {
            Self::File(connection) => {
                let mut statement = connection.prepare(&batches("payload"))?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
                rows.collect::<Result<_, _>>()?
            }
            Self::Server(server) => {
                let rows = server.all(&batches("payload::jsonb"), &[])?;
                let rows = rows
                    .iter()
                    .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)));
                rows.collect::<Result<_, tokio_postgres::Error>>()?
            }
        };
        let mut found: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for (key, first, last) in rows {
            found.entry(key).or_default().push((first as u64, last as u64));
        }
        Ok(found)
    }

    /// Nothing is damaged, as far as whoever keeps the log can tell.
    pub(crate) fn check_integrity(&mut self) -> Checked {
        match self {
            Self::File(connection) => check_integrity(connection),
            Self::Server(server) => {
                let ahead = "SELECT count(*) FROM event WHERE sequence > (SELECT head FROM millstream_log)";
                let ahead: i64 = server.one(ahead, &[])?.try_get(0)?;
                ensure(ahead == 0, || format!("{ahead} events are beyond the head"))
            }
        }
    }
}

fn events_of_file(connection: &Connection, after: i64) -> Checked<Vec<Event>> {
    let [first, second, third] = SPECS.map(|spec| spec.in_a_file);
    let mut statement = connection.prepare(&format!(
        "SELECT event.sequence, event.batch_index, event.batch_size, type.name, event.tags, event.payload,
                event.payload ->> 'id', event.payload ->> 'index', event.payload ->> 'size',
                {first}, {second}, {third}
         FROM event LEFT JOIN event_type AS type ON type.id = event.type
         WHERE event.sequence > ?1 ORDER BY event.sequence"
    ))?;
    let mut rows = statement.query([after])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let (event_type, payload): (String, String) = (row.get(3)?, row.get(5)?);
        let tags: Vec<String> = match row.get_ref(4)? {
            ValueRef::Null => Vec::new(),
            tags => serde_json::from_str(tags.as_str()?)?,
        };
        let is_selected = |column| row.get::<_, Option<bool>>(column).map(Option::unwrap_or_default);
        events.push(Event {
            sequence: row.get(0)?,
            batch_index: row.get(1)?,
            batch_size: row.get(2)?,
            content: digest(&event_type, tags.iter().map(String::as_str), &payload),
            id: row.get(6)?,
            index: row.get(7)?,
            size: row.get(8)?,
            is_selected: [is_selected(9)?, is_selected(10)?, is_selected(11)?],
            key: key_of(tags),
        });
    }
    Ok(events)
}

fn key_of(tags: Vec<String>) -> Option<String> {
    tags.into_iter().find(|tag| tag.starts_with("customer:"))
}

impl Server {
    /// Waits until nothing is under way any more that a killed process began: a commit that had arrived is made.
    fn open(address: &str, schema: &str, sessions: &str) -> Checked<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (client, connection) = runtime.block_on(tokio_postgres::connect(address, NoTls))?;
        runtime.spawn(connection);
        let mut server = Self { runtime, client };
        let under_way = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
        let until = Instant::now() + ENDS_WITHIN;
        while server.one(under_way, &[&sessions])?.try_get::<_, i64>(0)? > 0 {
            ensure(Instant::now() < until, || {
                format!("the server keeps the sessions of a process that was killed, after {ENDS_WITHIN:?}")
            })?;
        }
        let path = format!("SET search_path TO {schema}");
        server.runtime.block_on(server.client.batch_execute(&path))?;
        Ok(server)
    }

    pub(crate) fn one(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Checked<tokio_postgres::Row> {
        let asked = self.client.query_one(sql, parameters);
        Ok(self.runtime.block_on(asked)?)
    }

    pub(crate) fn all(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Checked<Vec<tokio_postgres::Row>> {
        let asked = self.client.query(sql, parameters);
        Ok(self.runtime.block_on(asked)?)
    }

    fn events_after(&mut self, sequence: i64) -> Checked<Vec<Event>> {
        let [first, second, third] = SPECS.map(|spec| spec.on_a_server);
        let sql = format!(
            "SELECT sequence, batch_index::bigint, batch_size::bigint, type, coalesce(tags, '{{}}'), payload,
                    payload::jsonb ->> 'id', (payload::jsonb ->> 'index')::bigint, (payload::jsonb ->> 'size')::bigint,
                    coalesce({first}, false), coalesce({second}, false), coalesce({third}, false)
             FROM event WHERE sequence > $1 ORDER BY sequence"
        );
        let rows = self.all(&sql, &[&sequence])?;
        let events = rows.iter().map(|row| {
            let (event_type, payload): (&str, &str) = (row.try_get(3)?, row.try_get(5)?);
            let tags: Vec<String> = row.try_get(4)?;
            Ok(Event {
                sequence: row.try_get(0)?,
                batch_index: row.try_get(1)?,
                batch_size: row.try_get(2)?,
                content: digest(event_type, tags.iter().map(String::as_str), payload),
                id: row.try_get(6)?,
                index: row.try_get(7)?,
                size: row.try_get(8)?,
                is_selected: [row.try_get(9)?, row.try_get(10)?, row.try_get(11)?],
                key: key_of(tags),
            })
        });
        events.collect()
    }
}
