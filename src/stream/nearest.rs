//! The name that somebody may have meant: pure.

/// The candidate that is most like the name, if one is alike: at most a third of the name's characters, and at least one, were
/// left out, put in, exchanged, or swapped with their neighbour.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance_max = (name.chars().count() / 3).max(1);
    let distances = candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate));
    let near = distances.filter(|(distance, _)| *distance <= distance_max);
    near.min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many single mistakes lie between two texts, each place counted once.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut before = vec![0; other.len() + 1];
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, &here) in one.iter().enumerate() {
        let mut next = vec![row + 1; other.len() + 1];
        for (column, &there) in other.iter().enumerate() {
            let exchanged = last[column] + usize::from(here != there);
            let mut least = exchanged.min(last[column + 1] + 1).min(next[column] + 1);
            let is_swapped = row > 0 && column > 0 && here == other[column - 1] && one[row - 1] == there;
            if is_swapped {
                least = least.min(before[column - 1] + 1);
            }
            next[column + 1] = least;
        }
        before = std::mem::replace(&mut last, next);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_finds_the_one_that_was_meant() {
        let names = ["ledger", "letters", "read-model-7", "größen"];
        for (given, meant) in [
            ("leger", Some("ledger")),
            ("ledgre", Some("ledger")),
            ("Ledger", Some("ledger")),
            ("read_model_7", Some("read-model-7")),
            ("größn", Some("größen")),
            ("invoices", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, names), meant, "{given:?}");
        }
        assert_eq!(nearest("a", []), None);
        assert_eq!(
            (distance("ca", "abc"), distance("", "ab"), distance("ab", "ba")),
            (3, 2, 1)
        );
    }
}
