//! Which runs are merged next: a pure decision.

use crate::log::page::Range;

/// A sorted run of entries: those of the events of a stretch of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) id: i64,
    /// 0 as it was spilled; one more with every merge.
    pub(crate) level: u32,
    pub(crate) covers: Range,
}

/// How many runs of a level make one of the next.
pub(crate) const FAN_IN: usize = 8;

/// The level whose runs are to be merged next, and the stretch that the merged run will cover. Runs are given in the
/// order of the log; those of a level stand together, the higher levels first. The lowest level goes first: its merges are the
/// short ones, and the runs that a search has to ask stay few.
pub(crate) fn due(runs: &[Run], is_merging: impl Fn(u32) -> bool) -> Option<(u32, Range)> {
    let mut inputs: &[Run] = &[];
    for level in runs.chunk_by(|one, other| one.level == other.level).rev() {
        if level.len() >= FAN_IN && !is_merging(level[0].level) {
            inputs = &level[..FAN_IN];
            break;
        }
    }
    let (first, last) = (inputs.first()?, inputs.last()?);
    let covers = Range {
        after: first.covers.after,
        through: last.covers.through,
    };
    Some((first.level, covers))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spills run after run, merging whatever is due, and looks at what stands.
    #[test]
    fn runs_stay_few_and_cover_the_log_without_a_gap() {
        let mut runs: Vec<Run> = Vec::new();
        for spilled in 0..5000_u64 {
            runs.push(Run {
                id: 0,
                level: 0,
                covers: Range {
                    after: spilled,
                    through: spilled + 1,
                },
            });
            while let Some((level, covers)) = due(&runs, |_| false) {
                let is_input = |run: &Run| {
                    run.level == level
                        && covers.after <= run.covers.after
                        && run.covers.through <= covers.through
                };
                let at = runs.iter().position(is_input).unwrap();
                assert_eq!(runs.iter().filter(|run| is_input(run)).count(), FAN_IN);
                runs.retain(|run| !is_input(run));
                runs.insert(
                    at,
                    Run {
                        id: 0,
                        level: level + 1,
                        covers,
                    },
                );
            }
            let mut end = 0;
            for run in &runs {
                assert_eq!(run.covers.after, end, "{runs:?}");
                end = run.covers.through;
            }
            assert_eq!(end, spilled + 1);
            assert!(runs.is_sorted_by_key(|run| std::cmp::Reverse(run.level)));
            assert!(runs.len() <= 5 * (FAN_IN - 1));
        }
    }

    #[test]
    fn a_level_that_is_being_merged_is_left_alone() {
        let run = |id: u64, level| Run {
            id: id as i64,
            level,
            covers: Range {
                after: id,
                through: id + 1,
            },
        };
        let runs: Vec<Run> = (0..8)
            .map(|id| run(id, 1))
            .chain((8..20).map(|id| run(id, 0)))
            .collect();
        assert_eq!(due(&runs, |_| false).unwrap().0, 0);
        let (level, covers) = due(&runs, |level| level == 0).unwrap();
        assert_eq!((level, covers), (1, Range { after: 0, through: 8 }));
        assert_eq!(due(&runs, |_| true), None);
        assert_eq!(due(&runs[..7], |_| false), None);
    }
}
