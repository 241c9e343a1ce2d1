//! Failures: events that kill, storms of retries, letters that cannot be stored, keys that are overtaken, outages.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use millstream::internals::with_pages_max;
use millstream::{
    DeadLetter, DeadLetterState, DurableStream, EventBatch, FailureCategory, FailurePolicy, HandleStream,
    NewEvent, Retry, StopCause, Store,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::common::{Recorder, append, events, hasty, in_time};
use crate::{PanicsOnDrop, Place};

/// The file that a child works on, and what becomes of the event that kills it.
const CHILD_PATH: &str = "MILLSTREAM_POISONED_PATH";
const CHILD_POLICY: &str = "MILLSTREAM_POISONED_POLICY";
const POISON: u64 = 30;
const EVENTS: u64 = 60;
const STARTS_MAX: u32 = 3;

fn handled_by(path: &Path) -> PathBuf {
    path.with_extension("handled")
}

/// The process that its handler kills. It is started by the tests below.
#[test]
fn child() {
    let Some(path) = env::var_os(CHILD_PATH) else {
        return;
    };
    let policy = env::var(CHILD_POLICY).unwrap();
    let takes_groups = policy == "park, in groups";
    let durable = DurableStream::new("ledger").starts_max(STARTS_MAX);
    let durable = match policy.as_str() {
        "park" | "park, in groups" => durable.on_failure(FailurePolicy::park()),
        "park, several keys at once" => durable
            .on_failure(FailurePolicy::park())
            .partition_by(4, |event| Some((event.sequence() % 5).to_string())),
        _ => durable.on_failure(FailurePolicy::stop()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(live(Path::new(&path), durable, takes_groups));
}

async fn live(path: &Path, durable: DurableStream, takes_groups: bool) {
    let store = Store::open(path).unwrap();
    let handled = OpenOptions::new()
        .create(true)
        .append(true)
        .open(handled_by(path))
        .unwrap();
    let take = move |batch: &EventBatch| {
        for event in batch {
            if event.sequence() == POISON {
                std::process::abort();
            }
            writeln!(&handled, "{}", event.sequence()).unwrap();
        }
    };
    let handler = if takes_groups {
        HandleStream::group(8, Duration::ZERO, move |batches: Vec<EventBatch>| {
            batches.iter().for_each(&take);
            async { Ok::<_, std::io::Error>(()) }
        })
    } else {
        HandleStream::new(move |batch: EventBatch| {
            take(&batch);
            async { Ok::<_, std::io::Error>(()) }
        })
    };
    let stream = store.stream_all_durable(&durable, handler).await.unwrap();
    let _ = stream.caught_up().await;
    store.close().await.unwrap();
}

/// Runs children until one of them survives, and says how many did not.
fn deaths(path: &Path, policy: &str) -> u32 {
    for deaths in 0..20 {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", "failures::child", "--nocapture"]);
        child.env(CHILD_PATH, path).env(CHILD_POLICY, policy);
        let status = child
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        if status.success() {
            return deaths;
        }
    }
    panic!("the event kills for ever");
}

/// How often each event was handled, from the first on.
fn times_handled(path: &Path) -> Vec<usize> {
    let handled = fs::read_to_string(handled_by(path)).unwrap();
    let handled: Vec<u64> = handled.lines().map(|line| line.parse().unwrap()).collect();
    (1..=EVENTS)
        .map(|event| handled.iter().filter(|one| **one == event).count())
        .collect()
}

async fn letters(store: &Store) -> Vec<DeadLetter> {
    store.dead_letters("ledger").list().try_collect().await.unwrap()
}

#[tokio::test]
async fn an_event_that_kills_the_process_is_parked_after_so_many_starts() {
    let place = Place::new();
    let store = place.open();
    for _ in 0..EVENTS {
        append(&store, "a", 1).await;
    }
    store.close().await.unwrap();
    // The first death is not counted, because nobody watched.
    assert_eq!(deaths(&place.path(), "park"), STARTS_MAX + 1);
    let store = place.open();
    let letters = letters(&store).await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((letter.first_sequence, letter.last_sequence), (POISON, POISON));
    assert_eq!(
        (letter.category, letter.attempts),
        (Some(FailureCategory::Crash), STARTS_MAX)
    );
    let times = times_handled(&place.path());
    for (times, event) in times.into_iter().zip(1..) {
        // What was handled when nobody watched, and was not stored yet, came once more.
        assert!(
            (1..=2).contains(&times) || event == POISON,
            "{event} was handled {times} times"
        );
    }
    // A handler that was mended takes the letter.
    let recorder = Recorder::new();
    let durable = DurableStream::new("ledger");
    let stream = store
        .stream_all_durable(&durable, recorder.handler())
        .await
        .unwrap();
    assert_eq!(stream.started_after(), EVENTS);
    store.dead_letters("ledger").retry(POISON).await.unwrap();
    assert_eq!(recorder.sequences(), [POISON]);
}

#[tokio::test]
async fn an_event_that_kills_the_process_is_found_among_several_keys_at_once() {
    is_found_and_set_aside_alone("park, several keys at once", 3).await;
}

#[tokio::test]
async fn an_event_that_kills_the_process_is_found_in_a_group_of_batches() {
    is_found_and_set_aside_alone("park, in groups", 1).await;
}

async fn is_found_and_set_aside_alone(policy: &str, batch: usize) {
    let place = Place::new();
    let store = place.open();
    for _ in 0..EVENTS as usize / batch {
        append(&store, "a", batch).await;
    }
    store.close().await.unwrap();
    assert_eq!(deaths(&place.path(), policy), STARTS_MAX + 1);
    let letters = letters(&place.open()).await;
    let shapes: Vec<_> = letters
        .iter()
        .map(|letter| (letter.first_sequence, letter.last_sequence, letter.attempts))
        .collect();
    assert_eq!(shapes, [(POISON, POISON, STARTS_MAX)]);
    let times = times_handled(&place.path());
    for (times, event) in times.into_iter().zip(1..) {
        // Once more for what was ahead when nobody watched, and for the part of the batch that was handled with its note.
        assert!(
            (1..=2).contains(&times) || event == POISON,
            "{event} was handled {times} times"
        );
    }
}

#[tokio::test]
async fn an_event_that_kills_the_process_stops_the_stream_after_so_many_starts() {
    let place = Place::new();
    let store = place.open();
    for _ in 0..EVENTS {
        append(&store, "a", 1).await;
    }
    store.close().await.unwrap();
    assert_eq!(deaths(&place.path(), "stop"), STARTS_MAX + 1);
    let times = times_handled(&place.path());
    assert!(
        times
            .iter()
            .zip(1..)
            .all(|(times, event)| (*times > 0) == (event < POISON)),
        "{times:?}"
    );
    // Who registers the stream again means it: the count begins anew, and the mended handler goes on with that event.
    let store = place.open();
    let recorder = Recorder::new();
    let durable = DurableStream::new("ledger").starts_max(STARTS_MAX);
    let stream = store
        .stream_all_durable(&durable, recorder.handler())
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    assert!(recorder.sequences().into_iter().eq(POISON..=EVENTS));
}

#[tokio::test]
async fn a_letter_for_which_the_disk_has_no_room_leaves_the_cursor() {
    let place = Place::new();
    let store = place.open();
    append(&store, "a", 1).await;
    append(&store, "a", 1).await;
    store.close().await.unwrap();
    let recorder = Recorder::new();
    let handler = {
        let recorder = recorder.clone();
        HandleStream::new(move |batch: EventBatch| {
            let fails = batch.last_sequence() == 2;
            if !fails {
                recorder.write(&batch);
            }
            // Too large for the pages that are there.
            async move { if fails { Err("x".repeat(8_000)) } else { Ok(()) } }
        })
    };
    let handler = handler.retry(Retry::never());
    let durable = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let store = place.open_with(with_pages_max(Store::builder(), 1));
    let stream = store.stream_all_durable(&durable, handler.clone()).await.unwrap();
    let cause = in_time("the stream stops", stream.stopped()).await;
    let StopCause::DeadLetterNotStored {
        first_sequence: 2,
        source,
    } = &cause
    else {
        panic!("expected a letter without room: {cause:?}");
    };
    assert!(source.to_string().contains("full"), "{source}");
    assert_eq!((stream.status().position, stream.status().cursor), (1, Some(1)));
    assert!(letters(&store).await.is_empty());
    store.close().await.unwrap();
    let store = place.open();
    let stream = store.stream_all_durable(&durable, handler).await.unwrap();
    assert_eq!(stream.started_after(), 1);
    stream.caught_up().await.unwrap();
    let letters = letters(&store).await;
    assert_eq!((letters.len(), letters[0].first_sequence), (1, 2));
    assert_eq!(letters[0].cause.as_ref().map(String::len), Some(4096));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_events_do_not_overtake_the_parked_one_of_their_key() {
    let place = Place::new();
    let store = place.open();
    let recorder = Recorder::new();
    let handler = recorder
        .failing(|batch| batch.first_sequence() == 3)
        .retry(Retry::never());
    let key = FailurePolicy::park_key(|event| event.tags().next().map(str::to_owned));
    let durable = DurableStream::new("ledger").on_failure(key);
    let stream = store.stream_all_durable(&durable, handler).await.unwrap();
    for number in 0..20 {
        let order = NewEvent::new("paid", number).tag(format!("order:{}", number % 4));
        store.append([order]).await.unwrap();
    }
    stream.caught_up().await.unwrap();
    let of_key: Vec<u64> = (1..=20).filter(|sequence| sequence % 4 == 3).collect();
    let others: Vec<u64> = (1..=20).filter(|sequence| sequence % 4 != 3).collect();
    assert_eq!(recorder.sequences(), others);
    let letters = letters(&store).await;
    let waiting: Vec<u64> = letters.iter().map(|letter| letter.first_sequence).collect();
    assert_eq!(waiting, of_key);
    assert_eq!(letters[0].state, DeadLetterState::Parked);
    assert!(
        letters[1..]
            .iter()
            .all(|letter| letter.state == DeadLetterState::Queued)
    );
    assert_eq!(stream.status().lag, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_does_not_park_everything() {
    let place = Place::new();
    let store = place.open();
    for _ in 0..1_000 {
        append(&store, "a", 1).await;
    }
    for policy in [FailurePolicy::park(), FailurePolicy::skip()] {
        let durable = DurableStream::new("ledger").on_failure(policy);
        let down = HandleStream::new(|_| async { Err("the bank does not answer") }).retry(Retry::never());
        let stream = store.stream_all_durable(&durable, down).await.unwrap();
        let cause = in_time("the stream stops", stream.stopped()).await;
        assert!(
            matches!(&cause, StopCause::MostFail { error, .. } if error.contains("bank")),
            "{cause:?}"
        );
    }
    assert_eq!(letters(&store).await.len(), 20, "ten for each time it was tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_call_that_panics_when_it_is_dropped_is_a_failed_call() {
    let place = Place::new();
    let store = place.open();
    append(&store, "a", 1).await;
    let handler = HandleStream::new(|batch: EventBatch| async move {
        if batch.last_sequence() == 1 {
            let _guard = PanicsOnDrop;
            std::future::pending::<()>().await;
        }
        Ok::<_, std::io::Error>(())
    });
    let handler = handler.timeout(Duration::from_millis(10)).retry(Retry::never());
    let durable = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let stream = store.stream_all_durable(&durable, handler).await.unwrap();
    append(&store, "a", 1).await;
    in_time("the stream goes on", stream.caught_up()).await.unwrap();
    let letters = letters(&store).await;
    assert_eq!(letters[0].category, Some(FailureCategory::Timeout));
    assert!(
        letters[0].cause.as_ref().unwrap().contains("in the drop"),
        "{letters:?}"
    );
}

/// Counts what this crate writes into the program's log, from `INFO` on.
#[derive(Clone, Default)]
struct Lines {
    count: Arc<AtomicUsize>,
}

struct IsFailure(bool);

impl Visit for IsFailure {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 |= field.name() == "message" && format!("{value:?}").contains("failed");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        let mut is_failure = IsFailure(false);
        event.record(&mut is_failure);
        self.count.fetch_add(usize::from(is_failure.0), Ordering::SeqCst);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_retries_is_bounded_in_calls_and_lines() {
    let lines = Lines::default();
    let _subscriber = tracing::subscriber::set_default(lines.clone());
    let store = Store::in_memory().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = HandleStream::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err("always") }
    });
    // As impatient as it can be made.
    let hot = hasty()
        .attempts_max(u32::MAX)
        .delay_min(Duration::ZERO)
        .delay_max(Duration::ZERO);
    let a_minute = Duration::from_secs(60);
    let stream = store
        .stream_all(handler.retry(hot.elapsed_max(a_minute)))
        .await
        .unwrap();
    store.append_blocking(events("a", 1)).unwrap();
    let begun = tokio::time::Instant::now();
    // Time stands still for the failures' own clock, so the minute is that of the pauses.
    let ended = tokio::time::timeout(a_minute, stream.stopped()).await;
    assert!(ended.is_err() && begun.elapsed() >= a_minute, "{ended:?}");
    let calls = calls.load(Ordering::SeqCst);
    assert!((20_000..=60_000).contains(&calls), "{calls} calls in a minute");
    let lines = lines.count.load(Ordering::SeqCst);
    assert!((10..=17).contains(&lines), "{lines} lines for {calls} calls");
}
