//! Cursors that ride along with the appends of a group.

use millstream::{Checkpoint, DurableStream, Store, StreamState};

use crate::common::postgres::{Database, database};
use crate::common::{Recorder, append, events, in_time};

const NAMES: [&str; 3] = ["a", "b", "c"];

async fn open(database: &Database) -> Store {
    let builder = database.builder();
    builder.connect(&database.address).await.expect("opens")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_does_not_suffer_from_a_cursor_that_cannot_be_moved() {
    let Some(database) = database() else { return };
    let store = open(&database).await;
    let recorder = Recorder::new();
    // Strict, so that a move comes with or between the appends all the time.
    let name = DurableStream::new("ledger").checkpoint(Checkpoint::Strict);
    let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    database
        .execute(
            "CREATE FUNCTION refuse_moves() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
             CREATE TRIGGER refuse_moves BEFORE UPDATE ON cursor FOR EACH ROW EXECUTE FUNCTION refuse_moves()",
        )
        .unwrap();
    let mut appends = 0;
    in_time("the stream gives up", async {
        // Until the stream has tried it often enough, the moves ride along with these.
        while !matches!(stream.status().state, StreamState::Stopped(_)) {
            store.append(events("a", 1)).await.expect("appends");
            appends += 1;
        }
    })
    .await;
    stream.stopped().await;
    assert_eq!(database.number("SELECT count(*) FROM event"), appends);
    assert_eq!(database.number("SELECT position FROM cursor"), 0);
    database.execute("DROP TRIGGER refuse_moves ON cursor").unwrap();
    let recorder = Recorder::new();
    let stream = store.stream_all_durable(&name, recorder.handler()).await.unwrap();
    in_time("all of it is delivered", stream.caught_up())
        .await
        .unwrap();
    assert_eq!(recorder.sequences(), (1..=appends as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_cursors_that_are_moved_together_those_stay_that_have_another_owner() {
    let Some(database) = database() else { return };
    let store = open(&database).await;
    let recorder = Recorder::new();
    let mut streams = Vec::new();
    for name in NAMES {
        let name = DurableStream::new(name);
        streams.push(store.stream_all_durable(&name, recorder.handler()).await.unwrap());
    }
    // As if another process had taken it over.
    database
        .execute("UPDATE cursor SET epoch = epoch + 1 WHERE name = 'b'")
        .unwrap();
    append(&store, "a", 4).await;
    in_time("all are called", recorder.batches(NAMES.len())).await;
    in_time("the one that lost it ends", streams[1].stopped()).await;
    store.close().await.unwrap();
    let position =
        |name: &str| database.number(&format!("SELECT position FROM cursor WHERE name = '{name}'"));
    assert_eq!(NAMES.map(position), [4, 0, 4]);
}
