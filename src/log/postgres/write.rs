//! The writing half: the committer's connection and its transaction.
//!
//! Every transaction begins by locking the log's one row, which says where the log ends. So of all who write to the log one does at a time,
//! whatever process it is in, and the next one sees what it did: sequences have no holes, and their order is that of the commits. The
//! rows of a group and its commit travel together, so a group costs two round trips, however many events are in it.

mod outcome;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::future::{self, Either};
use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::error::{ReadError, StorageError};
use crate::event::batch::CommittedBatch;
use crate::event::query::EventQuery;
use crate::log::cursor::{CursorWrite, RollCall, StoredCursor};
use crate::log::page::{Page, PageBounds, Range};
use crate::log::postgres::driver::Driver;
use crate::log::postgres::heard::Heard;
use crate::log::postgres::pages::{self, Ahead, Pruning, Reading};
use crate::log::postgres::place::bounded;
use crate::log::postgres::presence::Presence;
use crate::log::postgres::select::Knowledge;
use crate::log::postgres::server::{Role, Server};
use crate::log::postgres::session::{Session, number};
use crate::log::postgres::trouble::Trouble;
use crate::log::postgres::{cursor, insert, listen, news, place};
use crate::log::prune::HeldBy;
use crate::log::{LogWriter, News, Sync, Tail};

/// Waits for whoever writes, and says where the log ends then.
const LOCK: &str =
    "SELECT head, recorded_at, pruned_through, pg_current_xact_id()::text FROM millstream_log FOR UPDATE";
const ADVANCE: &str = "UPDATE millstream_log SET head = $1, recorded_at = $2";
/// Both numbers only grow, so their sum changes with either.
const VERSION: &str = "SELECT head + epoch + pruned_through FROM millstream_log";

/// How many bytes of batches wait for the commit to be written with it.
const UNWRITTEN_BYTES_MAX: usize = 4 << 20;
/// The pauses between two tries to reach the server.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub(crate) struct PostgresWriter {
    server: Arc<Server>,
    driver: Arc<Driver>,
    log_id: String,
    knowledge: Knowledge,
    session: Option<Session>,
    /// The transaction that is open, if one is.
    transaction: Option<Transaction>,
    /// Batches of the transaction that are not yet written.
    unwritten: Vec<Arc<CommittedBatch>>,
    unwritten_bytes: usize,
    /// Has the others told once more, over another connection, that something was committed.
    news: Arc<Notify>,
    /// What was found when others were heard.
    heard: Arc<Heard<news::Answer>>,
    /// The number of this session at the server, whose words are not heard here.
    number: Arc<AtomicI32>,
    outage: Outage,
    presence: Presence,
}

/// What is known of an open transaction.
#[derive(Default)]
struct Transaction {
    /// Its number at the server, by which the server knows later what became of it.
    id: String,
    /// The last sequence of the log, as the transaction shows it.
    head: u64,
    /// The last batch that was appended: its last sequence, and when it was recorded.
    newest: Option<(u64, Timestamp)>,
    /// Whether others are to hear of it.
    is_news: bool,
    /// Whether cursors were moved in it, and can be taken back.
    has_moves: bool,
    /// The server refused one of its statements, and takes it as ended: a commit would be answered, and commit nothing.
    is_broken: bool,
}

/// Whether the server is out of reach, as far as the looks at the poll interval tell.
#[derive(Default)]
struct Outage {
    version: i64,
    /// It is not asked again before this time.
    rests_until: Option<Instant>,
}

impl PostgresWriter {
    pub(super) fn new(
        server: Arc<Server>,
        driver: Arc<Driver>,
        session: Session,
        number: i32,
        log_id: String,
        knowledge: Knowledge,
    ) -> Self {
        Self {
            presence: Presence::new(Arc::clone(&server), Arc::clone(&driver)),
            server,
            driver,
            log_id,
            knowledge,
            session: Some(session),
            transaction: None,
            unwritten: Vec::new(),
            unwritten_bytes: 0,
            news: Arc::default(),
            heard: Arc::new(Heard::new()),
            number: Arc::new(number.into()),
            outage: Outage::default(),
        }
    }

