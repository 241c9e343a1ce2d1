//! What the loop of a stream does that stands by for another store, takes over from it, or gives a stream away (D6).

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;

use crate::error::{Instance, ReadError, StopCause, StreamError};
use crate::log::cursor::{CursorCell, CursorClaim, Occasion, Opened, OpenedCursor};
use crate::log::handle::LogHandle;
use crate::log::handle::owner::LetsGo;
use crate::log::owner::{InstanceId, Ownership};
use crate::log::request::HandedOver;
use crate::stream::aside::Care;
use crate::stream::board::News;
use crate::stream::checkpoint::Checkpointer;
use crate::stream::core::StreamCore;
use crate::stream::failure::FailurePolicies;
use crate::stream::gate::Parked;
use crate::stream::heed;
use crate::stream::options::DurableOptions;
use crate::stream::patience::stored;
use crate::stream::pump::Pump;
use crate::stream::retry_request;
use crate::stream::status::Phase;
use crate::stream::steering::Standing;
use crate::stream::watch::Watch;

/// Why a loop rests until it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Paused,
    StandsBy,
}

impl Pump {
    /// Whether another store runs the stream.
    pub(crate) fn stands_by(&self) -> bool {
        self.rests == Some(Rest::StandsBy)
    }
}

/// What a durable stream is registered with: once, or again when it takes over.
pub(crate) struct Candidacy {
    pub(crate) claim: CursorClaim,
    policies: FailurePolicies,
    watched_batches: u32,
    starts_max: u32,
}

/// What a durable stream asks the log for.
pub(crate) fn claim(options: &DurableOptions, query: String) -> CursorClaim {
    CursorClaim {
        name: Arc::clone(&options.name),
        query,
        start: options.start.clone(),
        on_mismatch: options.on_mismatch,
        begins_at: options.begins_at,
        ownership: options.ownership,
        occasion: Occasion::Registration,
    }
}

/// The keys that the stream's run before set aside, when a policy knows what to do with them.
pub(crate) async fn parked_keys(
    log: &LogHandle,
    policies: &FailurePolicies,
    name: &Arc<str>,
    opened: &OpenedCursor,
) -> Result<HashSet<Box<str>>, ReadError> {
    let keys = opened.letters.keys;
    if keys > 0 && policies.key().is_some() {
        let name = Arc::clone(name);
        let keys = log.read(move |reader| Ok(reader.keys(&name)?)).await?;
        return Ok(keys.into_iter().collect());
    }
    if keys > 0 {
        tracing::warn!(stream = %name, keys, "keys are parked that no failure policy knows, their later events do not queue");
    }
    Ok(HashSet::new())
}

impl Candidacy {
    pub(crate) fn new(options: &DurableOptions, query: String) -> Self {
        Self {
            claim: claim(options, query),
            policies: options.policies.clone(),
            watched_batches: options.watched_batches(),
            starts_max: options.starts_max,
        }
    }

    /// Whether the stream stands by while another store runs it.
    pub(crate) fn waits(&self) -> bool {
        self.claim.ownership == Ownership::Standby
    }

    /// What the stream has to know of the run before it, and of what that set aside.
    pub(crate) fn care(&self, keys: HashSet<Box<str>>, opened: &OpenedCursor) -> Care {
        let watch = Watch::begin(
            opened.previous,
            self.watched_batches,
            opened.head,
            self.starts_max,
        );
        if watch.is_some() {
            let name = &self.claim.name;
            tracing::debug!(stream = %name, position = opened.row.position, "the run before was cut off, its batches are watched");
        }
        Care::new(self.policies.clone(), keys, watch)
    }

    /// What it has to know while it stands by: nothing, it learns that when it takes over.
    pub(crate) fn careless(&self) -> Care {
        Care::new(self.policies.clone(), Default::default(), None)
    }
}

/// A cell that no position is stored from: who stands by has no epoch.
pub(crate) fn dead_cell(name: &Arc<str>, position: u64) -> CursorCell {
    CursorCell::new(Arc::clone(name), 0, position)
}

/// Lets a stream rest that begins while another store runs it. Gives the loop's state back when there is something to do.
pub(crate) fn rest(core: &Arc<StreamCore>, pump: Box<Pump>) -> Option<Box<Pump>> {
    if let Some(owner) = core.owner_elsewhere() {
        tracing::info!(stream = core.name.as_deref(), %owner, "a stream stands by");
    }
    match core.gate.park(pump) {
        Parked::Rests => None,
        Parked::Roused(pump) | Parked::Closed(pump) => Some(pump),
    }
}

