//! Whether two appends say the same: a number for what their events mean.
//!
//! It is made of the events as the caller gave them, before any upcaster: of each, in order, the type, the schema version, the
//! tags as a set, the payload and the metadata. JSON counts as what it says: white space, the order of members and the way in
//! which a text is escaped do not, so that a value with a `HashMap` in it has the same fingerprint in the next process. Numbers
//! count as they are written. Sequences and times are no part of it. Fingerprints are stored: how they are made is part of the
//! file format.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::event::digest::Digest;
use crate::event::record::EventRecord;

/// What tells the events of an append from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) [u8; 16]);

impl Fingerprint {
    pub(crate) fn of(events: &[EventRecord]) -> Self {
        let mut digest = Digest::new();
        digest.number(events.len() as u64);
        for event in events {
            digest.text(event.stored_type());
            digest.number(u64::from(event.stored_version()));
            let mut tags: Vec<&str> = event.tags().collect();
            tags.sort_unstable();
            digest.number(tags.len() as u64);
            tags.iter().for_each(|tag| digest.text(tag));
            json(&mut digest, event.stored_payload());
            match event.metadata() {
                Some(metadata) => json(&mut digest, metadata.as_str()),
                None => digest.bytes(b"-"),
            }
        }
        Self(digest.finish().to_be_bytes())
    }
}

/// Feeds what a JSON text says. It was checked, so it is nested no deeper than it can be parsed.
fn json(digest: &mut Digest, text: &str) {
    let text = text.trim();
    let is_fed = match text.as_bytes().first() {
        Some(b'{') => object(digest, text),
        Some(b'[') => array(digest, text),
        Some(b'"') => string(digest, text),
        _ => None,
    };
    if is_fed.is_none() {
        digest.bytes(b"=");
        digest.text(text);
    }
}

fn object(digest: &mut Digest, text: &str) -> Option<()> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    digest.bytes(b"{");
    digest.number(members.len() as u64);
    for (name, value) in members {
        digest.text(&name);
        json(digest, value.get());
    }
    Some(())
}

fn array(digest: &mut Digest, text: &str) -> Option<()> {
    let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    digest.bytes(b"[");
    digest.number(elements.len() as u64);
    elements.iter().for_each(|element| json(digest, element.get()));
    Some(())
}

fn string(digest: &mut Digest, text: &str) -> Option<()> {
    let said: String = serde_json::from_str(text).ok()?;
    digest.bytes(b"\"");
    digest.text(&said);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::limits::Limits;
    use crate::event::new_event::{NewEvent, check_batch};

    fn of(events: impl IntoIterator<Item = NewEvent>) -> Fingerprint {
        Fingerprint::of(&check_batch(events, &Limits::default()).unwrap().0)
    }

    fn raw(payload: &str) -> NewEvent {
        NewEvent::raw("a", payload)
    }

    #[test]
    fn what_says_the_same_has_the_same_fingerprint() {
        let plain = of([raw(r#"{"a":[1,{"b":"ä\n"}],"c":null}"#).tags(["x", "y"])]);
        let other = r#" { "c" : null, "a" : [ 1 , {"b":"\u00e4\u000a"} ] } "#;
        assert_eq!(plain, of([raw(other).tags(["y", "x"])]));
        let with = |key: &str, value: i32| raw("1").metadata("k", 1).metadata(key, value);
        assert_eq!(
            of([with("l", 2)]),
            of([raw("1").metadata("l", 2).metadata("k", 1)])
        );
    }

    #[test]
    fn whatever_differs_is_told() {
        let events = [
            vec![raw("1")],
            vec![raw("1.0")],
            vec![raw("\"1\"")],
            vec![raw("[1]")],
            vec![raw("[[1]]")],
            vec![raw("{}")],
            vec![raw("[]")],
            vec![raw(r#"{"a":1}"#)],
            vec![raw(r#"{"a":2}"#)],
            vec![raw("12345678901234567890123")],
            vec![raw("12345678901234567890124")],
            vec![raw("1"), raw("1")],
            vec![raw("1").tag("1")],
            vec![raw("1").tags(["1", "2"])],
            vec![raw("1").schema_version(2)],
            vec![raw("1").metadata("k", 1)],
            vec![NewEvent::raw("b", "1")],
        ];
        let mut seen: Vec<[u8; 16]> = events.into_iter().map(|events| of(events).0).collect();
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn fingerprints_are_the_ones_that_stand_in_files() {
        let event = raw(r#"{"order":7}"#).tag("order:7").correlation_id("c-1");
        let fingerprint = u128::from_be_bytes(of([event, raw("null").schema_version(2)]).0);
        assert_eq!(
            fingerprint, 0x78be_cb25_6c92_26a4_7c81_e4ba_114c_4514,
            "{fingerprint:#x}"
        );
    }

    #[test]
    fn the_deepest_payload_has_a_fingerprint() {
        let deep = |inner: &str| format!("{}{inner}{}", "[".repeat(127), "]".repeat(127));
        assert_ne!(of([raw(&deep("1"))]), of([raw(&deep("2"))]));
    }
}
