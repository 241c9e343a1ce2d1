//! The table against a naive one: random histories of asking, opening, giving back, closing and deleting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use tokio::time::Instant;

use crate::tenant::table::{Answer, Removal, Room, Stage, Table};

/// What happens, to one of three names.
#[derive(Clone, Copy, Debug)]
enum Event {
    Ask(usize),
    GiveBack(usize),
    OpeningEnds {
        name: usize,
        succeeds: bool,
    },
    /// Closes what was looked at last, after looking anew when it says so.
    Close {
        looks: bool,
    },
    EndingEnds(usize),
    Delete(usize),
    Shut,
}

fn event() -> impl Strategy<Value = Event> {
    let name = 0..3_usize;
    prop_oneof![
        6 => name.clone().prop_map(Event::Ask),
        4 => name.clone().prop_map(Event::GiveBack),
        4 => (name.clone(), any::<bool>()).prop_map(|(name, succeeds)| Event::OpeningEnds { name, succeeds }),
        3 => any::<bool>().prop_map(|looks| Event::Close { looks }),
        3 => name.clone().prop_map(Event::EndingEnds),
        2 => name.prop_map(Event::Delete),
        1 => Just(Event::Shut),
    ]
}

/// What an open tenant is here: its number among all openings.
type Opening = u64;

/// A naive account of what was said to be the case.
#[derive(Default)]
struct Account {
    opening: BTreeSet<usize>,
    open: BTreeMap<usize, Opening>,
    ending: BTreeSet<usize>,
    held: BTreeMap<usize, Vec<Opening>>,
    openings: u64,
    is_shut: bool,
}

impl Account {
    fn holds(&self, name: usize) -> usize {
        let open = self.open.get(&name);
        let held = self.held.get(&name).map_or(&[][..], Vec::as_slice);
        held.iter().filter(|opening| Some(*opening) == open).count()
    }
}

