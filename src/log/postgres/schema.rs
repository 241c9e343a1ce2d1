//! The tables, their migrations, and the schemas that are refused.

use crate::clock::Timestamp;
use crate::error::OpenError;
use crate::log::opening::Absent;
use crate::log::postgres::payload;
use crate::log::postgres::server::Server;
use crate::log::postgres::session::Session;
use crate::log::postgres::trouble::Trouble;

/// One step per format version, in order. A step that was released is never changed; `millstream_log.format` counts those done.
const MIGRATIONS: &[&str] = &[FORMAT_1, payload::FUNCTION];

const FORMAT_1: &str = r#"
-- One row: what belongs to the log as a whole. Whoever writes holds it, so that one writes at a time: sequences have no holes, and
-- the order of the commits is the order of the sequences.
CREATE TABLE millstream_log (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    format bigint NOT NULL,
    log_id text NOT NULL,
    created_at bigint NOT NULL,
    -- The last sequence that was given to an event, whether or not the event is still there, and when that was recorded.
    head bigint NOT NULL DEFAULT 0,
    recorded_at bigint NOT NULL DEFAULT 0,
    -- Everything up to here was pruned, and the last of it was recorded at this time.
    pruned_through bigint NOT NULL DEFAULT 0,
    pruned_recorded_at bigint NOT NULL DEFAULT 0,
    -- The highest sequence that was removed by hand, of a log that was a file before.
    removed_through bigint NOT NULL DEFAULT 0,
    -- The id of the log of which this is a copy that has not ended; NULL: this is a whole log.
    copy_of text,
    -- The newest number that was given to a registration or to a word from outside.
    epoch bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

CREATE TABLE event (
    sequence bigint PRIMARY KEY,
    -- The event's place in its batch, from 0, and the number of events in that batch.
    batch_index integer NOT NULL,
    batch_size integer NOT NULL,
    -- Microseconds since the Unix epoch.
    recorded_at bigint NOT NULL,
    type text NOT NULL,
    schema_version bigint NOT NULL DEFAULT 1,
    -- NULL: no tags.
    tags text[],
    -- JSON, as it was appended. `jsonb` would write numbers and the order of members anew, and refuses the character NUL.
    payload text NOT NULL,
    -- A JSON object; NULL: no metadata.
    metadata text
);

CREATE INDEX event_by_type ON event (type, sequence);
CREATE INDEX event_by_tag ON event USING gin (tags);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events never change';
END
$$;
CREATE TRIGGER event_is_immutable BEFORE UPDATE ON event FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TABLE cursor (
    name text COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL,
    query text NOT NULL,
    log_id text NOT NULL,
    epoch bigint NOT NULL,
    -- The epoch of the newest registration. The epoch itself is newer after a word from outside that moved the cursor.
    owner bigint NOT NULL,
    -- The number of the newest word from outside.
    steering bigint NOT NULL,
    -- Who paused the stream and since when; NULL: it is not paused. Or the stream that took over from it.
    paused_by text,
    paused_at bigint,
    is_taken_over boolean NOT NULL DEFAULT false,
    updated_at bigint NOT NULL,
    -- What is noted of the batch that the handler was given: its first event, and how often it was given.
    attempt_at bigint NOT NULL,
    attempts bigint NOT NULL,
    -- The newest request to retry dead letters of the stream, a JSON object; NULL: there was none.
    retry text
) WITH (fillfactor = 50);

CREATE TABLE dead_letter (
    stream text COLLATE "C" NOT NULL,
    -- The first and the last of the selected events that it stands for.
    first_sequence bigint NOT NULL,
    last_sequence bigint NOT NULL,
    -- NULL: all from the first to the last.
    sequences bigint[],
    -- The key whose later events queue behind it; NULL: nothing does. In keys and causes, chr(1) and a 0 stand for NUL.
    key text COLLATE "C",
    -- 'parked', 'queued' or 'skipped'.
    state text NOT NULL,
    -- 'error', 'panic', 'timeout', 'undecodable' or 'crash'; NULL for one that is queued.
    category text,
    cause text,
    attempts bigint NOT NULL,
    first_failed_at bigint,
    last_failed_at bigint,
    parked_at bigint NOT NULL,
    PRIMARY KEY (stream, first_sequence)
);
CREATE INDEX dead_letter_by_key ON dead_letter (stream, key, first_sequence) WHERE key IS NOT NULL;
CREATE INDEX dead_letter_that_waits ON dead_letter (first_sequence) WHERE state <> 'skipped';

-- A row per batch that was appended under an idempotency key: what is asked for again with the key is that batch.
CREATE TABLE idempotency_key (
    first_sequence bigint PRIMARY KEY,
    last_sequence bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    -- SHA-256 of the key, which may be longer than what an index can hold.
    digest bytea NOT NULL UNIQUE,
    -- 16 bytes that stand for what the events said.
    fingerprint bytea NOT NULL
);

-- Who has the log open and runs durable streams in it, or stands by for some. As long as it lives a session of it holds an advisory lock.
CREATE TABLE instance (
    id text PRIMARY KEY,
    host text NOT NULL,
    process bigint NOT NULL
);

-- 'owner': the instance runs the stream, and gives it away when that is fair. 'sole-owner': it runs it and keeps it. 'standby': it waits to.
-- 'heir': the owner gave it the stream, and it has yet to take it.
CREATE TABLE claim (
    stream text COLLATE "C" NOT NULL,
    instance text NOT NULL,
    role text NOT NULL,
    since bigint NOT NULL,
    PRIMARY KEY (stream, instance)
);
CREATE UNIQUE INDEX claim_of_owner ON claim (stream) WHERE role IN ('owner', 'sole-owner');
CREATE INDEX claim_that_waits ON claim (stream) WHERE role IN ('standby', 'heir');
CREATE INDEX claim_by_instance ON claim (instance);

-- How often an instance gave a sign of life. Not logged: what a crash of the server takes is of sessions that it has ended.
CREATE UNLOGGED TABLE beat (
    instance text PRIMARY KEY,
    beats bigint NOT NULL,
    beaten_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);

-- For whoever reads with other programs.
CREATE VIEW events AS
SELECT
    sequence,
    to_timestamp(recorded_at / 1000000.0) AS recorded_at,
    type,
    schema_version,
    tags,
    payload,
    metadata,
    sequence - batch_index AS batch_first_sequence,
    batch_size
FROM event;
"#;

fn supported() -> i64 {
    i64::try_from(MIGRATIONS.len()).expect("there are few migrations")
}

/// What an empty schema becomes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Made<'a> {
    Log,
    /// A copy in the making of the log with this id.
    #[cfg_attr(
        not(feature = "sqlite"),
        allow(dead_code, reason = "only a build with files copies")
    )]
    CopyOf(&'a str),
}

