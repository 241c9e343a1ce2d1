//! Random events of random versions, random upcasters, random queries: on both logs, live, replayed, read and found by the
//! index is what the plain model says.

use std::path::Path;
use std::sync::{Arc, Mutex, Once};

use futures::TryStreamExt;
use millstream::internals::with_small_index;
use millstream::{
    AppendError, Durability, DurableStream, EventBatch, EventQuery, ExpectedContext, FailureCategory,
    FailurePolicy, HandleStream, InvalidEvent, NewEvent, OpenError, ReadError, Start, StopCause, Store,
    WaitError,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::naive::{Event, Query, Selected, Shown, asked, event, query, selected};
use crate::program::{PANICS, Program, program};
use crate::{Seen, seen};

/// The most events of a batch.
const BATCH_MAX: usize = 3;

#[derive(Clone, Debug)]
struct Case {
    /// What was there before, in batches.
    earlier: Vec<Vec<Event>>,
    first: Program,
    /// What the program appends, and what another one does that knows no upcasters.
    appended: Vec<(Event, bool)>,
    second: Program,
    queries: Vec<Query>,
    page_batches: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let batches = |max| prop::collection::vec(prop::collection::vec(event(), 1..=BATCH_MAX), 0..max);
    (
        batches(12),
        program(),
        // With more that cannot be decoded the streams would take it for an outage.
        prop::collection::vec((event(), any::<bool>()), 0..10),
        program(),
        prop::collection::vec(query(), 1..5),
        1..4_usize,
    )
        .prop_map(|(earlier, first, appended, second, queries, page_batches)| Case {
            earlier,
            first,
            appended,
            second,
            queries,
            page_batches,
        })
}

/// Opens a log as the program does. Nothing: its upcasters do not fit together.
fn open(program: &Program, path: Option<&Path>, case: &Case) -> Option<Store> {
    let builder = Store::builder()
        .page_batches(case.page_batches)
        .window_bytes(2_000)
        .index_payload("/n");
    let builder = with_small_index(program.register(builder)).durability(Durability::Relaxed);
    let opened = match path {
        Some(path) => builder.open(path),
        None => builder.in_memory(),
    };
    match opened {
        Err(OpenError::Evolution(_)) => None,
        opened => Some(opened.expect("opens")),
    }
}

/// What a stream's handler was given.
type Given = Arc<Mutex<Vec<Seen>>>;

fn noting(given: &Given) -> HandleStream {
    let given = Arc::clone(given);
    HandleStream::new(move |batch: EventBatch| {
        given.lock().unwrap().extend(batch.iter().map(seen));
        async { Ok::<_, std::io::Error>(()) }
    })
}

/// A durable stream that parks what cannot be decoded.
async fn parking(
    store: &Store,
    name: &str,
    query: &EventQuery,
    start: Start,
    given: &Given,
) -> millstream::EventStream {
    let durable = DurableStream::new(name)
        .start(start)
        .on(FailureCategory::Undecodable, FailurePolicy::park());
    let opened = store.stream_to_durable(&durable, query, noting(given)).await;
    opened.expect("registers")
}

async fn letters(store: &Store, name: &str) -> Vec<u64> {
    let letters: Vec<_> = store
        .dead_letters(name)
        .list()
        .try_collect()
        .await
        .expect("lists");
    assert!(letters.iter().all(|letter| letter.event_count() == 1));
    letters.iter().map(|letter| letter.first_sequence).collect()
}

/// What query, read and fold give, and what a condition meets.
async fn check_reads(store: &Store, query: &EventQuery, expected: &Selected) {
    let first = expected.undecodable.first().copied();
    let before: Vec<Seen> = expected
        .events
        .iter()
        .filter(|event| first.is_none_or(|at| event.0 < at))
        .cloned()
        .collect();
    for found in [store.query(query).await, store.query_blocking(query)] {
        match (found, first) {
            (Ok(found), None) => {
                assert_eq!(
                    found.events.iter().map(seen).collect::<Vec<_>>(),
                    expected.events,
                    "{query:?}"
                );
            }
            (Err(ReadError::Undecodable(event)), Some(first)) => assert_eq!(event.sequence(), first),
            (found, _) => panic!("{found:?} and not {expected:?} of {query:?}"),
        }
    }
    let mut reader = store.read(query);
    let mut read = Vec::new();
    let end = loop {
        match reader.try_next().await {
            Ok(Some(batch)) => read.extend(batch.iter().map(seen)),
            Ok(None) => break None,
            Err(ReadError::Undecodable(event)) => break Some(event.sequence()),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(end, first, "{query:?}");
    // The batch of the event that cannot be decoded is not yielded.
    assert!(before.starts_with(&read), "{read:?} of {before:?}");
    assert!(first.is_some() || read == before, "{query:?}");
    let folded = store.fold(query, Vec::new(), |mut all, event| {
        all.push(seen(event));
        all
    });
    match folded.await {
        Ok(folded) => assert_eq!((folded.state, first), (before, None)),
        Err(ReadError::Undecodable(event)) => assert_eq!(Some(event.sequence()), first),
        Err(error) => panic!("{error}"),
    }
    check_condition(store, query, expected).await;
}

/// The check of a condition ends with the first event that the query selects.
async fn check_condition(store: &Store, query: &EventQuery, expected: &Selected) {
    let newest = expected.events.last().map(|event| event.0);
    let (first, fault) = (
        expected.events.first().map(|event| event.0),
        expected.undecodable.first().copied(),
    );
    let on = |expected| store.append_if([NewEvent::new("z", 1)], query, expected);
    if first.is_some() || fault.is_some() {
        match on(ExpectedContext::nothing_after(0)).await {
            Err(AppendError::Conflict { .. }) => {
                assert!(first < fault.or(Some(u64::MAX)) && first.is_some(), "{query:?}")
            }
            Err(AppendError::Undecodable(event)) => assert_eq!(Some(event.sequence()), fault),
            outcome => panic!("{outcome:?} of {query:?}"),
        }
    }
    if let (Some(newest), Some(at)) = (newest, fault)
        && newest < at
    {
        let outcome = on(newest.into()).await;
        assert!(matches!(outcome, Err(AppendError::Undecodable(_))), "{outcome:?}");
    }
}

async fn play(case: &Case, path: Option<&Path>) {
    let mut log: Vec<Event> = Vec::new();
    if let Some(path) = path {
        let store = Store::open(path).expect("opens");
        for batch in &case.earlier {
            store
                .append(batch.iter().map(Event::to_append))
                .await
                .expect("appends");
            log.extend(batch.iter().cloned());
        }
        store.close().await.expect("closes");
    }
    let Some(store) = open(&case.first, path, case) else {
        return;
    };
    let queries: Vec<EventQuery> = case.queries.iter().map(asked).collect();
    let begin = log.len();
    let mut live = Vec::new();
    for (index, query) in queries.iter().enumerate() {
        let given = Given::default();
        let stream = parking(&store, &format!("live-{index}"), query, Start::Now, &given).await;
        live.push((stream, given));
    }
    let behind = path.map(|path| {
        Store::builder()
            .durability(Durability::Relaxed)
            .open(path)
            .expect("opens")
    });
    for (event, by_other) in &case.appended {
        let by_other = behind.as_ref().filter(|_| *by_other);
        let outcome = by_other.unwrap_or(&store).append([event.to_append()]).await;
        match (outcome, event.shown(&case.first)) {
            (Ok(_), shown) => {
                assert!(by_other.is_some() || matches!(shown, Shown::Event(..)));
                log.push(event.clone());
            }
            (
                Err(AppendError::InvalidEvent {
                    source: InvalidEvent::Undecodable(_),
                    ..
                }),
                Shown::Undecodable(_),
            ) => {}
            (outcome, _) => panic!("{outcome:?} of {event:?}"),
        }
    }
    let head = log.len() as u64;
    // What the other one appended has to be seen here before anybody can wait for it.
    crate::common::eventually("the appends are seen", || store.head() >= head).await;
    store.settled().await.expect("settles");
    for (index, (_, given)) in live.iter().enumerate() {
        let expected = selected(&log, &case.first, &case.queries[index], begin);
        assert_eq!(
            *given.lock().unwrap(),
            expected.events,
            "live, {:?}",
            queries[index]
        );
        assert_eq!(
            letters(&store, &format!("live-{index}")).await,
            expected.undecodable
        );
    }
    check(case, &case.first, &store, &log, &queries, "first").await;
    store.close().await.expect("closes");
    if let Some(behind) = behind {
        behind.close().await.expect("closes");
        if let Some(store) = open(&case.second, path, case) {
            check(case, &case.second, &store, &log, &queries, "second").await;
            store.close().await.expect("closes");
        }
    }
}

/// What a replay and every way to read give.
async fn check(
    case: &Case,
    program: &Program,
    store: &Store,
    log: &[Event],
    queries: &[EventQuery],
    run: &str,
) {
    for (index, query) in queries.iter().enumerate() {
        let expected = selected(log, program, &case.queries[index], 0);
        let (given, name) = (Given::default(), format!("replayed-{run}-{index}"));
        replay(store, &name, query, &given).await;
        assert_eq!(*given.lock().unwrap(), expected.events, "replayed, {query:?}");
        assert_eq!(letters(store, &name).await, expected.undecodable, "{query:?}");
        check_reads(store, query, &expected).await;
    }
}

/// Catches up from the beginning, however often the stream stops because most of what it meets cannot be decoded.
async fn replay(store: &Store, name: &str, query: &EventQuery, given: &Given) {
    for _ in 0..1_000 {
        let given_now = Given::default();
        let stream = parking(store, name, query, Start::Beginning, &given_now).await;
        let outcome = stream.caught_up().await;
        if outcome.is_err() {
            stream.stopped().await;
        }
        go_on(
            &mut given.lock().unwrap(),
            std::mem::take(&mut *given_now.lock().unwrap()),
        );
        match outcome {
            Ok(()) => return,
            Err(WaitError::Stopped {
                cause: StopCause::MostFail { .. },
                ..
            }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it does not come to its end");
}

/// What lies before an event in its batch comes again, when the stream stopped at that event; and nothing else does.
fn go_on(given: &mut Vec<Seen>, given_now: Vec<Seen>) {
    let again = given_now.first().map_or(0, |first| {
        given.iter().filter(|earlier| earlier.0 >= first.0).count()
    });
    let again = given.split_off(given.len() - again);
    assert!(given_now.starts_with(&again), "{again:?} and then {given_now:?}");
    assert!(again.len() < BATCH_MAX, "{again:?} lies in one batch");
    given.extend(given_now);
}

/// The panics of upcasters are part of the cases, and not to be told.
fn quiet_upcasters() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic
                .payload_as_str()
                .is_some_and(|text| text.starts_with(PANICS))
            {
                tell(panic);
            }
        }));
    });
}

fn for_each_case(cases: u32, is_file: bool) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cases = std::env::var("PROPTEST_CASES").map_or(cases, |cases| cases.parse().unwrap());
    quiet_upcasters();
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&case(), |case| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db");
        let played = runtime.block_on(async {
            tokio::spawn(async move { play(&case, is_file.then_some(&*path)).await }).await
        });
        played.map_err(|error| {
            let panic = error.into_panic();
            let text = panic.downcast_ref::<String>().cloned();
            TestCaseError::fail(text.unwrap_or_else(|| String::from("it panicked")))
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn a_file_shows_what_the_plain_model_shows() {
    for_each_case(60, true);
}

#[test]
fn a_log_in_memory_shows_what_the_plain_model_shows() {
    for_each_case(120, false);
}
