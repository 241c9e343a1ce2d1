//! The log in a file as either side of a copy.

use std::path::Path;

use rusqlite::{Connection, params};

use crate::clock::Timestamp;
use crate::error::{CopyError, OpenError, ReadError, StorageError};
use crate::event::query::EventQuery;
use crate::log::LogReader;
use crate::log::copy::standing::{CopiedStream, Standing};
use crate::log::copy::{CopySource, CopyTarget};
use crate::log::opening::Absent;
use crate::log::page::{Page, PageBounds, Range};
use crate::log::sqlite::connection::{open_writer, storage};
use crate::log::sqlite::index::path::PayloadPath;
use crate::log::sqlite::index::run;
use crate::log::sqlite::names::TypeNames;
use crate::log::sqlite::pages::Source;
use crate::log::sqlite::read::{self, SqliteReader};
use crate::log::sqlite::schema::{self, Found, Made};
use crate::log::sqlite::statement::Snapshot;
use crate::log::sqlite::write::SqliteWriter;
use crate::log::sqlite::{Options, cursor, halves, letter, prune};

/// How many connections the comparison keeps: it reads one page after the other.
const IDLE_READERS_MAX: usize = 1;

/// Opens the file that is to become a copy of `source`, or makes it. Whatever else is there is refused, and left untouched.
pub(crate) fn open_target(
    path: &Path,
    source: &dyn LogReader,
) -> Result<(SqliteWriter, SqliteReader), CopyError> {
    let of = source.log_id();
    let copied = source.copy_source().ok_or(CopyError::NotCopyable)?;
    let pointers = copied.indexed_paths()?;
    let parse = |pointer: &String| {
        PayloadPath::parse(pointer).map_err(|problem| OpenError::InvalidOption {
            option: "index_payload",
            value: pointer.clone(),
            problem,
        })
    };
    let options = Options {
        paths: pointers.iter().map(parse).collect::<Result<_, _>>()?,
        idle_readers_max: IDLE_READERS_MAX,
        ..Options::default()
    };
    let mut connection = open_writer(path, options.durability, Absent::Made)?;
    let target = || path.display().to_string();
    match schema::look(&connection, path)? {
        Found::Nothing => {}
        Found::CopyOf(log_id) if log_id == of => {}
        Found::CopyOf(found) => {
            return Err(CopyError::TargetIsOfAnother {
                target: target(),
                found,
                source_id: of.to_owned(),
            });
        }
        Found::Log(log_id) => {
            return Err(CopyError::TargetIsALog {
                target: target(),
                is_of_source: log_id == of,
                log_id,
            });
        }
    }
    let log_id = schema::prepare(&mut connection, path, Absent::Made, Made::CopyOf(of))?;
    Ok(halves(connection, path, log_id, &options)?)
}

impl CopySource for SqliteReader {
    fn stored_page(&self, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        self.with_connection(|lent| {
            let mut source = Source {
                connection: &lent.connection,
                type_names: &mut TypeNames::new(None),
                index: &mut lent.index,
            };
            let page = read::page(&mut source, &EventQuery::all(), range, bounds)?;
            prune::check(&lent.connection, range.after)?;
            Ok(page)
        })
    }

    fn standing(&self) -> Result<Standing, StorageError> {
        self.with_connection(|lent| {
            standing(&lent.connection).map_err(storage("read what a copy takes over"))
        })
    }

    fn indexed_paths(&self) -> Result<Vec<String>, StorageError> {
        self.with_connection(|lent| {
            let paths = run::read_paths(&lent.connection).map_err(storage("read the indexed paths"))?;
            Ok(paths.iter().map(|path| path.pointer().to_owned()).collect())
        })
    }
}

fn standing(connection: &Connection) -> rusqlite::Result<Standing> {
    let _snapshot = Snapshot::begin(connection)?;
    let extent = prune::extent(connection)?;
    let sql = "SELECT pruned_recorded_at, removed_through, epoch FROM log";
    let (pruned_recorded_at, removed_through, epoch) =
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let rows = cursor::all(connection)?.into_iter();
    let streams = rows.map(|row| {
        let letters = letter::all_of(connection, &row.name)?;
        Ok(CopiedStream::new(row, letters))
    });
    Ok(Standing {
        head: extent.head,
        pruned_through: extent.pruned_through,
        pruned_recorded_at: Timestamp::from_micros(pruned_recorded_at),
        removed_through: i64::cast_unsigned(removed_through),
        epoch: i64::cast_unsigned(epoch),
        streams: streams.collect::<rusqlite::Result<_>>()?,
    })
}

impl CopyTarget for SqliteWriter {
    fn copy_of(&mut self) -> Result<Option<String>, StorageError> {
        schema::copy_of(self.connection()).map_err(storage("read what this is a copy of"))
    }

    fn put_standing(&mut self, standing: &Standing) -> Result<(), StorageError> {
        put(self.connection(), standing).map_err(storage("store what a copy takes over"))
    }

    fn end_copy(&mut self) -> Result<(), StorageError> {
        let ended = self.connection().execute("UPDATE log SET copy_of = NULL", []);
        ended.map_err(storage("end the copy"))?;
        Ok(())
    }
}

fn put(connection: &Connection, standing: &Standing) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM cursor", [])?;
    connection.execute("DELETE FROM dead_letter", [])?;
    for stream in &standing.streams {
        cursor::put_at(connection, &stream.name, &stream.cursor, stream.cursor.updated_at)?;
        for letter in &stream.letters {
            letter::put(connection, &stream.name, letter)?;
        }
    }
    connection.execute(
        "UPDATE log SET pruned_recorded_at = ?1, removed_through = ?2, epoch = ?3",
        params![
            standing.pruned_recorded_at.as_micros(),
            standing.removed_through as i64,
            standing.epoch as i64,
        ],
    )?;
    Ok(())
}
