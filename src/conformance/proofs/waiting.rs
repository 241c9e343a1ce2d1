//! D9: what those are told who wait for a stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::conformance::proofs::steering::{fails_at, ledger, open};
use crate::conformance::subject::Subject;
use crate::conformance::tools::{Recorder, append, in_time};
use crate::error::{SteerError, StopCause, WaitError};
use crate::event::batch::EventBatch;
use crate::event::query::EventQuery;
use crate::log::steer::Reset;
use crate::stream::handler::HandleStream;
use crate::stream::options::{Checkpoint, DurableStream};
use crate::stream::policy::Retry;

pub async fn wait_ends_when_it_is_handled_and_stored(subject: &Subject) {
    let store = subject.open();
    let name = DurableStream::new("ledger").checkpoint(Checkpoint::Every {
        batches: 1_000,
        within: Duration::from_secs(3_600),
    });
    let recorder = Recorder::new();
    let query = EventQuery::types(["b"]);
    let stream = store
        .stream_to_durable(&name, &query, recorder.handler())
        .await
        .unwrap();
    let control = ledger(&store).await;
    let appended = store
        .append(crate::conformance::tools::events("b", 2))
        .await
        .unwrap();
    in_time("it is stored", stream.wait_for(appended)).await.unwrap();
    assert_eq!(
        (stream.status().cursor, recorder.sequences()),
        (Some(2), vec![1, 2])
    );
    let unselected = store
        .append(crate::conformance::tools::events("a", 1))
        .await
        .unwrap();
    in_time("it is passed", control.wait_for(&unselected))
        .await
        .unwrap();
    assert_eq!(stream.status().cursor, Some(3));
    let early = tokio::spawn({
        let control = control.clone();
        async move { control.wait_for(4).await }
    });
    append(&store, "b", 1).await;
    in_time("what was yet to be appended", early)
        .await
        .unwrap()
        .unwrap();
    in_time("all streams", store.wait_for(4)).await.unwrap();
}

pub async fn wait_for_a_stream_that_does_not_go_on_fails_at_once(subject: &Subject) {
    let store = subject.open();
    let recorder = Recorder::new();
    let stream = open(&store, fails_at(&recorder, 2).retry(Retry::never())).await;
    let control = ledger(&store).await;
    append(&store, "a", 1).await;
    stream.wait_for(1).await.unwrap();
    control.pause("anna").await.unwrap();
    let waits = [control.wait_for(2).await, store.wait_for(2).await];
    for waited in waits {
        assert!(matches!(waited, Err(WaitError::Paused { .. })), "{waited:?}");
    }
    control.wait_for(1).await.expect("that is done");
    control.resume().await.unwrap();
    append(&store, "a", 1).await;
    let waits = [
        in_time("it stops", stream.wait_for(2)).await,
        control.wait_for(2).await,
        store.wait_for(2).await,
    ];
    for waited in waits {
        assert!(
            matches!(
                waited,
                Err(WaitError::Stopped {
                    cause: StopCause::HandlerFailed { .. },
                    ..
                })
            ),
            "{waited:?}"
        );
    }
}

pub async fn wait_outlives_a_reset(subject: &Subject) {
    let store = subject.open();
    let (recorder, gate) = (Recorder::new(), Arc::new(Semaphore::new(2)));
    let stream = open(&store, recorder.gated(&gate)).await;
    for _ in 0..3 {
        append(&store, "a", 1).await;
    }
    let control = ledger(&store).await;
    in_time("two are stored", control.wait_for(2)).await.unwrap();
    let waiting = tokio::spawn({
        let control = control.clone();
        async move { control.wait_for(3).await }
    });
    control.reset(Reset::Beginning, 2).await.unwrap();
    gate.add_permits(100);
    in_time("it was handled again", waiting).await.unwrap().unwrap();
    in_time("all is", stream.wait_for(3)).await.unwrap();
    assert_eq!(stream.status().cursor, Some(3));
    assert!(recorder.sequences().ends_with(&[1, 2, 3]));
}

pub async fn wait_inside_the_own_handler_is_refused(subject: &Subject) {
    let store = subject.open();
    // More streams than are woken one by one: most are run by a few tasks.
    let (told, mut answers) = tokio::sync::mpsc::channel(80);
    let mut streams = Vec::new();
    for number in 0..80 {
        let name = format!("stream-{number}");
        let handler = {
            let (store, told, name) = (store.clone(), told.clone(), name.clone());
            HandleStream::new(move |batch: EventBatch| {
                let (store, told, name) = (store.clone(), told.clone(), name.clone());
                async move {
                    // Waiting in between lets the call go on in a task of its own.
                    tokio::task::yield_now().await;
                    let control = store.stream(&name).await?;
                    let waits = [
                        control.wait_for(batch.last_sequence()).await,
                        store.settled().await,
                        store.wait_for(batch.last_sequence()).await,
                    ];
                    told.send(waits).await.expect("the test listens");
                    Ok::<_, SteerError>(())
                }
            })
        };
        let name = DurableStream::new(name);
        streams.push(store.stream_all_durable(&name, handler).await.unwrap());
    }
    append(&store, "a", 1).await;
    for _ in 0..80 {
        let waits = in_time("a handler answers", answers.recv()).await.unwrap();
        assert!(
            matches!(waits[0], Err(WaitError::InOwnHandler { .. })),
            "{waits:?}"
        );
    }
    in_time("and none hangs", store.settled()).await.unwrap();
}
