//! Unions and intersections of sequences.

use rusqlite::Connection;

use crate::log::sqlite::index::scan::Sequences;

/// The sequences that all members have: each is led to the furthest of them until they agree.
pub(crate) struct Intersection(Vec<Box<dyn Sequences>>);

impl Intersection {
    pub(crate) fn of(mut members: Vec<Box<dyn Sequences>>) -> Box<dyn Sequences> {
        match members.len() {
            1 => members.remove(0),
            _ => Box::new(Self(members)),
        }
    }
}

impl Sequences for Intersection {
    fn next(&mut self, connection: &Connection, mut from: u64) -> rusqlite::Result<Option<u64>> {
        let (mut agreed, all) = (0, self.0.len());
        loop {
            for member in &mut self.0 {
                match member.next(connection, from)? {
                    None => return Ok(None),
                    Some(sequence) if sequence == from => agreed += 1,
                    Some(sequence) => {
                        from = sequence;
                        agreed = 1;
                    }
                }
                if agreed == all {
                    return Ok(Some(from));
                }
            }
        }
    }
}

/// The sequences that any member has, each once.
pub(crate) struct Union {
    members: Vec<Member>,
}

struct Member {
    sequences: Box<dyn Sequences>,
    /// What it gave last, as long as nobody asked for more.
    next: Option<u64>,
}

impl Union {
    pub(crate) fn of(mut members: Vec<Box<dyn Sequences>>) -> Box<dyn Sequences> {
        if members.len() == 1 {
            return members.remove(0);
        }
        let member = |sequences| Member {
            sequences,
            next: Some(0),
        };
        Box::new(Self {
            members: members.into_iter().map(member).collect(),
        })
    }
}

impl Sequences for Union {
    fn next(&mut self, connection: &Connection, from: u64) -> rusqlite::Result<Option<u64>> {
        let mut first = None;
        for member in &mut self.members {
            if member.next.is_some_and(|next| next < from) {
                member.next = member.sequences.next(connection, from)?;
            }
            first = [first, member.next].into_iter().flatten().min();
        }
        self.members.retain(|member| member.next.is_some());
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::log::sqlite::index::scan::StageScan;

    fn boxed(sets: &[BTreeSet<u64>]) -> Vec<Box<dyn Sequences>> {
        let scan = |set: &BTreeSet<u64>| {
            let sequences: VecDeque<u64> = set.iter().copied().collect();
            Box::new(StageScan::new(sequences)) as Box<dyn Sequences>
        };
        sets.iter().map(scan).collect()
    }

    fn all(mut sequences: Box<dyn Sequences>) -> Vec<u64> {
        let connection = Connection::open_in_memory().unwrap();
        let mut found = Vec::new();
        while let Some(sequence) = sequences
            .next(&connection, found.last().map_or(1, |last| last + 1))
            .unwrap()
        {
            found.push(sequence);
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn unions_and_intersections_are_those_of_sets(sets in vec(btree_set(1_u64..40, 0..20), 1..5)) {
            let union: BTreeSet<u64> = sets.iter().flatten().copied().collect();
            let is_common = |sequence: &u64| sets.iter().all(|set| set.contains(sequence));
            let common: Vec<u64> = union.iter().copied().filter(is_common).collect();
            prop_assert_eq!(all(Union::of(boxed(&sets))), union.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(all(Intersection::of(boxed(&sets))), common);
        }
    }
}
