//! How rows are read: a few at a time, so that neither the server nor this process holds more than a page needs.

use std::pin::pin;

use futures::{TryStreamExt, future};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, RowStream, Statement};

use crate::error::ReadError;
use crate::event::query::EventQuery;
use crate::log::page::{More, Page, PageBounds, Range};
use crate::log::postgres::assembly::{Assembly, COLUMNS};
use crate::log::postgres::place::{self, bounded};
use crate::log::postgres::select::{Candidates, Known, candidates, condition};
use crate::log::postgres::session::{Session, number};
use crate::log::postgres::trouble::Trouble;

/// How many rows a connection is asked for at first, while nothing is known of their size.
pub(super) const ROWS_AT_FIRST: i64 = 64;
/// How many rows are asked for at once, however small they are.
const ROWS_MAX: i64 = 8_192;
/// How many bytes of rows are asked for at once, by the size of those before. Much less than a page, because the rows behind its end are
/// asked for in vain.
const CHUNK_BYTES: i64 = 512 << 10;
/// How many bytes of rows are taken of an answer, should they be larger than those before. The others are asked for again.
const ANSWER_BYTES_MAX: usize = 4 * CHUNK_BYTES as usize;
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
    pub(super) known: Known<'a>,
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
        known,
        range,
        bounds,
        ..
    } = reading;
    let found = candidates(query, known);
    let mut assembly = Assembly::new(known.evolution, query, range.after, bounds, take);
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
    let Some((sql, texts)) = statement(found) else {
        check(session, reading, assembly.begins_after()).await?;
        return Ok(More::Yes);
    };
    let asking = Asking {
        rows: session.prepare(&sql).await?,
        check: session.prepare(PRUNED_THROUGH).await?,
        texts,
        through: bounded(stretch.through),
    };
    let batches_max = i64::try_from(reading.bounds.batches_max).unwrap_or(i64::MAX);
    let mut next = Some(Step {
        after: bounded(stretch.after),
        rows_max: session.rows_at_first.min(batches_max.saturating_mul(16)),
    });
    while let Some(step) = next.filter(|step| step.after < asking.through) {
        let (answer, pruned_through) = asking.ask(session, step).await?;
        refuse_pruned(reading, assembly.begins_after(), pruned_through)?;
        next = step.next(&answer, asking.through)?;
        if let Some(next) = next {
            // Whoever reads next with this connection begins with rows of this size.
            session.rows_at_first = next.rows_max;
        }
        for row in &answer.rows {
            if bounded(number(row, 0)?) > asking.through {
                return Ok(More::Yes);
            }
            if assembly.take(row)? == More::No {
                return Ok(More::No);
            }
        }
    }
    Ok(More::Yes)
}

/// How the rows of a stretch are asked for.
struct Asking<'a> {
    rows: Statement,
    check: Statement,
    texts: Vec<&'a Vec<String>>,
    through: i64,
}

/// One of several questions for rows.
#[derive(Clone, Copy)]
struct Step {
    after: i64,
    rows_max: i64,
}

/// What was taken of an answer.
struct Answer {
    rows: Vec<Row>,
    /// There were more, which nobody holds.
    is_cut: bool,
}

impl Answer {
    /// The driver reads no further than it is asked to, and discards what is left.
    async fn take(stream: RowStream) -> Result<Self, tokio_postgres::Error> {
        let mut stream = pin!(stream);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = stream.try_next().await? {
            bytes += row.raw_size_bytes();
            rows.push(row);
            if bytes > ANSWER_BYTES_MAX {
                return Ok(Self { rows, is_cut: true });
            }
        }
        Ok(Self { rows, is_cut: false })
    }
}

impl Asking<'_> {
    /// The rows, and how far the log is pruned.
    async fn ask(&self, session: &Session, step: Step) -> Result<(Answer, u64), Trouble> {
        // Without holes there are no more.
        let rows_max = step.rows_max.min(self.through.saturating_sub(step.after));
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&step.after, &rows_max];
        if !self.texts.is_empty() {
            parameters.push(&self.through);
        }
        parameters.extend(self.texts.iter().map(|texts| *texts as &(dyn ToSql + Sync)));
        // Asked behind the rows, it sees them or a later moment: a prune between the two is found.
        let rows = async {
            let stream = session.client.query_raw(&self.rows, parameters).await?;
            Answer::take(stream).await
        };
        let pruned = session.client.query_one(&self.check, &[]);
        let (answer, pruned) = future::try_join(rows, pruned).await?;
        Ok((answer, number(&pruned, 0)?))
    }
}

impl Step {
    /// What is asked next; nothing, when these were the last rows.
    fn next(self, Answer { rows, is_cut }: &Answer, through: i64) -> Result<Option<Self>, Trouble> {
        let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        let after = bounded(number(last, 0)?);
        let is_last = !is_cut && count < self.rows_max.min(through.saturating_sub(self.after));
        if is_last || after >= through {
            return Ok(None);
        }
        let bytes = rows.iter().map(Row::raw_size_bytes).sum::<usize>();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let rows_max = (CHUNK_BYTES / (bytes / count).max(1)).clamp(16, ROWS_MAX);
        Ok(Some(Self { after, rows_max }))
    }
}

/// The statement that finds candidates, and its parameters from the fourth on; nothing, when there are none.
///
/// Everything is read along the primary key, and whoever asks knows where to stop: with an end of the range the server may take a plan,
/// once it has one for all ranges, that sorts everything up to there for each of the steps.
pub(super) fn statement(found: &Candidates) -> Option<(String, Vec<&Vec<String>>)> {
    let (condition, texts) = match found {
        Candidates::Nothing => return None,
        Candidates::Everything => (String::from("sequence > $1"), Vec::new()),
        Candidates::Either(either) => {
            let (condition, texts) = condition(either, 4);
            (
                format!("sequence > $1 AND sequence <= $3 AND ({condition})"),
                texts,
            )
        }
    };
    let sql = format!("SELECT {COLUMNS} FROM event WHERE {condition} ORDER BY sequence LIMIT $2");
    Some((sql, texts))
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
    known: Known<'_>,
    range: Range,
) -> Result<Option<u64>, Trouble> {
    let mut range = range;
    while range.after < range.through {
        let reading = Reading {
            query,
            known,
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
    known: Known<'_>,
    sequence: u64,
) -> Result<bool, Trouble> {
    let range = Range {
        after: sequence - 1,
        through: sequence,
    };
    Ok(first_match(session, query, known, range).await?.is_some())
}
