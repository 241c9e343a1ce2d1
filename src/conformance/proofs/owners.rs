//! One owner per durable stream (D6): who owns it is known, who stands by takes over, and the owners share.

use std::time::Duration;

use crate::conformance::subject::Subject;
use crate::conformance::tools::{Recorder, append, eventually, in_time, takes_all};
use crate::error::{StopCause, StreamError, WaitError};
use crate::event::query::EventQuery;
use crate::log::cursor::{OnMismatch, Start};
use crate::log::owner::Ownership;
use crate::log::steer::Reset;
use crate::store::Store;
use crate::stream::handle::EventStream;
use crate::stream::options::DurableStream;
use crate::stream::status::{StreamState, StreamStatus};

fn waits(name: &str) -> DurableStream {
    DurableStream::new(name).ownership(Ownership::Standby)
}

async fn status(store: &Store, name: &str) -> StreamStatus {
    store.stream(name).await.unwrap().status().await.unwrap()
}

fn stands_by(stream: &EventStream) -> bool {
    matches!(stream.status().state, StreamState::Standby)
}

pub async fn d6_who_owns_a_stream_is_known_until_it_ends(subject: &Subject) {
    let store = subject.open();
    let before = std::time::SystemTime::now() - Duration::from_secs(1);
    let stream = store
        .stream_all_durable(&waits("ledger"), takes_all())
        .await
        .unwrap();
    in_time("nobody else owns it", stream.owned()).await.unwrap();
    let owner = status(&store, "ledger").await.owner.expect("it is owned");
    assert_eq!(owner.process, std::process::id());
    assert!(!owner.host.is_empty() && owner.since > before, "{owner:?}");
    assert!(status(&store, "ledger").await.standbys.is_empty());
    stream.unsubscribe();
    stream.stopped().await;
    assert_eq!(status(&store, "ledger").await.owner, None);
    let again = store
        .stream_all_durable(&waits("ledger"), takes_all())
        .await
        .unwrap();
    assert!(status(&store, "ledger").await.owner.is_some());
    store.stream("ledger").await.unwrap().delete().await.unwrap();
    assert!(matches!(again.stopped().await, StopCause::Deleted));
}

pub async fn d6_a_stream_that_another_store_owns_is_refused_and_free_when_that_ends(subject: &Subject) {
    let (store, other) = (subject.open(), subject.open());
    let name = DurableStream::new("ledger");
    let stream = store.stream_all_durable(&name, takes_all()).await.unwrap();
    append(&store, "a", 1).await;
    let refused = other.stream_all_durable(&name, takes_all()).await;
    let Err(StreamError::OwnedElsewhere { name: refused, owner }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((refused.as_str(), owner.process), ("ledger", std::process::id()));
    assert!(stream.status().position <= 1 && !matches!(stream.status().state, StreamState::Stopped(_)));
    // As soon as it says that it has stopped.
    for _ in 0..20 {
        let stream = match other
            .stream_all_durable(&DurableStream::new("raced"), takes_all())
            .await
        {
            Ok(stream) => stream,
            Err(error) => panic!("{error}"),
        };
        stream.unsubscribe();
        stream.stopped().await;
        let stream = store
            .stream_all_durable(&DurableStream::new("raced"), takes_all())
            .await
            .unwrap();
        stream.unsubscribe();
        stream.stopped().await;
    }
    store.close().await.unwrap();
    let stream = other.stream_all_durable(&name, takes_all()).await.unwrap();
    assert_eq!(stream.started_after(), 1);
}

pub async fn d6_who_stands_by_takes_over_where_the_owner_stopped(subject: &Subject) {
    let (store, other) = (subject.open(), subject.open());
    let (first, second) = (Recorder::new(), Recorder::new());
    let owner = store
        .stream_all_durable(&waits("ledger"), first.handler())
        .await
        .unwrap();
    append(&store, "a", 1).await;
    owner.wait_for(1).await.unwrap();
    let standby = other
        .stream_all_durable(&waits("ledger"), second.handler())
        .await
        .unwrap();
    assert!(stands_by(&standby), "{:?}", standby.status());
    assert_eq!(standby.status().owner.unwrap().process, std::process::id());
    let known = status(&store, "ledger").await;
    assert_eq!((known.owner.is_some(), known.standbys.len()), (true, 1));
    append(&other, "a", 1).await;
    in_time("it is told of it", first.batches(2)).await;
    owner.wait_for(2).await.unwrap();
    // Who waits for a stream that stands by is told so, and who waits for all streams is not kept.
    let waited = in_time("it says so", standby.wait_for(2)).await;
    assert!(matches!(waited, Err(WaitError::StandsBy { .. })), "{waited:?}");
    let caught_up = in_time("it says so", standby.caught_up()).await;
    assert!(
        matches!(caught_up, Err(WaitError::StandsBy { .. })),
        "{caught_up:?}"
    );
    in_time("all is settled here", other.settled()).await.unwrap();
    // By its name it is waited for wherever it runs.
    let control = other.stream("ledger").await.unwrap();
    in_time("it is stored", control.wait_for(2)).await.unwrap();
    assert!(second.sequences().is_empty());
    owner.unsubscribe();
    in_time("it takes over", standby.owned()).await.unwrap();
    append(&other, "a", 1).await;
    in_time("it delivers", standby.wait_for(3)).await.unwrap();
    assert_eq!((first.sequences(), second.sequences()), (vec![1, 2], vec![3]));
    assert_eq!(status(&other, "ledger").await.standbys, []);
}

pub async fn d6_of_several_who_stand_by_one_takes_over_and_all_is_delivered_once(subject: &Subject) {
    let recorder = Recorder::new();
    let mut stores: Vec<Store> = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let store = subject.open_with(|builder| builder.poll_interval(Duration::from_millis(5)));
        let stream = store
            .stream_all_durable(&waits("ledger"), recorder.handler())
            .await;
        streams.push(stream.unwrap());
        stores.push(store);
    }
    let mut appended = 0;
    let store = &stores[0];
    while !streams.is_empty() {
        append(store, "a", 1).await;
        appended += 1;
        in_time("somebody delivers it", recorder.batches(appended)).await;
        // The one that runs it ends.
        let running = streams
            .iter()
            .position(|stream| !stands_by(stream))
            .expect("one runs it");
        let ends = streams.swap_remove(running);
        ends.unsubscribe();
        ends.stopped().await;
        let known = status(store, "ledger").await;
        let claims = known.standbys.len() + usize::from(known.owner.is_some());
        assert_eq!(claims, streams.len());
        let is_run = || streams.is_empty() || streams.iter().any(|stream| !stands_by(stream));
        eventually("somebody takes over", is_run).await;
    }
    assert_eq!(recorder.sequences(), [1, 2, 3, 4]);
}

