//! S4 and R1: what a projection may do in the log's own file, and for how long. Whatever it tries, the log is as it was.

use std::time::Duration;

use millstream::rusqlite::Transaction;
use millstream::{
    BoxError, EventBatch, EventQuery, FailureCategory, InLogError, InLogOptions, Projection, ReadModelError,
    ReadModels, Retry, StopCause, Store,
};
use rusqlite::Connection;

use crate::common::in_time;
use crate::fixture::{Place, append_types};
use crate::in_log::number;

/// How a statement is run.
#[derive(Clone, Copy, Debug)]
enum How {
    /// And its error passed on.
    Plainly,
    /// Out of the cache, where the log keeps its own.
    Cached,
    /// And its error ignored, as if nothing were wrong.
    Silently,
}

#[derive(Clone, Debug)]
struct Tries {
    schema: &'static str,
    sql: &'static str,
    how: How,
}

const SCHEMA: &str = "CREATE TABLE mine (sequence INTEGER PRIMARY KEY, note TEXT)";

impl Projection for Tries {
    fn name(&self) -> &str {
        "tries"
    }
    fn version(&self) -> u32 {
        1
    }
    fn query(&self) -> EventQuery {
        EventQuery::all()
    }
    fn schema(&self) -> &str {
        self.schema
    }
    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        let mine = || {
            tx.execute(
                "INSERT INTO mine (sequence) VALUES (?1)",
                [batch.first_sequence() as i64],
            )
        };
        mine()?;
        match self.how {
            How::Plainly => tx.execute_batch(self.sql)?,
            How::Cached => {
                tx.prepare_cached(self.sql)?.raw_execute()?;
            }
            How::Silently => {
                let _ = tx.execute_batch(self.sql);
                let more = "INSERT INTO mine (sequence) VALUES (1000)";
                let _ = tx.execute_batch(more);
            }
        }
        Ok(())
    }
}

/// Everything that is the log's, as text.
fn log(place: &Place) -> String {
    let log = Connection::open(place.path("log.db")).unwrap();
    let rows = "SELECT group_concat(row, char(10)) FROM (
            SELECT sequence || ' ' || payload AS row FROM event
            UNION ALL SELECT name || ' ' || position FROM cursor
            UNION ALL SELECT type || ' ' || name || coalesce(sql, '') FROM sqlite_schema
            UNION ALL SELECT log_id || removed_through FROM log)";
    log.query_row(rows, [], |row| row.get(0)).unwrap()
}

/// Keeps a model that tries something, and gives the cause for which its stream stopped.
async fn stopped(place: &Place, tries: Tries, options: &InLogOptions) -> (FailureCategory, String) {
    let store = place.store();
    append_types(&store, &["a"]).await;
    let models = ReadModels::in_log(&store).unwrap();
    let what = format!("{tries:?}");
    let model = models.project_with(tries, options).await.unwrap();
    let before = log(place);
    let cause = in_time(&format!("it stops: {what}"), model.stopped()).await;
    let StopCause::HandlerFailed { category, error, .. } = cause else {
        panic!("{what}: {cause}");
    };
    assert_eq!(
        number(&place.path("log.db"), "SELECT count(*) FROM mine"),
        0,
        "{what}"
    );
    assert_eq!(log(place), before, "{what}");
    check(&store, 1).await;
    (category, error.to_string())
}

/// The log is sound, and takes appends.
async fn check(store: &Store, events: u64) {
    assert_eq!(append_types(store, &["b"]).await, events + 1);
    let verified = store.verify().await.unwrap();
    assert!(verified.findings.is_empty(), "{verified:?}");
    store.close().await.unwrap();
}

