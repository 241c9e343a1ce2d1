//! The caller's half of pruning: what running streams hold, and one step after the other until nothing is left to do.

use std::sync::Arc;

use crate::error::PruneError;
use crate::log::prune::{HeldBy, Holders, Prune, PruneStep, Pruned, Target, furthest_behind};
use crate::log::queue::Due;
use crate::stream::core::StreamCore;
use crate::stream::feed::Source;
use crate::stream::registry::Registry;

/// How many cursors of resting streams are stored in one group.
const CURSORS_AT_ONCE: usize = 256;

/// Prunes step by step. The steps ride in groups with whatever else is queued; dropped, no further one begins.
pub(crate) async fn prune(source: &Source, registry: &Registry, prune: Prune) -> Result<Pruned, PruneError> {
    if source.log.is_closed() {
        return Err(PruneError::Closed);
    }
    let streams = registry.all();
    if prune.holders == Holders::Hold {
        store_resting(source, &streams, prune.target).await;
    }
    let mut step = PruneStep {
        target: prune.target,
        holders: prune.holders,
        letters: prune.letters,
        // Positions only grow, and a stream that begins later begins at the head: asked once is enough.
        live: slowest_live(&streams),
    };
    drop(streams);
    let mut removed_events = 0;
    loop {
        let done = source.log.prune_step(step.clone()).await?;
        removed_events += done.removed_events;
        if done.removed_events > 0 {
            step.target = done.target;
            continue;
        }
        let pruned = Pruned {
            removed_events,
            pruned_through: done.pruned_through,
            held_by: done.held_by,
        };
        tell(&pruned);
        return Ok(pruned);
    }
}

/// Stores the cursors of streams at rest, which are further than their rows say (D4).
async fn store_resting(source: &Source, streams: &[Arc<StreamCore>], target: Target) {
    let behind = streams.iter().filter_map(|core| {
        let cell = core.cursor()?;
        let settled = core.settled()?;
        let stored = cell.stored_position();
        let is_in_the_way = match target {
            Target::Before(sequence) => stored + 1 < sequence,
            Target::OlderThan(_) => true,
        };
        (is_in_the_way && stored < settled).then_some((cell, settled))
    });
    let behind: Vec<_> = behind.collect();
    for some in behind.chunks(CURSORS_AT_ONCE) {
        for (cell, settled) in some {
            source.log.queue.hand_cursor(cell, *settled, Due::WithGroup);
        }
        // The first may join a group that has taken its cursors already; the second comes after the group that takes these.
        source.log.drained().await;
        source.log.drained().await;
    }
}

/// The running stream without a cursor that is furthest behind.
fn slowest_live(streams: &[Arc<StreamCore>]) -> Option<HeldBy> {
    let live = streams
        .iter()
        .filter(|core| core.cursor().is_none() && core.stop_cause().is_none());
    let holders = live.map(|core| HeldBy {
        stream: None,
        position: core.position(),
        dead_letter: None,
    });
    holders.fold(None, |slowest, holder| furthest_behind(slowest, Some(holder)))
}

fn tell(pruned: &Pruned) {
    let Pruned {
        removed_events,
        pruned_through,
        held_by,
    } = pruned;
    match held_by {
        None => tracing::info!(removed_events, pruned_through, "the log was pruned"),
        Some(HeldBy {
            stream,
            position,
            dead_letter,
        }) => tracing::info!(
            removed_events,
            pruned_through,
            stream = stream.as_deref(),
            position,
            dead_letter,
            "the log was pruned as far as a stream allows"
        ),
    }
}
