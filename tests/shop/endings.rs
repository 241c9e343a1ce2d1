//! How the service ends, and how it goes on.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::tempdir;

use crate::service::{Service, binary};

#[test]
fn it_ends_when_it_is_asked_to_and_goes_on_where_it_stopped() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path());
    service.restock(100);
    let mut last_seen = 0;
    drop(service);
    for (round, signal) in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL]
        .into_iter()
        .enumerate()
    {
        let service = Service::start(folder.path());
        let mut feed = service.feed("/feed", Some(last_seen));
        for n in 0..10 {
            let number = format!("{round}-{n}");
            assert_eq!(service.order(&number, "Anna", 1).status, 201);
        }
        last_seen = feed.until("order-placed", &format!("{round}-9")).id;
        // Its last orders may have no answer yet.
        let ended = service.end(signal);
        match signal {
            Signal::SIGKILL => assert_eq!(ended.status.code(), None),
            _ => {
                assert_eq!(ended.status.code(), Some(0), "{signal}");
                // The feed was brought to its end at once, and not cut off.
                assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
                while let Some(message) = feed.next() {
                    last_seen = message.id;
                }
            }
        }
    }

    let service = Service::start(folder.path());
    assert_eq!(service.order("last", "Ben", 1).status, 201);
    let mut feed = service.feed("/feed", None);
    let (mut placed, mut reserved, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    while reserved.len() < 31 {
        let message = feed.next().unwrap();
        ids.push(message.id);
        match message.event.as_str() {
            "order-placed" => placed.push(message.data["number"].clone()),
            "stock-reserved" => reserved.push(message.data["number"].clone()),
            other => panic!("there is enough, and nothing was sent: {other}"),
        }
    }
    assert_eq!(placed.len(), 31);
    assert_eq!(placed, reserved, "each is answered once, in its order");
    assert!(ids.is_sorted_by(|one, next| one < next));
    let shelf = service.post("/stock/mug", &json!({"quantity": 1})).body;
    assert_eq!(shelf, json!({"sku": "mug", "received": 101, "reserved": 31}));
    assert_eq!(
        service.order("0-0", "Anna", 1).status,
        200,
        "it knows what it placed"
    );
    let list = service.get("/orders").body;
    assert_eq!(list["orders"].as_array().unwrap().len(), 31);
}

#[test]
fn what_cannot_be_served_is_said_in_one_line() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "no folder").unwrap();
    let service = Service::start(&folder.path().join("taken"));
    let port = service.port().to_string();
    let other = folder.path().join("other");
    let cases = [
        (&file, "0", "cannot make the folder"),
        (&other, port.as_str(), "choose another one with --port"),
    ];
    for (db, port, expected) in cases {
        let output = Command::new(binary())
            .args(["--port", port, "--db"])
            .arg(db)
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.starts_with("shop_slices: ") && error.contains(expected),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