pub async fn d6_owners_share_the_streams_and_stay_with_that(subject: &Subject) {
    let fast = || subject.open_with(|builder| builder.poll_interval(Duration::from_millis(5)));
    let (one, two, three) = (fast(), fast(), fast());
    let names: Vec<String> = (0..6).map(|number| format!("stream-{number}")).collect();
    let recorders: Vec<Recorder> = names.iter().map(|_| Recorder::new()).collect();
    let mut streams = Vec::new();
    for store in [&one, &two, &three] {
        for (name, recorder) in names.iter().zip(&recorders) {
            let stream = store.stream_all_durable(&waits(name), recorder.handler()).await;
            streams.push(stream.unwrap());
        }
        append(store, "a", 1).await;
    }
    let owned = |store: usize| {
        streams[store * 6..][..6]
            .iter()
            .filter(|stream| !stands_by(stream))
            .count()
    };
    let is_shared = || (0..3).all(|store| owned(store) == 2);
    eventually("each owns two", is_shared).await;
    for _ in 0..20 {
        append(&one, "a", 1).await;
    }
    for recorder in &recorders {
        in_time("all is delivered", recorder.batches(23)).await;
        assert_eq!(recorder.sequences(), (1..=23).collect::<Vec<_>>());
    }
    assert!(is_shared(), "who owns what has not changed since");
    // One who ends leaves its streams to the others.
    two.close().await.unwrap();
    eventually("the others own three", || owned(0) == 3 && owned(2) == 3).await;
    append(&one, "a", 1).await;
    for recorder in &recorders {
        in_time("all is delivered", recorder.batches(24)).await;
        assert_eq!(recorder.sequences(), (1..=24).collect::<Vec<_>>());
    }
}

pub async fn d6_an_owner_that_does_not_stand_by_gives_nothing_away(subject: &Subject) {
    let fast = || subject.open_with(|builder| builder.poll_interval(Duration::from_millis(5)));
    let (one, two) = (fast(), fast());
    let mut kept = Vec::new();
    let mut standbys = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let name = DurableStream::new(name);
        kept.push(one.stream_all_durable(&name, takes_all()).await.unwrap());
        let waits = name.ownership(Ownership::Standby);
        standbys.push(two.stream_all_durable(&waits, takes_all()).await.unwrap());
    }
    // Those that would be given away are, and that takes several looks.
    for name in ["w", "x", "y", "z"] {
        kept.push(one.stream_all_durable(&waits(name), takes_all()).await.unwrap());
        standbys.push(two.stream_all_durable(&waits(name), takes_all()).await.unwrap());
    }
    let given = || standbys[4..].iter().filter(|stream| !stands_by(stream)).count();
    eventually("half of what may be given is given", || given() == 2).await;
    assert!(standbys[..4].iter().all(stands_by));
    eventually("and who gave it stands by", || {
        kept[4..].iter().filter(|stream| stands_by(stream)).count() == 2
    })
    .await;
    assert!(kept[..4].iter().all(|stream| !stands_by(stream)));
}

