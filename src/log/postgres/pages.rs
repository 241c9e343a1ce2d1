//! How rows are read: a few at a time, so that neither the server nor this process holds more than a page needs.

use futures::future;
use tokio_postgres::types::ToSql;

use crate::error::ReadError;
use crate::event::evolution::Evolution;
use crate::event::query::EventQuery;
use crate::log::page::{More, Page, PageBounds, Range};
use crate::log::postgres::assembly::{Assembly, COLUMNS};
use crate::log::postgres::place::{self, bounded};
use crate::log::postgres::select::{Candidates, candidates, condition};
use crate::log::postgres::session::{Session, number};
use crate::log::postgres::trouble::Trouble;

/// How many rows are asked for at first, while nothing is known of their size.
const ROWS_AT_FIRST: i64 = 64;
/// How many rows are asked for at once, however small they are.
const ROWS_MAX: i64 = 8_192;
/// How many bytes of rows are asked for at once, by the size of those before.
const CHUNK_BYTES: i64 = 2 << 20;
/// How much of the log one statement searches that an index serves: bounds its time, whichever way the server finds better.
const SEARCHED_MAX: u64 = 1_000_000;

/// Whether what a page begins after may have been pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pruning {
    /// Then the page is refused.
    IsChecked,
    /// Whoever reads knows of it.
    IsKnown,
}

/// What is read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) query: &'a EventQuery,
    pub(super) evolution: Option<&'a Evolution>,
    pub(super) range: Range,
    pub(super) bounds: PageBounds,
    pub(super) pruning: Pruning,
}

/// Reads page by page, as long as more is wanted.
pub(super) async fn read(
    session: &mut Session,
    reading: Reading<'_>,
    take: &mut dyn FnMut(Page) -> More,
) -> Result<(), Trouble> {
    let Reading {
        query,
        evolution,
        range,
        bounds,
        ..
    } = reading;
    let found = candidates(query, evolution);
    let mut assembly = Assembly::new(evolution, query, range.after, bounds, take);
    let mut after = range.after;
    loop {
        let through = match &found {
            Candidates::Nothing | Candidates::Everything => range.through,
            Candidates::Either(_) => stretch_end(session, after, range.through).await?,
        };
        let stretch = Range { after, through };
        if search(session, reading, &found, stretch, &mut assembly).await? == More::No {
            return Ok(());
        }
        if assembly.close(through) == More::No || through >= range.through {
            return Ok(());
        }
        after = through;
    }
}

/// Reads the first page.
pub(super) async fn page(session: &mut Session, reading: Reading<'_>) -> Result<Page, Trouble> {
    let mut first = None;
    read(session, reading, &mut |page| {
        first = Some(page);
        More::No
    })
    .await?;
    Ok(first.expect("there is always a page, if an empty one"))
}

/// Where a stretch ends that one statement may search: with a batch.
async fn stretch_end(session: &mut Session, after: u64, through: u64) -> Result<u64, Trouble> {
    let reach = after.saturating_add(SEARCHED_MAX);
    if reach >= through {
        return Ok(through);
    }
    Ok(place::batch_end(session, reach).await?.min(through))
}

/// Hands the rows of a stretch to the assembly, as long as more is wanted.
async fn search(
    session: &mut Session,
    reading: Reading<'_>,
    found: &Candidates,
    stretch: Range,
    assembly: &mut Assembly<'_>,
) -> Result<More, Trouble> {
    let (condition, texts) = match found {
        Candidates::Nothing => {
            check(session, reading, assembly.begins_after()).await?;
            return Ok(More::Yes);
        }
        Candidates::Everything => (String::from("true"), Vec::new()),
        Candidates::Either(either) => condition(either, 4),
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM event WHERE sequence > $1 AND sequence <= $2 AND ({condition})
         ORDER BY sequence LIMIT $3"
    );
    let statement = session.prepare(&sql).await?;
    let check = session.prepare(PRUNED_THROUGH).await?;
    let batches_max = i64::try_from(reading.bounds.batches_max).unwrap_or(i64::MAX);
    let mut rows_max = ROWS_AT_FIRST.min(batches_max.saturating_mul(16));
    let (mut after, through) = (bounded(stretch.after), bounded(stretch.through));
    while after < through {
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&after, &through, &rows_max];
        parameters.extend(texts.iter().map(|texts| *texts as &(dyn ToSql + Sync)));
        // Asked behind the rows, it sees them or a later moment: a prune between the two is found.
        let rows = session.client.query(&statement, &parameters);
        let pruned = session.client.query_one(&check, &[]);
        let (rows, pruned) = future::try_join(rows, pruned).await?;
        refuse_pruned(reading, assembly.begins_after(), number(&pruned, 0)?)?;
        let mut bytes = 0;
        for row in &rows {
            bytes += i64::try_from(row.raw_size_bytes()).unwrap_or(i64::MAX);
            if assembly.take(row)? == More::No {
                return Ok(More::No);
            }
        }
        let read = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        if read < rows_max {
            break;
        }
        after = bounded(number(rows.last().expect("as many as were asked for"), 0)?);
        rows_max = (CHUNK_BYTES / (bytes / read).max(1)).clamp(16, ROWS_MAX);
    }
    Ok(More::Yes)
}

const PRUNED_THROUGH: &str = "SELECT pruned_through FROM millstream_log";

async fn check(session: &mut Session, reading: Reading<'_>, after: u64) -> Result<(), Trouble> {
    let row = session.one(PRUNED_THROUGH, &[]).await?;
    refuse_pruned(reading, after, number(&row, 0)?)
}

/// Nobody passes over pruned events without being told.
fn refuse_pruned(reading: Reading<'_>, after: u64, pruned_through: u64) -> Result<(), Trouble> {
    if reading.pruning == Pruning::IsKnown || after >= pruned_through {
        return Ok(());
    }
    Err(Trouble::from(ReadError::Pruned {
        after,
        pruned_through,
    }))
}

/// The first event after `after`, up to `through`, that the query selects.
pub(super) async fn first_match(
    session: &mut Session,
    query: &EventQuery,
    evolution: Option<&Evolution>,
    range: Range,
) -> Result<Option<u64>, Trouble> {
    let mut range = range;
    while range.after < range.through {
        let reading = Reading {
            query,
            evolution,
            range,
            bounds: ONE,
            pruning: Pruning::IsKnown,
        };
        let page = page(session, reading).await?;
        if let Some(event) = page.batches.iter().flat_map(|batch| &batch.events).next() {
            return Ok(Some(event.decodable()?.sequence));
        }
        range.after = page.through;
    }
    Ok(None)
}

/// Of a page that is to have one batch.
const ONE: PageBounds = PageBounds {
    batches_max: 1,
    bytes_max: 1,
};

/// Whether there is an event at `sequence` that the query selects.
pub(super) async fn matches_at(
    session: &mut Session,
    query: &EventQuery,
    evolution: Option<&Evolution>,
    sequence: u64,
) -> Result<bool, Trouble> {
    let range = Range {
        after: sequence - 1,
        through: sequence,
    };
    Ok(first_match(session, query, evolution, range).await?.is_some())
}
