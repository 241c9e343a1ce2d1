//! What a `tracing` subscriber is told: spans of handler calls, changes of state, no payload, and never very much.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millstream::{
    DurableStream, EventBatch, FailurePolicy, HandleStream, NewEvent, Retry, Store, StreamState,
};
use tokio::sync::Semaphore;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// What a text of a payload, a tag or metadata begins with in these tests.
const SECRET: &str = "secret-";

type Fields = BTreeMap<&'static str, String>;

/// One event, with the handler call that it was logged in.
#[derive(Clone, Debug)]
struct Line {
    level: Level,
    target: &'static str,
    message: String,
    fields: Fields,
    call: Option<Fields>,
}

/// Writes down what it is told, of spans the fields.
#[derive(Clone, Default)]
struct Capture {
    lines: Arc<Mutex<Vec<Line>>>,
    calls: Arc<Mutex<Vec<Fields>>>,
    /// Of calls that failed, what is known then.
    failed: Arc<Mutex<Vec<Fields>>>,
}

struct Reading<'a>(&'a mut Fields);

impl Visit for Reading<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        write!(text, "{value:?}").unwrap();
        self.0.insert(field.name(), text.trim_matches('"').to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Reading(&mut fields));
        if attributes.metadata().target() == "millstream::handle" {
            assert_eq!(attributes.metadata().name(), "handle");
            self.calls.lock().unwrap().push(fields.clone());
            context.span(id).unwrap().extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let mut extensions = span.extensions_mut();
        let fields = extensions.get_mut::<Fields>().unwrap();
        values.record(&mut Reading(fields));
        self.failed.lock().unwrap().push(fields.clone());
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Reading(&mut fields));
        let call = context
            .event_span(event)
            .and_then(|span| span.extensions().get::<Fields>().cloned());
        self.lines.lock().unwrap().push(Line {
            level: *event.metadata().level(),
            target: event.metadata().target(),
            message: fields.remove("message").unwrap_or_default(),
            fields,
            call,
        });
    }
}

impl Capture {
    /// Captures what this thread is told, and with it everything that a runtime does which has no other.
    fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        let capture = Self::default();
        let subscriber = Registry::default().with(LevelFilter::TRACE).with(capture.clone());
        (capture, tracing::subscriber::set_default(subscriber))
    }

    /// What the streams of the crate say, levels first.
    fn said(&self) -> Vec<(Level, String)> {
        let lines = self.lines.lock().unwrap();
        let ours = lines
            .iter()
            .filter(|line| line.target.starts_with("millstream::"));
        ours.map(|line| (line.level, line.message.clone())).collect()
    }

    fn line(&self, message: &str) -> Line {
        let lines = self.lines.lock().unwrap();
        let found = lines.iter().find(|line| line.message == message);
        found
            .unwrap_or_else(|| panic!("{message:?} is not among {lines:#?}"))
            .clone()
    }

    fn assert_keeps_secrets(&self) {
        let (lines, calls) = (self.lines.lock().unwrap(), self.calls.lock().unwrap());
        let text = format!("{lines:?} {calls:?}");
        assert!(!text.contains(SECRET), "{text}");
    }
}

fn secret(number: u64) -> NewEvent {
    let payload = serde_json::json!({ "number": number, "text": format!("{SECRET}{number}") });
    NewEvent::new("kept", payload).tag(format!("{SECRET}tag"))
}

