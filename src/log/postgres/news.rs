//! What others committed, asked for in one journey by whoever was told of it.

use futures::future;
use tokio_postgres::Row;

use crate::clock::Timestamp;
use crate::event::query::EventQuery;
use crate::log::page::{More, Page, PageBounds};
use crate::log::postgres::assembly::{Assembly, COLUMNS};
use crate::log::postgres::chunk::collect;
use crate::log::postgres::place::bounded;
use crate::log::postgres::select::Known;
use crate::log::postgres::session::{Session, number};
use crate::log::postgres::trouble::Trouble;
use crate::log::{News, Tail};

/// The version is the sum that says so elsewhere.
const NEWS: &str =
    "SELECT head, recorded_at, pruned_through, epoch, head + epoch + pruned_through FROM millstream_log";

/// How many events are asked for before it is known how many there are. Whoever finds that many reads page by page.
const ROWS_MAX: i64 = 64;

/// What the server said. Its events are decoded by whoever publishes them: the connections' thread has no time for that.
pub(super) struct Answer {
    tail: Row,
    rows: Vec<Row>,
    /// There are more, or they are too large to be held.
    is_cut: bool,
}

/// Asks what was committed behind a sequence.
pub(super) async fn ask(session: &mut Session, after: u64) -> Result<Answer, Trouble> {
    // The number of rows is a parameter: with one that the server knows, a plan that it made for a short log and kept would read all of a
    // long one, and sort it.
    let sql = format!("SELECT {COLUMNS} FROM event WHERE sequence > $1 ORDER BY sequence LIMIT $2");
    let statement = session.prepare(&sql).await?;
    let tail = session.prepare(NEWS).await?;
    // The rows are of a later moment than the tail: of what it counts none is missing.
    let tail = session.client.query_one(&tail, &[]);
    let after = bounded(after);
    let rows = async { collect(session.client.query_raw(&statement, [after, ROWS_MAX]).await?).await };
    let (tail, (rows, is_cut)) = future::try_join(tail, rows).await?;
    let is_cut = is_cut || rows.len() >= ROWS_MAX as usize;
    Ok(Answer { tail, rows, is_cut })
}

impl Answer {
    /// What that means to one who has everything up to `after`, which is what was asked for.
    pub(super) fn news(&self, known: Known<'_>, after: u64, bounds: PageBounds) -> Result<News, Trouble> {
        let Self {
            tail: row,
            rows,
            is_cut,
        } = self;
        let tail = Tail {
            head: number(row, 0)?,
            recorded_at: Timestamp::from_micros(row.try_get(1)?),
            pruned_through: number(row, 2)?,
        };
        let mut first = None;
        // Behind a prune, or a burst, the pages are read one by one.
        if after >= tail.pruned_through
            && let Some(last) = rows.last()
            && !is_cut
        {
            let through = number(last, 0)?.max(tail.head);
            first = page(rows, known, after, bounds, through)?;
        }
        Ok(News {
            version: row.try_get(4)?,
            tail,
            page: first,
            epoch: number(row, 3)?,
        })
    }
}

/// The first page of these rows, of which none is missing up to `through`.
fn page(
    rows: &[Row],
    known: Known<'_>,
    after: u64,
    bounds: PageBounds,
    through: u64,
) -> Result<Option<Page>, Trouble> {
    let mut first = None;
    let everything = EventQuery::all();
    let mut take = |page| {
        first = Some(page);
        More::No
    };
    let mut assembly = Assembly::new(known.evolution, &everything, after, bounds, &mut take);
    for row in rows {
        if assembly.take(row)? == More::No {
            return Ok(first);
        }
    }
    assembly.close(through);
    Ok(first)
}
