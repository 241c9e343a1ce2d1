//! The readers' half: connections that are lent for a read.

#[cfg(feature = "sqlite")]
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::clock::Timestamp;
#[cfg(feature = "sqlite")]
use crate::error::{BackupError, VerifyError};
use crate::error::{ReadError, StorageError};
use crate::event::query::EventQuery;
#[cfg(feature = "sqlite")]
use crate::log::backup::{BackedUp, BackupProgress};
#[cfg(feature = "sqlite")]
use crate::log::copy::CopySource;
use crate::log::cursor::{NamedCursor, StoredCursor};
use crate::log::owner::Claim;
use crate::log::page::{More, Page, PageBounds, Range};
use crate::log::postgres::beside::ServerDesk;
use crate::log::postgres::driver::Driver;
use crate::log::postgres::pages::{self, Ahead, Pruning, Reading};
use crate::log::postgres::select::{Candidates, Knowledge, candidates};
use crate::log::postgres::server::{Role, Server};
use crate::log::postgres::session::Session;
use crate::log::postgres::trouble::Trouble;
use crate::log::postgres::{claim, cursor, place, statistics};
use crate::log::statistics::LogStatistics;
use crate::log::survey::Survey;
#[cfg(feature = "sqlite")]
use crate::log::verification::Verification;
use crate::log::{Extent, LogReader};
use crate::sync::Mutex;

/// How long counting everything may take.
const COUNTING_MAX: Duration = Duration::from_secs(60 * 60);
/// The pauses between two tries to reach the server.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Connections for reading, made when they are needed and kept for the next read.
pub(crate) struct PostgresReader {
    server: Arc<Server>,
    driver: Arc<Driver>,
    log_id: String,
    knowledge: Knowledge,
    idle: Mutex<Idle>,
}

struct Idle {
    sessions: Vec<Session>,
    sessions_max: usize,
}

impl PostgresReader {
    pub(super) fn new(
        server: Arc<Server>,
        driver: Arc<Driver>,
        log_id: String,
        knowledge: Knowledge,
        idle_max: usize,
    ) -> Self {
        Self {
            server,
            driver,
            log_id,
            knowledge,
            idle: Mutex::new(Idle {
                sessions: Vec::new(),
                sessions_max: idle_max,
            }),
        }
    }

    /// What read models on this server need.
    pub(crate) fn desk(&self) -> ServerDesk {
        ServerDesk::new(Arc::clone(&self.server), Arc::clone(&self.driver))
    }

    pub(super) fn with<T>(
        &self,
        operation: &'static str,
        read: impl AsyncFnMut(&mut Session) -> Result<T, Trouble>,
    ) -> Result<T, StorageError> {
        let outcome = self.attempt(self.server.patience(), read);
        outcome.map_err(|trouble| trouble.into_storage(&self.server.name, operation))
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn read_page(
        &self,
        read: impl AsyncFnMut(&mut Session) -> Result<Page, Trouble>,
    ) -> Result<Page, ReadError> {
        let outcome = self.attempt(self.server.patience(), read);
        outcome.map_err(|trouble| trouble.into_read(&self.server.name, "read a page"))
    }

    /// Reads, and once more on a new connection when the first one is lost: the server may have been restarted since it was used.
    fn attempt<T>(
        &self,
        limit: Duration,
        mut read: impl AsyncFnMut(&mut Session) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let mut is_first = true;
        loop {
            let mut session = self.lend()?;
            match self.driver.wait(limit, read(&mut session)) {
                Err(trouble) if trouble.is_lost() => {
                    // The others were made before it, and are probably lost as well.
                    let lost = std::mem::take(&mut self.idle.lock().sessions);
                    drop(lost);
                    if !std::mem::take(&mut is_first) {
                        return Err(trouble);
                    }
                }
                outcome => {
                    self.take_back(session);
                    return outcome;
                }
            }
        }
    }

    fn reading<'a>(&'a self, query: &'a EventQuery, range: Range, bounds: PageBounds) -> Reading<'a> {
        Reading {
            query,
            known: self.knowledge.known(),
            range,
            bounds,
            pruning: Pruning::IsChecked,
            ahead: Ahead::Nothing,
        }
    }

    fn read(&self, reading: Reading<'_>, take: &mut dyn FnMut(Page) -> More) -> Result<(), ReadError> {
        // A read that is repeated goes on behind the pages that were handed out.
        let mut after = reading.range.after;
        let outcome = self.attempt(self.server.patience(), async |session| {
            let range = Range {
                after,
                ..reading.range
            };
            let reading = Reading { range, ..reading };
            pages::read(session, reading, &mut |page| {
                after = page.through;
                take(page)
            })
            .await
        });
        outcome.map_err(|trouble| trouble.into_read(&self.server.name, "read a page"))
    }

    /// One that is idle, or a new one. A server that cannot be reached is waited for as long as any answer is.
    fn lend(&self) -> Result<Session, Trouble> {
        let idle = self.idle.lock().sessions.pop();
        if let Some(session) = idle.filter(|session| !session.client.is_closed()) {
            return Ok(session);
        }
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .without_max_times()
            .build();
        let started = Instant::now();
        loop {
            let connecting = self.server.connect(Role::Reader, None);
            match self.driver.wait(self.server.patience(), connecting) {
                Err(trouble) if trouble.is_lost() => match pauses.next() {
                    Some(pause) if started.elapsed() + pause < self.server.limit => self.driver.pause(pause),
                    _ => return Err(trouble),
                },
                outcome => return outcome,
            }
        }
    }

    fn take_back(&self, session: Session) {
        let mut idle = self.idle.lock();
        if idle.sessions.len() < idle.sessions_max {
            idle.sessions.push(session);
        }
    }
}

impl LogReader for PostgresReader {
    #[cfg(feature = "sqlite")]
    fn copy_source(&self) -> Option<&dyn CopySource> {
        Some(self)
    }

