//! The log on a PostgreSQL server. `docs/postgres.md` describes its tables, and what differs from a file.
//!
//! The halves of the log are synchronous, and so is everything here that the rest of the crate sees; the connections run on a thread of
//! their own. Nothing of a lost connection is hidden: who writes is told whether the outcome is known, and who reads reads again.
//!
//! In reading order: `schema` (the tables, their migrations, what is refused), `trouble` (what goes wrong, and what is known then),
//! `driver` (the thread of the connections), `address`, `server` and `session` (how a connection is made, and used), `text` (what the server cannot
//! hold), `write`, `insert`, `cursor` and `claim` (the committer's half), `presence` (by what a store is seen to live), `letter`, `once`, `select` (which events a query can concern), `assembly` and
//! `pages` (how rows are read), `place` (where things are), `read` (the readers' half), `statistics` and `copy` (what is asked of a whole log),
//! `listen` and `news` (wake-ups between processes, and what is found then).

mod address;
mod assembly;
mod claim;
#[cfg(feature = "sqlite")]
pub(crate) mod copy;
mod cursor;
mod driver;
mod insert;
mod letter;
mod listen;
mod news;
mod once;
mod pages;
mod place;
mod presence;
mod read;
mod schema;
mod select;
mod server;
mod session;
mod statistics;
mod text;
mod trouble;
mod write;

use std::sync::Arc;
use std::time::Duration;

use crate::error::OpenError;
use crate::event::evolution::Evolution;
use crate::log::opening::{Absent, Durability};
use crate::log::postgres::driver::Driver;
use crate::log::postgres::read::PostgresReader;
use crate::log::postgres::schema::Made;
use crate::log::postgres::server::{Role, Server};
use crate::log::postgres::session::Session;
use crate::log::postgres::trouble::Trouble;
use crate::log::postgres::write::PostgresWriter;

/// What the builder is told of a server beside its address.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) schema: String,
    /// How long an answer, or another process that holds the log, is waited for.
    pub(crate) limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            schema: String::from("millstream"),
            limit: Duration::from_secs(30),
        }
    }
}

/// How the log is opened, whatever keeps it.
pub(crate) struct Opening {
    pub(crate) durability: Durability,
    pub(crate) absent: Absent,
    pub(crate) idle_readers_max: usize,
    /// What older events are brought up to date with.
    pub(crate) evolution: Option<Arc<Evolution>>,
}

/// A connection to a schema that is in order.
struct Connected {
    server: Arc<Server>,
    driver: Arc<Driver>,
    session: Session,
    log_id: String,
    /// The id of the log of which this is a copy that has not ended.
    copy_of: Option<String>,
}

/// Opens a log, or makes one, and gives its two halves. Blocks until that is done.
pub(crate) fn open(
    address: &str,
    options: &Options,
    opening: Opening,
) -> Result<(PostgresWriter, PostgresReader), OpenError> {
    let connected = connect(address, options, &opening, Made::Log)?;
    refuse_partial(&connected)?;
    Ok(halves(connected, opening))
}

fn connect(
    address: &str,
    options: &Options,
    opening: &Opening,
    made: Made<'_>,
) -> Result<Connected, OpenError> {
    let server = Arc::new(Server::new(address, options, opening.durability)?);
    let driver = Driver::start()?;
    let failed = |operation| {
        let name = Arc::clone(&server.name);
        move |trouble: Trouble| OpenError::from(trouble.into_storage(&name, operation))
    };
    let connecting = server.connect(Role::Writer, None);
    let mut session = driver
        .wait(server.patience(), connecting)
        .map_err(failed("connect"))?;
    let preparing = async {
        let log_id = schema::prepare(&mut session, &server, opening.absent, made).await?;
        match log_id {
            Ok(log_id) => Ok(Ok((log_id, schema::copy_of(&mut session).await?))),
            Err(refusal) => Ok(Err(refusal)),
        }
    };
    let (log_id, copy_of) = driver
        .wait(server.patience(), preparing)
        .map_err(failed("prepare its tables"))??;
    Ok(Connected {
        server,
        driver,
        session,
        log_id,
        copy_of,
    })
}

/// A copy that has not ended is no log.
fn refuse_partial(connected: &Connected) -> Result<(), OpenError> {
    let Some(log_id) = &connected.copy_of else {
        return Ok(());
    };
    let Server { name, schema, .. } = &*connected.server;
    Err(OpenError::PartialCopy {
        path: format!("{name}, schema {schema}").into(),
        log_id: log_id.clone(),
    })
}

fn halves(connected: Connected, opening: Opening) -> (PostgresWriter, PostgresReader) {
    let Connected {
        server,
        driver,
        session,
        log_id,
        ..
    } = connected;
    let reader = PostgresReader::new(
        Arc::clone(&server),
        Arc::clone(&driver),
        log_id.clone(),
        opening.evolution.clone(),
        opening.idle_readers_max,
    );
    let writer = PostgresWriter::new(server, driver, session, log_id, opening.evolution);
    (writer, reader)
}
