//! What becomes of the batch in hand when events of it are set aside: which part is handled next, which letters there are, and
//! how far the position moves with them. Pure.
//!
//! Parts begin where the batch in hand begins, so the position never moves over an event that is neither handled nor in a
//! letter (D2), and of a key nothing is handled before what is parked of it.

use std::time::SystemTime;

use crate::event::batch::EventBatch;
use crate::event::record::EventRecord;
use crate::log::letter::{DeadLetter, DeadLetterState};
use crate::stream::failure::{Action, Failure};

/// Of a key so many bytes count. Keys that begin alike are one: that parks more than is needed, and keeps the order.
const KEY_BYTES_MAX: usize = 255;
/// Of a cause so many bytes are kept.
const CAUSE_BYTES_MAX: usize = 4 << 10;

/// Letters, and the position that the cursor has with them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Disposal {
    pub(crate) letters: Vec<DeadLetter>,
    pub(crate) through: u64,
}

/// The part of the batch in hand that comes next.
#[derive(Debug)]
pub(crate) enum Part {
    /// The handler gets all of it.
    Whole,
    /// The handler gets the part before the first event of a parked key.
    Call(EventBatch),
    /// It begins with events of parked keys, which queue behind what is parked.
    Queue(Disposal),
}

/// How often and when a batch failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempts {
    pub(crate) count: u32,
    pub(crate) first_failed_at: SystemTime,
    pub(crate) now: SystemTime,
}

/// Decides what comes next of the batch in hand, while keys are parked.
pub(crate) fn next_part(
    batch: &EventBatch,
    key: impl Fn(&EventRecord) -> Option<String>,
    is_parked: impl Fn(&str) -> bool,
    now: SystemTime,
) -> Part {
    let parked_key = |event: &EventRecord| key(event).map(cut_key).filter(|key| is_parked(key));
    let mut events = batch.iter().peekable();
    let mut queued = Vec::new();
    while let Some(event) = events.next_if(|event| parked_key(event).is_some()) {
        queued.push((parked_key(event), event.sequence()));
    }
    if !queued.is_empty() {
        let letters = runs(queued).map(|(key, sequences)| queued_letter(key, &sequences, now));
        let letters: Vec<_> = letters.collect();
        let through = match events.peek() {
            None => batch.last_sequence(),
            Some(_) => letters.last().map_or(0, |letter| letter.last_sequence),
        };
        return Part::Queue(Disposal { letters, through });
    }
    let (mut first, mut last) = (None, 0);
    for event in events {
        if parked_key(event).is_some() {
            let part = first.and_then(|first| batch.part(first, last));
            return part.map_or(Part::Whole, Part::Call);
        }
        first.get_or_insert(event.sequence());
        last = event.sequence();
    }
    Part::Whole
}

/// Decides what becomes of a batch whose handling failed for good. Nothing: the stream stops.
pub(crate) fn dispose(
    batch: &EventBatch,
    action: &Action,
    failure: &Failure,
    attempts: Attempts,
) -> Option<Disposal> {
    let named = failure
        .at
        .filter(|at| batch.iter().any(|event| event.sequence() == *at));
    let state = match action {
        Action::Stop => return None,
        Action::Park | Action::ParkKey(_) => DeadLetterState::Parked,
        Action::Skip => DeadLetterState::Skipped,
    };
    let is_meant = |event: &&EventRecord| named.is_none_or(|at| event.sequence() == at);
    let events = batch.iter().filter(is_meant).map(|event| {
        let key = match action {
            Action::ParkKey(key) => key(event).map(cut_key),
            _ => None,
        };
        (key, event.sequence())
    });
    let failed = |(key, sequences): (Option<String>, Vec<u64>)| DeadLetter {
        category: Some(failure.category),
        cause: Some(cut(failure.text.to_string(), CAUSE_BYTES_MAX)),
        attempts: attempts.count,
        first_failed_at: Some(attempts.first_failed_at),
        last_failed_at: Some(attempts.now),
        state,
        ..queued_letter(key, &sequences, attempts.now)
    };
    let letters: Vec<_> = runs(events.collect()).map(failed).collect();
    let through = named.filter(|at| batch.rest(*at).is_some());
    Some(Disposal {
        letters,
        through: through.unwrap_or(batch.last_sequence()),
    })
}

/// The events, joined where neighbours share a key.
fn runs(events: Vec<(Option<String>, u64)>) -> impl Iterator<Item = (Option<String>, Vec<u64>)> {
    let mut runs: Vec<(Option<String>, Vec<u64>)> = Vec::new();
    for (key, sequence) in events {
        match runs.last_mut() {
            Some((last, sequences)) if *last == key => sequences.push(sequence),
            _ => runs.push((key, vec![sequence])),
        }
    }
    runs.into_iter()
}

fn queued_letter(key: Option<String>, sequences: &[u64], now: SystemTime) -> DeadLetter {
    let letter = DeadLetter::set_aside(sequences, DeadLetterState::Queued, now);
    DeadLetter {
        key,
        ..letter.expect("a run has an event")
    }
}

fn cut_key(key: String) -> String {
    cut(key, KEY_BYTES_MAX)
}

/// A cause as it is stored.
pub(crate) fn cut_cause(cause: &str) -> String {
    cut(cause.to_owned(), CAUSE_BYTES_MAX)
}

fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::clock::Timestamp;
    use crate::error::FailureCategory;
    use crate::event::batch::CommittedBatch;
    use crate::event::limits::Limits;
    use crate::event::new_event::{NewEvent, check_batch};
    use crate::event::query::EventQuery;
    use crate::stream::failure::FailurePolicy;

    /// A batch from sequence 5 on, of events of these types; `-` is not selected, `o` has no key, and the others are their own.
    fn batch(types: &str) -> EventBatch {
        let events = types.chars().map(|name| NewEvent::new(name.to_string(), 1));
        let (records, _) = check_batch(events, &Limits::default()).unwrap();
        let batch = Arc::new(CommittedBatch::stamp(records, 5, Timestamp::EPOCH));
        let selected = types.chars().filter(|name| *name != '-').map(String::from);
        EventBatch::select(batch, &EventQuery::types(selected), 0).unwrap()
    }

    fn key(event: &EventRecord) -> Option<String> {
        (event.event_type() != "o").then(|| event.event_type().to_owned())
    }

    /// Key, first and last sequence of a letter.
    type Shape<'a> = (Option<&'a str>, u64, u64);

    /// The letters, and how far the position moves.
    fn shape(disposal: &Disposal) -> (Vec<Shape<'_>>, u64) {
        let letters = disposal.letters.iter();
        let shapes =
            letters.map(|letter| (letter.key.as_deref(), letter.first_sequence, letter.last_sequence));
        (shapes.collect(), disposal.through)
    }

    fn part(types: &str, parked: &str) -> Part {
        next_part(&batch(types), key, |key| parked.contains(key), UNIX_EPOCH)
    }

    #[test]
    fn events_of_parked_keys_queue_and_what_lies_before_them_is_handled() {
        assert!(matches!(part("abo", "c"), Part::Whole));
        assert!(matches!(part("o-o", "ab"), Part::Whole));
        let Part::Call(call) = part("bo-ab", "a") else {
            panic!("what lies before is handled");
        };
        assert_eq!(
            (call.first_sequence(), call.last_sequence(), call.len()),
            (5, 6, 2)
        );
        let Part::Queue(queue) = part("aa-acb", "ac") else {
            panic!("it begins with what is parked");
        };
        assert_eq!(shape(&queue), (vec![(Some("a"), 5, 8), (Some("c"), 9, 9)], 9));
        let counts: Vec<_> = queue.letters.iter().map(DeadLetter::event_count).collect();
        assert_eq!(counts, [3, 1]);
        assert!(queue.letters[0].contains(8) && !queue.letters[0].contains(7));
        // Behind the last selected event nothing is left to settle.
        let Part::Queue(queue) = part("a--", "a") else {
            panic!("it begins with what is parked");
        };
        assert_eq!(shape(&queue), (vec![(Some("a"), 5, 5)], 7));
    }

    fn disposed(types: &str, policy: &FailurePolicy, at: Option<u64>) -> Option<Disposal> {
        let mut failure = Failure::new(FailureCategory::Error, "no");
        failure.at = at;
        let attempts = Attempts {
            count: 3,
            first_failed_at: UNIX_EPOCH,
            now: UNIX_EPOCH,
        };
        dispose(&batch(types), &policy.action, &failure, attempts)
    }

    #[test]
    fn a_batch_is_set_aside_as_one_and_by_key_as_runs_of_a_key() {
        assert_eq!(disposed("aa", &FailurePolicy::stop(), None), None);
        let whole = disposed("ab-a-", &FailurePolicy::park(), None).unwrap();
        assert_eq!(shape(&whole), (vec![(None, 5, 8)], 9));
        assert_eq!(
            (whole.letters[0].event_count(), whole.letters[0].attempts),
            (3, 3)
        );
        let skipped = disposed("ab", &FailurePolicy::skip(), None).unwrap();
        assert_eq!(skipped.letters[0].state, DeadLetterState::Skipped);
        let keyed = disposed("aaboa", &FailurePolicy::park_key(key), None).unwrap();
        let letters = vec![
            (Some("a"), 5, 6),
            (Some("b"), 7, 7),
            (None, 8, 8),
            (Some("a"), 9, 9),
        ];
        assert_eq!(shape(&keyed), (letters, 9));
    }

    #[test]
    fn the_event_that_is_named_is_set_aside_alone() {
        for (policy, key) in [
            (FailurePolicy::park(), None),
            (FailurePolicy::skip(), None),
            (FailurePolicy::park_key(key), Some("b")),
        ] {
            let named = disposed("abc", &policy, Some(6)).unwrap();
            assert_eq!(shape(&named), (vec![(key, 6, 6)], 6));
        }
        let last = disposed("ab-", &FailurePolicy::park(), Some(6)).unwrap();
        assert_eq!(shape(&last), (vec![(None, 6, 6)], 7));
        // One that was not delivered says nothing.
        let foreign = disposed("ab", &FailurePolicy::park(), Some(99)).unwrap();
        assert_eq!(shape(&foreign), (vec![(None, 5, 6)], 6));
    }

    #[test]
    fn long_keys_and_causes_are_cut_between_characters() {
        assert_eq!(cut_key("ü".repeat(200)).len(), 254);
        assert_eq!(cut_cause(&"x".repeat(5_000)).len(), 4_096);
        assert_eq!(cut_key("ü".into()), "ü");
    }
}