/// What was found where the log is to be.
enum Found {
    Nothing,
    Format(i64),
    Foreign(String),
}

/// Makes the schema a log of the newest format, and gives the log's id. A foreign or newer one is left untouched.
pub(super) async fn prepare(
    session: &mut Session,
    server: &Server,
    absent: Absent,
    made: Made<'_>,
) -> Result<Result<String, OpenError>, Trouble> {
    let refusal = match look(session, server).await? {
        Found::Format(format) if format == supported() => None,
        Found::Nothing if absent == Absent::Refused => Some(OpenError::MissingLog {
            server: server.name.to_string(),
            schema: server.schema.clone(),
        }),
        _ => migrate(session, server, made).await?,
    };
    if let Some(refusal) = refusal {
        return Ok(Err(refusal));
    }
    let row = session
        .client
        .query_one("SELECT log_id FROM millstream_log", &[])
        .await?;
    Ok(Ok(row.try_get(0)?))
}

/// The id of the log of which this is a copy that has not ended.
pub(super) async fn copy_of(session: &mut Session) -> Result<Option<String>, Trouble> {
    let row = session.one("SELECT copy_of FROM millstream_log", &[]).await?;
    Ok(row.try_get(0)?)
}

async fn look(session: &mut Session, server: &Server) -> Result<Found, Trouble> {
    // Asked of the catalogs as they are now: what a session once looked up by name it may remember.
    let is_there = "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = $1 AND relname = 'millstream_log')";
    if session
        .client
        .query_one(is_there, &[&server.schema])
        .await?
        .try_get(0)?
    {
        let row = session
            .client
            .query_one("SELECT format FROM millstream_log", &[])
            .await?;
        return Ok(Found::Format(row.try_get(0)?));
    }
    let tables = "SELECT coalesce(string_agg(relname, ', '), '') FROM (
            SELECT relname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE nspname = $1 AND relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY relname LIMIT 5
        ) AS found";
    let names: String = session
        .client
        .query_one(tables, &[&server.schema])
        .await?
        .try_get(0)?;
    Ok(match names.is_empty() {
        true => Found::Nothing,
        false => Found::Foreign(names),
    })
}

/// One process migrates at a time: the others wait for the lock, and find it done.
async fn migrate(
    session: &mut Session,
    server: &Server,
    made: Made<'_>,
) -> Result<Option<OpenError>, Trouble> {
    session.client.batch_execute("BEGIN").await?;
    let outcome = migrate_alone(session, server, made).await;
    let end = match outcome {
        Ok(None) => "COMMIT",
        Ok(Some(_)) | Err(_) => "ROLLBACK",
    };
    let ended = session.client.batch_execute(end).await;
    let refusal = outcome?;
    ended?;
    Ok(refusal)
}

async fn migrate_alone(
    session: &mut Session,
    server: &Server,
    made: Made<'_>,
) -> Result<Option<OpenError>, Trouble> {
    let lock = "SELECT pg_advisory_xact_lock(hashtext('millstream'), hashtext($1))";
    session.client.execute(lock, &[&server.schema]).await?;
    let done = match look(session, server).await? {
        Found::Nothing => 0,
        Found::Format(found) if found > supported() => {
            return Ok(Some(OpenError::NewerSchema {
                server: server.name.to_string(),
                schema: server.schema.clone(),
                found,
                supported: supported(),
            }));
        }
        Found::Format(format) => usize::try_from(format).unwrap_or(0),
        Found::Foreign(found) => {
            return Ok(Some(OpenError::ForeignSchema {
                server: server.name.to_string(),
                schema: server.schema.clone(),
                found: format!("the tables {found}"),
            }));
        }
    };
    if done == 0 {
        // Asked first: who may use the schema need not be allowed to make one.
        let exists = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
        let schema = server.quoted_schema();
        if !session
            .client
            .query_one(exists, &[&server.schema])
            .await?
            .try_get(0)?
        {
            session
                .client
                .batch_execute(&format!("CREATE SCHEMA {schema}"))
                .await?;
        }
    }
    for (index, step) in MIGRATIONS.iter().enumerate().skip(done) {
        session.client.batch_execute(step).await?;
        if index == 0 {
            let make = "INSERT INTO millstream_log (format, log_id, created_at, copy_of)
                VALUES (0, coalesce($2, replace(gen_random_uuid()::text, '-', '')), $1, $2)";
            let copy_of = match made {
                Made::Log => None,
                Made::CopyOf(log_id) => Some(log_id),
            };
            session
                .client
                .execute(make, &[&Timestamp::now().as_micros(), &copy_of])
                .await?;
        }
    }
    let note = "UPDATE millstream_log SET format = $1";
    session.client.execute(note, &[&supported()]).await?;
    Ok(None)
}
