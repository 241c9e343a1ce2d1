//! `streams` and `stream`.

use millstream::{DurableStream, EventQuery, FailurePolicy, HandleStream, OnMismatch, Ownership, Store};
use serde_json::json;

use crate::service::{Service, append, standing, with_stream};
use crate::{Place, lines};

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_listed_with_what_is_wrong_wherever_they_run() {
    let place = Place::new();
    append(&place, "good", 1);
    append(&place, "bad", 2);
    let mailer = Service::start(&place, "mailer", FailurePolicy::stop()).await;
    mailer.stream.stopped().await;
    let ledger = Service::start(&place, "ledger", FailurePolicy::park()).await;
    ledger.settle(2).await;
    place.ok(&["pause", "mailer", "--by", "anna"]);
    let streams = lines(&place.ok(&["streams", "--json"]));
    let facts: Vec<_> = streams
        .iter()
        .map(|stream| {
            json!([
                stream["name"],
                stream["state"],
                stream["cursor"],
                stream["lag"],
                stream["parked"]
            ])
        })
        .collect();
    assert_eq!(
        facts,
        [
            json!(["ledger", "not-here", 2, 0, 1]),
            json!(["mailer", "paused", 1, 1, 0])
        ]
    );
    assert_eq!(
        streams[0]["problems"],
        json!([{"problem": "letters-wait", "letters": 1}])
    );
    assert_eq!(streams[1]["problems"][0]["problem"], "paused");
    assert!(streams[0]["oldest_unhandled_seconds"].is_null());
    assert!(streams[1]["oldest_unhandled_seconds"].as_f64().unwrap() >= 0.0);
    let table = place.ok(&["streams"]);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(
        rows[1].contains("not here") && rows[1].ends_with("1 dead letter waits"),
        "{table}"
    );
    assert!(rows[2].contains("paused by anna"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_owns_a_stream_and_who_stands_by_is_told() {
    let place = Place::new();
    let ledger = Service::start(&place, "ledger", FailurePolicy::park()).await;
    let mailer = Service::start(&place, "mailer", FailurePolicy::stop()).await;
    let other = Store::open(place.db()).unwrap();
    let waits = DurableStream::new("ledger").ownership(Ownership::Standby);
    let handle = HandleStream::new(|_| async { Ok::<_, std::io::Error>(()) });
    let good = EventQuery::types(["good"]);
    let on_mismatch = waits.on_mismatch(OnMismatch::KeepCursor);
    let _standby = other
        .stream_to_durable(&on_mismatch, &good, handle)
        .await
        .unwrap();
    let me = std::process::id();
    let streams = lines(&place.ok(&["streams", "--json"]));
    assert_eq!(streams[0]["owner"]["process"], me);
    assert_eq!(streams[0]["standbys"][0]["process"], me);
    let since = streams[0]["standbys"][0]["since"].as_str().unwrap();
    assert!(
        since > streams[0]["owner"]["since"].as_str().unwrap(),
        "{streams:?}"
    );
    assert_eq!(streams[1].get("standbys"), None);
    let host = streams[1]["owner"]["host"].as_str().unwrap().to_owned();
    let table = place.ok(&["streams"]);
    assert!(
        table.contains(&format!("{me} on {host}, 1 standing by")),
        "{table}"
    );
    let told = place.ok(&["stream", "ledger"]);
    for title in ["owner", "stands by"] {
        let line = told.lines().find(|line| line.starts_with(title)).unwrap();
        assert!(
            line.contains(&format!("process {me} on {host} since 20")),
            "{told}"
        );
    }
    mailer.stream.unsubscribe();
    mailer.stream.stopped().await;
    let table = place.ok(&["streams"]);
    assert!(
        table
            .lines()
            .any(|row| row.contains("mailer") && row.contains("nobody")),
        "{table}"
    );
    assert!(place.ok(&["stream", "mailer"]).contains("run by nobody"));
    drop(ledger);
}

#[test]
fn one_stream_is_told_of_in_full() {
    let place = with_stream("ledger", &[2, 1]);
    append(&place, "good", 4);
    place.ok(&["pause", "ledger", "--by", "anna"]);
    let told = place.ok(&["stream", "ledger"]);
    let value = |name: &str| {
        let line = told.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name} in {told}"))[name.len()..].trim()
    };
    assert_eq!(value("stream"), "ledger");
    assert!(value("state").starts_with("paused by anna since "), "{told}");
    assert!(value("cursor").starts_with("3, stored "), "{told}");
    assert_eq!((value("head"), value("lag")), ("4", "1"));
    assert!(value("oldest unhandled").ends_with(" old"), "{told}");
    assert_eq!(value("dead letters"), "0 wait, 0 skipped");
    assert!(
        value("what is wrong").starts_with("paused by anna since "),
        "{told}"
    );
    place.ok(&["resume", "ledger"]);
    assert_eq!(standing(&place, "ledger")["problems"], json!([]));
}

#[test]
fn a_log_without_streams_has_none_to_list() {
    let place = Place::new();
    place.append_batches(&[1]);
    let outcome = place.run(&["streams"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""));
    assert!(outcome.stderr.contains("knows no durable stream"), "{outcome:?}");
}

#[cfg(unix)]
mod watched {
    use serde_json::Value;

    use super::*;
    use crate::follow::Following;

    #[test]
    fn a_watch_without_a_terminal_writes_table_after_table_until_ctrl_c() {
        let place = with_stream("ledger", &[1]);
        let watching = Following::of(&place, &["streams", "--watch"]);
        for table in 0..2 {
            assert!(watching.line().contains("events/s"), "table {table}");
            let row = watching.line();
            assert!(row.contains("ledger") && row.contains("not here"), "{row}");
            assert_eq!(row.split_whitespace().last(), Some(["-", "0"][table]), "{row}");
            if table == 0 {
                assert_eq!(watching.line(), "");
            }
        }
        watching.interrupt();
        let (code, rest) = watching.end();
        // One more may have been on its way.
        assert!(code == Some(0) && rest.len() <= 3, "{code:?} {rest:?}");
    }

    #[test]
    fn a_watch_tells_how_fast_the_cursor_moves() {
        let place = with_stream("ledger", &[1000]);
        place.ok(&["reset", "ledger", "--to", "beginning", "--yes"]);
        let watching = Following::of(&place, &["streams", "--watch", "--json"]);
        let look = || -> Value { serde_json::from_str(&watching.line()).unwrap() };
        assert_eq!(look().get("events_per_second"), None);
        place.ok(&["reset", "ledger", "--to", "now", "--yes"]);
        let moved = loop {
            let look = look();
            if look["cursor"] == 1000 {
                break look;
            }
        };
        // It moved by 1,000 within the second, or more, between two looks.
        let rate = moved["events_per_second"].as_f64().unwrap();
        assert!(rate > 0.0 && rate <= 1000.0, "{moved}");
        watching.interrupt();
        assert_eq!(watching.end().0, Some(0));
    }
}
