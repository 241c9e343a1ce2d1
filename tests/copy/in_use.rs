//! Sources that are written to, streamed from and pruned while they are copied.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use futures::executor::block_on;
use millstream::{Copied, CopyError, CopyPhase, DurableStream, Prune, RetryLetters, Store};
use rusqlite::types::Value;

use crate::common::{Recorder, append, events};
use crate::place::{Place, dump, long};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_use_is_copied_as_it_was_at_one_moment() {
    let place = Place::new();
    let store = long(&place, 2_000).await;
    let recorder = Recorder::new();
    let stream = store
        .stream_all_durable(&DurableStream::new("busy"), recorder.handler())
        .await
        .unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let appending = tokio::spawn({
        let (store, is_over) = (store.clone(), Arc::clone(&is_over));
        async move {
            while !is_over.load(Ordering::SeqCst) {
                append(&store, "meanwhile", 2).await;
            }
        }
    });
    let before = store.head();
    let copied = store.copy_to(place.target()).await.unwrap();
    is_over.store(true, Ordering::SeqCst);
    appending.await.unwrap();
    assert!(copied.head >= before && copied.head < store.head(), "{copied:?}");
    stream.unsubscribe();
    stream.stopped().await;
    let [source, target] = [place.path("source.db"), place.target()].map(|path| dump(&path));
    let events = target[0].len();
    assert_eq!(source[0][..events], target[0]);
    assert_eq!(copied.events, events as u64);
    let moved = Store::open(place.target()).unwrap();
    assert!(moved.verify().await.unwrap().is_sound());
    let status = moved.stream("busy").await.unwrap().status().await.unwrap();
    assert!(status.cursor <= Some(copied.head), "{status:?}");
    // Nobody runs it here.
    let control = moved.stream("busy").await.unwrap();
    let asked = control
        .ask_for_retry(RetryLetters::All, "anna", Duration::from_secs(60))
        .await;
    assert!(asked.is_err(), "nobody runs the stream of a copy");
}

/// Copies, and does something with the source when so many pages are there.
async fn copy_and_at_page(
    store: &Store,
    target: &Path,
    page: u64,
    does: impl Fn(&Store) + Send + 'static,
) -> (Result<Copied, CopyError>, u64) {
    let seen = Arc::new(AtomicU64::new(0));
    let (told, source) = (Arc::clone(&seen), store.clone());
    let copied = store.copy_with_progress(target, move |progress| {
        assert!(progress.done_sequences <= progress.total_sequences);
        if told.fetch_add(1, Ordering::SeqCst) + 1 == page {
            does(&source);
        }
    });
    (copied.await, seen.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pruned_meanwhile_is_pruned_in_the_copy() {
    // Pages 1 to 3 are copied, then both sides are compared.
    for (page, before) in [(1, 500), (1, 5_500), (3, 2_500), (4, 2_500)] {
        let place = Place::new();
        let store = long(&place, 3_000).await;
        let (copied, pages) = copy_and_at_page(&store, &place.target(), page, move |store| {
            let pruned = block_on(store.prune(Prune::before(before).past_cursors())).unwrap();
            assert!(pruned.pruned_through > before - 5);
            // Its key is free again, and used for something else.
            let again = store.append_once_blocking("k:0", events("again", 2)).unwrap();
            assert!(!again.is_repetition);
        })
        .await;
        let copied = copied.unwrap();
        assert!(pages > page, "{pages}");
        let moved = Store::open(place.target()).unwrap();
        let verified = moved.verify().await.unwrap();
        assert!(verified.is_sound(), "{page} {before}: {verified:?}");
        let [source, target] = [place.path("source.db"), place.target()].map(|path| dump(&path));
        if page <= 3 {
            assert_eq!(source, target, "{page} {before}");
            continue;
        }
        let is_copied =
            |row: &[Value]| matches!(row[0], Value::Integer(sequence) if sequence as u64 <= copied.head);
        // It came too late for the copy, which is the log as it was before.
        let of_source: Vec<_> = source[0].iter().filter(|row| is_copied(row)).collect();
        let of_target = target[0]
            .iter()
            .skip(target[0].len() - of_source.len())
            .collect::<Vec<_>>();
        assert_eq!(of_source, of_target);
        assert_eq!(
            (copied.pruned_through, copied.events),
            (0, target[0].len() as u64)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_ends_with_both_sides_compared() {
    let place = Place::new();
    let store = long(&place, 3_000).await;
    let (tell, told) = mpsc::channel();
    store
        .copy_with_progress(place.target(), move |progress| {
            let _ = tell.send(progress);
        })
        .await
        .unwrap();
    let told: Vec<_> = told.iter().collect();
    let compared = told.partition_point(|progress| progress.phase == CopyPhase::Copying);
    let done = |range: &[millstream::CopyProgress]| -> Vec<u64> {
        range.iter().map(|progress| progress.done_sequences).collect()
    };
    for phase in [&told[..compared], &told[compared..]] {
        assert!(phase.len() > 2 && done(phase).is_sorted(), "{phase:?}");
        let last = phase.last().unwrap();
        assert_eq!(last.done_sequences, last.total_sequences);
    }
    assert!(
        told[compared..]
            .iter()
            .all(|progress| progress.phase == CopyPhase::Verifying)
    );
}
