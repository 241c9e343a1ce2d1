//! How rows are asked for: so many at once that asking costs little, and so few that an answer is bounded.
//!
//! An answer is collected on the connections' thread. Who waits for it is woken once, when it is complete, and not for every few
//! rows that have arrived; and it may be asked for long before it is waited for.

use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{TryStreamExt, future};
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, RowStream, Statement};

use crate::log::postgres::place::bounded;
use crate::log::postgres::session::{Session, number};
use crate::log::postgres::trouble::Trouble;

/// How many rows are asked for at once, however small they are.
const ROWS_MAX: i64 = 8_192;
/// How many bytes of rows are asked for at once, by the size of those before. Much less than a page, because the rows behind its end are
/// asked for in vain.
const CHUNK_BYTES: i64 = 512 << 10;
/// How many bytes of rows are taken of an answer, should they be larger than those before. The others are asked for again. A
/// reader holds two answers at the most: one that is decoded, and the one behind it.
const ANSWER_BYTES_MAX: usize = 4 * CHUNK_BYTES as usize;

/// How the rows of a stretch are asked for.
pub(super) struct Asking {
    client: Arc<Client>,
    question: Arc<Question>,
}

struct Question {
    rows: Statement,
    check: Statement,
    texts: Vec<Vec<String>>,
    through: i64,
}

/// One of several questions for rows.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) after: i64,
    pub(super) rows_max: i64,
}

/// What was asked, and the answer to come.
pub(super) struct Asked {
    pub(super) step: Step,
    pub(super) answer: Pending,
}

/// What was taken of an answer.
pub(super) struct Answer {
    pub(super) rows: Vec<Row>,
    /// There were more, which nobody holds.
    pub(super) is_cut: bool,
    /// How far the log was pruned, at a moment no earlier than that of the rows.
    pub(super) pruned_through: u64,
}

/// An answer that is collected. Dropped, nobody collects it: the driver discards what still comes of it.
pub(super) struct Pending(JoinHandle<Result<Answer, Trouble>>);

impl Asking {
    /// `sql` is given where the rows begin, how many there may be, then, should there be texts, where they end, and the texts.
    pub(super) async fn new(
        session: &mut Session,
        sql: &str,
        check: &str,
        texts: Vec<Vec<String>>,
        through: i64,
    ) -> Result<Self, Trouble> {
        let question = Question {
            rows: session.prepare(sql).await?,
            check: session.prepare(check).await?,
            texts,
            through,
        };
        Ok(Self {
            client: Arc::clone(&session.client),
            question: Arc::new(question),
        })
    }

    /// Where the stretch ends.
    pub(super) fn through(&self) -> i64 {
        self.question.through
    }

    /// Asks, in the connections' runtime; nothing, when nothing is left.
    pub(super) fn ask(&self, step: Step) -> Option<Asked> {
        if step.after >= self.question.through {
            return None;
        }
        let (client, question) = (Arc::clone(&self.client), Arc::clone(&self.question));
        let answer = tokio::spawn(async move { question.ask(&client, step).await });
        Some(Asked {
            step,
            answer: Pending(answer),
        })
    }
}

impl Question {
    /// The rows, and how far the log is pruned.
    async fn ask(&self, client: &Client, step: Step) -> Result<Answer, Trouble> {
        // Without holes there are no more.
        let rows_max = step.rows_max.min(self.through.saturating_sub(step.after));
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&step.after, &rows_max];
        if !self.texts.is_empty() {
            parameters.push(&self.through);
        }
        parameters.extend(self.texts.iter().map(|texts| texts as &(dyn ToSql + Sync)));
        // Asked behind the rows, it sees them or a later moment: a prune between the two is found.
        let rows = async {
            let stream = client.query_raw(&self.rows, parameters).await?;
            collect(stream).await
        };
        let pruned = client.query_one(&self.check, &[]);
        let ((rows, is_cut), pruned) = future::try_join(rows, pruned).await?;
        Ok(Answer {
            rows,
            is_cut,
            pruned_through: number(&pruned, 0)?,
        })
    }
}

/// The rows, and whether there were more. The driver reads no further than it is asked to, and discards what is left.
pub(super) async fn collect(stream: RowStream) -> Result<(Vec<Row>, bool), tokio_postgres::Error> {
    let mut stream = pin!(stream);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = stream.try_next().await? {
        bytes += row.raw_size_bytes();
        rows.push(row);
        if bytes > ANSWER_BYTES_MAX {
            return Ok((rows, true));
        }
    }
    Ok((rows, false))
}

impl Step {
    /// What is asked next; nothing, when these were the last rows.
    pub(super) fn next(self, rows: &[Row], is_cut: bool, through: i64) -> Result<Option<Self>, Trouble> {
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
        let rows_max = (CHUNK_BYTES / (bytes / count).max(1))
            .min(2 * count)
            .clamp(16, ROWS_MAX);
        Ok(Some(Self { after, rows_max }))
    }
}

impl Future for Pending {
    type Output = Result<Answer, Trouble>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(Pin::new(&mut self.0).poll(context)) {
            Ok(answer) => answer,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => unreachable!("whoever waits holds the runtime that it is collected in"),
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.abort();
    }
}