    pub(super) fn presence(&mut self) -> &mut Presence {
        &mut self.presence
    }

    /// Does something on the connection, and names it when it fails.
    pub(super) fn with<T>(
        &mut self,
        operation: &'static str,
        act: impl AsyncFnOnce(&mut Session) -> Result<T, Trouble>,
    ) -> Result<T, StorageError> {
        let outcome = self.attempt(act);
        outcome.map_err(|trouble| trouble.into_storage(&self.server.name, operation))
    }

    /// The same, for what looks at events: those of the transaction are written first.
    fn look<T>(
        &mut self,
        operation: &'static str,
        act: impl AsyncFnOnce(&mut Session) -> Result<T, Trouble>,
    ) -> Result<T, ReadError> {
        let outcome = self.flush().and_then(|()| self.attempt(act));
        outcome.map_err(|trouble| trouble.into_read(&self.server.name, operation))
    }

    fn look_up<T>(
        &mut self,
        operation: &'static str,
        act: impl AsyncFnOnce(&mut Session) -> Result<T, Trouble>,
    ) -> Result<T, StorageError> {
        let outcome = self.flush().and_then(|()| self.attempt(act));
        outcome.map_err(|trouble| trouble.into_storage(&self.server.name, operation))
    }

    /// Does something on the connection. One that is lost is given up: within a transaction nothing more can be done then.
    fn attempt<T>(
        &mut self,
        act: impl AsyncFnOnce(&mut Session) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        if self.session.is_none() {
            if self.transaction.is_some() {
                return Err(Trouble::TransactionIsGone);
            }
            self.session = Some(self.connect()?);
        }
        let session = self.session.as_mut().expect("it is there, or was just made");
        let outcome = self.driver.wait(self.server.patience(), act(session));
        if outcome.as_ref().is_err_and(Trouble::is_lost) {
            self.session = None;
        }
        if let (Err(Trouble::Postgres(_)), Some(transaction)) = (&outcome, &mut self.transaction) {
            transaction.is_broken = true;
        }
        outcome
    }

    fn connect(&self) -> Result<Session, Trouble> {
        let connecting = async {
            let mut session = self.server.connect(Role::Writer, None).await?;
            let number = listen::own_number(&mut session).await?;
            Ok((session, number))
        };
        let (session, number) = self.driver.wait(self.server.patience(), connecting)?;
        // Relaxed: a word that is taken for that of somebody else costs a look.
        self.number.store(number, Ordering::Relaxed);
        Ok(session)
    }

    fn try_begin(&mut self, sync: Sync) -> Result<Tail, Trouble> {
        let begin = match sync {
            Sync::Durable => "BEGIN",
            Sync::Ordered => "BEGIN; SET LOCAL synchronous_commit = off",
        };
        // What is prepared in a transaction that fails takes the transaction with it.
        self.attempt(async |session| {
            session.prepare(LOCK).await?;
            session.prepare(ADVANCE).await?;
            insert::prepare(session).await?;
            Ok(())
        })?;
        self.transaction = Some(Transaction::default());
        let row = self.attempt(async |session| {
            let lock = session.prepare(LOCK).await?;
            let begun = session.client.batch_execute(begin);
            let locked = session.client.query_one(&lock, &[]);
            let (begun, locked) = future::join(begun, locked).await;
            begun?;
            Ok(locked?)
        })?;
        let transaction = Transaction {
            id: row.try_get(3)?,
            head: number(&row, 0)?,
            ..Transaction::default()
        };
        self.transaction = Some(transaction);
        Ok(Tail {
            head: number(&row, 0)?,
            recorded_at: Timestamp::from_micros(row.try_get(1)?),
            pruned_through: number(&row, 2)?,
        })
    }