/// Registers the stream anew, now that nobody else runs it, and begins to deliver where its cursor stands. Stays as it is when
/// another one was faster.
pub(crate) async fn take_over(core: &Arc<StreamCore>, pump: &mut Pump) -> Result<(), StopCause> {
    let Some(candidacy) = core.candidacy().filter(|_| pump.stands_by()) else {
        return Ok(());
    };
    let log = &core.source.log;
    let unless_kept = LetsGo::of(&candidacy.claim.name, log);
    let claim = CursorClaim {
        occasion: Occasion::TakeOver,
        ..candidacy.claim.clone()
    };
    let opened = match log.open_cursor(claim).await {
        Ok(Opened::Owned(opened)) => opened,
        // It hears that its stream was deleted or renamed, and ends.
        Ok(Opened::Gone) => return Ok(()),
        Ok(Opened::StandsBy(stands_by)) => {
            unless_kept.keep();
            show(core, stands_by.owner);
            return Ok(());
        }
        Err(StreamError::Closed) => return Err(StopCause::Closed),
        Err(StreamError::TakenOver { by, .. }) => return Err(StopCause::TakenOver { by }),
        Err(StreamError::Storage(error)) => {
            unless_kept.keep();
            tracing::warn!(stream = core.name.as_deref(), %error, "a stream could not take over, it tries again");
            return Ok(());
        }
        Err(error) => {
            let source = Arc::new(error);
            return Err(StopCause::NotTakenOver { source });
        }
    };
    let keys = parked_keys(log, &candidacy.policies, &candidacy.claim.name, &opened).await?;
    let care = candidacy.care(keys, &opened);
    tracing::info!(
        stream = core.name.as_deref(),
        position = opened.row.position,
        "a stream takes over"
    );
    pump.rests = None;
    pump.care = Some(Box::new(care));
    heed::start_over(core, pump, &Standing::of(&opened.row));
    core.note_letters(opened.letters);
    unless_kept.keep();
    core.takes_over(&opened.row);
    core.board.report(|progress| {
        progress.phase = Phase::CatchingUp;
        News::Yes
    });
    if let Some(pause) = opened.row.paused.clone() {
        heed::begin_pause(core, pump, pause).await?;
    }
    // Somebody may have asked while nobody ran it.
    retry_request::hear(core, &opened.row);
    Ok(())
}

/// Stores what is settled, and gives the stream to somebody who stands by for it. `false`: it stays here after all.
pub(crate) async fn hand_over(
    core: &Arc<StreamCore>,
    pump: &mut Pump,
    heir: InstanceId,
) -> Result<bool, StopCause> {
    let (Some(name), Some(checkpointer)) = (&core.name, &pump.checkpointer) else {
        return Ok(false);
    };
    let settled = core.position().max(pump.position());
    checkpointer.flush(settled);
    stored(checkpointer, settled).await?;
    core.report_position(settled);
    let epoch = checkpointer.cell().epoch;
    match core.source.log.hand_over(name, epoch, heir).await {
        Ok(HandedOver::Done { to }) => {
            begin_to_stand_by(core, pump, settled, to);
            Ok(true)
        }
        Ok(HandedOver::OwnershipLost) => Err(StopCause::OwnershipLost),
        Ok(HandedOver::Kept) => {
            core.keeps();
            Ok(false)
        }
        Err(error) => {
            tracing::warn!(stream = &**name, %error, "a stream could not be given away, it stays here");
            core.keeps();
            Ok(false)
        }
    }
}

fn begin_to_stand_by(core: &Arc<StreamCore>, pump: &mut Pump, settled: u64, owner: Instance) {
    tracing::info!(stream = core.name.as_deref(), %owner, position = settled, "a stream was given away, and stands by");
    heed::let_go(core, pump);
    if let Some(checkpointer) = pump.checkpointer.take() {
        let cell = dead_cell(&checkpointer.cell().name, settled);
        let checkpointer = checkpointer.start_over(Arc::new(cell));
        core.change_cursor(checkpointer.cell());
        pump.checkpointer = Some(checkpointer);
    }
    pump.rests = Some(Rest::StandsBy);
    core.gave_away();
    core.board.note(|progress| {
        progress.epoch = 0;
        progress.call = None;
    });
    show(core, owner);
}

fn show(core: &StreamCore, owner: Instance) {
    core.board.report(|progress| {
        let is_news = !matches!(&progress.phase, Phase::Standby(known) if **known == owner);
        progress.phase = Phase::Standby(Box::new(owner));
        if is_news { News::Yes } else { News::No }
    });
}

/// The last position of a run is to be stored, or a claim to stand by to be taken back, whether or not anybody waits for it.
pub(crate) fn finish(core: &StreamCore, pump: &Pump, position: u64) {
    match &pump.checkpointer {
        Some(checkpointer) if pump.stands_by() => {
            drop(LetsGo::of(&checkpointer.cell().name, &core.source.log));
        }
        Some(checkpointer) => checkpointer.finish(position),
        None => {}
    }
}

/// The same, and waits for it: the name is free afterwards.
pub(crate) async fn finished(
    core: &StreamCore,
    checkpointer: &Checkpointer,
    rests: Option<Rest>,
    position: u64,
) {
    let name = core.name.as_deref();
    if rests == Some(Rest::StandsBy) {
        if let Err(error) = core.source.log.let_go(&checkpointer.cell().name).await {
            tracing::debug!(stream = name, %error, "a stream that stood by could not say that it does so no more");
        }
        return;
    }
    checkpointer.finish(position);
    let ended = poll_fn(|context| checkpointer.cell().poll_ended(context)).await;
    if let Err(cause) = ended.map_err(StopCause::from) {
        tracing::warn!(stream = name, %cause, "the last position of a stream was not stored");
    }
}