/// Statements, and what the refusal calls them.
const FORBIDDEN: &[(&str, &str)] = &[
    ("COMMIT", "begin or end a transaction"),
    ("ROLLBACK", "begin or end a transaction"),
    ("BEGIN IMMEDIATE", "begin or end a transaction"),
    ("END", "begin or end a transaction"),
    ("PRAGMA synchronous = OFF", "PRAGMA synchronous"),
    ("PRAGMA user_version = 99", "PRAGMA user_version"),
    ("PRAGMA writable_schema = ON", "PRAGMA writable_schema"),
    ("ATTACH ':memory:' AS other", "attach"),
    ("DELETE FROM event", "write `event`"),
    ("UPDATE cursor SET position = 0", "write `cursor`"),
    ("UPDATE log SET epoch = epoch + 1", "read `log`"),
    ("SELECT * FROM events", "read `event`"),
    (
        "INSERT INTO mine SELECT sequence, payload FROM event",
        "read `event`",
    ),
    ("DELETE FROM millstream_model", "write `millstream_model`"),
    ("DROP TABLE event", "outside its schema"),
    ("DROP TABLE mine", "outside its schema"),
    ("ALTER TABLE event RENAME TO gone", "alter `event`"),
    ("CREATE TABLE another (a)", "outside its schema"),
    ("CREATE TEMP TABLE event (a)", "make something temporary"),
    (
        "CREATE TRIGGER late AFTER INSERT ON event BEGIN DELETE FROM mine; END",
        "on `event`",
    ),
    ("ANALYZE", "outside its schema"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_no_statement_of_a_projection_ends_its_transaction_or_touches_the_log() {
    let options = InLogOptions::default().retry(Retry::never());
    let mut otherwise = Vec::new();
    for (sql, called) in FORBIDDEN {
        for how in [How::Plainly, How::Silently] {
            let place = Place::new();
            let tries = Tries {
                schema: SCHEMA,
                sql,
                how,
            };
            let (category, error) = stopped(&place, tries, &options).await;
            assert_eq!(category, FailureCategory::Error, "{sql}: {error}");
            if !(error.contains(called) && error.contains("ReadModels::open")) {
                otherwise.push(format!("{sql} {how:?}: {error}"));
            }
        }
    }
    assert!(otherwise.is_empty(), "{otherwise:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_what_the_log_has_prepared_for_itself_is_no_way_around_the_rules() {
    let options = InLogOptions::default().retry(Retry::never());
    // Texts that the log's own statements have.
    for (sql, called) in [
        ("COMMIT", "begin or end"),
        ("ROLLBACK", "begin or end"),
        ("SELECT epoch FROM log", "read `log`"),
        ("UPDATE log SET epoch = epoch + 1", "read `log`"),
    ] {
        let place = Place::new();
        let tries = Tries {
            schema: SCHEMA,
            sql,
            how: How::Cached,
        };
        let (_, error) = stopped(&place, tries, &options).await;
        assert!(error.contains(called), "{sql}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_trigger_of_its_own_does_not_reach_the_log_either() {
    let place = Place::new();
    let tries = Tries {
        schema: "CREATE TABLE mine (sequence INTEGER PRIMARY KEY, note TEXT);
                 CREATE TRIGGER sly AFTER INSERT ON mine BEGIN DELETE FROM event; END",
        sql: "SELECT 1",
        how: How::Plainly,
    };
    let options = InLogOptions::default().retry(Retry::never());
    let (_, error) = stopped(&place, tries, &options).await;
    assert!(error.contains("write `event`"), "{error}");
}

/// Schemas, and what the refusal calls them.
const SCHEMAS: &[(&str, &str)] = &[
    ("CREATE TABLE mine (a); COMMIT", "begin or end a transaction"),
    (
        "CREATE TABLE IF NOT EXISTS event (a)",
        "`event` is in the log's file already",
    ),
    ("CREATE TABLE Event (a)", "`Event` is in the log's file already"),
    (
        "CREATE VIEW events AS SELECT 1",
        "`events` is in the log's file already",
    ),
    ("CREATE TABLE millstream_mine (a)", "a name that is reserved"),
    ("CREATE INDEX sly ON event (payload)", "on `event`"),
    (
        "CREATE TRIGGER sly AFTER INSERT ON event BEGIN SELECT 1; END",
        "on `event`",
    ),
    ("CREATE TEMP TABLE event (a)", "make something temporary"),
    ("CREATE TABLE mine AS SELECT * FROM event", "read `event`"),
    ("DROP TABLE event", "drop `event`"),
    ("DROP INDEX event_by_type", "do what SQLite calls"),
    ("ALTER TABLE event ADD COLUMN a", "alter `event`"),
    ("PRAGMA journal_mode = DELETE", "PRAGMA journal_mode"),
    ("CREATE VIRTUAL TABLE mine USING fts5 (a)", "virtual table"),
    ("ANALYZE", "make `sqlite_stat1`"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_schema_makes_what_is_its_own_and_nothing_else() {
    let place = Place::new();
    let store = place.store();
    append_types(&store, &["a"]).await;
    let models = ReadModels::in_log(&store).unwrap();
    let good = Tries {
        schema: SCHEMA,
        sql: "UPDATE mine SET note = (SELECT group_concat(value) FROM json_each('[1, 2]'));
              SAVEPOINT own; DELETE FROM mine; ROLLBACK TO own; RELEASE own",
        how: How::Plainly,
    };
    let model = models.project(good).await.unwrap();
    in_time("it catches up", model.caught_up()).await.unwrap();
    let note: String = model
        .read(|connection| connection.query_row("SELECT note FROM mine", [], |row| row.get(0)))
        .await
        .unwrap();
    assert_eq!(note, "1,2", "what is its own it may use as it likes");
    drop(model);
    models.remove("tries", 1).await.unwrap();
    let before = log(&place);
    let mut otherwise = Vec::new();
    for (schema, called) in SCHEMAS {
        let tries = Tries {
            schema,
            sql: "SELECT 1",
            how: How::Plainly,
        };
        let refused = models.project(tries).await.err().unwrap();
        let text = refused.to_string();
        let is_typed = matches!(refused, ReadModelError::InLog { .. });
        if !(is_typed && text.contains(called) && text.contains("ReadModels::open")) {
            otherwise.push(format!("{schema}: {text}"));
        }
        assert_eq!(log(&place), before, "{schema}");
    }
    assert!(otherwise.is_empty(), "{otherwise:#?}");
    drop(models);
    check(&store, 1).await;
}

const ENDLESS: [&str; 2] = [
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n) INSERT INTO mine SELECT i, '' FROM n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_the_budget_ends_a_statement_that_would_never_end() {
    let budget = Duration::from_millis(20);
    let options = InLogOptions::default().retry(Retry::never()).budget(budget);
    for sql in ENDLESS {
        for how in [How::Cached, How::Silently] {
            let place = Place::new();
            let tries = Tries {
                schema: SCHEMA,
                sql,
                how,
            };
            let (category, error) = stopped(&place, tries, &options).await;
            assert_eq!(category, FailureCategory::Timeout, "{sql}: {error}");
            assert!(error.contains("its budget is 20ms"), "{sql}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_a_schema_has_a_budget_too() {
    let place = Place::new();
    let store = place.store();
    let models = ReadModels::in_log(&store).unwrap();
    let tries = Tries {
        schema: "CREATE TABLE mine AS WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        sql: "SELECT 1",
        how: How::Plainly,
    };
    let options = InLogOptions::default().budget(Duration::from_millis(20));
    let refused = models.project_with(tries, &options).await.err().unwrap();
    let is_over = matches!(
        refused,
        ReadModelError::InLog {
            source: InLogError::OverBudget { .. },
            ..
        }
    );
    assert!(is_over, "{refused}");
    check(&store, 0).await;
}
