//! `verify`, on files that were damaged by other means.

use millstream::{DurableStream, HandleStream, NewEvent, Store};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{Outcome, Place, lines};

/// A sound log with batches, metadata, runs of the index over tags and a path, and a cursor.
fn sound() -> Place {
    let place = Place::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::builder().index_payload("/order").open(place.db()).unwrap();
        for batch in 0..4 {
            // More entries than the index keeps in memory.
            let events = (0..2500).map(|number| {
                let order = batch * 2500 + number;
                let event = NewEvent::new("order-placed", json!({"order": order}));
                event.tag(format!("order:{order}")).correlation_id("c")
            });
            store.append(events).await.unwrap();
        }
        let handle = HandleStream::new(|_| async { Ok::<_, std::io::Error>(()) });
        let stream = store
            .stream_all_durable(&DurableStream::new("ledger"), handle)
            .await
            .unwrap();
        stream.caught_up().await.unwrap();
        store.close().await.unwrap();
    });
    place
}

/// Changes the file behind the back of everybody, its triggers left out.
fn damage(place: &Place, sql: &str) {
    let file = Connection::open(place.db()).unwrap();
    file.execute_batch(&format!(
        "PRAGMA foreign_keys=0; DROP TRIGGER IF EXISTS event_is_immutable; DROP TRIGGER IF EXISTS event_removed; {sql}"
    ))
    .unwrap();
}

fn verify(place: &Place) -> (Outcome, Value) {
    let outcome = place.run(&["verify", "--json"]);
    let told = lines(&outcome.stdout).remove(0);
    (outcome, told)
}

