//! A program with random upcasters: as data, from which both the store's builder and the plain model are made.

use std::collections::BTreeMap;

use millstream::StoreBuilder;
use proptest::prelude::*;
use serde_json::{Value, json};

pub(crate) const TYPES: &[&str] = &["a", "b", "c", "d"];
pub(crate) const NUMBERS: i64 = 4;

/// What an upcaster panics with.
pub(crate) const PANICS: &str = "it panics here";

/// What an upcaster does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// The number moves on.
    Next,
    /// A member comes or goes.
    Mark,
    FailsAt(i64),
    PanicsAt(i64),
}

#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// For some types the version of the first upcaster, and the upcasters.
    pub(crate) upcasts: BTreeMap<&'static str, (u32, Vec<Change>)>,
    pub(crate) renames: BTreeMap<&'static str, &'static str>,
    pub(crate) newest: BTreeMap<&'static str, u32>,
}

impl Change {
    /// What becomes of a payload.
    pub(crate) fn apply(self, mut payload: Value) -> Result<Value, String> {
        let number = payload["n"].as_i64().unwrap_or(-1);
        match self {
            Self::Next => payload["n"] = json!((number + 1) % NUMBERS),
            Self::Mark => match payload.get("mark") {
                Some(_) => {
                    payload.as_object_mut().map(|members| members.remove("mark"));
                }
                None => payload["mark"] = json!(number),
            },
            Self::FailsAt(at) if at == number => return Err(String::from("it fails here")),
            Self::PanicsAt(at) => assert!(at != number, "{PANICS}"),
            Self::FailsAt(_) => {}
        }
        Ok(payload)
    }
}

impl Program {
    pub(crate) fn register(&self, mut builder: StoreBuilder) -> StoreBuilder {
        for (name, (first, changes)) in &self.upcasts {
            for (version, change) in (*first..).zip(changes.iter().copied()) {
                builder = builder.upcast(*name, version, move |payload| change.apply(payload));
            }
        }
        for (name, renamed) in &self.renames {
            builder = builder.rename_type(*name, *renamed);
        }
        for (name, version) in &self.newest {
            builder = builder.newest_version(*name, *version);
        }
        builder
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => Just(Change::Next),
        2 => Just(Change::Mark),
        1 => (0..NUMBERS).prop_map(Change::FailsAt),
        1 => (0..NUMBERS).prop_map(Change::PanicsAt),
    ]
}

/// Renames lead to later types, so that there is no circle.
pub(crate) fn program() -> impl Strategy<Value = Program> {
    let upcasts = prop::collection::btree_map(
        prop::sample::select(TYPES),
        (1..3_u32, prop::collection::vec(change(), 1..3)),
        0..3,
    );
    let renames = prop::collection::vec(prop::option::weighted(0.4, any::<prop::sample::Index>()), 3);
    let newest = prop::collection::btree_map(prop::sample::select(TYPES), 1..4_u32, 0..2);
    (upcasts, renames, newest).prop_map(|(upcasts, renames, mut newest)| {
        let named = TYPES.iter().zip(renames).enumerate();
        let renames = named.filter_map(|(index, (name, target))| {
            let later = &TYPES[index + 1..];
            Some((*name, *target?.get(later)))
        });
        newest.retain(|name, _| !upcasts.contains_key(name));
        Program {
            upcasts,
            renames: renames.collect(),
            newest,
        }
    })
}