proptest! {
    #[test]
    fn nobody_is_given_what_is_closed_and_nothing_is_closed_that_somebody_holds(
        events in prop::collection::vec(event(), 1..120),
    ) {
        let names: [Arc<str>; 3] = ["a".into(), "b".into(), "c".into()];
        let index = |name: &str| names.iter().position(|known| &**known == name).expect("known");
        let now = Instant::now();
        let mut table: Table<Opening, ()> = Table::new();
        let mut account = Account::default();
        let mut looked_at = Vec::new();
        for event in events {
            match event {
                Event::Ask(name) => match table.take(&names[name], now) {
                    Answer::Taken(opening) => {
                        prop_assert_eq!(Some(&opening), account.open.get(&name));
                        account.held.entry(name).or_default().push(opening);
                    }
                    Answer::Opening(()) => prop_assert!(account.opening.contains(&name)),
                    Answer::Ending => prop_assert!(account.ending.contains(&name)),
                    Answer::Shut => prop_assert!(account.is_shut),
                    Answer::Absent => {
                        prop_assert!(!account.is_shut, "nothing is handed out any more");
                        prop_assert!(table.begin_open(&names[name], ()));
                        prop_assert!(!table.begin_open(&names[name], ()), "one opens it");
                        prop_assert!(account.opening.insert(name));
                        prop_assert!(!account.open.contains_key(&name) && !account.ending.contains(&name));
                    }
                },
                Event::GiveBack(name) => {
                    let held = account.held.get_mut(&name).and_then(Vec::pop);
                    if held.is_some() {
                        table.release(&names[name], now);
                    }
                }
                Event::OpeningEnds { name, succeeds } if account.opening.remove(&name) => {
                    account.openings += 1;
                    let opening = account.openings;
                    match succeeds.then(|| table.opened(&names[name], opening, now)) {
                        Some(true) => {
                            account.open.insert(name, opening);
                            account.held.entry(name).or_default().push(opening);
                        }
                        Some(false) => {
                            prop_assert!(account.is_shut);
                            table.gone(&names[name]);
                        }
                        None => table.gone(&names[name]),
                    }
                }
                Event::OpeningEnds { .. } => {}
                Event::Close { looks } => {
                    if looks {
                        looked_at = table.unused(None, |opening| *opening);
                    }
                    if let Some(unused) = looked_at.pop()
                        && let Some(closed) = table.begin_close(&unused)
                    {
                        let name = index(&unused.name);
                        prop_assert_eq!(closed, unused.tenant, "the one that was looked at");
                        prop_assert_eq!(account.holds(name), 0, "nobody holds it");
                        prop_assert_eq!(account.open.remove(&name), Some(closed));
                        account.ending.insert(name);
                    }
                }
                Event::EndingEnds(name) => {
                    if account.ending.remove(&name) {
                        table.gone(&names[name]);
                    }
                }
                Event::Delete(name) => match table.begin_delete(&names[name]) {
                    Removal::Begun(open) => {
                        prop_assert!(!account.is_shut, "nothing is begun any more");
                        prop_assert_eq!(account.holds(name), 0, "nobody holds it");
                        prop_assert_eq!(account.open.remove(&name), open);
                        prop_assert!(account.ending.insert(name));
                        prop_assert!(!account.opening.contains(&name));
                    }
                    Removal::Held(count) => prop_assert_eq!(count, account.holds(name)),
                    Removal::Later => {
                        prop_assert!(account.opening.contains(&name) || account.ending.contains(&name));
                    }
                    Removal::Shut => prop_assert!(account.is_shut),
                },
                Event::Shut => {
                    account.is_shut = true;
                    for (name, opening) in table.shut() {
                        let name = index(&name);
                        prop_assert_eq!(account.open.remove(&name), Some(opening));
                        account.ending.insert(name);
                    }
                    prop_assert!(account.open.is_empty(), "all that is open is given up");
                }
            }
            for (number, name) in names.iter().enumerate() {
                let expected = match () {
                    () if account.opening.contains(&number) => Some(Stage::Opening),
                    () if account.open.contains_key(&number) => Some(Stage::Open),
                    () if account.ending.contains(&number) => table.stage(name).filter(|stage| *stage != Stage::Open),
                    () => None,
                };
                prop_assert_eq!(table.stage(name), expected);
            }
            for seen in table.seen() {
                prop_assert_eq!(seen.handles, account.holds(index(&seen.name)));
            }
        }
    }
}

#[test]
fn the_one_that_was_used_longest_ago_comes_first() {
    let now = Instant::now();
    let mut table: Table<u32, ()> = Table::new();
    let names: [Arc<str>; 3] = ["a".into(), "b".into(), "c".into()];
    for (number, name) in names.iter().enumerate() {
        assert!(table.begin_open(name, ()));
        assert!(table.opened(name, number as u32, now));
    }
    let order = |table: &Table<u32, ()>| -> Vec<_> {
        let unused = table.unused(None, |number| *number);
        unused.iter().map(|unused| unused.tenant).collect()
    };
    // Who was given back last was used last, however long ago it was taken.
    for name in [&names[1], &names[2], &names[0]] {
        table.release(name, now);
    }
    assert_eq!(order(&table), [1, 2, 0]);
    assert!(matches!(table.take("b", now), Answer::Taken(1)));
    assert_eq!(order(&table), [2, 0]);
    table.release("b", now);
    assert_eq!(order(&table), [2, 0, 1]);
}

#[test]
fn no_more_are_closed_than_room_is_wanted_for() {
    let now = Instant::now();
    let mut table: Table<(), ()> = Table::new();
    for name in ["a", "b"].map(Arc::from) {
        assert!(table.begin_open(&name, ()));
        assert!(table.opened(&name, (), now));
        table.release(&name, now);
    }
    assert!(!table.wants_room());
    table.room_wanted(Room::Wanted);
    assert!(table.wants_room());
    let unused = table.unused(None, |_| ());
    assert!(table.begin_close(&unused[0]).is_some());
    assert!(!table.wants_room(), "room is being made");
    table.room_wanted(Room::Wanted);
    assert!(table.wants_room());
    table.room_wanted(Room::NotWanted);
    assert!(!table.wants_room());
}