    fn page(&self, query: &EventQuery, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        let mut first = None;
        let reading = self.reading(query, range, bounds);
        self.read(reading, &mut |page| {
            first = Some(page);
            More::No
        })?;
        Ok(first.expect("there is always a page, if an empty one"))
    }

    fn pages(
        &self,
        query: &EventQuery,
        range: Range,
        bounds: PageBounds,
        take: &mut dyn FnMut(Page) -> More,
    ) -> Result<(), ReadError> {
        let reading = Reading {
            ahead: Ahead::NextRows,
            ..self.reading(query, range, bounds)
        };
        self.read(reading, take)
    }

    fn extent(&self) -> Result<Extent, StorageError> {
        self.with("read the head", async |session| place::extent(session).await)
    }

    fn head(&self) -> Result<u64, StorageError> {
        Ok(self.extent()?.head)
    }

    fn position_at(&self, time: Timestamp) -> Result<u64, StorageError> {
        self.with("find the time", async |session| {
            place::position_at(session, time).await
        })
    }

    fn statistics(&self) -> Result<LogStatistics, StorageError> {
        let counted = self.attempt(COUNTING_MAX, async |session| {
            statistics::statistics(session).await
        });
        counted.map_err(|trouble| trouble.into_storage(&self.server.name, "count what the log holds"))
    }

    fn cursors(&self) -> Result<Vec<NamedCursor>, StorageError> {
        self.with("read the cursors", async |session| cursor::all(session).await)
    }

    fn cursor(&self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        self.with("read a cursor", async |session| cursor::read(session, name).await)
    }

    fn survey(&self) -> Result<Survey, StorageError> {
        self.with("read the cursors", async |session| {
            statistics::survey(session).await
        })
    }

    fn claims(&self, of: Option<&str>) -> Result<Vec<Claim>, StorageError> {
        self.with("read who runs the streams", async |session| {
            claim::living(session, of).await
        })
    }

    fn recorded_after(&self, positions: &[u64]) -> Result<Vec<Option<Timestamp>>, StorageError> {
        self.with("read how old events are", async |session| {
            place::recorded_after(session, positions).await
        })
    }

    fn log_id(&self) -> &str {
        &self.log_id
    }

    fn release(&self) {
        let mut idle = self.idle.lock();
        idle.sessions_max = 0;
        let sessions = std::mem::take(&mut idle.sessions);
        drop(idle);
        drop(sessions);
    }

    fn is_blocking(&self) -> bool {
        true
    }

    #[cfg(feature = "sqlite")]
    fn verify(&self, _is_wanted: &mut dyn FnMut() -> More) -> Result<Verification, VerifyError> {
        let server = self.server.name.to_string();
        Err(VerifyError::OnServer { server })
    }

    #[cfg(feature = "sqlite")]
    fn backup_to(
        &self,
        _target: &Path,
        _tell: &mut dyn FnMut(BackupProgress) -> More,
    ) -> Result<BackedUp, BackupError> {
        Err(BackupError::OnServer {
            server: self.server.name.to_string(),
            schema: self.server.schema.clone(),
        })
    }

    fn batch_end(&self, sequence: u64) -> Result<u64, StorageError> {
        self.with("read the end of a batch", async |session| {
            place::batch_end(session, sequence).await
        })
    }

    fn is_indexed(&self, query: &EventQuery) -> bool {
        !matches!(candidates(query, self.knowledge.known()), Candidates::Everything)
    }
}
