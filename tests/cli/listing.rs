//! `events`, `context` and `stats`.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::json;

use crate::{Place, command, lines, sequences};

/// Five batches: 1, 2 to 4, 5, 6 to 7, 8.
fn five_batches() -> Place {
    let place = Place::new();
    place.append_batches(&[1, 3, 1, 2]);
    let last = r#"{"type":"renamed","payload":{"number":8,"name":"grüße"},"tags":["number:8","last"]}"#;
    assert_eq!(place.feed(&["append"], last).code, 0);
    place
}

#[test]
fn events_are_selected_by_type_tag_payload_sequence_and_count() {
    let place = five_batches();
    for (arguments, expected) in [
        (&[][..], &[1, 2, 3, 4, 5, 6, 7, 8][..]),
        (&["--type", "renamed"], &[8]),
        (
            &["--type", "renamed", "--type", "counted", "--after", "6"],
            &[7, 8],
        ),
        (&["--tag", "number:8", "--tag", "last"], &[8]),
        (&["--tag", "number:7", "--tag", "last"], &[]),
        (
            &["--payload", r#"{"number":3}"#, "--payload", r#"{"number":5}"#],
            &[3, 5],
        ),
        (&["--after", "2", "--through", "3"], &[3]),
        (&["--through", "0"], &[]),
        (&["--after", "9"], &[]),
        (&["-n", "2"], &[1, 2]),
        (&["-n", "2", "--reverse"], &[8, 7]),
        (&["--reverse", "--after", "2", "--through", "6"], &[6, 5, 4, 3]),
        (&["--reverse", "--type", "counted", "-n", "3"], &[7, 6, 5]),
        (&["--since", "1h"], &[1, 2, 3, 4, 5, 6, 7, 8]),
        (&["--until", "1h"], &[]),
        (&["--since", "2999-01-01"], &[]),
    ] {
        let arguments = [&["events", "--json"][..], arguments].concat();
        assert_eq!(sequences(&place.ok(&arguments)), expected, "{arguments:?}");
    }
}

#[test]
fn a_time_selects_what_was_recorded_from_then_on() {
    let place = five_batches();
    let events = lines(&place.ok(&["events", "--json"]));
    let time = |sequence: usize| events[sequence - 1]["recorded_at"].as_str().unwrap();
    // Batches of one moment are selected together.
    let first_at = |sequence: usize| {
        let earlier = events
            .iter()
            .filter(|event| event["recorded_at"].as_str().unwrap() < time(sequence));
        earlier.count() as u64
    };
    let since = sequences(&place.ok(&["events", "--json", "--since", time(5)]));
    assert_eq!(since, (first_at(5) + 1..=8).collect::<Vec<_>>());
    let until = sequences(&place.ok(&["events", "--json", "--until", time(5)]));
    assert_eq!(until, (1..=first_at(5)).collect::<Vec<_>>());
}

#[test]
fn a_long_log_is_read_backwards_without_a_gap() {
    let place = Place::new();
    place.append_batches(&[300, 1, 700, 250, 2]);
    let reversed = sequences(&place.ok(&["events", "--json", "--reverse"]));
    assert_eq!(reversed, (1..=1253).rev().collect::<Vec<_>>());
    let one = sequences(&place.ok(&["events", "--json", "--reverse", "--tag", "number:2"]));
    assert_eq!(one, [2]);
    assert_eq!(place.ok(&["context", "--tag", "number:2"]), "2\n");
}

#[test]
fn a_listing_has_a_line_for_each_event_and_no_colours_in_a_pipe() {
    let place = five_batches();
    let listing = place.ok(&["events", "--after", "6"]);
    let found: Vec<&str> = listing.lines().collect();
    assert_eq!(found.len(), 3, "{listing}");
    assert!(found[0].starts_with("sequence  recorded"), "{listing}");
    assert!(found[2].trim_start().starts_with("8  20"), "{listing}");
    assert!(
        found[2].ends_with(r#"{"number":8,"name":"grüße"}  number:8 last"#),
        "{listing}"
    );
    assert!(!listing.contains('\u{1b}'));
    let none = place.run(&["events", "--type", "nothing"]);
    assert_eq!((none.code, none.stdout.as_str()), (0, ""));
    assert!(none.stderr.contains("no event is selected"));
}

#[test]
fn who_stops_reading_ends_the_command_quietly() {
    let place = Place::new();
    place.append_batches(&[5000]);
    for arguments in [
        &["events"][..],
        &["events", "--json"],
        &["export"],
        &["events", "--reverse"],
    ] {
        let mut child = command(&place.db(), arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        drop(stdout);
        let code = child.wait().unwrap().code();
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn statistics_count_types_and_days() {
    let place = five_batches();
    let told = &lines(&place.ok(&["stats", "--json"]))[0];
    assert_eq!((&told["events"], &told["head"]), (&json!(8), &json!(8)));
    let types = json!([{"type": "counted", "events": 7}, {"type": "renamed", "events": 1}]);
    assert_eq!(told["types"], types);
    let days = told["days"].as_array().unwrap().iter();
    assert_eq!(days.map(|day| day["events"].as_u64().unwrap()).sum::<u64>(), 8);
    assert!(told["bytes"].as_u64().unwrap() >= 4096);
    let text = place.ok(&["stats", "--types", "1"]);
    assert!(text.contains("87.5 %  ████"), "{text}");
    assert!(text.contains("and 1 more types"), "{text}");
    assert!(!text.contains("renamed"), "{text}");
}

#[test]
fn a_schema_version_is_shown_where_it_is_not_the_first() {
    let place = Place::new();
    let events = [
        r#"{"type":"order-placed","payload":1}"#,
        r#"{"type":"order-placed","payload":2,"schema_version":2}"#,
    ];
    assert_eq!(place.feed(&["append"], &events.join("\n")).code, 0);
    let told = place.ok(&["events"]);
    let rows: Vec<&str> = told.lines().skip(1).collect();
    assert!(rows[0].contains("  order-placed  "), "{told}");
    assert!(rows[1].contains("  order-placed v2  "), "{told}");
    let records = lines(&place.ok(&["events", "--json", "--type", "order-placed"]));
    assert_eq!(records[0].get("schema_version"), None);
    assert_eq!(records[1]["schema_version"], json!(2));
    let followed = lines(&place.ok(&["follow", "--json", "--after", "1", "-n", "1"]));
    assert_eq!(followed[0]["schema_version"], json!(2));
    let refused = place.feed(&["append"], r#"{"type":"a","payload":1,"schema_version":0}"#);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("versions count from 1"), "{refused:?}");
}
