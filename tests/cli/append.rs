//! `append` and its conditions.

use serde_json::json;

use crate::{Place, lines, sequences};

const PLACED: &str =
    r#"{"type":"order-placed","payload":{"order":7},"tags":["order:7"],"metadata":{"correlation_id":"c"}}"#;
const PAID: &str = r#"{"type":"order-paid","payload":{"order":7},"tags":["order:7"]}"#;

/// The batches of the log, as ranges.
fn batches(place: &Place) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = lines(&place.ok(&["events", "--json"]))
        .iter()
        .map(|event| {
            let number = |key: &str| event[key].as_u64().unwrap();
            (number("batch_first_sequence"), number("batch_last_sequence"))
        })
        .collect();
    ranges.dedup();
    ranges
}

#[test]
fn a_line_is_a_batch_an_array_is_a_batch_and_lines_can_be_collected() {
    let place = Place::new();
    let outcome = place.feed(&["append"], &format!("{PLACED}\n\n[{PLACED},{PAID}]\n{PAID}"));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert_eq!(
        outcome.stdout,
        "appended 4 events in 3 batches, sequences 1 to 4\n"
    );
    assert_eq!(batches(&place), [(1, 1), (2, 3), (4, 4)]);
    // The array ends the batch that was being collected.
    let input = format!("{PLACED}\n{PAID}\n{PLACED}\n[{PAID}]\n{PLACED}\n");
    let outcome = place.feed(&["append", "--batch", "2", "--json"], &input);
    let expected = json!({"events": 5, "batches": 4, "first_sequence": 5, "last_sequence": 9});
    assert_eq!(lines(&outcome.stdout), [expected]);
    assert_eq!(batches(&place)[3..], [(5, 6), (7, 7), (8, 8), (9, 9)]);
    let first = &lines(&place.ok(&["events", "--json", "-n", "1"]))[0];
    assert_eq!(first["type"], "order-placed");
    assert_eq!(first["payload"], json!({"order": 7}));
    assert_eq!(first["tags"], json!(["order:7"]));
    assert_eq!(first["metadata"], json!({"correlation_id": "c"}));
}

#[test]
fn a_bad_line_is_named_and_nothing_of_its_batch_is_appended() {
    let place = Place::new();
    for (bad, problem) in [
        (r#"{"type":"a"}"#, "missing field `payload`"),
        (r#"{"type":"","payload":1}"#, "the event type is empty"),
        (r#"{"type":"a","payload":{]}"#, "at column"),
        (
            r#"[{"type":"a","payload":1},{"payload":1}]"#,
            "event 1 of the array",
        ),
        ("order", "not an event"),
    ] {
        let input = format!("{PLACED}\n{PAID}\n{PLACED}\n{bad}\n{PAID}\n");
        let head = lines(&place_head(&place));
        let outcome = place.feed(&["append", "--batch", "2"], &input);
        assert_eq!(outcome.code, 1, "{bad}: {outcome:?}");
        assert_eq!(outcome.stdout, "");
        let line = outcome.stderr.lines().next().unwrap();
        assert!(line.starts_with("error: line 4: "), "{line}");
        assert!(line.contains(problem), "{line}");
        assert!(!line.contains("line 1 column"), "{line}");
        assert!(line.contains("nothing of its batch was appended"), "{line}");
        // The array stands alone, so that the third line is a batch before it.
        let (events, came) = if bad.starts_with('[') {
            (3, "3 events in 2 batches")
        } else {
            (2, "2 events in 1 batch")
        };
        assert!(line.contains(&format!("appended before: {came}")), "{line}");
        let before = head.first().map_or(0, |told| told["head"].as_u64().unwrap());
        assert_eq!(lines(&place_head(&place))[0]["head"], before + events);
    }
}

/// The head as JSON; nothing, when there is no log yet.
fn place_head(place: &Place) -> String {
    match place.db().exists() {
        true => place.ok(&["context", "--json"]),
        false => String::new(),
    }
}

#[test]
fn a_decision_is_appended_whole_and_only_while_its_context_stands() {
    let place = Place::new();
    let order = ["--tag", "order:7"];
    assert_eq!(place.feed(&["append"], &format!("{PLACED}\n")).code, 0);
    assert_eq!(place.feed(&["append"], r#"{"type":"other","payload":1}"#).code, 0);
    let version = place.ok(&["context", "--tag", "order:7"]);
    assert_eq!(version, "1\n");
    let expect = |version: &str| {
        let arguments = [&["append", "--expect", version][..], &order].concat();
        place.feed(&arguments, &format!("{PAID}\n{PAID}\n"))
    };
    assert_eq!(
        expect("1").stdout,
        "appended 2 events in 1 batch, sequences 3 to 4\n"
    );
    let late = expect("1");
    assert_eq!((late.code, late.stdout.as_str()), (3, ""));
    assert!(
        late.stderr
            .starts_with("conflict: the context moved: expected version 1"),
        "{late:?}"
    );
    assert_eq!(place.ok(&["context"]), "4\n");
    assert_eq!(place.ok(&["context", "--type", "refunded"]), "0\n");
    let unchanged = [&["append", "--if-unchanged"][..], &order].concat();
    assert_eq!(place.feed(&unchanged, PAID).code, 0);
}

#[test]
fn a_context_that_moves_while_the_input_is_written_is_noticed() {
    use std::io::Write;
    use std::process::Stdio;

    let place = Place::new();
    place.append_batches(&[1]);
    let store = millstream::Store::open(place.db()).unwrap();
    let mut child = crate::command(&place.db(), &["append", "--if-unchanged", "--tag", "order:7"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than a pipe holds: when it was taken, the command has begun, and has looked at the log.
    let filler = "\n".repeat(1 << 20);
    stdin.write_all(filler.as_bytes()).unwrap();
    store
        .append_blocking([millstream::NewEvent::new("order-placed", 7).tag("order:7")])
        .unwrap();
    stdin.write_all(PAID.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(sequences(&place.ok(&["events", "--json"])), [1, 2]);
}
