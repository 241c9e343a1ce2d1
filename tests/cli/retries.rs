//! `dead-letters retry`, beside the process that runs the stream.

use std::time::{Duration, Instant};

use millstream::FailurePolicy;
use serde_json::{Value, json};

use crate::service::{Service, append, cursor_of, standing};
use crate::{Outcome, Place, command, lines, outcome};

/// Asks in the name of anna.
fn retry(place: &Place, more: &[&str]) -> Outcome {
    let retry = ["dead-letters", "retry", "ledger", "--by", "anna"];
    place.run(&[&retry[..], more].concat())
}

fn in_json(place: &Place, more: &[&str]) -> (i32, Value) {
    let outcome = retry(place, &[more, &["--json"]].concat());
    assert_eq!(outcome.stderr, "", "{outcome:?}");
    (outcome.code, lines(&outcome.stdout).remove(0))
}

fn left(place: &Place) -> Vec<Value> {
    let listed = lines(&place.ok(&["dead-letters", "list", "ledger", "--json"]));
    let sequence = |letter: &Value| letter["first_sequence"].clone();
    listed.iter().map(sequence).collect()
}

/// A stream that has parked the events 2 and 4 of four.
async fn with_letters(place: &Place) -> Service {
    for (number, event_type) in [(1, "good"), (2, "bad"), (3, "good"), (4, "bad")] {
        append(place, event_type, number);
    }
    let service = Service::start(place, "ledger", FailurePolicy::park()).await;
    service.settle(4).await;
    service
}

