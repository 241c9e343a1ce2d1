//! What is asked over HTTP, and what is answered.

use std::iter;
use std::thread;
use std::time::Instant;

use millstream::Store;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::service::{Answer, PATIENCE, Service, order};

#[test]
fn who_places_an_order_reads_it_in_the_answer() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path());
    // Each answer is read from a read model that another thread keeps: one that is late by once in a while would show here.
    for n in 0..50 {
        let (number, customer) = (format!("A-{n}"), format!("customer {n}"));
        let answer = service.order(&number, &customer, 1);
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.body["number"], number);
        assert_eq!(answer.body["customer"], customer);
        assert_eq!(answer.body["lines"], json!([{"sku": "mug", "quantity": 1}]));
        let read = service.get(&format!("/orders/{number}"));
        assert_eq!((read.status, &read.body["customer"]), (200, &json!(customer)));
    }
}

#[test]
fn an_order_goes_through_the_slices() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path());
    let mut feed = service.feed("/feed", None);
    service.restock(5);
    service.order("A-1", "Anna", 2);
    feed.until("stock-reserved", "A-1");
    assert_eq!(
        service.post("/parcels/A-1/send", &Value::Null).body["state"],
        "sent"
    );
    let again = service.post("/parcels/A-1/send", &Value::Null);
    assert_problem(&again, 409, "it was sent already");
    feed.until("parcel-sent", "A-1");

    service.order("A-2", "Ben", 4);
    let refused = feed.until("reservation-refused", "A-2");
    assert_eq!(refused.data["reason"], "4 of mug are wanted, 3 are there");
    let not_there = service.post("/parcels/A-2/send", &Value::Null);
    assert_problem(&not_there, 409, "its reservation was refused");

    service.order("A-3", "Chloe", 3);
    feed.until("stock-reserved", "A-3");
    // A restock is answered when the shelf shows it, and so it shows all that was reserved before.
    let shelf = service.post("/stock/mug", &json!({"quantity": 1})).body;
    assert_eq!(shelf, json!({"sku": "mug", "received": 6, "reserved": 5}));
    assert_eq!(service.get("/stock").body, json!([shelf]));
    assert_eq!(service.post("/parcels/A-3/send", &Value::Null).status, 200);
    assert_eq!(service.get("/parcels").body, json!([]));
}

#[test]
fn an_order_that_is_sent_again_is_placed_once() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path());
    assert_eq!(service.order("A-1", "Anna", 1).status, 201);
    let again = service.order("A-1", "Anna", 1);
    assert_eq!((again.status, &again.body["customer"]), (200, &json!("Anna")));
    assert_problem(
        &service.order("A-1", "Ben", 1),
        409,
        "another order with the number A-1",
    );
    assert_eq!(service.get("/orders").body["orders"].as_array().unwrap().len(), 1);
}

#[test]
fn of_many_who_want_one_number_one_gets_it() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path());
    for round in 0..10 {
        let number = format!("A-{round}");
        let order = |customer: usize| service.order(&number, &format!("customer {customer}"), 1);
        let statuses = thread::scope(|scope| {
            let order = &order;
            let asking: Vec<_> = (0..8).map(|n| scope.spawn(move || order(n).status)).collect();
            asking
                .into_iter()
                .map(|one| one.join().unwrap())
                .collect::<Vec<_>>()
        });
        let with = |wanted| statuses.iter().filter(|status| **status == wanted).count();
        assert_eq!((with(201), with(409)), (1, 7), "{statuses:?}");
    }
}

#[test]
fn what_is_there_is_reserved_for_no_two() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path());
    service.restock(3);
    let mut feed = service.feed("/feed", None);
    thread::scope(|scope| {
        for n in 0..8 {
            let service = &service;
            scope.spawn(move || service.order(&format!("A-{n}"), "Anna", 1));
        }
    });
    let mut answers = Vec::new();
    while answers.len() < 8 {
        let message = feed.next().unwrap();
        if message.event != "order-placed" {
            answers.push(message.event);
        }
    }
    let reserved = answers
        .iter()
        .filter(|answer| *answer == "stock-reserved")
        .count();
    assert_eq!(reserved, 3, "{answers:?}");
}

