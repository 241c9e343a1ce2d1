//! Stores that are gone leave nothing behind: no stream, no handler, no reader.

use std::path::Path;
use std::sync::{Arc, Weak};

use millstream::internals::with_faults;
use millstream::{DurableStream, EventQuery, HandleStream, NewEvent, Retry, Store};

/// How a store is used before it goes.
#[derive(Clone, Copy)]
struct Use {
    closes: bool,
    detaches: bool,
    fails: bool,
}

fn handle(token: &Arc<()>, fails: bool) -> HandleStream {
    let token = Arc::clone(token);
    HandleStream::new(move |_| {
        let held = Arc::clone(&token);
        async move {
            drop(held);
            if fails {
                Err("the handler always fails")
            } else {
                Ok(())
            }
        }
    })
    .retry(Retry::never())
}

/// Uses a store whose streams, handlers and committer all hold a token, and gives what tells whether it is held still.
async fn use_store(path: Option<&Path>, how: Use) -> Weak<()> {
    let token = Arc::new(());
    let held = Arc::clone(&token);
    let builder = with_faults(Store::builder(), move |_| Arc::strong_count(&held) == 0);
    let store = match path {
        Some(path) => builder.open(path).unwrap(),
        None => builder.in_memory().unwrap(),
    };
    let name = DurableStream::new(format!("{}-{}-{}", how.closes, how.detaches, how.fails));
    let durable = store
        .stream_all_durable(&name, handle(&token, how.fails))
        .await
        .unwrap();
    let live = store
        .stream_to(&EventQuery::types(["a"]), handle(&token, how.fails))
        .await
        .unwrap();
    let keyed = DurableStream::new(format!("keyed-{}-{}-{}", how.closes, how.detaches, how.fails))
        .partition_by(3, |event| Some(event.event_type().to_owned()));
    let keyed = store
        .stream_all_durable(&keyed, handle(&token, how.fails))
        .await
        .unwrap();
    store
        .append([NewEvent::new("a", 1), NewEvent::new("b", 1)])
        .await
        .unwrap();
    assert_eq!(store.settled().await.is_err(), how.fails);
    if how.detaches {
        durable.detach();
        keyed.detach();
        live.detach();
    }
    if how.closes {
        store.close().await.unwrap();
    }
    Arc::downgrade(&token)
}

#[test]
fn a_store_that_is_gone_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    for case in 0..16 {
        let bit = |index: u32| case >> index & 1 == 1;
        let how = Use {
            closes: bit(0),
            detaches: bit(1),
            fails: bit(2),
        };
        let path = bit(3).then_some(path.as_path());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let token = runtime.block_on(use_store(path, how));
        // Waits for the tasks that end streams.
        drop(runtime);
        assert_eq!(token.strong_count(), 0, "case {case:04b}");
    }
}
