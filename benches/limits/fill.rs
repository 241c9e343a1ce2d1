//! Long logs: batches of ten events, one tag each, one event in a hundred of a rare type.

use std::path::Path;

use futures::StreamExt;
use millstream::{Durability, NewEvent, Store};

use crate::Failure;
use crate::order::{Order, RARE_TYPE, TYPE};

const BATCH: u64 = 10;
/// Appends under way at once.
const IN_FLIGHT: usize = 64;

/// Makes a log of so many events, unless it is there.
pub(crate) async fn fill(path: &Path, events: u64) -> Result<(), Failure> {
    let store = Store::builder().durability(Durability::Relaxed).open(path)?;
    fill_store(&store, events).await?;
    store.close().await?;
    Ok(())
}

/// Appends until the log has so many events.
pub(crate) async fn fill_store(store: &Store, events: u64) -> Result<(), Failure> {
    if store.head() >= events {
        return Ok(());
    }
    println!("  filling a log with {events} events ...");
    let batches = futures::stream::iter(0..events / BATCH);
    let mut appends = batches
        .map(|number| store.append((0..BATCH).map(move |index| event(number * BATCH + index))))
        .buffered(IN_FLIGHT);
    while let Some(appended) = appends.next().await {
        appended?;
    }
    Ok(())
}

fn event(number: u64) -> NewEvent {
    let event_type = if number.is_multiple_of(100) {
        RARE_TYPE
    } else {
        TYPE
    };
    NewEvent::new(event_type, Order::new(number)).tag(format!("customer:{}", number % 1_000))
}