/// What `with_letters` leaves behind when its process dies.
async fn after_a_crash(place: &Place) -> Place {
    let service = with_letters(place).await;
    let copy = Place::new();
    place.ok(&["backup", copy.db().to_str().unwrap()]);
    service.stop().await;
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_mended_is_handled_by_the_process_that_runs_the_stream() {
    let place = Place::new();
    let service = with_letters(&place).await;
    service.mend();
    let (code, told) = in_json(&place, &["4"]);
    let expected = json!({
        "name": "ledger", "handled": 1, "failed": 0, "waiting": 0,
        "letters": [{"first_sequence": 4, "outcome": "handled"}],
    });
    assert_eq!((code, told), (0, expected));
    let all = retry(&place, &["--all"]);
    assert_eq!(all.code, 0, "{all:?}");
    let rows: Vec<&str> = all.stdout.lines().collect();
    assert!(rows[1].contains('2') && rows[1].contains("handled"), "{all:?}");
    assert_eq!(rows[2], "\"ledger\": 1 dead letter handled");
    assert_eq!((left(&place), service.handled()), (vec![], vec![1, 3, 4, 2]));
    assert_eq!(cursor_of(&place, "ledger"), 4);
    let nothing = retry(&place, &["--all"]);
    assert_eq!(
        (nothing.code, nothing.stdout.as_str()),
        (0, "\"ledger\" has no dead letter that waits\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_again_stays_with_its_new_cause_and_is_code_5() {
    let place = Place::new();
    let service = with_letters(&place).await;
    let (code, told) = in_json(&place, &["--all"]);
    let failed = |sequence| {
        json!({
            "first_sequence": sequence, "outcome": "failed", "attempts": 2, "cause": "the bank is closed",
        })
    };
    let expected = json!({
        "name": "ledger", "handled": 0, "failed": 2, "waiting": 0, "letters": [failed(2), failed(4)],
    });
    assert_eq!((code, told), (5, expected));
    let table = retry(&place, &["2"]);
    assert_eq!(table.code, 5, "{table:?}");
    assert!(table.stdout.contains("the bank is closed"), "{table:?}");
    assert!(
        table.stdout.ends_with("0 dead letters handled, 1 failed again\n"),
        "{table:?}"
    );
    let shown = lines(&place.ok(&["dead-letters", "show", "ledger", "2", "--json"])).remove(0);
    assert_eq!(shown["letter"]["attempts"], 3);
    assert_ne!(
        shown["letter"]["first_failed_at"],
        shown["letter"]["last_failed_at"]
    );
    assert_eq!((service.handled(), cursor_of(&place, "ledger")), (vec![1, 3], 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_key_are_retried_in_order_until_one_fails() {
    let place = Place::new();
    // All have the tag `account:7`, which is the key.
    for (number, event_type) in [(1, "bad"), (2, "good"), (3, "good")] {
        append(&place, event_type, number);
    }
    let by_tag = FailurePolicy::park_key(|event| event.tags().next().map(str::to_owned));
    let service = Service::start(&place, "ledger", by_tag).await;
    service.settle(3).await;
    let (code, told) = in_json(&place, &["--key", "account:7"]);
    let outcomes: Vec<Value> = told["letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| letter["outcome"].clone())
        .collect();
    assert_eq!(
        (code, outcomes),
        (5, ["failed", "waiting", "waiting"].map(Value::from).into())
    );
    assert_eq!(
        (told["failed"].clone(), told["waiting"].clone()),
        (json!(1), json!(2))
    );
    assert!(service.handled().is_empty());
    service.mend();
    let out_of_turn = retry(&place, &["2"]);
    assert_eq!(out_of_turn.code, 1, "{out_of_turn:?}");
    assert!(out_of_turn.stdout.contains("not tried"), "{out_of_turn:?}");
    assert!(out_of_turn.stderr.contains("account:7"), "{out_of_turn:?}");
    let (code, told) = in_json(&place, &["--key", "account:7"]);
    assert_eq!((code, &told["handled"]), (0, &json!(3)));
    assert_eq!((service.handled(), left(&place)), (vec![1, 2, 3], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_runs_the_stream_nothing_is_asked_and_nothing_fires_later() {
    let place = Place::new();
    with_letters(&place).await.stop().await;
    let refused = retry(&place, &["--all"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (6, ""), "{refused:?}");
    assert!(
        refused.stderr.contains("no process runs \"ledger\""),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("no request is left"), "{refused:?}");
    let service = Service::start(&place, "ledger", FailurePolicy::park()).await;
    service.mend();
    append(&place, "good", 5);
    service.settle(5).await;
    assert_eq!(
        (service.handled(), left(&place)),
        (vec![5], vec![json!(2), json!(4)])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_process_has_died_the_command_says_so_and_takes_the_request_back() {
    let first = Place::new();
    let place = after_a_crash(&first).await;
    for limit in ["--begin-within", "--timeout"] {
        let outcome = retry(&place, &["--all", limit, "1"]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (6, ""), "{outcome:?}");
        assert!(
            outcome.stderr.contains("no process has begun within 1 s"),
            "{outcome:?}"
        );
    }
    let service = Service::start(&place, "ledger", FailurePolicy::park()).await;
    service.mend();
    append(&place, "good", 5);
    service.settle(5).await;
    assert_eq!(
        (service.handled(), left(&place)),
        (vec![5], vec![json!(2), json!(4)])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_wait_is_served_by_the_process_that_starts_in_time() {
    let first = Place::new();
    let place = after_a_crash(&first).await;
    let (code, told) = in_json(&place, &["--all", "--no-wait", "--begin-within", "600"]);
    let expected = json!({"name": "ledger", "state": "asked", "letters": 2, "begin_within_seconds": 600});
    assert_eq!((code, told), (0, expected));
    let again = retry(&place, &["2"]);
    assert_eq!(again.code, 3, "{again:?}");
    assert!(again.stderr.contains("anna asked for it"), "{again:?}");
    let service = Service::start_mended(&place, "ledger", FailurePolicy::park()).await;
    service
        .until("all letters are handled", |status| status.parked == 0)
        .await;
    assert_eq!(service.handled(), [2, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_hangs_is_not_waited_for_longer_than_asked() {
    let place = Place::new();
    append(&place, "held", 1);
    let service = Service::start(&place, "ledger", FailurePolicy::park()).await;
    service.settle(1).await;
    service.mend();
    let waited = retry(&place, &["1", "--timeout", "1"]);
    assert_eq!((waited.code, waited.stdout.as_str()), (7, ""), "{waited:?}");
    assert!(waited.stderr.contains("goes on with the retry"), "{waited:?}");
    service.release();
    service
        .until("the letter is handled", |status| status.parked == 0)
        .await;
    assert_eq!(left(&place), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_letters_and_keys_that_are_not_there_are_told() {
    let place = Place::new();
    let _service = with_letters(&place).await;
    let unknown = place.run(&["dead-letters", "retry", "ledgre", "--all", "--by", "anna"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (1, ""), "{unknown:?}");
    assert!(unknown.stderr.contains("did you mean \"ledger\"?"), "{unknown:?}");
    for (which, said) in [
        (&["3"][..], "no dead letter that begins with event 3"),
        (
            &["--key", "account:8"],
            "no dead letter that has the key \"account:8\"",
        ),
    ] {
        let outcome = retry(&place, which);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{outcome:?}");
        assert!(outcome.stderr.contains(said), "{outcome:?}");
    }
    let mut nameless = command(&place.db(), &["dead-letters", "retry", "ledger", "2"]);
    nameless.env("USER", "carla").env("USERNAME", "carla");
    assert_eq!(outcome(nameless, "").code, 5, "the user asks");
    assert_eq!(standing(&place, "ledger")["parked"], 2);
}

/// Ctrl-C before anybody has begun takes the request back.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_interruption_takes_a_request_back_that_nobody_has_begun() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::process::Stdio;

    let first = Place::new();
    let place = after_a_crash(&first).await;
    let arguments = ["dead-letters", "retry", "ledger", "--all", "--by", "anna"];
    let mut waits = command(&place.db(), &arguments);
    waits.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = waits.spawn().unwrap();
    let log = rusqlite::Connection::open(place.db()).unwrap();
    let is_asked = "SELECT retry IS NOT NULL FROM cursor WHERE name = 'ledger'";
    let deadline = Instant::now() + Duration::from_secs(25);
    while !log.query_row(is_asked, [], |row| row.get::<_, bool>(0)).unwrap() {
        assert!(Instant::now() < deadline, "nobody asks");
        tokio::task::yield_now().await;
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("interrupted; nothing was retried"), "{stderr}");
    let (code, _) = in_json(&place, &["2", "--no-wait"]);
    assert_eq!(code, 0, "there is no request in the way any more");
}