    /// Writes the rows that are not yet written, before anybody looks.
    fn flush(&mut self) -> Result<(), Trouble> {
        self.unwritten_bytes = 0;
        while !self.unwritten.is_empty() {
            let batches: Vec<_> = self.unwritten.drain(..insert::chunk(&self.unwritten)).collect();
            self.attempt(async |session| {
                let statement = insert::prepare(session).await?;
                insert::insert(session, &statement, &batches).await
            })?;
        }
        Ok(())
    }

    /// What is left to be written, where the log ends then, and the commit: all at once. When one of them is refused, the server
    /// refuses those behind it, too.
    fn try_commit(&mut self) -> Result<(), Trouble> {
        if self.session.is_some()
            && self
                .transaction
                .as_ref()
                .is_some_and(|transaction| transaction.is_broken)
        {
            return Err(Trouble::TransactionIsBroken);
        }
        if insert::chunk(&self.unwritten) < self.unwritten.len() {
            self.flush()?;
        }
        let batches = std::mem::take(&mut self.unwritten);
        self.unwritten_bytes = 0;
        let is_news = self.transaction.as_ref().is_some_and(|open| open.is_news);
        let word = is_news.then(|| listen::word(&self.log_id));
        let newest = self
            .transaction
            .as_ref()
            .and_then(|transaction| transaction.newest);
        self.attempt(async |session| {
            let insert = insert::prepare(session).await?;
            let advance = session.prepare(ADVANCE).await?;
            let session = &*session;
            let written = async {
                match batches.is_empty() {
                    true => Ok(()),
                    false => insert::insert(session, &insert, &batches).await,
                }
            };
            let advanced = async {
                if let Some((head, recorded_at)) = newest {
                    let (head, recorded_at) = (bounded(head), recorded_at.as_micros());
                    session.client.execute(&advance, &[&head, &recorded_at]).await?;
                }
                Ok::<_, Trouble>(())
            };
            let committed = session.client.batch_execute("COMMIT");
            let done = future::join3(written, advanced, committed);
            // The word goes out behind the commit, without another journey of this process; nobody waits for it to have gone.
            let told = async {
                match &word {
                    Some(word) => drop(session.client.batch_execute(word).await),
                    None => future::pending().await,
                }
            };
            let (written, advanced, committed) = match future::select(pin!(done), pin!(told)).await {
                Either::Left((done, _)) => done,
                Either::Right(((), done)) => done.await,
            };
            written?;
            advanced?;
            Ok(committed?)
        })
    }

    fn pauses(&self) -> impl Iterator<Item = Duration> + use<> {
        ExponentialBuilder::default()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .without_max_times()
            .build()
    }

    fn note_news(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.is_news = true;
        }
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(Trouble) -> StorageError + use<> {
        let server = Arc::clone(&self.server.name);
        move |trouble| trouble.into_storage(&server, operation)
    }
}

impl LogWriter for PostgresWriter {
    /// A server that cannot be reached is waited for as long as any answer is.
    fn begin(&mut self, sync: Sync) -> Result<Tail, StorageError> {
        let mut pauses = self.pauses();
        let started = Instant::now();
        loop {
            match self.try_begin(sync) {
                Ok(tail) => {
                    self.heard.note_head(tail.head);
                    return Ok(tail);
                }
                Err(trouble) if trouble.is_lost() => {
                    self.transaction = None;
                    match pauses.next() {
                        Some(pause) if started.elapsed() + pause < self.server.limit => {
                            self.driver.pause(pause)
                        }
                        _ => return Err(self.failed("begin a transaction")(trouble)),
                    }
                }
                Err(trouble) => return Err(self.failed("begin a transaction")(trouble)),
            }
        }
    }

    fn tail(&mut self) -> Result<Tail, StorageError> {
        self.with("read the head", async |session| place::tail(session).await)
    }

    fn append(&mut self, batch: &Arc<CommittedBatch>) -> Result<(), StorageError> {
        self.unwritten.push(Arc::clone(batch));
        self.unwritten_bytes += batch.weight_bytes();
        self.note_news();
        if let Some(transaction) = &mut self.transaction {
            transaction.head = batch.last_sequence;
            transaction.newest = Some((batch.last_sequence, batch.recorded_at));
        }
        if self.unwritten_bytes > UNWRITTEN_BYTES_MAX {
            self.flush().map_err(self.failed("append"))?;
        }
        Ok(())
    }

