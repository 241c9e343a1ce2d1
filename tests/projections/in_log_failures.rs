//! R1, D5, D6 and S4 for read models in the log's own file: what fails is rolled back and takes nobody's append with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream::internals::{FaultPoint, with_faults};
use millstream::rusqlite::Transaction;
use millstream::{
    BoxError, DeadLetterError, EventBatch, EventQuery, FailureCategory, FailurePolicy, InLogOptions,
    NewEvent, Ownership, Projection, ReadModels, Retry, StopCause, Store,
};

use crate::common::{eventually, hasty, in_time};
use crate::fixture::{Counts, Place, append_types, folded};
use crate::in_log::{number, rows};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_what_a_failed_attempt_left_in_memory_is_not_applied_twice_in_the_log() {
    let place = Place::new();
    let store = place.store();
    append_types(&store, &["a", "b", "c"]).await;
    let projection = Counts::new(1);
    let sabotage = Arc::clone(&projection.sabotage);
    sabotage.fails_at.store(2, Ordering::SeqCst);
    let models = ReadModels::in_log(&store).unwrap();
    let model = models.project(projection).await.unwrap();
    eventually("it has failed", || sabotage.rollbacks.load(Ordering::SeqCst) > 1).await;
    assert_eq!(model.status().position, 0);
    sabotage.fails_at.store(0, Ordering::SeqCst);
    in_time("it recovers", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    let counted: Vec<(i64, i64)> = model
        .read(|connection| {
            let mut seen = connection.prepare("SELECT sequence, in_memory FROM seen ORDER BY sequence")?;
            seen.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .await
        .unwrap();
    assert_eq!(
        counted,
        [(1, 1), (2, 2), (3, 3)],
        "as if there had been one attempt"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_a_letter_of_a_model_in_the_log_is_applied_once_when_it_is_retried() {
    let place = Place::new();
    let store = place.store();
    let projection = Counts::new(1);
    let sabotage = Arc::clone(&projection.sabotage);
    sabotage.fails_at.store(3, Ordering::SeqCst);
    // An event is named, and its whole batch was rolled back: those before it must not count as handled.
    sabotage.names.store(true, Ordering::SeqCst);
    let options = InLogOptions::default()
        .retry(Retry::never())
        .on_failure(FailurePolicy::park());
    let models = ReadModels::in_log(&store).unwrap();
    let model = models.project_with(projection, &options).await.unwrap();
    append_types(&store, &["a"]).await;
    append_types(&store, &["b", "b", "b"]).await;
    let last = append_types(&store, &["c"]).await;
    in_time("the stream goes on", model.wait_for(last)).await.unwrap();
    assert_eq!(rows(&model).await.get("b"), None);
    let letters = store.dead_letters("counts@1");
    let (letter, _) = letters.show(2).await.unwrap();
    assert_eq!((letter.first_sequence, letter.last_sequence), (2, 4));
    let failed = letters.retry(2).await;
    assert!(
        matches!(failed, Err(DeadLetterError::HandlerFailed { .. })),
        "{failed:?}"
    );
    let log = rusqlite::Connection::open(place.path("log.db")).unwrap();
    log.execute_batch("CREATE TEMP TABLE kept AS SELECT * FROM dead_letter")
        .unwrap();
    sabotage.fails_at.store(0, Ordering::SeqCst);
    letters.retry(2).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    // A crash between the model's commit and the removal of the letter brings the letter again.
    log.execute_batch("INSERT INTO dead_letter SELECT * FROM kept")
        .unwrap();
    letters.retry(2).await.unwrap();
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
    assert_eq!(model.stream().status().parked, 0);
}

/// Keeps the log for as long as it is told, outside SQL; fails or panics then.
#[derive(Clone)]
struct Unruly(Counts);

impl Projection for Unruly {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn version(&self) -> u32 {
        self.0.version()
    }
    fn query(&self) -> EventQuery {
        self.0.query()
    }
    fn schema(&self) -> &str {
        self.0.schema()
    }
    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        self.0.apply(tx, batch)?;
        // By turns, so that appends meet each of them.
        match self.0.sabotage.rollbacks.load(Ordering::SeqCst) % 3 {
            0 => Err("it fails".into()),
            1 => panic!("it panics"),
            _ => {
                let endless = "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n)
                               INSERT INTO seen SELECT i, 0 FROM n";
                tx.execute(endless, [])?;
                Ok(())
            }
        }
    }
    fn rolled_back(&mut self) {
        self.0.rolled_back();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_appends_survive_a_projection_that_fails_panics_and_never_ends() {
    let place = Place::new();
    let store = place.store();
    let projection = Counts::new(1);
    let sabotage = Arc::clone(&projection.sabotage);
    let options = InLogOptions::default()
        .retry(hasty())
        .budget(Duration::from_millis(5));
    let models = ReadModels::in_log(&store).unwrap();
    let model = models.project_with(Unruly(projection), &options).await.unwrap();
    // Rounds of appends that are queued together, so that they share groups with what the model asks for.
    let mut appended = 0;
    while sabotage.rollbacks.load(Ordering::SeqCst) < 12 {
        let round = (0..8).map(|number| store.append([NewEvent::new("a", number)]));
        let answers = in_time("they are answered", futures::future::try_join_all(round)).await;
        appended += answers.unwrap().len();
    }
    let found = store.query(&EventQuery::all()).await.unwrap();
    assert_eq!(found.events.len(), appended);
    assert_eq!(found.head, appended as u64, "no sequence is missing");
    let log = place.path("log.db");
    assert_eq!(number(&log, "SELECT count(*) FROM seen"), 0);
    assert_eq!(number(&log, "SELECT position FROM millstream_model"), 0);
    assert_eq!(model.status().position, 0);
    drop(model);
    // The same log serves a projection in good order.
    let model = models.project(Counts::new(1)).await.unwrap();
    in_time("it catches up", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await["a"], appended as u64);
    assert!(store.verify().await.unwrap().findings.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_a_panic_stops_the_stream_and_the_committer_goes_on() {
    let place = Place::new();
    let store = place.store();
    let projection = Counts::new(1);
    let sabotage = Arc::clone(&projection.sabotage);
    sabotage.fails_at.store(1, Ordering::SeqCst);
    sabotage.panics.store(true, Ordering::SeqCst);
    let options = InLogOptions::default().retry(Retry::never());
    let models = ReadModels::in_log(&store).unwrap();
    let model = models.project_with(projection, &options).await.unwrap();
    append_types(&store, &["a"]).await;
    let cause = in_time("it stops", model.stopped()).await;
    let is_panic = matches!(
        cause,
        StopCause::HandlerFailed {
            category: FailureCategory::Panic,
            ..
        }
    );
    assert!(is_panic, "{cause}");
    append_types(&store, &["a"]).await;
    drop(model);
    let model = models.project(Counts::new(1)).await.unwrap();
    in_time("it catches up", model.caught_up()).await.unwrap();
    assert_eq!(rows(&model).await["a"], 2);
}

/// Panics wherever the user's code may stand: when it is cloned, rolled back and dropped.
struct Vicious {
    counts: Counts,
    is_clone: bool,
}

impl Clone for Vicious {
    fn clone(&self) -> Self {
        assert!(
            !self.counts.sabotage.panics.load(Ordering::SeqCst),
            "it does not let itself be cloned"
        );
        Self {
            counts: self.counts.clone(),
            is_clone: true,
        }
    }
}

impl Drop for Vicious {
    fn drop(&mut self) {
        let is_told = self.counts.sabotage.names.load(Ordering::SeqCst);
        if self.is_clone && is_told && !std::thread::panicking() {
            self.counts.sabotage.names.store(false, Ordering::SeqCst);
            panic!("it does not let itself be dropped");
        }
    }
}

impl Projection for Vicious {
    fn name(&self) -> &str {
        self.counts.name()
    }
    fn version(&self) -> u32 {
        self.counts.version()
    }
    fn query(&self) -> EventQuery {
        self.counts.query()
    }
    fn schema(&self) -> &str {
        self.counts.schema()
    }
    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        self.counts.apply(tx, batch)
    }
    fn rolled_back(&mut self) {
        self.counts.rolled_back();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_no_panic_of_the_users_code_ends_the_committer() {
    let place = Place::new();
    let store = place.store();
    let counts = Counts::new(1);
    let sabotage = Arc::clone(&counts.sabotage);
    let options = InLogOptions::default().retry(hasty());
    let models = ReadModels::in_log(&store).unwrap();
    let vicious = Vicious {
        counts,
        is_clone: false,
    };
    let model = models.project_with(vicious, &options).await.unwrap();
    let mut failures = 0;
    for flag in [&sabotage.panics, &sabotage.names] {
        flag.store(true, Ordering::SeqCst);
        append_types(&store, &["a"]).await;
        eventually("it has panicked", || model.stream().status().failures > failures).await;
        failures = model.stream().status().failures;
        flag.store(false, Ordering::SeqCst);
        let last = append_types(&store, &["a"]).await;
        in_time("it recovers", model.wait_for(last)).await.unwrap();
    }
    assert_eq!(rows(&model).await, folded(&store, &EventQuery::all()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_who_lost_the_name_writes_nothing_into_the_logs_file() {
    let place = Place::new();
    let (first, second) = (place.store(), place.store());
    let mine = ReadModels::in_log(&first).unwrap();
    let projection = Counts::new(1);
    let calls = Arc::clone(&projection.sabotage);
    let mine = mine.project(projection).await.unwrap();
    let last = append_types(&first, &["a", "b"]).await;
    in_time("the first has it", mine.wait_for(last)).await.unwrap();
    let theirs = ReadModels::in_log(&second).unwrap();
    let refused = theirs.project(Counts::new(1)).await.unwrap_err();
    assert!(refused.to_string().contains("counts@1"), "{refused}");
    let last = append_types(&first, &["b"]).await;
    in_time("who was refused took nothing", mine.wait_for(last))
        .await
        .unwrap();
    let takes_over = InLogOptions::default().ownership(Ownership::TakeOver);
    let theirs = theirs.project_with(Counts::new(1), &takes_over).await.unwrap();
    for _ in 0..5 {
        append_types(&first, &["a"]).await;
    }
    let cause = in_time("the first stops", mine.stopped()).await;
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause}");
    let calls = calls.calls.lock().unwrap().clone();
    assert_eq!(calls, [(1, 2), (3, 3)], "it is not even called");
    let last = append_types(&first, &["c"]).await;
    in_time("the second has it", theirs.wait_for(last)).await.unwrap();
    assert_eq!(rows(&theirs).await, folded(&first, &EventQuery::all()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_transaction_that_cannot_be_committed_is_tried_again_from_the_start() {
    let place = Place::new();
    let passes = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&passes);
    let store = with_faults(Store::builder(), move |point| match point {
        FaultPoint::InModel => counter.fetch_add(1, Ordering::SeqCst) == 2,
        FaultPoint::BeforeModel => counter.fetch_add(1, Ordering::SeqCst) == 4,
        _ => false,
    });
    let store = store.open(place.path("log.db")).unwrap();
    let options = InLogOptions::default().retry(hasty());
    let models = ReadModels::in_log(&store).unwrap();
    let projection = Counts::new(1);
    let sabotage = Arc::clone(&projection.sabotage);
    let model = models.project_with(projection, &options).await.unwrap();
    for _ in 0..4 {
        let last = append_types(&store, &["a"]).await;
        in_time("the model has it", model.wait_for(last)).await.unwrap();
    }
    assert_eq!(rows(&model).await["a"], 4);
    assert_eq!(sabotage.rollbacks.load(Ordering::SeqCst), 2);
    let position = "SELECT (SELECT position FROM millstream_model) - (SELECT position FROM cursor)";
    assert_eq!(number(&place.path("log.db"), position), 0);
}

/// Appends inside a projection, and leaves settings behind.
#[derive(Clone)]
struct Appends(Counts, Store);

impl Projection for Appends {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn version(&self) -> u32 {
        self.0.version()
    }
    fn query(&self) -> EventQuery {
        self.0.query()
    }
    fn schema(&self) -> &str {
        self.0.schema()
    }
    fn apply(&mut self, tx: &Transaction<'_>, _: &EventBatch) -> Result<(), BoxError> {
        tx.busy_timeout(Duration::ZERO)?;
        self.1.append_blocking([NewEvent::new("inside", 1)])?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_an_append_inside_a_projection_fails_and_waits_for_nothing() {
    let place = Place::new();
    let store = place.store();
    let options = InLogOptions::default().retry(Retry::never());
    let models = ReadModels::in_log(&store).unwrap();
    let projection = Appends(Counts::new(1), store.clone());
    let model = models.project_with(projection, &options).await.unwrap();
    append_types(&store, &["a"]).await;
    let cause = in_time("it stops", model.stopped()).await.to_string();
    assert!(cause.contains("inside a projection"), "{cause}");
    // Another process holds the file for a moment, and the log waits for it as before.
    let log = rusqlite::Connection::open(place.path("log.db")).unwrap();
    log.execute_batch("BEGIN IMMEDIATE").unwrap();
    let appended = store.append([NewEvent::new("b", 1)]);
    let mut appended = std::pin::pin!(appended);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut appended).await;
    assert!(early.is_err(), "it waits: {early:?}");
    log.execute_batch("ROLLBACK").unwrap();
    assert_eq!(in_time("it goes on", appended).await.unwrap().first_sequence, 2);
}
