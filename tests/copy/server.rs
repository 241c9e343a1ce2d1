//! Moves to a PostgreSQL server and back: what comes back is what went.

use millstream::{CopyError, DurableStream, LogLocation, OpenError, Store};

use crate::common::postgres::{Database, database};
use crate::common::{Recorder, append};
use crate::place::{Place, dump, payment, with_everything};

/// The schema of a test, as the address of a log.
fn address(database: &Database) -> String {
    format!("{}?schema={}", database.address, database.schema)
}

async fn open(address: &str) -> Result<Store, OpenError> {
    let location = LogLocation::parse(address)?;
    Store::builder().must_exist().open_at(&location).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_moves_to_a_server_and_back_with_everything() {
    let Some(database) = database() else { return };
    let place = Place::new();
    let store = with_everything(&place).await;
    let address = address(&database);
    let moved = store.copy_to(&address).await.unwrap();
    assert_eq!((moved.streams, &*moved.log_id), (4, store.log_id()));
    let on_server = open(&address).await.unwrap();
    assert_eq!(on_server.head(), store.head());
    let back = on_server.copy_to(place.target()).await.unwrap();
    assert_eq!(back.checksum, moved.checksum);
    // The paths that are indexed are of a file.
    let [source, target] = [place.path("source.db"), place.target()].map(|path| dump(&path));
    assert_eq!(source[..5], target[..5]);
    // It goes on where the file stood.
    let again = on_server
        .append_once("payment:59", payment(40 + 59 % 3))
        .await
        .unwrap();
    assert!(again.is_repetition);
    let next = append(&on_server, "next", 1).await;
    assert_eq!(next.0, moved.head + 1, "no sequence is given again");
    let recorder = Recorder::new();
    let stream = on_server
        .stream_all_durable(&DurableStream::new("newer"), recorder.handler())
        .await
        .unwrap();
    stream.caught_up().await.unwrap();
    assert_eq!(recorder.sequences().last(), Some(&next.1));
    assert!(
        recorder.sequences().len() < 5,
        "what was handled is not handled again"
    );
    drop(stream);
    on_server.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_at_the_target_is_refused_and_left_alone() {
    let Some(database) = database() else { return };
    let place = Place::new();
    let store = place.source();
    append(&store, "a", 2).await;
    let address = address(&database);
    store.copy_to(&address).await.unwrap();
    let refused = store.copy_to(&address).await.unwrap_err();
    assert!(
        matches!(
            refused,
            CopyError::TargetIsALog {
                is_of_source: true,
                ..
            }
        ),
        "{refused:?}"
    );
    // A copy that was cut off is no log, and goes on where it was.
    database
        .execute("UPDATE millstream_log SET copy_of = log_id, head = 0; DELETE FROM event")
        .unwrap();
    let refused = open(&address).await.unwrap_err();
    assert!(matches!(refused, OpenError::PartialCopy { .. }), "{refused:?}");
    let other = Store::in_memory().unwrap();
    let refused = other.copy_to(&address).await.unwrap_err();
    assert!(
        matches!(refused, CopyError::TargetIsOfAnother { .. }),
        "{refused:?}"
    );
    assert_eq!(store.copy_to(&address).await.unwrap().events, 2);
    open(&address).await.unwrap().close().await.unwrap();
}
