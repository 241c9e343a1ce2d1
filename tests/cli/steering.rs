//! `pause`, `resume`, `reset`, `skip`, `rename` and `delete`, beside the process that runs the stream.

use std::time::Duration;

use millstream::{FailurePolicy, StopCause, StreamState, WaitError};
use serde_json::json;
use tokio::time::timeout;

use crate::service::{Service, append, cursor_of, standing, with_stream};
use crate::{Place, command, lines, outcome};

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_from_the_command_line_is_heeded_where_the_stream_runs_until_it_is_resumed() {
    let place = Place::new();
    place.append_batches(&[2]);
    let service = Service::start(&place, "ledger", FailurePolicy::stop()).await;
    service.settle(2).await;
    let told = place.ok(&["pause", "ledger", "--by", "anna, migration", "--json"]);
    let told = &lines(&told)[0];
    assert_eq!((&told["state"], &told["cursor"]), (&json!("paused"), &json!(2)));
    assert_eq!(told["paused_by"], "anna, migration");
    let is_paused =
        |state: &StreamState| matches!(state, StreamState::Paused { by, .. } if by == "anna, migration");
    service
        .until("it is paused", |status| is_paused(&status.state))
        .await;
    append(&place, "good", 3);
    let refused = service.stream.wait_for(3).await;
    assert!(matches!(refused, Err(WaitError::Paused { .. })), "{refused:?}");
    assert_eq!(service.handled(), [1, 2]);
    let again = place.ok(&["pause", "ledger", "--by", "bertha"]);
    assert!(
        again.contains("paused by anna, migration since") && again.contains("already"),
        "{again}"
    );
    let told = place.ok(&["resume", "ledger"]);
    assert_eq!(told, "\"ledger\" is not paused, and goes on after 2\n");
    service
        .until("it goes on", |status| !is_paused(&status.state))
        .await;
    service.settle(3).await;
    assert_eq!(service.handled(), [1, 2, 3]);
}

