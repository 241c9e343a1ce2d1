//! What a store with upcasters has to show, said plainly: bring up everything, then select.

use millstream::{EventFilter, EventQuery, NewEvent};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use crate::Seen;
use crate::program::{NUMBERS, Program, TYPES};

const TAGS: &[&str] = &["x", "y"];

/// An event as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    event_type: &'static str,
    version: u32,
    tags: Vec<&'static str>,
    number: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct Filter {
    types: Option<Vec<&'static str>>,
    tags: Option<Vec<&'static str>>,
    payloads: Option<Vec<Value>>,
}

pub(crate) type Query = Vec<Filter>;

/// What is shown of an event.
pub(crate) enum Shown {
    Event(String, u32, Value),
    /// It is not known what it is, but what it would be called.
    Undecodable(String),
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    (select(TYPES), 1..4_u32, subsequence(TAGS, 0..=2), 0..NUMBERS).prop_map(
        |(event_type, version, tags, number)| Event {
            event_type,
            version,
            tags,
            number,
        },
    )
}

pub(crate) fn query() -> impl Strategy<Value = Query> {
    let predicate = prop_oneof![
        3 => (0..NUMBERS).prop_map(|number| json!({"n": number})),
        1 => (0..NUMBERS).prop_map(|number| json!({"mark": number})),
    ];
    let filter = (
        prop::option::weighted(0.6, subsequence(TYPES, 0..=2)),
        prop::option::weighted(0.3, subsequence(TAGS, 1..=2)),
        prop::option::weighted(0.5, prop::collection::vec(predicate, 0..3)),
    );
    let filter = filter.prop_map(|(types, tags, payloads)| Filter {
        types,
        tags,
        payloads,
    });
    prop::collection::vec(filter, 1..3)
}

pub(crate) fn asked(query: &Query) -> EventQuery {
    EventQuery::any(query.iter().map(|filter| {
        let mut asked = match &filter.types {
            Some(types) => EventFilter::types(types.iter().copied()),
            None => EventFilter::all(),
        };
        if let Some(tags) = &filter.tags {
            asked = asked.tags(tags.iter().copied());
        }
        if let Some(payloads) = &filter.payloads {
            asked = asked.payloads(payloads.iter().cloned());
        }
        asked
    }))
}

impl Event {
    pub(crate) fn to_append(&self) -> NewEvent {
        NewEvent::new(self.event_type, json!({"n": self.number}))
            .tags(&self.tags)
            .schema_version(self.version)
    }

    /// What a program shows of it.
    pub(crate) fn shown(&self, program: &Program) -> Shown {
        let mut last = self.event_type;
        while let Some(renamed) = program.renames.get(last) {
            last = renamed;
        }
        let undecodable = || Shown::Undecodable(last.to_owned());
        let (mut name, mut version, mut payload) = (self.event_type, self.version, json!({"n": self.number}));
        loop {
            if let Some((first, changes)) = program.upcasts.get(name) {
                let newest = first + changes.len() as u32;
                while version != newest {
                    let change = version
                        .checked_sub(*first)
                        .and_then(|at| changes.get(at as usize));
                    let new = change.map(|change| std::panic::catch_unwind(|| change.apply(payload.clone())));
                    let Some(Ok(Ok(new))) = new else {
                        return undecodable();
                    };
                    payload = new;
                    version += 1;
                }
            } else if program.newest.get(name).is_some_and(|newest| *newest != version) {
                return undecodable();
            }
            match program.renames.get(name) {
                Some(renamed) => name = renamed,
                None => return Shown::Event(name.to_owned(), version, payload),
            }
        }
    }

    fn is_selected(&self, filter: &Filter, shown: &Shown) -> bool {
        let has_type = |types: &Vec<&str>| match shown {
            Shown::Event(name, ..) => types.contains(&&**name),
            Shown::Undecodable(name) => types.contains(&&**name) || types.contains(&self.event_type),
        };
        let has_tags = |tags: &Vec<&str>| tags.iter().all(|tag| self.tags.contains(tag));
        let has_payload = |payloads: &Vec<Value>| match shown {
            Shown::Undecodable(_) => !payloads.is_empty(),
            Shown::Event(.., payload) => payloads.iter().any(|predicate| {
                let members = predicate.as_object().expect("predicates are objects");
                members.iter().all(|(key, value)| payload.get(key) == Some(value))
            }),
        };
        filter.types.as_ref().is_none_or(has_type)
            && filter.tags.as_ref().is_none_or(has_tags)
            && filter.payloads.as_ref().is_none_or(has_payload)
    }
}

/// What a query selects of a log: the events, and the sequences of those that cannot be decoded.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Selected {
    pub(crate) events: Vec<Seen>,
    pub(crate) undecodable: Vec<u64>,
}

/// What the query selects of the events that stand after a sequence.
pub(crate) fn selected(log: &[Event], program: &Program, query: &Query, after: usize) -> Selected {
    let mut selected = Selected::default();
    for (sequence, event) in (1..).zip(log).skip(after) {
        let shown = event.shown(program);
        if !query.iter().any(|filter| event.is_selected(filter, &shown)) {
            continue;
        }
        match shown {
            Shown::Event(name, version, payload) => selected.events.push((sequence, name, version, payload)),
            Shown::Undecodable(_) => selected.undecodable.push(sequence),
        }
    }
    selected
}
