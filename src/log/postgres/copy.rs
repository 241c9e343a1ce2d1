//! The log on a server as either side of a copy.

use crate::clock::Timestamp;
use crate::error::{CopyError, ReadError, StorageError};
use crate::event::query::EventQuery;
use crate::log::copy::standing::{CopiedStream, Standing};
use crate::log::copy::{CopySource, CopyTarget};
use crate::log::opening::{Absent, Durability};
use crate::log::page::{Page, PageBounds, Range};
use crate::log::postgres::pages::{self, Ahead, Pruning, Reading};
use crate::log::postgres::place::bounded;
use crate::log::postgres::read::PostgresReader;
use crate::log::postgres::schema::{self, Made};
use crate::log::postgres::select::Known;
use crate::log::postgres::session::{Session, number};
use crate::log::postgres::trouble::Trouble;
use crate::log::postgres::write::PostgresWriter;
use crate::log::postgres::{Opening, Options, connect, cursor, halves, letter};

/// How many connections the comparison keeps: it reads one page after the other.
const IDLE_READERS_MAX: usize = 1;

/// What the log says of itself, beside its events. When the newest events were removed by hand, the head alone tells of them.
const STANDING: &str = "SELECT head, pruned_through, pruned_recorded_at,
        CASE WHEN head > greatest(pruned_through, (SELECT coalesce(max(sequence), 0) FROM event))
            THEN head ELSE removed_through END,
        epoch
    FROM millstream_log";

const PUT: &str = "UPDATE millstream_log SET head = greatest(head, $1), pruned_recorded_at = $2,
    recorded_at = greatest(recorded_at, $2), removed_through = $3, epoch = $4";

/// Opens the schema that is to become a copy of the log with this id, or makes it. Whatever else is there is refused, and left untouched.
pub(crate) fn open_target(
    address: &str,
    options: &Options,
    of: &str,
) -> Result<(PostgresWriter, PostgresReader), CopyError> {
    let opening = Opening {
        durability: Durability::Full,
        absent: Absent::Made,
        idle_readers_max: IDLE_READERS_MAX,
        evolution: None,
        paths: Vec::new(),
    };
    let connected = connect(address, options, &opening, Made::CopyOf(of))?;
    let target = || connected.server.name.to_string();
    match &connected.copy_of {
        Some(log_id) if log_id == of => {}
        Some(found) => {
            return Err(CopyError::TargetIsOfAnother {
                target: target(),
                found: found.clone(),
                source_id: of.to_owned(),
            });
        }
        None => {
            return Err(CopyError::TargetIsALog {
                target: target(),
                is_of_source: connected.log_id == of,
                log_id: connected.log_id.clone(),
            });
        }
    }
    Ok(halves(connected, opening, Vec::new()))
}

impl CopySource for PostgresReader {
    fn stored_page(&self, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        let query = EventQuery::all();
        self.read_page(async |session| {
            let reading = Reading {
                query: &query,
                known: Known {
                    evolution: None,
                    paths: &[],
                },
                range,
                bounds,
                pruning: Pruning::IsChecked,
                ahead: Ahead::Nothing,
            };
            pages::page(session, reading).await
        })
    }

    fn standing(&self) -> Result<Standing, StorageError> {
        self.with("read what a copy takes over", async |session| {
            session.snapshot(standing).await
        })
    }
}

async fn standing(session: &mut Session) -> Result<Standing, Trouble> {
    let row = session.one(STANDING, &[]).await?;
    let mut streams = Vec::new();
    for row in cursor::all(session).await? {
        let letters = letter::all_of(session, &row.name).await?;
        streams.push(CopiedStream::new(row, letters));
    }
    Ok(Standing {
        head: number(&row, 0)?,
        pruned_through: number(&row, 1)?,
        pruned_recorded_at: Timestamp::from_micros(row.try_get(2)?),
        removed_through: number(&row, 3)?,
        epoch: number(&row, 4)?,
        streams,
    })
}

impl CopyTarget for PostgresWriter {
    fn copy_of(&mut self) -> Result<Option<String>, StorageError> {
        self.with("read what this is a copy of", async |session| {
            schema::copy_of(session).await
        })
    }

    fn put_standing(&mut self, standing: &Standing) -> Result<(), StorageError> {
        self.with("store what a copy takes over", async |session| {
            put(session, standing).await
        })
    }

    fn end_copy(&mut self) -> Result<(), StorageError> {
        self.with("end the copy", async |session| {
            session
                .execute("UPDATE millstream_log SET copy_of = NULL", &[])
                .await?;
            Ok(())
        })
    }
}

async fn put(session: &mut Session, standing: &Standing) -> Result<(), Trouble> {
    session.execute("DELETE FROM cursor", &[]).await?;
    session.execute("DELETE FROM dead_letter", &[]).await?;
    for stream in &standing.streams {
        cursor::put_at(session, &stream.name, &stream.cursor, stream.cursor.updated_at).await?;
        for dead_letter in &stream.letters {
            letter::put(session, &stream.name, dead_letter).await?;
        }
    }
    session
        .execute(
            PUT,
            &[
                &bounded(standing.head),
                &standing.pruned_recorded_at.as_micros(),
                &bounded(standing.removed_through),
                &bounded(standing.epoch),
            ],
        )
        .await?;
    Ok(())
}