#[test]
fn who_pauses_is_the_user_unless_somebody_else_is_named() {
    let place = with_stream("ledger", &[1]);
    let mut pause = command(&place.db(), &["pause", "ledger"]);
    pause.env("USER", "carla").env("USERNAME", "carla");
    assert_eq!(outcome(pause, "").code, 0);
    assert_eq!(standing(&place, "ledger")["paused_by"], "carla");
    place.ok(&["resume", "ledger"]);
    let mut pause = command(&place.db(), &["pause", "ledger"]);
    pause.env_remove("USER").env_remove("USERNAME");
    let outcome = outcome(pause, "");
    assert!(
        outcome.code == 2 && outcome.stderr.contains("--by <WHO>"),
        "{outcome:?}"
    );
    assert_eq!(standing(&place, "ledger")["state"], "not-here");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reset_the_running_stream_handles_everything_again() {
    let place = Place::new();
    place.append_batches(&[2, 1]);
    let service = Service::start(&place, "ledger", FailurePolicy::stop()).await;
    service.settle(3).await;
    place.ok(&["pause", "ledger", "--by", "anna"]);
    let cursor = cursor_of(&place, "ledger").to_string();
    let reset = [
        "reset",
        "ledger",
        "--to",
        "beginning",
        "--yes",
        "--json",
        "--expect",
    ];
    let told = place.ok(&[&reset[..], &[&cursor]].concat());
    assert_eq!(
        lines(&told),
        [json!({"name": "ledger", "cursor_before": 3, "cursor": 0})]
    );
    place.ok(&["resume", "ledger"]);
    service
        .until("it has begun anew", |status| {
            status.position == 3 && status.handled_events == 6
        })
        .await;
    assert_eq!(service.handled(), [1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_reset_goes_to_the_beginning_the_head_a_sequence_or_a_time() {
    let place = with_stream("ledger", &[2, 3]);
    for (to, cursor) in [
        ("beginning", 0),
        ("now", 5),
        ("2", 2),
        ("2999-01-01", 5),
        ("1h", 0),
    ] {
        place.ok(&["reset", "ledger", "--to", to, "--yes"]);
        assert_eq!(cursor_of(&place, "ledger"), cursor, "{to}");
    }
    let outcome = place.run(&["reset", "ledger", "--to", "6", "--yes"]);
    assert_eq!((outcome.code, cursor_of(&place, "ledger")), (1, 0));
    assert!(outcome.stderr.contains("use `--to now`"), "{outcome:?}");
}

#[test]
fn a_cursor_that_is_not_where_it_is_expected_is_code_3_and_changes_nothing() {
    let place = with_stream("ledger", &[2, 1]);
    for arguments in [
        &["reset", "ledger", "--to", "beginning", "--expect", "2", "--yes"][..],
        &["skip", "ledger", "--expect", "2", "--yes"],
    ] {
        let outcome = place.run(arguments);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (3, ""), "{outcome:?}");
        assert_eq!(
            outcome.stderr,
            "conflict: the cursor of \"ledger\" moved: expected 2, found 3; nothing was changed, look again with `stream` and decide again\n"
        );
        assert_eq!(cursor_of(&place, "ledger"), 3, "{arguments:?}");
    }
}

#[test]
fn an_unknown_name_suggests_the_nearest() {
    let place = with_stream("ledger", &[1]);
    for arguments in [
        &["stream", "leger"][..],
        &["pause", "leger", "--by", "anna"],
        &["resume", "leger"],
        &["reset", "leger", "--to", "now", "--yes"],
        &["skip", "leger", "--yes"],
        &["rename", "leger", "letters"],
        &["delete", "leger", "--yes"],
        &["dead-letters", "list", "leger"],
        &["dead-letters", "show", "leger", "1"],
        &[
            "dead-letters",
            "drop",
            "leger",
            "--all",
            "--reason",
            "no",
            "--yes",
        ],
    ] {
        let outcome = place.run(arguments);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{arguments:?}");
        assert_eq!(
            outcome.stderr,
            "error: there is no durable stream named \"leger\"; did you mean \"ledger\"?\n"
        );
    }
    let outcome = place.run(&["stream", "mailer"]);
    assert!(
        outcome.stderr.contains("`streams` lists those there are"),
        "{outcome:?}"
    );
}

#[test]
fn what_destroys_is_refused_without_a_terminal_and_without_yes() {
    let place = with_stream("ledger", &[2]);
    append(&place, "good", 3);
    for arguments in [
        &["reset", "ledger", "--to", "beginning"][..],
        &["reset", "ledger", "--to", "beginning", "--expect", "2"],
        &["skip", "ledger"],
        &["skip", "ledger", "--expect", "2"],
        &["delete", "ledger"],
    ] {
        let outcome = place.feed(arguments, "y\n");
        assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(outcome.stderr.contains("give --yes to go on"), "{outcome:?}");
        assert_eq!(cursor_of(&place, "ledger"), 2, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skip_leaves_out_the_one_batch_that_stopped_the_stream() {
    let place = Place::new();
    for (number, event_type) in [(1, "good"), (2, "bad"), (3, "good")] {
        append(&place, event_type, number);
    }
    let service = Service::start(&place, "ledger", FailurePolicy::stop()).await;
    let cause = stopped(&service).await;
    assert!(matches!(cause, StopCause::HandlerFailed { .. }), "{cause:?}");
    service.stop().await;
    let told = place.ok(&["skip", "ledger", "--by", "anna, a test order", "--yes", "--json"]);
    let expected =
        json!({"name": "ledger", "first_sequence": 2, "last_sequence": 2, "cursor_before": 1, "cursor": 2});
    assert_eq!(lines(&told), [expected]);
    let letter = lines(&place.ok(&["dead-letters", "list", "ledger", "--json"])).remove(0);
    assert_eq!(
        (&letter["first_sequence"], &letter["state"]),
        (&json!(2), &json!("skipped"))
    );
    assert_eq!(letter["cause"], "skipped by anna, a test order");
    let service = Service::start(&place, "ledger", FailurePolicy::stop()).await;
    service.settle(3).await;
    assert_eq!(service.handled(), [3]);
    let outcome = place.run(&["skip", "ledger", "--yes"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("nothing after it"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_renamed_or_deleted_stops_where_it_runs() {
    let place = Place::new();
    place.append_batches(&[2]);
    let service = Service::start(&place, "ledger", FailurePolicy::stop()).await;
    service.settle(2).await;
    place.ok(&["rename", "ledger", "accounts"]);
    let cause = stopped(&service).await;
    assert!(
        matches!(&cause, StopCause::Renamed { to } if &**to == "accounts"),
        "{cause:?}"
    );
    service.stop().await;
    assert_eq!(cursor_of(&place, "accounts"), 2);
    let service = Service::start(&place, "accounts", FailurePolicy::stop()).await;
    let told = place.ok(&["delete", "accounts", "--yes"]);
    assert_eq!(told, "deleted \"accounts\", whose cursor stood at 2\n");
    let cause = stopped(&service).await;
    assert!(matches!(cause, StopCause::Deleted), "{cause:?}");
    assert_eq!(place.ok(&["streams", "--json"]), "");
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let place = with_stream("ledger", &[1]);
    let outcome = place.run(&["rename", "ledger", "ledger"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert_eq!(cursor_of(&place, "ledger"), 1);
}

async fn stopped(service: &Service) -> StopCause {
    let stopped = timeout(Duration::from_secs(25), service.stream.stopped()).await;
    stopped.expect("the stream stops")
}
