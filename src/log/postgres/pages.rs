//! How rows are read: a few at a time, so that neither the server nor this process holds more than a page needs.
//!
//! `chunk` asks for the rows; this says which ones, and makes pages of them. Who wants page after page has the next rows asked for and
//! collected on the connections' thread while those before them are decoded here, so the server, that thread and this one work
//! at the same time.

use crate::error::ReadError;
use crate::event::query::EventQuery;
use crate::log::page::{More, Page, PageBounds, Range};
use crate::log::postgres::assembly::{Assembly, COLUMNS};
use crate::log::postgres::chunk::{Answer, Asked, Asking, Step};
use crate::log::postgres::place::{self, bounded};
use crate::log::postgres::select::{Candidates, Known, candidates, condition};
use crate::log::postgres::session::{Session, number};
use crate::log::postgres::trouble::Trouble;

/// How many rows a connection is asked for at first, while nothing is known of their size.
pub(super) const ROWS_AT_FIRST: i64 = 64;
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

/// What is asked for while rows are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// The rows behind them: more than a page is wanted.
    NextRows,
    /// Nothing: they are probably enough.
    Nothing,
}

/// What is read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) query: &'a EventQuery,
    pub(super) known: Known<'a>,
    pub(super) range: Range,
    pub(super) bounds: PageBounds,
    pub(super) pruning: Pruning,
    pub(super) ahead: Ahead,
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
    let ahead = Ahead::Nothing;
    read(session, Reading { ahead, ..reading }, &mut |page| {
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
    let texts = texts.into_iter().cloned().collect();
    let asking = Asking::new(session, &sql, PRUNED_THROUGH, texts, bounded(stretch.through)).await?;
    let batches_max = i64::try_from(reading.bounds.batches_max).unwrap_or(i64::MAX);
    let first = Step {
        after: bounded(stretch.after),
        rows_max: session.rows_at_first.min(batches_max.saturating_mul(16)),
    };
    let mut asked = asking.ask(first);
    while let Some(Asked { step, answer }) = asked {
        let Answer {
            rows,
            is_cut,
            pruned_through,
        } = answer.await?;
        refuse_pruned(reading, assembly.begins_after(), pruned_through)?;
        let next = step.next(&rows, is_cut, asking.through())?;
        if let Some(next) = next {
            // Whoever reads next with this connection begins with rows of this size.
            session.rows_at_first = next.rows_max;
        }
        let ask = || next.and_then(|next| asking.ask(next));
        let ahead = match (reading.ahead, found) {
            (Ahead::NextRows, Candidates::Everything) => ask(),
            // What is searched for may take long, and whoever has the connection next would wait for it in vain.
            (Ahead::NextRows, _) | (Ahead::Nothing, _) => None,
        };
        for row in &rows {
            if bounded(number(row, 0)?) > asking.through() {
                return Ok(More::Yes);
            }
            if assembly.take(row)? == More::No {
                return Ok(More::No);
            }
        }
        asked = ahead.or_else(ask);
    }
    Ok(More::Yes)
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
            ahead: Ahead::Nothing,
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
