//! Server-sent events: live, after a reconnect, and to somebody who does not read.

use std::io::{Read, Write};
use std::net::TcpStream;

use millstream::{NewEvent, Store};
use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::tempdir;

use crate::service::{Message, PATIENCE, Service, order};

#[test]
fn orders_come_live_and_after_a_reconnect_without_a_gap() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path());
    service.restock(9);
    let mut live = service.feed("/feed?after=0", None);
    service.order("A-1", "Anna", 1);
    let placed = live.until("order-placed", "A-1");
    assert_eq!(placed.data["customer"], "Anna");
    assert_eq!(placed.data["lines"], json!([{"sku": "mug", "quantity": 1}]));
    let last = live.until("stock-reserved", "A-1").id;
    drop(live);

    // Missed by who is not connected.
    service.order("A-2", "Ben", 1);
    service.order("A-3", "Chloe", 1);
    let mut again = service.feed("/feed?after=0", Some(last));
    service.order("A-4", "Dragan", 1);
    let mut seen = vec![again.next().unwrap()];
    while seen
        .iter()
        .filter(|message| message.event == "stock-reserved")
        .count()
        < 3
    {
        seen.push(again.next().unwrap());
    }
    let placed: Vec<_> = seen
        .iter()
        .filter(|message| message.event == "order-placed")
        .collect();
    let numbers: Vec<_> = placed.iter().map(|message| &message.data["number"]).collect();
    assert_eq!(numbers, ["A-2", "A-3", "A-4"]);
    assert!(seen.is_sorted_by(|one, next| one.id < next.id) && seen[0].id > last);

    // Who begins with the first event gets the same.
    let mut whole = service.feed("/feed", None);
    let from_the_first: Vec<Message> = (0..2 + seen.len()).map(|_| whole.next().unwrap()).collect();
    assert_eq!(from_the_first[2..], seen);
}

#[test]
fn a_list_and_what_comes_behind_it_is_everything() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path());
    service.order("A-1", "Anna", 1);
    let list = service.get("/orders").body;
    assert_eq!(list["orders"][0]["number"], "A-1");
    let mut behind = service.feed(&format!("/feed?after={}", list["as_of"]), None);
    service.order("A-2", "Ben", 1);
    // Whether the first is answered already or not, it is placed in the list, and is not placed behind it.
    loop {
        let message = behind.next().unwrap();
        if message.event == "order-placed" {
            assert_eq!(message.data["number"], "A-2");
            break;
        }
    }
}

#[test]
fn a_reconnect_in_the_midst_of_a_batch_goes_on_in_it() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path());
    // Imported, for instance: more than one order in one append.
    let store = Store::open(folder.path().join("log.db")).unwrap();
    let placed = |n: u32| NewEvent::new("order-placed", order(&format!("A-{n}"), "Anna", 1));
    store.append_blocking((1..=3).map(placed)).unwrap();
    let mut whole = service.feed("/feed", None);
    let first = whole.until("order-placed", "A-1").id;
    let mut behind = service.feed("/feed", Some(first));
    let next: Vec<_> = (0..2).map(|_| behind.next().unwrap()).collect();
    assert_eq!((next[0].id, &next[0].data["number"]), (first + 1, &json!("A-2")));
    assert_eq!((next[1].id, &next[1].data["number"]), (first + 2, &json!("A-3")));
}

/// More than the buffers of a connection hold.
const UNREAD_BATCHES: u32 = 200;
const BATCH_BYTES: usize = 256 << 10;

#[test]
fn who_does_not_read_holds_up_nobody_and_not_the_end() {
    let folder = tempdir().unwrap();
    let store = Store::open(folder.path().join("log.db")).unwrap();
    let note = "x".repeat(BATCH_BYTES);
    for _ in 0..UNREAD_BATCHES {
        let event = NewEvent::new("parcel-sent", json!({"number": "A-0", "note": note}));
        store.append_blocking([event]).unwrap();
    }
    let head = store.head();
    drop(store);

    let service = Service::start(folder.path());
    let mut idle = TcpStream::connect(service.address()).unwrap();
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(idle, "GET /feed HTTP/1.1\r\nHost: {}\r\n\r\n", service.address()).unwrap();
    let mut first_byte = [0];
    idle.read_exact(&mut first_byte).unwrap();

    let mut live = service.feed(&format!("/feed?after={head}"), None);
    assert_eq!(service.order("A-1", "Anna", 1).status, 201);
    live.until("order-placed", "A-1");
    let ended = service.end(Signal::SIGTERM);
    assert_eq!(ended.status.code(), Some(0));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("did not take the answer in time"), "{said:?}");
}