pub async fn d6_words_from_outside_reach_the_owner_and_who_stands_by(subject: &Subject) {
    let fast = || subject.open_with(|builder| builder.poll_interval(Duration::from_millis(5)));
    let (one, two, duty) = (fast(), fast(), subject.open());
    let (first, second) = (Recorder::new(), Recorder::new());
    let owner = one
        .stream_all_durable(&waits("ledger"), first.handler())
        .await
        .unwrap();
    let standby = two
        .stream_all_durable(&waits("ledger"), second.handler())
        .await
        .unwrap();
    append(&one, "a", 1).await;
    owner.wait_for(1).await.unwrap();
    let ledger = duty.stream("ledger").await.unwrap();
    ledger.reset(Reset::Beginning, 1).await.unwrap();
    in_time("the owner starts over", first.batches(2)).await;
    owner.wait_for(1).await.unwrap();
    ledger.pause("anna").await.unwrap();
    eventually("the owner is paused", || {
        matches!(owner.status().state, StreamState::Paused { .. })
    })
    .await;
    assert!(stands_by(&standby));
    owner.unsubscribe();
    owner.stopped().await;
    append(&two, "a", 1).await;
    eventually("who takes over is paused too", || {
        matches!(standby.status().state, StreamState::Paused { .. })
    })
    .await;
    ledger.resume().await.unwrap();
    in_time("it goes on", second.batches(1)).await;
    assert_eq!(second.sequences(), [2]);
    standby.wait_for(2).await.unwrap();
    let third = one
        .stream_all_durable(&waits("ledger"), takes_all())
        .await
        .unwrap();
    assert!(stands_by(&third));
    ledger.rename("books").await.unwrap();
    for stream in [&standby, &third] {
        let cause = in_time("it ends", stream.stopped()).await;
        assert!(matches!(cause, StopCause::Renamed { .. }), "{cause:?}");
    }
    let books = one
        .stream_all_durable(&waits("books"), takes_all())
        .await
        .unwrap();
    let waits_for_books = two
        .stream_all_durable(&waits("books"), takes_all())
        .await
        .unwrap();
    let takes_its_place = DurableStream::new("books-2").start(Start::AfterStream("books".to_owned()));
    let newer = one
        .stream_all_durable(&takes_its_place, takes_all())
        .await
        .unwrap();
    assert_eq!(newer.started_after(), 2);
    for stream in [&books, &waits_for_books] {
        let cause = in_time("it ends", stream.stopped()).await;
        assert!(matches!(cause, StopCause::TakenOver { .. }), "{cause:?}");
    }
    duty.stream("books-2").await.unwrap().delete().await.unwrap();
    let cause = in_time("it ends", newer.stopped()).await;
    assert!(matches!(cause, StopCause::Deleted), "{cause:?}");
}

pub async fn d6_who_does_not_fit_is_refused_before_and_when_it_takes_over(subject: &Subject) {
    let (one, two) = (subject.open(), subject.open());
    let owner = one
        .stream_all_durable(&waits("ledger"), takes_all())
        .await
        .unwrap();
    let only_a = EventQuery::types(["a"]);
    let refused = two
        .stream_to_durable(&waits("ledger"), &only_a, takes_all())
        .await;
    assert!(
        matches!(refused, Err(StreamError::QueryChanged { .. })),
        "{refused:?}"
    );
    let standby = two
        .stream_all_durable(&waits("ledger"), takes_all())
        .await
        .unwrap();
    owner.unsubscribe();
    owner.stopped().await;
    in_time("it takes over", standby.owned()).await.unwrap();
    standby.unsubscribe();
    standby.stopped().await;
    // The owner changes the query while somebody stands by with the old one.
    let owner = one
        .stream_all_durable(&waits("ledger"), takes_all())
        .await
        .unwrap();
    let standby = two
        .stream_all_durable(&waits("ledger"), takes_all())
        .await
        .unwrap();
    let changes = waits("ledger")
        .ownership(Ownership::TakeOver)
        .on_mismatch(OnMismatch::KeepCursor);
    let third = subject.open();
    let changed = third
        .stream_to_durable(&changes, &only_a, takes_all())
        .await
        .unwrap();
    let cause = in_time("the owner ends", owner.stopped()).await;
    assert!(matches!(cause, StopCause::OwnershipLost), "{cause:?}");
    assert!(stands_by(&standby));
    changed.unsubscribe();
    changed.stopped().await;
    let cause = in_time("it does not fit", standby.stopped()).await;
    assert!(
        matches!(&cause, StopCause::NotTakenOver { source } if matches!(**source, StreamError::QueryChanged { .. })),
        "{cause:?}"
    );
    assert_eq!(status(&third, "ledger").await.owner, None);
}

pub async fn d6_a_registration_that_nobody_waits_for_owns_nothing(subject: &Subject) {
    let (one, two) = (subject.open(), subject.open());
    for round in 0..40 {
        let name = DurableStream::new("ledger");
        let registering = one.stream_all_durable(&name, takes_all());
        let given_up = tokio::time::timeout(Duration::from_micros(round * 20), registering).await;
        if let Ok(registered) = given_up {
            let stream = registered.unwrap();
            stream.unsubscribe();
            stream.stopped().await;
        }
        // What was queued before is done when something that is queued behind it is.
        append(&one, "a", 1).await;
        let stream = two.stream_all_durable(&name, takes_all()).await.unwrap();
        stream.unsubscribe();
        stream.stopped().await;
    }
}