    fn first_match(&mut self, query: &EventQuery, after: u64) -> Result<Option<u64>, ReadError> {
        let knowledge = self.knowledge.clone();
        let range = Range {
            after,
            through: self
                .transaction
                .as_ref()
                .map_or(after, |transaction| transaction.head),
        };
        self.look("look for a context", async |session| {
            pages::first_match(session, query, knowledge.known(), range).await
        })
    }

    fn matches_at(&mut self, query: &EventQuery, sequence: u64) -> Result<bool, ReadError> {
        let knowledge = self.knowledge.clone();
        self.look("look for a context", async |session| {
            pages::matches_at(session, query, knowledge.known(), sequence).await
        })
    }

    fn position_at(&mut self, time: Timestamp) -> Result<u64, StorageError> {
        self.look_up("find the time", async |session| {
            place::position_at(session, time).await
        })
    }

    fn cursor(&mut self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        self.with("read a cursor", async |session| cursor::read(session, name).await)
    }

    fn newest_epoch(&mut self) -> Result<u64, StorageError> {
        self.with("read the newest epoch", async |session| {
            cursor::newest_epoch(session).await
        })
    }

    fn next_epoch(&mut self) -> Result<u64, StorageError> {
        self.note_news();
        self.with("give an epoch", async |session| cursor::next_epoch(session).await)
    }

    fn put_cursor(&mut self, name: &str, cursor: &StoredCursor) -> Result<(), StorageError> {
        self.with("register a cursor", async |session| {
            cursor::put(session, name, cursor).await
        })
    }

    fn move_cursor(&mut self, write: &CursorWrite<'_>) -> Result<bool, StorageError> {
        self.with("store a cursor", async |session| {
            cursor::move_on(session, write).await
        })
    }

