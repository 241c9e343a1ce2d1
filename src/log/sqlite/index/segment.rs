//! Who knows which events of a stretch have a key.

use crate::log::page::Range;

/// Who is asked about a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Runs,
    Stage,
    /// Nobody knows: each event is asked itself.
    Rows,
}

/// Cuts `range` into stretches, in the order of the log, each with the one who is asked about it. Runs hold everything up to
/// `indexed_through`, the stage what it covers.
pub(crate) fn segments(
    range: Range,
    indexed_through: u64,
    staged: Range,
) -> impl Iterator<Item = (Source, Range)> {
    let borders = [
        (Source::Runs, indexed_through),
        (Source::Rows, staged.after),
        (Source::Stage, staged.through),
        (Source::Rows, u64::MAX),
    ];
    let mut after = range.after;
    borders.into_iter().filter_map(move |(source, border)| {
        let through = border.min(range.through);
        if through <= after {
            return None;
        }
        let stretch = Range { after, through };
        after = through;
        Some((source, stretch))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination of small numbers: each sequence is in one segment, in order, and is asked where it is known.
    #[test]
    fn every_sequence_is_asked_once_where_it_is_known() {
        let numbers = || 0..6_u64;
        let ranges =
            || numbers().flat_map(move |after| (after..6).map(move |through| Range { after, through }));
        for range in ranges() {
            for indexed_through in numbers() {
                for staged in ranges() {
                    let mut next = range.after;
                    for (source, stretch) in segments(range, indexed_through, staged) {
                        assert_eq!(stretch.after, next);
                        assert!(stretch.through > stretch.after);
                        next = stretch.through;
                        for sequence in stretch.after + 1..=stretch.through {
                            let in_stage = staged.after < sequence && sequence <= staged.through;
                            let expected = if sequence <= indexed_through {
                                Source::Runs
                            } else if in_stage {
                                Source::Stage
                            } else {
                                Source::Rows
                            };
                            assert_eq!(
                                source, expected,
                                "{sequence} of {range:?}: {indexed_through}, {staged:?}"
                            );
                        }
                    }
                    assert_eq!(next, range.through.max(range.after));
                }
            }
        }
    }
}
