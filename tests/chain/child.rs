//! The process that is killed: appends orders, and runs the three reactors, which now and then fail or find that their context
//! moved.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream::internals::{FaultPoint, with_faults};
use millstream::{
    Checkpoint, Durability, DurableStream, EventBatch, EventFilter, EventQuery, EventStream, FailurePolicy,
    HandleStream, NewEvent, Reaction, Reactor, Retry, Store,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;

use crate::{Dice, LINKS, Orders, POINTS, Task};

/// A child must not work for ever.
const LIFETIME: Duration = Duration::from_secs(60);

pub(crate) fn obey(orders: &Orders) {
    if let Task::DieWithin { micros } = orders.task {
        std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_micros(micros));
            die();
        });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(work(orders));
}

fn die() -> ! {
    kill(getpid(), Signal::SIGKILL).expect("nobody is kept from ending itself");
    unreachable!("nobody goes on after that");
}

/// Dies at the pass of the point that was told.
fn hook(task: Task) -> impl Fn(FaultPoint) -> bool + Send + Sync + 'static {
    let passes = AtomicU64::new(0);
    move |at| {
        if let Task::DieAt { point, pass } = task
            && POINTS[point].0 == at
            && passes.fetch_add(1, Ordering::Relaxed) + 1 == pass
        {
            die();
        }
        false
    }
}

async fn work(orders: &Orders) {
    let dice = Arc::new(Dice::new(orders.seed));
    let durability = [Durability::Full, Durability::Relaxed][dice.below(2) as usize];
    // A small window sends streams to the log in the middle of things.
    let builder = Store::builder()
        .durability(durability)
        .window_bytes(1 << (12 + dice.below(10)));
    let builder = with_faults(builder, hook(orders.task));
    let store = builder.open(&orders.file).expect("the file opens after a crash");
    append(&store, &dice, 5).await;
    let mut streams = Vec::new();
    for (name, from, to) in LINKS {
        streams.push(start(&store, &dice, (name, from, to)).await);
    }
    streams.push(start_audit(&store).await);
    if let Task::Finish = orders.task {
        append(&store, &dice, 5).await;
        finish(&store).await;
        store.close().await.expect("nothing hinders closing");
        drop(streams);
        return;
    }
    let end = Instant::now() + LIFETIME;
    while Instant::now() < end {
        append(&store, &dice, 1 + dice.below(20)).await;
        match dice.below(4) {
            0 => store.settled().await.expect("no stream stops"),
            1 => retry_letters(&store).await,
            _ => {}
        }
    }
    panic!("nobody killed this process");
}

async fn append(store: &Store, dice: &Dice, batches: u64) {
    for _ in 0..batches {
        let orders = (0..=dice.below(3)).map(|_| {
            let number = dice.below(u64::MAX);
            NewEvent::new("placed", number).tag(format!("order:{number}"))
        });
        let appended = store.append(orders).await;
        appended.expect("an append works until the kill");
    }
}

async fn retry_letters(store: &Store) {
    for (name, ..) in LINKS {
        let retried = store.dead_letters(name).retry_all().await;
        let _ = retried.expect("letters are there or not");
    }
}

/// Lets every chain come to its end, those in dead letters included.
async fn finish(store: &Store) {
    loop {
        store.settled().await.expect("no stream stops");
        let streams = store.streams().await.expect("the streams are listed");
        if streams.iter().all(|stream| stream.parked == 0) {
            return;
        }
        retry_letters(store).await;
    }
}

/// A stream that answers nothing, whose cursor is stored in the same groups.
async fn start_audit(store: &Store) -> EventStream {
    let audit = DurableStream::new("audit").checkpoint(Checkpoint::Every {
        batches: 4,
        within: Duration::from_millis(5),
    });
    let handle = HandleStream::new(|_| async { Ok::<_, io::Error>(()) });
    let stream = store.stream_all_durable(&audit, handle).await;
    stream.expect("a durable stream goes on after a crash")
}

async fn start(
    store: &Store,
    dice: &Arc<Dice>,
    (name, from, to): (&str, &'static str, &'static str),
) -> EventStream {
    let checkpoint = match dice.below(3) {
        0 => Checkpoint::Strict,
        1 => Checkpoint::Coalesced,
        _ => Checkpoint::Every {
            batches: 1_000,
            within: Duration::from_secs(3600),
        },
    };
    let durable = DurableStream::new(name)
        .checkpoint(checkpoint)
        .on_failure(FailurePolicy::park())
        // Many processes end while a handler has a batch, and none because of it.
        .starts_max(1_000);
    let reactor = {
        let (store, dice) = (store.clone(), Arc::clone(dice));
        Reactor::new(move |batch: EventBatch| {
            let (store, mood) = (store.clone(), dice.below(32));
            async move {
                if mood < 2 {
                    return Err(io::Error::other("the handler is in a bad mood"));
                }
                let reaction = each(&batch, to);
                Ok(match mood {
                    2..8 => reaction.only_if(&of_the_orders(&batch, to), 0),
                    // It moves with everything, so this one often has to be decided again.
                    8 => reaction.only_if(&EventQuery::types([from]), store.head()),
                    _ => reaction,
                })
            }
        })
    };
    let patience = Retry::default()
        .attempts_max(2)
        .delay_min(Duration::from_millis(1));
    let causes = EventQuery::types([from]);
    let stream = store.react(&durable, &causes, reactor.retry(patience)).await;
    stream.expect("a reactor goes on after a crash")
}

/// An answer to each order.
fn each(batch: &EventBatch, to: &str) -> Reaction {
    batch.iter().fold(Reaction::nothing(), |reaction, event| {
        let tags: Vec<&str> = event.tags().collect();
        let answer = NewEvent::new(to, event.payload().json().ok()).tags(tags);
        reaction.caused_by(event.sequence(), answer)
    })
}

/// What these orders were answered with already.
fn of_the_orders(batch: &EventBatch, to: &str) -> EventQuery {
    let filters = batch.iter().map(|event| {
        let tags: Vec<&str> = event.tags().collect();
        EventFilter::types([to]).tags(tags)
    });
    EventQuery::any(filters)
}