#[test]
fn what_is_placed_and_cannot_be_shown_is_unavailable() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path());
    let store = Store::open(folder.path().join("log.db")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let model = runtime.block_on(store.stream("orders@1")).unwrap();
    runtime.block_on(model.pause("the test")).unwrap();

    // The service hears of it in a moment.
    let began_at = Instant::now();
    let mut answers = (0..).map(|n| (n, service.order(&format!("A-{n}"), "Anna", 1)));
    let seen = |answer: &Answer| answer.status == 201 && began_at.elapsed() < PATIENCE;
    let (unseen, answer) = answers.find(|(_, answer)| !seen(answer)).unwrap();
    assert_problem(&answer, 503, "was paused");

    // Who asks again, when it goes on, sees the order that was placed then, and places no second one.
    runtime.block_on(model.resume()).unwrap();
    let number = format!("A-{unseen}");
    let again = || service.order(&number, "Anna", 1).status;
    let last = iter::repeat_with(again).find(|status| *status != 503 || began_at.elapsed() > PATIENCE);
    assert_eq!(last, Some(200));
}

#[test]
fn bad_input_is_answered_with_a_problem_that_names_it() {
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path());
    let line = |quantity: Value| json!({"sku": "mug", "quantity": quantity});
    let lines = |lines: Value| json!({"number": "A-1", "customer": "Anna", "lines": lines});
    let many: Value = (0..51)
        .map(|n| json!({"sku": format!("mug-{n}"), "quantity": 1}))
        .collect();
    let bodies = [
        (order("", "Anna", 1), "begins with a letter or digit"),
        (order("../x", "Anna", 1), "begins with a letter or digit"),
        (order("a b", "Anna", 1), "1 to 40 of the characters"),
        (order(&"x".repeat(41), "Anna", 1), "1 to 40"),
        (order("Ä-1", "Anna", 1), "A-Z"),
        (order("A-1", " ", 1), "a text of one line"),
        (order("A-1", "An\nna", 1), "a text of one line"),
        (order("A-1", &"x".repeat(101), 1), "this one has 101"),
        (order("A-1", "Anna", 0), "from 1 to 1000, this one is 0"),
        (order("A-1", "Anna", 1001), "this one is 1001"),
        (lines(json!([line(json!(-1))])), "quantity"),
        (lines(json!([line(json!(1.5))])), "quantity"),
        (lines(json!([line(json!("1"))])), "quantity"),
        (
            lines(json!([line(json!(1)), line(json!(2))])),
            "the article mug is in two lines",
        ),
        (lines(json!([])), "this one has 0"),
        (lines(many), "this one has 51"),
        (lines(Value::Null), "lines"),
        (json!({"number": "A-1", "lines": []}), "missing field `customer`"),
        (json!([]), "struct Order"),
        (Value::Null, "invalid type"),
    ];
    for (body, detail) in &bodies {
        let answer = service.post("/orders", body);
        assert_problem(&answer, 400, detail);
    }
    let deep = "[".repeat(10_000);
    assert_problem(
        &service.post_text("/orders", "application/json", "{"),
        400,
        "JSON",
    );
    assert_problem(
        &service.post_text("/orders", "application/json", &deep),
        400,
        "JSON",
    );
    assert_problem(
        &service.post_text("/orders", "text/plain", "{}"),
        415,
        "application/json",
    );
    let large = "x".repeat(70 << 10);
    assert_problem(&service.post("/orders", &json!(large)), 413, "length limit");
    assert_problem(
        &service.post("/stock/mug", &json!({"quantity": 0})),
        400,
        "from 1 to 1000",
    );
    assert_problem(
        &service.post("/stock/a%20b", &json!({"quantity": 1})),
        400,
        "1 to 40",
    );
    assert_problem(&service.post("/stock/%ff", &json!({"quantity": 1})), 400, "UTF-8");
    assert_problem(
        &service.post("/parcels/A-9/send", &Value::Null),
        404,
        "there is no order A-9",
    );
    assert_problem(&service.get("/orders/A-9"), 404, "there is no order A-9");
    assert_problem(
        &service.get("/nothing/here"),
        404,
        "there is nothing at /nothing/here",
    );
    assert_problem(&service.post("/feed", &Value::Null), 405, "POST");
    assert_problem(&service.get("/feed?after=-1"), 400, "after");
    assert_problem(&service.get("/feed?after=7"), 400, "the log ends at 0");
    assert_problem(&service.refused_feed("/feed", "seven"), 400, "Last-Event-ID");
    assert_problem(
        &service.refused_feed("/feed?after=0", "7"),
        400,
        "the log ends at 0",
    );

    // And it goes on, with nothing of all that in the log.
    assert_eq!(service.get("/orders").body, json!({"as_of": 0, "orders": []}));
    assert_eq!(service.order("A-1", "Anna", 1).status, 201);
}

fn assert_problem(answer: &Answer, status: u16, detail: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.content_type, "application/problem+json", "{answer:?}");
    assert_eq!(answer.body["status"], status, "{answer:?}");
    let found = answer.body["detail"].as_str().unwrap();
    assert!(found.contains(detail), "{found:?} lacks {detail:?}");
}
