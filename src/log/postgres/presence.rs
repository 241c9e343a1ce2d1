//! By what a store is seen to live: an advisory lock of a session of its own, which ends with its process, and a count of beats.
//!
//! The beats stand in a table that is not logged: a beat costs the disk nothing, and a server that crashed has ended all sessions anyway.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::StorageError;
use crate::log::owner::{InstanceId, Sign};
use crate::log::postgres::driver::Driver;
use crate::log::postgres::server::{Role, Server};
use crate::log::postgres::session::Session;
use crate::log::postgres::trouble::Trouble;

/// The number of an instance's lock. An id is random, so that two have the same number as often as two ids are the same.
macro_rules! lock_number {
    () => {
        "hashtextextended('millstream instance ' || $1, 0)"
    };
}

const HOLD: &str = concat!("SELECT pg_try_advisory_lock(", lock_number!(), ")");
const LET_GO: &str = concat!("SELECT pg_advisory_unlock(", lock_number!(), ")");
/// Shared, so that those who look at the same time do not take each other for the owner.
const IS_FREE: &str = concat!(
    "SELECT pg_try_advisory_xact_lock_shared(",
    lock_number!(),
    "), coalesce((SELECT beats FROM beat WHERE instance = $1), 0)"
);
const BEAT: &str = "INSERT INTO beat (instance, beats) VALUES ($1, 1)
    ON CONFLICT (instance) DO UPDATE SET beats = beat.beats + 1, beaten_at = now()";
const FORGET: &str = "DELETE FROM beat WHERE instance = $1";

/// How long a sign of life may take: the committer waits for it. Then the connection counts as lost.
const BEAT_MAX: Duration = Duration::from_secs(1);

/// Whose own session was lost takes nobody else for gone until so long after it was made anew: a server that is started again has ended
/// the sessions of all, and some are back sooner than others.
const OTHERS_BACK_WITHIN: Duration = Duration::from_secs(5);

/// What the own store is seen to live by.
pub(super) struct Presence {
    server: Arc<Server>,
    driver: Arc<Driver>,
    held: Option<Held>,
}

struct Held {
    id: InstanceId,
    /// Nothing: it was lost, and the lock with it.
    session: Option<Session>,
    /// When it was made anew.
    back_since: Option<Instant>,
}

impl Presence {
    pub(super) fn new(server: Arc<Server>, driver: Arc<Driver>) -> Self {
        Self {
            server,
            driver,
            held: None,
        }
    }

    /// The own id, whose lock is held from now on.
    pub(super) fn enter(&mut self) -> Result<InstanceId, StorageError> {
        if let Some(held) = &self.held {
            return Ok(Arc::clone(&held.id));
        }
        let server = Arc::clone(&self.server);
        let entering = async {
            let mut session = server.connect(Role::Presence, None).await?;
            let make_id = "SELECT replace(gen_random_uuid()::text, '-', '')";
            let id: String = session.one(make_id, &[]).await?.try_get(0)?;
            hold(&mut session, &id).await?;
            Ok((id, session))
        };
        let (id, session) = self
            .driver
            .wait(server.patience(), entering)
            .map_err(self.failed("enter as an owner"))?;
        let held = Held {
            id: id.into(),
            session: Some(session),
            back_since: None,
        };
        Ok(Arc::clone(&self.held.insert(held).id))
    }

    /// A session that was lost is made anew. Whoever saw the lock free meanwhile has taken over, which the epochs tell.
    pub(super) fn beat(&mut self) -> Result<(), StorageError> {
        let Some(Held {
            id,
            session,
            back_since,
        }) = &mut self.held
        else {
            return Ok(());
        };
        let server = &self.server;
        let beating = async {
            if session.is_none() {
                let mut made = server.connect(Role::Presence, None).await?;
                hold(&mut made, id).await?;
                *session = Some(made);
                *back_since = Some(Instant::now());
            }
            if let Some(session) = session {
                session.execute(BEAT, &[&&**id]).await?;
            }
            Ok(())
        };
        let outcome = self.driver.wait(server.patience().min(BEAT_MAX), beating);
        if outcome.as_ref().is_err_and(Trouble::is_lost) {
            *session = None;
        }
        outcome.map_err(self.failed("give a sign of life"))
    }

    /// Whether the server may have ended the sessions of others as well, a moment ago: a free lock says nothing then.
    pub(super) fn others_may_be_late(&mut self) -> bool {
        // Otherwise it would not be known here that the own one was lost, and with which the lock was seen free.
        let _ = self.beat();
        let is_late = |since: &Instant| since.elapsed() < OTHERS_BACK_WITHIN;
        let held = self.held.as_ref();
        held.is_some_and(|held| held.session.is_none() || held.back_since.as_ref().is_some_and(is_late))
    }

    pub(super) fn leave(&mut self) {
        let Some(Held {
            id,
            session: Some(mut session),
            ..
        }) = self.held.take()
        else {
            return;
        };
        let leaving = async {
            session.execute(FORGET, &[&&*id]).await?;
            session.execute(LET_GO, &[&&*id]).await?;
            Ok(())
        };
        // The lock ends with the session in any case.
        let _ = self.driver.wait(self.server.patience(), leaving);
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(Trouble) -> StorageError + use<> {
        let server = Arc::clone(&self.server.name);
        move |trouble| trouble.into_storage(&server, operation)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.leave();
    }
}

async fn hold(session: &mut Session, id: &str) -> Result<(), Trouble> {
    let is_held: bool = session.one(HOLD, &[&id]).await?.try_get(0)?;
    match is_held {
        true => session.execute(BEAT, &[&id]).await.map(|_| ()),
        // The server has not noticed yet that the session before is gone.
        false => Err(Trouble::Malformed(String::from(
            "the lock of this owner is still held by a session that was lost",
        ))),
    }
}

/// Looks for a sign of life of another instance.
pub(super) async fn sign(session: &mut Session, instance: &str) -> Result<Sign, Trouble> {
    match look(session, instance).await? {
        (true, _) => Ok(Sign::Gone),
        (false, beat) => Ok(beat),
    }
}

/// Whether its lock is free, and its newest beat.
pub(super) async fn look(session: &mut Session, instance: &str) -> Result<(bool, Sign), Trouble> {
    let row = session.one(IS_FREE, &[&instance]).await?;
    let beats: i64 = row.try_get(1)?;
    Ok((row.try_get(0)?, Sign::Beat(beats.into())))
}
