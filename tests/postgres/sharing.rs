//! Several stores on one log: whoever commits, each of them delivers everything once and in order.

use futures::future::join_all;
use millstream::{EventQuery, Store};

use crate::common::postgres::{Database, database};
use crate::common::{Recorder, events, in_time, log, sequences};

const STORES: usize = 4;
const CALLERS: usize = 8;
const APPENDS: usize = 20;
const EVENTS: usize = 3;

async fn open(database: &Database) -> Store {
    database
        .builder()
        .connect(&database.address)
        .await
        .expect("opens")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stores_that_append_at_once_leave_no_hole_and_deliver_everything_in_order() {
    let Some(database) = database() else { return };
    let stores = join_all((0..STORES).map(|_| open(&database))).await;
    let recorders: Vec<Recorder> = stores.iter().map(|_| Recorder::new()).collect();
    let streams = stores
        .iter()
        .zip(&recorders)
        .map(|(store, recorder)| store.stream_all(recorder.handler()));
    let _streams: Vec<_> = join_all(streams).await.into_iter().map(Result::unwrap).collect();
    let callers = (0..STORES * CALLERS).map(|caller| {
        let store = stores[caller % STORES].clone();
        tokio::spawn(async move {
            let mut ranges = Vec::new();
            for _ in 0..APPENDS {
                let appended = store.append(events("a", EVENTS)).await.expect("appends");
                ranges.push((appended.first_sequence, appended.last_sequence));
            }
            ranges
        })
    });
    let reader = {
        let store = stores[0].clone();
        // Whoever reads meanwhile sees a beginning of the log, and no hole in it.
        tokio::spawn(async move {
            let mut read = 0;
            while read < STORES * CALLERS * APPENDS * EVENTS {
                let seen = sequences(&log(&store, &EventQuery::all()).await);
                assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
                read = seen.len();
            }
        })
    };
    let answered = in_time("all are answered", join_all(callers)).await;
    let mut ranges: Vec<_> = answered.into_iter().flat_map(Result::unwrap).collect();
    ranges.sort_unstable();
    let expected: Vec<_> = (0..ranges.len() as u64)
        .map(|number| (number * EVENTS as u64 + 1, (number + 1) * EVENTS as u64))
        .collect();
    assert_eq!(
        ranges, expected,
        "every append has a range of its own, and there is no hole"
    );
    in_time("the reader sees the end", reader).await.unwrap();
    for recorder in &recorders {
        in_time("all is delivered", recorder.batches(ranges.len())).await;
        let delivered: Vec<_> = recorder
            .deliveries()
            .iter()
            .map(|one| (one.first, one.last))
            .collect();
        assert_eq!(delivered, ranges);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_open_a_new_log_at_once_one_makes_it() {
    let Some(database) = database() else { return };
    let stores = join_all((0..8).map(|_| open(&database))).await;
    for store in &stores {
        assert_eq!(store.log_id(), stores[0].log_id());
    }
    assert_eq!(database.number("SELECT count(*) FROM millstream_log"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_in_one_database_do_not_know_each_other() {
    let (Some(one), Some(other)) = (database(), database()) else {
        return;
    };
    let (one, other) = (open(&one).await, open(&other).await);
    assert_ne!(one.log_id(), other.log_id());
    one.append(events("a", 3)).await.unwrap();
    let appended = other.append(events("a", 1)).await.unwrap();
    assert_eq!(appended.first_sequence, 1);
}
