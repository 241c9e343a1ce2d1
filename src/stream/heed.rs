//! How the loop of a durable stream heeds a word from outside: it rests, goes on, or starts over under a new epoch.

use std::sync::Arc;

use crate::error::StopCause;
use crate::log::cursor::{CursorCell, Pause};
use crate::stream::aside::read_keys;
use crate::stream::board::News;
use crate::stream::core::StreamCore;
use crate::stream::gate::Parked;
use crate::stream::machine::Machine;
use crate::stream::patience::stored;
use crate::stream::pump::Pump;
use crate::stream::standby::{self, Rest};
use crate::stream::status::Phase;
use crate::stream::steering::{Duty, Standing};
use crate::stream::trace::Told;

/// Does what the loop was told. No handler call is under way.
pub(crate) async fn heed(
    core: &Arc<StreamCore>,
    pump: &mut Pump,
    standing: Box<Standing>,
) -> Result<(), StopCause> {
    if standing.duty == Duty::TakesOver {
        return standby::take_over(core, pump).await;
    }
    if pump.stands_by() {
        // It was meant for who runs the stream.
        return Ok(());
    }
    // Whoever speaks to a stream wants its batch to be tried anew.
    pump.failures = None;
    if let Some(keyed) = &mut pump.keyed {
        keyed.try_anew();
    }
    let epoch = pump
        .checkpointer
        .as_ref()
        .map(|checkpointer| checkpointer.cell().epoch);
    if epoch.is_some_and(|epoch| epoch != standing.epoch) {
        start_over(core, pump, &standing);
        if let Some(care) = &mut pump.care {
            care.start_over(read_keys(core).await?);
        }
        if let Some(name) = &core.name {
            let name = Arc::clone(name);
            let counts = core.source.log.read(move |reader| Ok(reader.counts(&name)?));
            core.note_letters(counts.await?);
        }
    }
    if let Duty::Yields { heir } = standing.duty
        && standby::hand_over(core, pump, heir).await?
    {
        return Ok(());
    }
    match standing.paused {
        Some(pause) => begin_pause(core, pump, pause).await,
        None => {
            if pump.rests.take().is_some() {
                tracing::info!(stream = core.name.as_deref(), "a stream was resumed");
            }
            core.board.report(|progress| {
                progress.phase = Phase::CatchingUp;
                progress.told = Told::BEGINS;
                News::Yes
            });
            Ok(())
        }
    }
}

/// Goes to another position under another epoch. What the earlier run handed over is refused from now on (D6).
///
/// The position is changed before the cell is: whoever takes the cell first and then reads a position can hand a new position
/// to the old cell, which is refused, and never an old one to the new.
pub(crate) fn start_over(core: &Arc<StreamCore>, pump: &mut Pump, standing: &Standing) {
    let Some(checkpointer) = pump.checkpointer.take() else {
        return;
    };
    let position = standing.position;
    tracing::info!(
        stream = core.name.as_deref(),
        from = pump.position(),
        to = position,
        "the cursor of a stream was moved from outside"
    );
    core.begin_run();
    core.source.bus.reseat(core.seat, position);
    pump.feed.start_over();
    pump.machine = Machine::new(position);
    if let Some(keyed) = &mut pump.keyed {
        keyed.start_over(position);
    }
    pump.let_group_go();
    pump.reported = position;
    core.board.note(|progress| {
        progress.position = position;
        progress.epoch = standing.epoch;
        progress.call = None;
    });
    let cell = CursorCell::new(Arc::clone(&checkpointer.cell().name), standing.epoch, position);
    let checkpointer = checkpointer.start_over(Arc::new(cell));
    core.change_cursor(checkpointer.cell());
    pump.checkpointer = Some(checkpointer);
}

/// Stores what is settled, and says that the stream is paused.
pub(crate) async fn begin_pause(
    core: &Arc<StreamCore>,
    pump: &mut Pump,
    pause: Pause,
) -> Result<(), StopCause> {
    let settled = core.position().max(pump.position());
    let_go(core, pump);
    if let Some(checkpointer) = &pump.checkpointer {
        // The run is not over: it is what goes on when the stream is resumed.
        checkpointer.flush(settled);
        stored(checkpointer, settled).await?;
    }
    core.report_position(settled);
    tracing::info!(
        stream = core.name.as_deref(),
        by = &*pause.by,
        position = settled,
        "a stream was paused"
    );
    show_pause(core, pump, pause);
    Ok(())
}

/// Who rests holds no page (S5): the batch in hand is read again. Nor is it woken by what is committed.
pub(crate) fn let_go(core: &StreamCore, pump: &mut Pump) {
    core.source.bus.leave_alone(core.seat);
    pump.machine = Machine::new(pump.machine.position());
    if let Some(keyed) = &mut pump.keyed {
        keyed.let_go();
    }
    pump.let_group_go();
    pump.feed.start_over();
}

fn show_pause(core: &Arc<StreamCore>, pump: &mut Pump, pause: Pause) {
    core.board.report(|progress| {
        progress.phase = Phase::Paused(pause);
        progress.call = None;
        News::Yes
    });
    pump.rests = Some(Rest::Paused);
}

/// Lets a stream rest that was paused before it was registered. Gives the loop's state back when there is something to do.
pub(crate) fn rest_paused(core: &Arc<StreamCore>, mut pump: Box<Pump>, pause: Pause) -> Option<Box<Pump>> {
    tracing::info!(
        stream = core.name.as_deref(),
        by = &*pause.by,
        "a stream begins and rests, it was paused"
    );
    show_pause(core, &mut pump, pause);
    match core.gate.park(pump) {
        Parked::Rests => None,
        Parked::Roused(pump) | Parked::Closed(pump) => Some(pump),
    }
}