    fn move_cursors(&mut self, writes: &[CursorWrite<'_>]) -> Result<Vec<bool>, StorageError> {
        if let Some(transaction) = &mut self.transaction {
            transaction.has_moves = true;
        }
        self.with("store the cursors", async |session| {
            cursor::move_all(session, writes).await
        })
    }

    fn undo_moves(&mut self) -> Result<(), StorageError> {
        match &mut self.transaction {
            Some(transaction) if transaction.has_moves => transaction.is_broken = false,
            _ => return Ok(()),
        }
        self.with("take back the cursors", async |session| {
            cursor::undo(session).await
        })
    }

    fn rename_cursor(&mut self, name: &str, to: &str) -> Result<(), StorageError> {
        self.with("rename a stream", async |session| {
            cursor::rename(session, name, to).await
        })
    }

    fn remove_cursor(&mut self, name: &str) -> Result<(), StorageError> {
        self.with("delete a stream", async |session| {
            cursor::remove(session, name).await
        })
    }

    fn roll_call(&mut self) -> Result<RollCall, StorageError> {
        self.with("read the cursors", async |session| {
            cursor::roll_call(session).await
        })
    }

    fn slowest_cursor(&mut self, log_id: &str) -> Result<Option<HeldBy>, StorageError> {
        self.with("read the cursors", async |session| {
            cursor::slowest(session, log_id).await
        })
    }

    fn oldest_batch(&mut self) -> Result<Option<Range>, StorageError> {
        self.look_up("prune", async |session| place::oldest_batch(session).await)
    }

    fn batch_at(&mut self, sequence: u64) -> Result<Option<Range>, StorageError> {
        self.look_up("prune", async |session| place::batch_at(session, sequence).await)
    }

    fn remove_through(&mut self, through: u64) -> Result<u64, StorageError> {
        self.note_news();
        self.look_up("prune", async |session| {
            place::remove_through(session, through).await
        })
    }

    fn commit(&mut self) -> Result<(), StorageError> {
        let outcome = self.try_commit();
        let transaction = self.transaction.take().unwrap_or_default();
        match outcome {
            Ok(()) => {}
            Err(Trouble::TransactionIsGone) => return Err(self.failed("commit")(Trouble::TransactionIsGone)),
            Err(cause) if cause.is_lost() => self
                .find_out(&transaction, cause)
                .map_err(self.failed("commit"))?,
            Err(trouble) => {
                self.transaction = Some(transaction);
                return Err(self.failed("commit")(trouble));
            }
        }
        if transaction.is_news {
            self.news.notify_one();
        }
        if let Some((head, _)) = transaction.newest {
            self.heard.note_head(head);
        }
        Ok(())
    }

    fn rollback(&mut self) {
        self.unwritten.clear();
        self.unwritten_bytes = 0;
        if self.transaction.take().is_none() || self.session.is_none() {
            return;
        }
        let rolled_back = self.attempt(async |session| Ok(session.client.batch_execute("ROLLBACK").await?));
        if let Err(trouble) = rolled_back {
            // The server ends the transaction when the connection does.
            tracing::warn!(%trouble, "a transaction could not be rolled back, its connection is given up");
            self.session = None;
        }
    }

    fn page(&mut self, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        let knowledge = self.knowledge.clone();
        let query = EventQuery::all();
        self.look("read a page", async |session| {
            let reading = Reading {
                query: &query,
                known: knowledge.known(),
                range,
                bounds,
                pruning: Pruning::IsKnown,
                ahead: Ahead::Nothing,
            };
            pages::page(session, reading).await
        })
    }

    /// While the server is out of reach nobody knows of news: the number stays, and the next look that reaches it finds them.
    fn data_version(&mut self) -> Result<i64, StorageError> {
        self.heard.forget();
        if self
            .outage
            .rests_until
            .is_some_and(|until| Instant::now() < until)
        {
            return Ok(self.outage.version);
        }
        match self.attempt(async |session| Ok(session.one(VERSION, &[]).await?.try_get::<_, i64>(0)?)) {
            Ok(version) => {
                self.outage.version = version;
                if self.outage.rests_until.take().is_some() {
                    tracing::info!(server = %self.server.name, "the server is back");
                }
                Ok(version)
            }
            Err(trouble) if trouble.is_lost() => {
                if self.outage.rests_until.is_none() {
                    tracing::warn!(server = %self.server.name, %trouble, "the server is out of reach, it is looked for");
                }
                self.outage.rests_until = Some(Instant::now() + PAUSE_MAX);
                Ok(self.outage.version)
            }
            Err(trouble) => Err(self.failed("look for commits of others")(trouble)),
        }
    }

    fn news(&mut self, after: u64, bounds: PageBounds) -> Result<News, ReadError> {
        let ask = async |session: &mut Session| news::ask(session, after).await;
        let answer = match self.heard.take(after) {
            Some(answer) => Ok(answer),
            // Whoever was told is told once: a connection that was lost meanwhile is made anew.
            None => match self.attempt(ask) {
                Err(trouble) if trouble.is_lost() => self.attempt(ask),
                answer => answer,
            },
        };
        let news = answer.and_then(|answer| answer.news(self.knowledge.known(), after, bounds));
        let news =
            news.map_err(|trouble| trouble.into_read(&self.server.name, "look for commits of others"))?;
        self.heard.note_head(end_of(&news));
        Ok(news)
    }

    fn call_on_news(&mut self, call: Arc<dyn Fn() + Send + std::marker::Sync>) {
        let herald = listen::Herald {
            server: Arc::clone(&self.server),
            channel: listen::channel(&self.log_id),
            own: Arc::clone(&self.news),
            heard: Arc::clone(&self.heard),
            writer: Arc::clone(&self.number),
            call,
            closing: self.driver.closing(),
        };
        self.driver.spawn(herald.run());
    }
}

/// Where the committer is when it has published what is new.
fn end_of(news: &News) -> u64 {
    let page = news.page.as_ref().map_or(0, |page| page.through);
    page.max(news.tail.head)
}
