//! What is refused when a log is opened, and what an error says.

use futures::TryStreamExt;
use millstream::{
    BackupError, DeadLetterState, DurableStream, EventBatch, EventQuery, FailurePolicy, HandleStream,
    NewEvent, OpenError, Store, VerifyError,
};

use crate::common::postgres::{Database, database};
use crate::common::{append, in_time};

async fn open(database: &Database) -> Result<Store, OpenError> {
    database.builder().connect(&database.address).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_format_is_refused_and_left_alone() {
    let Some(database) = database() else { return };
    open(&database).await.unwrap().close().await.unwrap();
    assert_eq!(database.execute("UPDATE millstream_log SET format = 99"), Ok(1));
    let refused = open(&database).await.unwrap_err();
    let OpenError::NewerSchema { found: 99, .. } = &refused else {
        panic!("a newer format was to be refused: {refused:?}");
    };
    assert!(refused.to_string().contains("upgrade"), "{refused}");
    assert_eq!(database.number("SELECT format FROM millstream_log"), 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_something_else_is_refused_and_left_alone() {
    let Some(database) = database() else { return };
    let schema = &database.schema;
    database
        .execute(&format!(
            "CREATE SCHEMA {schema}; CREATE TABLE {schema}.invoices (id bigint)"
        ))
        .unwrap();
    let refused = open(&database).await.unwrap_err();
    assert!(matches!(refused, OpenError::ForeignSchema { .. }), "{refused:?}");
    assert!(refused.to_string().contains("invoices"), "{refused}");
    let tables = format!("SELECT count(*) FROM pg_tables WHERE schemaname = '{schema}'");
    assert_eq!(database.number(&tables), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_must_exist_is_not_made() {
    let Some(database) = database() else { return };
    let refused = database
        .builder()
        .must_exist()
        .connect(&database.address)
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, OpenError::MissingLog { schema, .. } if *schema == database.schema),
        "{refused:?}"
    );
    open(&database).await.unwrap().close().await.unwrap();
    let store = database
        .builder()
        .must_exist()
        .connect(&database.address)
        .await
        .unwrap();
    assert_eq!(store.head(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_named_and_its_password_is_not() {
    let port = {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.local_addr().unwrap().port()
    };
    let address = format!("postgres://anna:secret@127.0.0.1:{port}/shop");
    let refused = in_time("it fails", Store::connect(address)).await.unwrap_err();
    let OpenError::Storage(error) = &refused else {
        panic!("the storage was to fail: {refused:?}");
    };
    assert_eq!(error.server(), Some(&*format!("127.0.0.1:{port}/shop")));
    assert!(error.is_retryable(), "{error}");
    let told = format!("{refused} {refused:?}");
    assert!(told.contains("connect") && !told.contains("secret"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_and_checks_are_left_to_the_server() {
    let Some(database) = database() else { return };
    let store = open(&database).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let refused = store.backup_to(folder.path().join("copy.db")).await.unwrap_err();
    assert!(matches!(refused, BackupError::OnServer { .. }), "{refused:?}");
    assert!(refused.to_string().contains("pg_dump"), "{refused}");
    let refused = store.verify().await.unwrap_err();
    assert!(matches!(refused, VerifyError::OnServer { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_postgres_cannot_hold_comes_back_as_it_was() {
    let Some(database) = database() else { return };
    let store = open(&database).await.unwrap();
    let handler = HandleStream::new(|_: EventBatch| async { Err::<(), _>("broken at \0 and \u{1}0") });
    let parks =
        DurableStream::new("ledger").on_failure(FailurePolicy::park_key(|_| Some("key\0".to_owned())));
    let stream = store.stream_all_durable(&parks, handler).await.unwrap();
    store.append([NewEvent::new("a", "x\0y")]).await.unwrap();
    stream.caught_up().await.unwrap();
    let letters: Vec<_> = store.dead_letters("ledger").list().try_collect().await.unwrap();
    assert_eq!(letters[0].key.as_deref(), Some("key\0"));
    assert_eq!(letters[0].state, DeadLetterState::Parked);
    assert!(
        letters[0]
            .cause
            .as_ref()
            .is_some_and(|cause| cause.contains("broken at \0 and \u{1}0")),
        "{letters:?}"
    );
    // What no event can have is asked for in vain, and not refused.
    for nothing in [EventQuery::types(["a\0"]), EventQuery::tags(["\0"])] {
        assert!(store.query(&nothing).await.unwrap().events.is_empty());
    }
    let payload = store.query(&EventQuery::all()).await.unwrap().events[0]
        .payload()
        .clone();
    assert_eq!(payload.as_str(), "\"x\\u0000y\"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_without_a_runtime_appends_and_queries() {
    let Some(database) = database() else { return };
    let store = open(&database).await.unwrap();
    let (one, all) = (NewEvent::new("a", 1), EventQuery::all());
    let plain = store.clone();
    let thread = std::thread::spawn(move || {
        plain.append_blocking([one]).unwrap();
        let asked = futures::executor::block_on(plain.query(&EventQuery::all())).unwrap();
        (
            plain.query_blocking(&EventQuery::all()).unwrap().events.len(),
            asked.events.len(),
        )
    });
    assert_eq!(thread.join().unwrap(), (1, 1));
    append(&store, "a", 1).await;
    // On a thread of a runtime it blocks, and does not panic.
    assert_eq!(store.query_blocking(&all).unwrap().head, 2);
}