async fn until(stream: &millstream::EventStream, is_reached: impl Fn(&StreamState) -> bool) {
    let mut watch = stream.watch();
    let reached = async {
        while !is_reached(&watch.current().state) {
            watch.changed().await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(30), reached).await;
    assert!(reached.is_ok(), "{:?}", stream.status());
}

#[tokio::test(flavor = "current_thread")]
async fn what_a_handler_logs_carries_the_streams_name_and_the_batchs_sequences() {
    let (capture, _guard) = Capture::begin();
    let store = Store::in_memory().unwrap();
    let handle = HandleStream::new(|_batch: EventBatch| async {
        tracing::info!("before");
        tokio::task::yield_now().await;
        tracing::info!("after");
        Ok::<_, std::io::Error>(())
    });
    let ledger = DurableStream::new("ledger");
    let durable = store.stream_all_durable(&ledger, handle.clone()).await.unwrap();
    store.append([secret(1), secret(2)]).await.unwrap();
    durable.caught_up().await.unwrap();
    durable.unsubscribe();
    durable.stopped().await;
    let unnamed = store.stream_all(handle).await.unwrap();
    store.append([secret(3)]).await.unwrap();
    unnamed.caught_up().await.unwrap();
    tracing::info!("outside");

    for message in ["before", "after"] {
        let call = capture.line(message).call.expect("it is logged inside the call");
        let expected = [
            ("events", "2"),
            ("first_sequence", "1"),
            ("last_sequence", "2"),
            ("stream", "ledger"),
        ];
        let expected = expected.map(|(name, value)| (name, value.to_owned()));
        assert_eq!(call, Fields::from(expected));
    }
    assert!(
        capture.line("outside").call.is_none(),
        "nothing is left of the span"
    );
    let calls = capture.calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 2, "{calls:#?}");
    assert!(!calls[1].contains_key("stream"), "{calls:#?}");
    capture.assert_keeps_secrets();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_dropped_call_is_dropped_inside_its_span_and_the_letters_retry_has_one_too() {
    struct SaysSo;
    impl Drop for SaysSo {
        fn drop(&mut self) {
            tracing::info!("dropped");
        }
    }
    let (capture, _guard) = Capture::begin();
    let store = Store::in_memory().unwrap();
    let handle = HandleStream::new(|_batch: EventBatch| async {
        let _says_so = SaysSo;
        std::future::pending::<()>().await;
        Ok::<_, std::io::Error>(())
    });
    let handle = handle.timeout(Duration::from_millis(1)).retry(Retry::never());
    let ledger = DurableStream::new("ledger").on_failure(FailurePolicy::park());
    let stream = store.stream_all_durable(&ledger, handle).await.unwrap();
    store.append([secret(1)]).await.unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(capture.line("dropped").call.unwrap()["stream"], "ledger");
    let retried = store.dead_letters("ledger").retry_all().await.unwrap();
    assert_eq!(retried.failed, 1);
    let calls = capture.calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 2, "{calls:#?}");
    assert_eq!(calls[0], calls[1]);
    let failed = capture.failed.lock().unwrap().pop().expect("a call failed");
    assert_eq!(
        (&*failed["category"], &*failed["otel.status_code"]),
        ("timeout", "ERROR")
    );
    capture.assert_keeps_secrets();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn each_change_of_state_is_told_once_at_a_level_that_fits() {
    let (capture, _guard) = Capture::begin();
    // So small that it holds no batch.
    let store = Store::builder().window_bytes(1).in_memory().unwrap();
    store.append([secret(1)]).await.unwrap();
    let fails = Arc::new(Semaphore::new(0));
    let handler_fails = Arc::clone(&fails);
    let handle = HandleStream::new(move |_batch: EventBatch| {
        let failed = handler_fails.try_acquire().map(|permit| permit.forget()).is_ok();
        async move { if failed { Err("the bank is closed") } else { Ok(()) } }
    });
    let retry = Retry::default()
        .delay_min(Duration::from_millis(1))
        .delay_max(Duration::from_millis(1))
        .attempts_max(4);
    let ledger = DurableStream::new("ledger");
    let stream = store
        .stream_all_durable(&ledger, handle.retry(retry))
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    until(&stream, |state| matches!(state, StreamState::Live)).await;
    // It is not in the window, so it is read from the log; and it fails twice.
    fails.add_permits(2);
    store.append([secret(2)]).await.unwrap();
    stream.caught_up().await.unwrap();
    until(&stream, |state| matches!(state, StreamState::Live)).await;
    let control = store.stream("ledger").await.unwrap();
    control.pause("anna").await.unwrap();
    until(&stream, |state| matches!(state, StreamState::Paused { .. })).await;
    control.resume().await.unwrap();
    until(&stream, |state| matches!(state, StreamState::Live)).await;
    fails.add_permits(4);
    store.append([secret(3)]).await.unwrap();
    stream.stopped().await;

    let (debug, info, warn) = (Level::DEBUG, Level::INFO, Level::WARN);
    let expected = [
        (debug, "a stream begins"),
        (debug, "a stream reached the head"),
        (debug, "a stream fell behind the window, and reads the log"),
        (warn, "a handler failed"),
        (warn, "a handler failed"),
        (info, "a handler took the batch that it had failed on"),
        (debug, "a stream reached the head"),
        (info, "a stream is steered"),
        (info, "a stream was paused"),
        (info, "a stream is steered"),
        (info, "a stream was resumed"),
        (debug, "a stream reached the head"),
        (debug, "a stream fell behind the window, and reads the log"),
        (warn, "a handler failed"),
        (warn, "a handler failed"),
        (debug, "a handler failed again"),
        (warn, "a handler failed"),
        (Level::ERROR, "a stream stopped"),
    ];
    let said = capture.said();
    let said: Vec<_> = said
        .iter()
        .map(|(level, message)| (*level, message.as_str()))
        .collect();
    assert_eq!(said, expected);
    let failed = capture.line("a handler failed");
    assert_eq!(failed.fields["stream"], "ledger");
    assert_eq!(failed.fields["attempts"], "1");
    assert!(failed.fields.contains_key("retry_in_ms"), "{failed:#?}");
    assert!(
        failed.fields["error"].contains("the bank is closed"),
        "{failed:#?}"
    );
    let recovered = capture.line("a handler took the batch that it had failed on");
    assert_eq!(recovered.fields["failures"], "2");
    assert_eq!(capture.line("a stream was paused").fields["by"], "anna");
    // It is registered again where it stopped, and rests because it was paused meanwhile.
    control.pause("berta").await.unwrap();
    let again = store.stream_all_durable(
        &ledger,
        HandleStream::new(|_batch: EventBatch| async { Ok::<_, std::io::Error>(()) }),
    );
    let again = again.await.unwrap();
    assert!(matches!(again.status().state, StreamState::Paused { .. }));
    let begins = capture.line("a stream begins and rests, it was paused");
    assert_eq!((begins.level, &*begins.fields["by"]), (info, "berta"));
    capture.assert_keeps_secrets();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_stream_that_falls_behind_a_thousand_times_says_so_a_few_times() {
    let (capture, _guard) = Capture::begin();
    let store = Store::builder().window_bytes(1).in_memory().unwrap();
    let handle = HandleStream::new(|_batch: EventBatch| async { Ok::<_, std::io::Error>(()) });
    let stream = store
        .stream_all_durable(&DurableStream::new("ledger"), handle)
        .await
        .unwrap();
    let started = Instant::now();
    for number in 0..1_000 {
        store.append([secret(number)]).await.unwrap();
        stream.caught_up().await.unwrap();
    }
    let seconds = started.elapsed().as_secs() as usize + 2;
    let said = capture.said();
    assert!((3..=2 + 2 * seconds).contains(&said.len()), "{said:#?}");
    let falls = said
        .iter()
        .filter(|(_, message)| message.starts_with("a stream fell behind"));
    assert!(falls.count() >= 1, "{said:#?}");
    capture.assert_keeps_secrets();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn who_does_not_want_spans_gets_none() {
    let capture = Capture::default();
    let subscriber = Registry::default().with(LevelFilter::INFO).with(capture.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let store = Store::in_memory().unwrap();
    let handle = HandleStream::new(|_batch: EventBatch| async {
        tracing::warn!("inside");
        Ok::<_, std::io::Error>(())
    });
    let stream = store.stream_all(handle).await.unwrap();
    store.append([secret(1)]).await.unwrap();
    stream.caught_up().await.unwrap();
    assert!(capture.line("inside").call.is_none());
    assert!(capture.calls.lock().unwrap().is_empty());
    assert!(capture.said().is_empty(), "{:#?}", capture.said());
    store.close().await.unwrap();
}
