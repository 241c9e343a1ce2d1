//! The log on a PostgreSQL server. `docs/postgres.md` describes its tables, and what differs from a file.
//!
//! The halves of the log are synchronous, and so is everything here that the rest of the crate sees; the connections run on a thread of
//! their own. Nothing of a lost connection is hidden: who writes is told whether the outcome is known, and who reads reads again.
//!
//! In reading order: `schema` (the tables, their migrations, what is refused), `trouble` (what goes wrong, and what is known then),
//! `driver` (the thread of the connections), `address`, `tls`, `server` and `session` (how a connection is made, and used), `text` (what the server cannot
//! hold), `write`, `insert`, `cursor` and `claim` (the committer's half), `presence` (by what a store is seen to live), `letter`, `once`, `payload` and `select` (what indexed paths hold, and which events a query can concern), `assembly`, `texts`, `chunk` and
//! `pages` (how rows are read), `place` (where things are), `read` (the readers' half), `statistics` and `copy` (what is asked of a whole log),
//! `listen`, `news` and `heard` (wake-ups between processes, and what is found then), `beside` (connections of read models).

mod address;
mod assembly;
pub(crate) mod beside;
mod chunk;
mod claim;
#[cfg(feature = "sqlite")]
pub(crate) mod copy;
mod cursor;
mod driver;
mod heard;
mod insert;
mod letter;
mod listen;
mod news;
mod once;
mod pages;
mod payload;
mod place;
mod presence;
mod read;
mod schema;
mod select;
mod server;
mod session;
mod statistics;
pub(crate) mod text;
mod texts;
mod tls;
mod trouble;
mod write;

use std::sync::Arc;
use std::time::Duration;

use crate::error::OpenError;
use crate::event::evolution::Evolution;
#[cfg(feature = "internals")]
use crate::event::query::EventQuery;
use crate::log::opening::{Absent, Durability};
use crate::log::payload_path::PayloadPath;
use crate::log::postgres::driver::Driver;
use crate::log::postgres::read::PostgresReader;
use crate::log::postgres::schema::Made;
use crate::log::postgres::select::Knowledge;
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
    /// The paths of payloads that are to be indexed, beside those that are.
    pub(crate) paths: Vec<PayloadPath>,
}

/// A connection to a schema that is in order.
struct Connected {
    server: Arc<Server>,
    driver: Arc<Driver>,
    session: Session,
    /// Its number at the server.
    number: i32,
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
    let mut connected = connect(address, options, &opening, Made::Log)?;
    refuse_partial(&connected)?;
    let paths = index(&mut connected, &opening.paths)?;
    Ok(halves(connected, opening, paths))
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
    let mut session =
        driver
            .wait(server.patience(), connecting)
            .map_err(|trouble| match trouble.distrust() {
                Some(problem) => OpenError::UntrustedServer {
                    server: server.name.to_string(),
                    problem,
                },
                None => failed("connect")(trouble),
            })?;
    let preparing = async {
        let log_id = schema::prepare(&mut session, &server, opening.absent, made).await?;
        match log_id {
            Ok(log_id) => Ok(Ok((
                log_id,
                schema::copy_of(&mut session).await?,
                listen::own_number(&mut session).await?,
            ))),
            Err(refusal) => Ok(Err(refusal)),
        }
    };
    let (log_id, copy_of, number) = driver
        .wait(server.patience(), preparing)
        .map_err(failed("prepare its tables"))??;
    Ok(Connected {
        server,
        driver,
        session,
        number,
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

/// Has these paths indexed, and gives all that are.
fn index(connected: &mut Connected, wanted: &[PayloadPath]) -> Result<Vec<PayloadPath>, OpenError> {
    let (server, session) = (&connected.server, &mut connected.session);
    let declaring = payload::declare(session, server, wanted);
    let declared = connected.driver.wait(payload::INDEXING_MAX, declaring);
    declared.map_err(|trouble| trouble.into_storage(&server.name, "index paths of the payloads"))?
}

fn halves(
    connected: Connected,
    opening: Opening,
    paths: Vec<PayloadPath>,
) -> (PostgresWriter, PostgresReader) {
    let Connected {
        server,
        driver,
        session,
        number,
        log_id,
        ..
    } = connected;
    let knowledge = Knowledge {
        evolution: opening.evolution,
        paths: paths.into(),
    };
    let reader = PostgresReader::new(
        Arc::clone(&server),
        Arc::clone(&driver),
        log_id.clone(),
        knowledge.clone(),
        opening.idle_readers_max,
    );
    let writer = PostgresWriter::new(server, driver, session, number, log_id, knowledge);
    (writer, reader)
}

/// How what a query can concern is searched for where these paths are indexed: for the proofs.
#[cfg(feature = "internals")]
pub(crate) fn search(query: &EventQuery, pointers: &[&str]) -> Option<(String, Vec<Vec<String>>)> {
    let paths = pointers
        .iter()
        .filter_map(|pointer| PayloadPath::parse(pointer).ok());
    let paths: Vec<PayloadPath> = paths.collect();
    let known = select::Known {
        evolution: None,
        paths: &paths,
    };
    let found = select::candidates(query, known);
    let (sql, texts) = pages::statement(&found)?;
    Some((sql, texts.into_iter().cloned().collect()))
}
