//! What the instruments are told of how things stand: at the poll interval, on the committer's thread, within bounds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::meter::{LogMeter, Place};
use crate::stream::core::StreamCore;
use crate::stream::feed::Source;
use crate::stream::registry::Registry;
use crate::stream::status::StreamState;

/// How many streams are asked where they stand, in turn.
const STREAMS_MAX: usize = 256;
/// Of the streams that are behind the window and have nothing in hand, such as paused ones, one in so many is looked up in the log
/// each time: each is in the end, and no look takes long.
const LOOKED_UP_ONE_IN: u64 = 16;
/// How often the system is asked for the free space of the disk.
const DISK_EVERY: Duration = Duration::from_secs(10);

pub(crate) struct Sampler {
    source: Arc<Source>,
    registry: Arc<Registry>,
    meter: LogMeter,
    /// Where the turn of the streams is.
    after: u64,
    looks: u64,
    disk_asked_at: Option<Instant>,
}

impl Sampler {
    pub(crate) fn new(source: &Arc<Source>, registry: &Arc<Registry>) -> Self {
        Self {
            source: Arc::clone(source),
            registry: Arc::clone(registry),
            meter: LogMeter::new(),
            after: 0,
            looks: 0,
            disk_asked_at: None,
        }
    }

    /// The poll interval is over.
    pub(crate) fn sample(&mut self) {
        let bus = &self.source.bus;
        self.meter.sample(bus.head(), bus.window_bytes());
        let is_due = |asked_at: Instant| asked_at.elapsed() >= DISK_EVERY;
        if self.disk_asked_at.is_none_or(is_due) {
            self.disk_asked_at = Some(Instant::now());
            // Who cannot be told is told by `health`.
            if let Ok(Some(free_bytes)) = self.source.log.reader.free_bytes() {
                self.meter.free(free_bytes);
            }
        }
        self.looks += 1;
        for core in self.registry.next_in_turn(&mut self.after, STREAMS_MAX) {
            // Who stands by leaves it to the owner to say how the stream is.
            if core.name.is_some() && !core.stands_by() {
                core.meter.sample(self.place(&core));
            }
        }
    }

    fn place(&self, core: &StreamCore) -> Place {
        let status = core.status();
        let is_halted = matches!(status.state, StreamState::Paused { .. } | StreamState::Stopped(_));
        Place {
            position: status.position,
            lag_events: status.lag,
            lag_age: match status.oldest_unhandled {
                _ if status.lag == 0 => Some(Duration::ZERO),
                Some(age) => Some(age),
                None => self.age_after(core.id, status.position),
            },
            parked: status.parked,
            skipped: status.skipped,
            oldest_letter: status.oldest_letter.unwrap_or_default(),
            is_halted,
        }
    }

    /// How long ago the first event after a position was committed, if that is to be found out this time.
    fn age_after(&self, id: u64, position: u64) -> Option<Duration> {
        let in_window = self.source.bus.recorded_after(position);
        let recorded_at = in_window.or_else(|| {
            let is_in_turn = (id + self.looks).is_multiple_of(LOOKED_UP_ONE_IN);
            let read = || self.source.log.reader.recorded_after(&[position]).ok();
            is_in_turn.then(read)??.pop()?
        });
        recorded_at.map(Timestamp::age)
    }
}
