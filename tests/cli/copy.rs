//! `copy`: a log moves, also when the command is killed again and again.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use millstream::{Durability, NewEvent, Store};
use serde_json::{Value, json};

use crate::service::with_stream;
use crate::{Place, command, lines, outcome};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_log_is_copied_with_what_belongs_to_it_and_told() {
    let place = with_stream("ledger", &[3, 2, 4]);
    place.ok(&["pause", "ledger", "--by", "anna"]);
    place.feed(
        &["append", "--key", "payment:81"],
        r#"{"type":"paid","payload":7}"#,
    );
    let (source, target) = (place.db(), place.path("moved.db"));
    let told = place.ok(&["copy", text(&source), text(&target)]);
    let expected = format!(
        "copied the log through 10 to {}: 10 events in 4 batches, 1 stream, 1 idempotency key; both sides have the checksum ",
        target.display()
    );
    assert!(told.starts_with(&expected), "{told}");
    let moved = |arguments: &[&str]| {
        let moved = outcome(command(&target, arguments), "");
        assert_eq!(moved.code, 0, "{moved:?}");
        moved.stdout
    };
    assert_eq!(moved(&["events", "--json"]), place.ok(&["events", "--json"]));
    let [stream, of_source] =
        [moved(&["streams", "--json"]), place.ok(&["streams", "--json"])].map(|told| lines(&told));
    for key in ["name", "state", "paused_by", "paused_since", "cursor", "head"] {
        assert_eq!(stream[0][key], of_source[0][key], "{key}");
    }
    assert_eq!(stream[0]["paused_by"], "anna");
    moved(&["verify"]);
    // Once more elsewhere, as JSON: the same checksum.
    let other = place.path("other.db");
    let json = &lines(&place.ok(&["copy", text(&source), text(&other), "--json"]))[0];
    let expected = json!({
        "target": text(&other), "log_id": json["log_id"], "head": 10, "pruned_through": 0, "events": 10,
        "batches": 4, "streams": 1, "dead_letters": 0, "idempotency_keys": 1, "checksum": json["checksum"],
        "resumed_after": Value::Null,
    });
    assert_eq!(*json, expected);
    assert!(told.contains(json["checksum"].as_str().unwrap()), "{told} {json}");
    assert_eq!(json["log_id"].as_str().unwrap().len(), 32);
}