/// What was found, as kinds.
fn kinds(told: &Value) -> Vec<String> {
    let findings = told["findings"].as_array().unwrap().iter();
    findings
        .map(|finding| finding["finding"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_sound_log_is_said_to_be_sound() {
    let place = sound();
    let (outcome, told) = verify(&place);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(told["is_sound"], json!(true));
    assert_eq!((&told["events"], &told["batches"]), (&json!(10000), &json!(4)));
    assert_eq!(told["cursors"], json!(1));
    // A tag and a path for each event that has left the memory.
    let entries = told["index_entries"].as_u64().unwrap();
    assert!(entries >= 16384 && entries.is_multiple_of(2), "{entries}");
    let text = place.ok(&["verify"]);
    assert!(
        text.starts_with("sound; looked at 10000 events, 4 batches, "),
        "{text}"
    );
}

#[test]
fn damage_is_found_and_named_with_exit_code_4() {
    let place = sound();
    let untouched = std::fs::read(place.db()).unwrap();
    for (sql, expected) in [
        // A row in the middle of a batch.
        (
            "DELETE FROM event WHERE sequence = 7000",
            &["events-missing", "batch-torn"][..],
        ),
        (
            "DELETE FROM event WHERE sequence > 9990",
            &["batch-torn", "cursor-ahead", "log-row", "index-entry-foreign"],
        ),
        (
            "UPDATE event SET batch_size = 2499 WHERE sequence = 6000",
            &["batch-torn"],
        ),
        (
            "UPDATE event SET batch_index = 7 WHERE sequence = 5001",
            &["batch-torn"],
        ),
        (
            "UPDATE event SET recorded_at = 5 WHERE sequence > 7500",
            &["time-fell"],
        ),
        ("UPDATE event SET type = 99 WHERE sequence = 3", &["type-unknown"]),
        (
            "PRAGMA ignore_check_constraints=1; UPDATE event_type SET schema_version = 0",
            &["storage"],
        ),
        (
            "UPDATE event SET payload = '{\"order\":' WHERE sequence = 4",
            &["event-damaged"],
        ),
        (
            "UPDATE event SET metadata = '[1]' WHERE sequence = 4",
            &["event-damaged"],
        ),
        (
            "UPDATE event SET tags = '[\"a\",\"a\"]' WHERE sequence = 4",
            &["event-damaged"],
        ),
        // The event carries another tag than the index says: one entry is missing, one is of nothing.
        (
            "UPDATE event SET tags = '[\"order:other\"]' WHERE sequence = 4",
            &["index-entry-missing", "index-entry-foreign"],
        ),
        (
            "UPDATE event SET payload = '{\"order\":-1}' WHERE sequence = 5",
            &["index-entry-missing", "index-entry-foreign"],
        ),
        (
            "UPDATE index_block SET entries = substr(entries, 1, 16 * 249) WHERE id = 1",
            &["index-entry-missing"],
        ),
        (
            "UPDATE index_block SET entries = substr(entries, 1, 40) WHERE id = 1",
            &["index-run-damaged", "index-differs", "index-entry-missing"],
        ),
        (
            "UPDATE index_block SET first_key = first_key + 1 WHERE id = 1",
            &["index-run-damaged", "index-differs", "index-entry-missing"],
        ),
        (
            "UPDATE index_run SET through = through + 1",
            &["index-run-damaged"],
        ),
        (
            "DELETE FROM index_run",
            &["index-run-damaged", "index-differs", "index-entry-missing"],
        ),
        ("UPDATE cursor SET log_id = 'elsewhere'", &["cursor-foreign"]),
        ("UPDATE cursor SET position = 10001", &["cursor-ahead"]),
        ("UPDATE cursor SET query = '{'", &["cursor-damaged"]),
        ("UPDATE cursor SET retry = '{}'", &["cursor-damaged"]),
        (
            "INSERT INTO dead_letter (stream, first_sequence, last_sequence, state, attempts, parked_at)
             VALUES ('ledger', 9999, 10001, 'parked', 1, 1)",
            &["dead-letter-damaged"],
        ),
        (
            "INSERT INTO idempotency_key (first_sequence, last_sequence, key, fingerprint) VALUES (1, 10001, 'k', zeroblob(16))",
            &["idempotency-key-damaged"],
        ),
        ("UPDATE log SET log_id = 'x'", &["log-row", "cursor-foreign"]),
        ("UPDATE log SET pruned_through = 2", &["event-outlived-pruning"]),
        (
            "UPDATE log SET indexed_through = 15000",
            &["log-row", "index-entry-missing", "index-differs"],
        ),
    ] {
        std::fs::write(place.db(), &untouched).unwrap();
        damage(&place, sql);
        let (outcome, told) = verify(&place);
        assert_eq!(outcome.code, 4, "{sql}: {outcome:?}");
        assert_eq!(told["is_sound"], json!(false), "{sql}");
        let found = kinds(&told);
        for kind in &found {
            assert!(expected.contains(&kind.as_str()), "{sql}: {kind} in {found:?}");
        }
        assert!(found.iter().any(|kind| kind == expected[0]), "{sql}: {found:?}");
    }
}

#[test]
fn a_finding_names_what_is_broken() {
    let place = sound();
    damage(
        &place,
        "UPDATE event SET tags = '[\"order:other\"]' WHERE sequence = 4",
    );
    let outcome = place.run(&["verify"]);
    assert_eq!(outcome.code, 4);
    let found: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(
        found[0],
        "damaged: the index has no entry for event 4 with the tag \"order:other\""
    );
    assert!(
        found[1].starts_with("damaged: the index has an entry with the key "),
        "{found:?}"
    );
    assert!(
        found[2].starts_with("2 findings; looked at 10000 events"),
        "{found:?}"
    );
    assert_eq!(outcome.stderr, "");
}

#[test]
fn whole_batches_that_were_removed_by_hand_are_no_damage_and_parts_are() {
    let place = sound();
    let file = Connection::open(place.db()).unwrap();
    let remove = |range: &str| {
        file.execute_batch(&format!("DELETE FROM event WHERE sequence BETWEEN {range}"))
            .unwrap()
    };
    remove("2501 AND 5000");
    let (outcome, told) = verify(&place);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(told["removed_events"], json!(2500));
    remove("5001 AND 5003");
    let (outcome, told) = verify(&place);
    assert_eq!(
        (outcome.code, kinds(&told)),
        (4, vec![String::from("batch-torn")])
    );
}

#[test]
fn a_pruned_log_is_sound() {
    let place = sound();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open(place.db()).unwrap();
        let _ = store.prune(5_001).await.unwrap();
        store.close().await.unwrap();
    });
    let (outcome, told) = verify(&place);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(
        (&told["pruned_through"], &told["events"]),
        (&json!(5000), &json!(5000))
    );
    let stats = &lines(&place.ok(&["stats", "--json"]))[0];
    assert_eq!((&stats["events"], &stats["head"]), (&json!(5000), &json!(10000)));
    let first = lines(&place.ok(&["events", "--json", "-n", "1"]));
    assert_eq!(first[0]["sequence"], json!(5001));
    let last = lines(&place.ok(&["events", "--json", "-n", "1", "-r"]));
    assert_eq!(last[0]["sequence"], json!(10000));
}

#[test]
fn a_page_that_sqlite_cannot_read_is_found() {
    let place = sound();
    let mut bytes = std::fs::read(place.db()).unwrap();
    // Somewhere in the middle of the events.
    let middle = bytes.len() / 8 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    std::fs::write(place.db(), &bytes).unwrap();
    let (outcome, told) = verify(&place);
    assert_eq!(outcome.code, 4, "{outcome:?}");
    assert!(kinds(&told).contains(&String::from("storage")), "{told}");
}

#[test]
fn a_file_that_cannot_be_looked_at_is_not_called_damaged() {
    let place = Place::new();
    let cannot_be = |why: &str| {
        for arguments in [&["verify"][..], &["verify", "--json"]] {
            let outcome = place.run(arguments);
            assert_eq!(
                (outcome.code, outcome.stdout.as_str()),
                (1, ""),
                "{why}: {outcome:?}"
            );
            assert!(outcome.stderr.contains(why), "{why}: {outcome:?}");
        }
    };
    cannot_be("does not exist");
    std::fs::create_dir(place.db()).unwrap();
    cannot_be("unable to open");
    std::fs::remove_dir(place.db()).unwrap();
    std::fs::write(place.db(), "").unwrap();
    cannot_be("it is empty");
    std::fs::write(place.db(), vec![7; 10_000]).unwrap();
    cannot_be("not an SQLite database");
    std::fs::remove_file(place.db()).unwrap();
    let file = Connection::open(place.db()).unwrap();
    file.execute_batch("CREATE TABLE customer (id)").unwrap();
    cannot_be("another SQLite database");
    drop(file);
    std::fs::remove_file(place.db()).unwrap();
    place.append_batches(&[1]);
    damage(&place, "PRAGMA user_version = 99");
    cannot_be("format 99");
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_opened_is_not_called_damaged() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new();
    place.append_batches(&[1]);
    std::fs::set_permissions(place.db(), std::fs::Permissions::from_mode(0o000)).unwrap();
    let outcome = place.run(&["verify"]);
    // Nothing is closed to the administrator.
    let may_open = std::fs::File::open(place.db()).is_ok();
    let expected = if may_open { 0 } else { 1 };
    assert_eq!(outcome.code, expected, "{outcome:?}");
    assert_eq!(
        outcome.stderr.contains("unable to open"),
        !may_open,
        "{outcome:?}"
    );
}

#[test]
fn damage_that_keeps_the_file_from_being_opened_is_code_4() {
    let place = sound();
    let file = std::fs::OpenOptions::new().write(true).open(place.db()).unwrap();
    file.set_len(5_000).unwrap();
    let outcome = place.run(&["verify"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (4, ""), "{outcome:?}");
    assert!(outcome.stderr.contains("it cannot even be opened"), "{outcome:?}");
    let outcome = place.run(&["verify", "--json"]);
    let told = lines(&outcome.stderr).remove(0);
    assert_eq!((outcome.code, &told["exit_code"]), (4, &json!(4)));
}
