//! Where every handler of every peer ends: counts, and remembers which events were handled by which stream.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::block_in_place;

/// What is longer counts as so long.
const DELAY_NANOS_MAX: u64 = 120_000_000_000;

/// Which events are for which stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spread {
    /// All events for all streams.
    All,
    /// Event n for stream n modulo the number of streams.
    Own,
}

pub struct Sink {
    spread: Spread,
    streams: Vec<Mutex<Seen>>,
    handled: AtomicU64,
    skipped: AtomicU64,
    doubled: AtomicU64,
    foreign: AtomicU64,
    begin: Instant,
    last_at: AtomicU64,
    is_closed: AtomicBool,
    opened: Notify,
    delays: OnceLock<Delays>,
}

/// One bit for each event of a stream.
#[derive(Default)]
struct Seen {
    bits: Vec<u64>,
}

impl Seen {
    /// Whether it is seen for the first time.
    fn insert(&mut self, ordinal: u64) -> bool {
        let (word, bit) = ((ordinal / 64) as usize, 1 << (ordinal % 64));
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        let is_new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        is_new
    }
}

/// When each event was appended, and how long it took to the handler.
struct Delays {
    appended: Vec<AtomicU64>,
    histogram: Mutex<Histogram<u64>>,
}

impl Delays {
    fn new(events: usize) -> Self {
        let histogram = Histogram::new_with_max(DELAY_NANOS_MAX, 3).expect("three digits are possible");
        Self {
            appended: (0..events).map(|_| AtomicU64::new(0)).collect(),
            histogram: Mutex::new(histogram),
        }
    }

    fn appending(&self, n: u64, nanos: u64) {
        self.appended[n as usize].store(nanos, Ordering::Release);
    }

    fn arrived(&self, n: u64, nanos: u64) {
        let appended = self.appended[n as usize].load(Ordering::Acquire);
        lock(&self.histogram).saturating_record(nanos - appended);
    }

    /// Microseconds.
    fn at(&self, quantiles: [f64; 3]) -> [f64; 3] {
        let histogram = lock(&self.histogram);
        quantiles.map(|quantile| histogram.value_at_quantile(quantile) as f64 / 1e3)
    }
}

impl Sink {
    pub(crate) fn new(streams: usize, spread: Spread) -> Self {
        Self {
            spread,
            streams: (0..streams).map(|_| Mutex::default()).collect(),
            handled: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            doubled: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            begin: Instant::now(),
            last_at: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            opened: Notify::new(),
            delays: OnceLock::new(),
        }
    }

    /// The handler of this stream was called with the event of this number, or with a batch that contains it.
    pub async fn handle(&self, stream: usize, n: u64) {
        self.arrived(n);
        self.pass().await;
        self.count(stream, n);
    }

    /// [`handle`](Self::handle) for handlers that are not async, called by a worker of the runtime.
    pub fn handle_blocking(&self, stream: usize, n: u64) {
        self.arrived(n);
        if self.is_closed.load(Ordering::Acquire) {
            block_in_place(|| Handle::current().block_on(self.pass()));
        }
        self.count(stream, n);
    }

    /// A handler of a peer that cannot select was called with an event that its stream does not want.
    pub fn skip(&self) {
        self.skipped.fetch_add(1, Ordering::AcqRel);
    }

    /// Grows as long as the peer gets on.
    pub(crate) fn calls(&self) -> u64 {
        self.handled() + self.skipped.load(Ordering::Acquire)
    }

    /// Events that were handled, each counted once.
    pub(crate) fn handled(&self) -> u64 {
        self.handled.load(Ordering::Acquire)
    }

    pub(crate) fn doubled(&self) -> u64 {
        self.doubled.load(Ordering::Acquire)
    }

    pub(crate) fn foreign(&self) -> u64 {
        self.foreign.load(Ordering::Acquire)
    }

    /// When the newest event was handled.
    pub(crate) fn last_at(&self) -> Instant {
        self.begin + Duration::from_nanos(self.last_at.load(Ordering::Acquire))
    }

    /// Handlers that are called from now on do not return before [`open`](Self::open).
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    pub(crate) fn open(&self) {
        self.is_closed.store(false, Ordering::Release);
        self.opened.notify_waiters();
    }

    /// Measures delays of so many events.
    pub(crate) fn measure_delays(&self, events: usize) {
        assert!(self.delays.set(Delays::new(events)).is_ok(), "called once");
    }

    /// The append of this event is about to be called.
    pub(crate) fn appending(&self, n: u64) {
        self.delays
            .get()
            .expect("delays are measured")
            .appending(n, self.now());
    }

    /// Microseconds at these quantiles.
    pub(crate) fn delays(&self, quantiles: [f64; 3]) -> [f64; 3] {
        self.delays.get().expect("delays are measured").at(quantiles)
    }

    fn arrived(&self, n: u64) {
        if let Some(delays) = self.delays.get() {
            delays.arrived(n, self.now());
        }
    }

    async fn pass(&self) {
        while self.is_closed.load(Ordering::Acquire) {
            let opened = self.opened.notified();
            if self.is_closed.load(Ordering::Acquire) {
                opened.await;
            }
        }
    }

    fn count(&self, stream: usize, n: u64) {
        let streams = self.streams.len() as u64;
        let ordinal = match self.spread {
            Spread::All => n,
            Spread::Own if n % streams == stream as u64 => n / streams,
            Spread::Own => {
                self.foreign.fetch_add(1, Ordering::AcqRel);
                return;
            }
        };
        if lock(&self.streams[stream]).insert(ordinal) {
            self.last_at.fetch_max(self.now(), Ordering::AcqRel);
            self.handled.fetch_add(1, Ordering::AcqRel);
        } else {
            self.doubled.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_counts_once_and_for_its_own_stream() {
        let sink = Sink::new(3, Spread::Own);
        for (stream, n) in [(0, 0), (1, 1), (1, 301), (1, 301), (2, 1)] {
            sink.count(stream, n);
        }
        assert_eq!((sink.handled(), sink.doubled(), sink.foreign()), (3, 1, 1));
    }

    #[test]
    fn delays_are_those_of_the_slowest_too() {
        let delays = Delays::new(2);
        delays.appending(0, 1_000);
        delays.appending(1, 2_000);
        delays.arrived(0, 51_000);
        delays.arrived(1, 30_000_002_000);
        let [p50, _, last] = delays.at([0.5, 0.99, 0.999]);
        assert_eq!((p50.round(), (last / 1e6).round()), (50.0, 30.0));
    }

    #[test]
    fn events_for_all_count_for_each_stream() {
        let sink = Sink::new(2, Spread::All);
        for (stream, n) in [(0, 5), (1, 5), (1, 5)] {
            sink.count(stream, n);
        }
        assert_eq!((sink.handled(), sink.doubled()), (2, 1));
    }
}