#[test]
fn what_cannot_be_copied_is_told_in_one_line() {
    let place = Place::new();
    place.append_batches(&[1]);
    let (source, target) = (place.db(), place.path("moved.db"));
    place.ok(&["copy", text(&source), text(&target)]);
    for (from, to, expected) in [
        (
            text(&source),
            text(&target),
            "with the id of the source: the source itself, or a copy of it that is whole",
        ),
        (
            text(&source),
            text(&source),
            "with the id of the source: the source itself, or a copy of it that is whole",
        ),
        (
            "postgres://anna:secret@127.0.0.1:9/shop",
            text(&target),
            "at 127.0.0.1:9/shop",
        ),
        (
            text(&source),
            "s3://bucket/shop",
            "no log has an address with \"s3\"",
        ),
        (
            text(&place.path("missing.db")),
            text(&place.path("new.db")),
            "does not exist",
        ),
    ] {
        let refused = place.run(&["copy", from, to]);
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{refused:?}");
        assert!(refused.stderr.contains(expected), "{expected}: {refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        assert!(!refused.stderr.contains("secret"), "{refused:?}");
    }
    assert!(
        !place.path("new.db").exists(),
        "nothing is made for a source that is not there"
    );
    assert_eq!(place.run(&["copy", text(&source)]).code, 2);
}

#[test]
fn a_copy_that_was_cut_off_goes_on_or_is_found_to_be_another() {
    let place = Place::new();
    place.append_batches(&[3, 2]);
    let (source, target) = (place.db(), place.path("moved.db"));
    let copy = ["copy", text(&source), text(&target)];
    place.ok(&copy);
    let in_the_making = |damage: &str| {
        let file = rusqlite::Connection::open(&target).unwrap();
        file.execute_batch("UPDATE log SET copy_of = log_id").unwrap();
        file.execute_batch(damage).unwrap();
    };
    in_the_making("");
    let refused = outcome(command(&target, &["append"]), r#"{"type":"a","payload":1}"#);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("that has not ended"), "{refused:?}");
    place.append_batches(&[1]);
    let told = place.ok(&copy);
    let expected = format!(
        "copied the log through 6 to {}, gone on after 5: 6 events in 3 batches; ",
        target.display()
    );
    assert!(told.starts_with(&expected), "{told}");
    in_the_making("DELETE FROM event WHERE sequence = 6");
    let differs = place.run(&copy);
    assert_eq!((differs.code, differs.stdout.as_str()), (4, ""), "{differs:?}");
    assert!(
        differs.stderr.contains("the target is not a copy of the source"),
        "{differs:?}"
    );
    assert_eq!(
        outcome(command(&target, &["verify"]), "").code,
        1,
        "it did not become a log"
    );
}

/// Whether a command ends within a time; if not, it is killed.
fn ends_within(mut child: Child, time: Duration) -> bool {
    let mut stdout = child.stdout.take().unwrap();
    let (tell, told) = channel();
    // Its output ends with it.
    let reading = thread::spawn(move || {
        let mut output = Vec::new();
        let read = stdout.read_to_end(&mut output);
        // Who asked may have given up.
        let _ = tell.send(());
        read.unwrap()
    });
    let has_ended = told.recv_timeout(time).is_ok();
    // Fails only for a process that has ended, which is as good.
    let _ = child.kill();
    let status = child.wait().unwrap();
    reading.join().unwrap();
    // It may have come to its end before it was killed.
    assert!(status.success() || !has_ended, "{status}");
    status.success()
}

/// How far a copy in the making is.
fn head(target: &Path) -> i64 {
    let read = || {
        let file = rusqlite::Connection::open_with_flags(target, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        file.query_row("SELECT coalesce(max(sequence), 0) FROM event", [], |row| {
            row.get(0)
        })
    };
    read().unwrap_or(0)
}

#[test]
fn a_copy_that_is_killed_again_and_again_is_whole_in_the_end() {
    let place = Place::new();
    let store = Store::builder()
        .durability(Durability::Relaxed)
        .open(place.db())
        .unwrap();
    let filled = "x".repeat(300);
    for number in 0..12 {
        let batches = (0..500).map(|index| {
            let events =
                (0..1 + index % 3).map(|_| NewEvent::new("filled", &filled).tag(format!("n:{index}")));
            store.append_once(format!("{number}:{index}"), events.collect::<Vec<_>>())
        });
        futures::executor::block_on(futures::future::try_join_all(batches)).unwrap();
    }
    let end = store.head();
    drop(store);
    let target = place.path("moved.db");
    let source = place.db();
    let arguments = ["copy", text(&source), text(&target), "--json"];
    let (mut kills, mut places, mut partial) = (0_u64, vec![0], 0);
    loop {
        let mut copy = command(&source, &arguments);
        copy.stdout(Stdio::piped()).stderr(Stdio::null());
        // Later ones live longer, so that one comes to its end.
        let time = Duration::from_millis(20 + kills * kills / 2);
        if ends_within(copy.spawn().unwrap(), time) {
            break;
        }
        kills += 1;
        let reached = head(&target);
        assert!(reached >= *places.last().unwrap(), "{reached} after {places:?}");
        places.push(reached);
        let opened = outcome(command(&target, &["context"]), "");
        if opened.code == 0 {
            // It was whole when the kill came.
            break;
        }
        if target.exists() && reached > 0 {
            assert_eq!(opened.code, 1, "{opened:?}");
            assert!(opened.stderr.contains("that has not ended"), "{opened:?}");
            partial += 1;
        }
        assert!(kills < 500, "it never ends: {places:?}");
    }
    places.dedup();
    println!("{kills} kills, {partial} copies in the making, at {places:?}");
    assert!(partial > 2 && places.len() > 3, "{kills} kills at {places:?}");
    assert_eq!(head(&target).cast_unsigned(), end);
    let verified = outcome(command(&target, &["verify"]), "");
    assert_eq!(verified.code, 0, "{verified:?}");
    let [moved, whole] = [&target, &source].map(|path| outcome(command(path, &["export"]), "").stdout);
    assert!(moved == whole, "the events are the same");
    // It has the checksum of one that nobody disturbed.
    let undisturbed = place.path("undisturbed.db");
    place.ok(&["copy", text(&source), text(&undisturbed)]);
    let again = place.path("again.db");
    let checksum = |from: &Path, to: &Path| {
        let told = place.ok(&["copy", text(from), text(to), "--json"]);
        lines(&told)[0]["checksum"].clone()
    };
    assert_eq!(
        checksum(&target, &again),
        checksum(&undisturbed, &place.path("third.db"))
    );
}
