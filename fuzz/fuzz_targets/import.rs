//! Arbitrary text as an event: refused with an error, or read back as it was.

#![no_main]

use std::sync::LazyLock;

use futures::TryStreamExt;
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use millstream::{AppendError, EventQuery, NewEvent, Store};

static STORE: LazyLock<Store> = LazyLock::new(|| {
    let builder = Store::builder().window_bytes(1 << 16);
    builder.in_memory().expect("the options make sense")
});

fuzz_target!(|text: &str| {
    let mut events = vec![NewEvent::raw("raw", text)];
    events.extend(NewEvent::from_json(text));
    for event in events {
        match STORE.append_blocking([event]) {
            Ok(appended) => read_back(text, appended.last_sequence),
            Err(AppendError::InvalidEvent { .. } | AppendError::BatchTooLarge { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
});

fn read_back(text: &str, sequence: u64) {
    let mut reader = STORE.read(&EventQuery::all()).after(sequence - 1);
    let batch = block_on(reader.try_next()).expect("what was appended can be read");
    let batch = batch.expect("what was appended is there");
    for event in &batch {
        event.payload().json().expect("what was accepted is JSON");
        assert!(
            text.contains(event.payload().as_str()),
            "the text is kept as it was"
        );
        assert!(EventQuery::types([event.event_type()]).matches(event));
    }
}
