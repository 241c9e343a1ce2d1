//! What came out of all runs.

use std::collections::BTreeMap;

use scenario::protocol::Measured;
use serde::Serialize;

/// What came out of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) enum Outcome {
    Measured(Measured),
    /// There is nothing in the peer that would do it.
    Cannot(String),
    /// It does not build, crashed, or took too long.
    Failed(String),
}

/// All rounds of each scenario and peer.
#[derive(Default, Serialize)]
pub(crate) struct Results(BTreeMap<String, BTreeMap<String, Vec<Outcome>>>);

impl Results {
    pub(crate) fn add(&mut self, scenario: &str, peer: &str, outcome: Outcome) {
        let peers = self.0.entry(scenario.to_owned()).or_default();
        peers.entry(peer.to_owned()).or_default().push(outcome);
    }

    /// The round whose value is the median, with the counts of the worst round; or what went wrong, when no round was
    /// measured.
    pub(crate) fn get(&self, scenario: &str, peer: &str) -> Option<Outcome> {
        let rounds = self.0.get(scenario)?.get(peer)?;
        let mut measured: Vec<_> = rounds
            .iter()
            .filter_map(|outcome| match outcome {
                Outcome::Measured(measured) => Some(measured.clone()),
                Outcome::Cannot(_) | Outcome::Failed(_) => None,
            })
            .collect();
        if measured.is_empty() {
            return rounds.last().cloned();
        }
        measured.sort_by(|a, b| a.value.total_cmp(&b.value));
        let mut median = measured[measured.len() / 2].clone();
        let worst = |count: fn(&Measured) -> u64| measured.iter().map(count).max().unwrap_or(0);
        median.lost = worst(|it| it.lost);
        median.doubled = worst(|it| it.doubled);
        median.foreign = worst(|it| it.foreign);
        median.late = worst(|it| it.late);
        median.failed = worst(|it| it.failed);
        median.error = measured.iter().find_map(|it| it.error.clone());
        let failed = rounds.iter().find_map(|outcome| match outcome {
            Outcome::Failed(reason) => Some(format!("not in every round: {reason}")),
            _ => None,
        });
        median.error = failed.or(median.error);
        Some(Outcome::Measured(median))
    }

    /// What was measured, if it was.
    pub(crate) fn measured(&self, scenario: &str, peer: &str) -> Option<Measured> {
        match self.get(scenario, peer) {
            Some(Outcome::Measured(measured)) => Some(measured),
            _ => None,
        }
    }
}

/// Whether every event was stored and handled once, as far as there was time. Without that a figure is not compared.
pub(crate) fn is_right(measured: &Measured) -> bool {
    measured.value > 0.0 && measured.lost + measured.doubled + measured.foreign + measured.failed == 0
}
