//! What is measured, and how much of it.

use scenario::protocol::{Plan, Task};

/// One column of a table.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) rounds: usize,
    /// What another process does first in the same folder.
    pub(crate) fill: Option<Plan>,
    pub(crate) plan: Plan,
}

/// How much is measured.
pub(crate) struct Scale {
    pub(crate) rounds: usize,
    /// Of appends and deliveries.
    pub(crate) seconds: f64,
    pub(crate) drain_seconds: f64,
    pub(crate) delay_seconds: f64,
    pub(crate) delay_per_second: u32,
    pub(crate) replay_events: u64,
    pub(crate) fill_seconds: f64,
    pub(crate) replay_seconds: f64,
    pub(crate) memory_mib: u64,
    pub(crate) memory_seconds: f64,
    pub(crate) memory_drain_seconds: f64,
}

/// Events of one append in [`Task::Live`]: each is for another stream.
const LIVE_BATCH: usize = 100;
/// Events of one append in [`Task::Durable`].
const DURABLE_BATCH: usize = 10;
/// Events of one append where much is appended.
const LARGE_BATCH: usize = 100;

impl Scale {
    pub(crate) fn full() -> Self {
        Self {
            rounds: 3,
            seconds: 1.2,
            drain_seconds: 4.5,
            delay_seconds: 10.0,
            delay_per_second: 300,
            replay_events: 1_000_000,
            fill_seconds: 10.0,
            replay_seconds: 12.0,
            memory_mib: 200,
            memory_seconds: 12.0,
            memory_drain_seconds: 12.0,
        }
    }

    pub(crate) fn quick() -> Self {
        Self {
            rounds: 1,
            seconds: 0.7,
            drain_seconds: 4.5,
            delay_seconds: 2.5,
            delay_per_second: 200,
            replay_events: 200_000,
            fill_seconds: 2.0,
            replay_seconds: 3.0,
            memory_mib: 64,
            memory_seconds: 3.0,
            memory_drain_seconds: 4.5,
        }
    }

    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        let append = |writers, batch| self.plan(Task::Append { writers, batch });
        let live = |streams| {
            self.plan(Task::Live {
                streams,
                batch: LIVE_BATCH,
            })
        };
        let durable = |streams| {
            self.plan(Task::Durable {
                streams,
                batch: DURABLE_BATCH,
            })
        };
        let rounds = self.rounds;
        let scenario = |name, title, plan| Scenario {
            name,
            title,
            rounds,
            fill: None,
            plan,
        };
        vec![
            scenario("append-1", "1 writer", append(1, 1)),
            scenario("append-4", "4 writers", append(4, 1)),
            scenario("append-16", "16 writers", append(16, 1)),
            scenario("append-64", "64 writers", append(64, 1)),
            scenario(
                "batch-100",
                "1 writer, 100 events per append",
                append(1, LARGE_BATCH),
            ),
            scenario("live-1", "1 live stream", live(1)),
            scenario("live-10", "10 live streams", live(10)),
            scenario("live-100", "100 live streams", live(100)),
            scenario("live-1000", "1,000 live streams", live(1_000)),
            scenario("live-10000", "10,000 live streams", live(10_000)),
            scenario("durable-1", "1 durable stream", durable(1)),
            scenario("durable-100", "100 durable streams", durable(100)),
            scenario("durable-1000", "1,000 durable streams", durable(1_000)),
            self.delay(),
            self.replay(),
            self.memory(),
        ]
    }

    fn plan(&self, task: Task) -> Plan {
        Plan {
            task,
            seconds: self.seconds,
            drain_seconds: self.drain_seconds,
        }
    }

    fn delay(&self) -> Scenario {
        Scenario {
            name: "delay",
            title: "from the call of append to the start of the handler",
            rounds: 1,
            fill: None,
            plan: Plan {
                task: Task::Delay {
                    per_second: self.delay_per_second,
                },
                seconds: self.delay_seconds,
                drain_seconds: self.drain_seconds,
            },
        }
    }

    fn replay(&self) -> Scenario {
        let fill = Task::Fill {
            events: self.replay_events,
            batch: LARGE_BATCH,
        };
        Scenario {
            name: "replay",
            title: "a new stream is given the whole log",
            rounds: 1,
            fill: Some(Plan {
                task: fill,
                seconds: self.fill_seconds,
                drain_seconds: 0.0,
            }),
            plan: Plan {
                task: Task::Replay {
                    events: self.replay_events,
                },
                seconds: self.replay_seconds,
                drain_seconds: 0.0,
            },
        }
    }

    fn memory(&self) -> Scenario {
        Scenario {
            name: "memory",
            title: "memory while the only handler does not return",
            rounds: 1,
            fill: None,
            plan: Plan {
                task: Task::Memory {
                    bytes: self.memory_mib << 20,
                    batch: LARGE_BATCH,
                },
                seconds: self.memory_seconds,
                drain_seconds: self.memory_drain_seconds,
            },
        }
    }
}
