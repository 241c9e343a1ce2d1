//! `models`: the read models of a program that runs beside the commands.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::rusqlite::Transaction;
use millstream::{
    BoxError, EventBatch, EventQuery, ModelOptions, Projection, Promotion, ReadModel, ReadModels, Store,
};
use serde_json::{Value, json};

use crate::{Outcome, Place, lines};

const PATIENCE: Duration = Duration::from_secs(25);

/// Counts events. A rebuild of one that is held waits in the middle.
#[derive(Clone)]
struct Total {
    version: u32,
    held: Option<Arc<Hold>>,
}

/// Says that a rebuild is under way, and waits until it may go on.
struct Hold {
    begun: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Projection for Total {
    fn name(&self) -> &str {
        "total"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn query(&self) -> EventQuery {
        EventQuery::all()
    }

    fn schema(&self) -> &str {
        "CREATE TABLE total (count INTEGER NOT NULL)"
    }

    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        tx.execute("INSERT INTO total VALUES (?1)", [batch.len() as i64])?;
        if let Some(held) = &self.held {
            held.begun.send(())?;
            held.go_on.lock().unwrap().recv_timeout(PATIENCE)?;
        }
        Ok(())
    }
}

/// A program with a read model.
struct Program {
    store: Store,
    models: ReadModels,
    total: ReadModel,
}

impl Program {
    async fn start(place: &Place) -> Self {
        let store = Store::open(place.db()).unwrap();
        let models = ReadModels::open(place.path("views.db")).unwrap();
        let first = Total {
            version: 1,
            held: None,
        };
        let total = models.project(&store, first).await.unwrap();
        total.caught_up().await.unwrap();
        Self { store, models, total }
    }

    async fn count(&self) -> i64 {
        let sum = "SELECT coalesce(sum(count), 0) FROM total";
        let read = self
            .total
            .read(move |rows| rows.query_row(sum, [], |row| row.get(0)));
        read.await.unwrap()
    }
}

impl Place {
    /// Runs a command on the read models, while the program of the test goes on.
    async fn models(&self, arguments: &[&str]) -> Outcome {
        let views = self.path("views.db").to_str().unwrap().to_owned();
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let db = self.db();
        let run = move || {
            let mut all: Vec<&str> = vec!["models"];
            all.extend(arguments.iter().map(String::as_str));
            all.extend(["--models", &views]);
            crate::outcome(crate::command(&db, &all), "")
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    async fn list(&self) -> Vec<Value> {
        let listed = self.models(&["list", "--json"]).await;
        assert_eq!(listed.code, 0, "{listed:?}");
        lines(&listed.stdout)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_model_is_rebuilt_by_the_program_that_keeps_it() {
    let place = Place::new();
    place.append_batches(&[2, 3, 1]);
    let program = Program::start(&place).await;
    let file = place.list().await[0]["file"].as_str().unwrap().to_owned();
    let rows = millstream::rusqlite::Connection::open(place.path(&file)).unwrap();
    rows.execute("UPDATE total SET count = 0", []).unwrap();
    drop(rows);
    let rebuilt = place.models(&["rebuild", "total", "--json"]).await;
    assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
    let told = &lines(&rebuilt.stdout)[0];
    assert_eq!((&told["state"], &told["events"]), (&json!("done"), &json!(6)));
    assert_eq!(program.count().await, 6);
    let listed = place.list().await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_ne!(listed[0]["file"], json!(file));
    assert_eq!(listed[0]["position"], 6);
    assert_eq!(
        (&listed[0]["is_serving"], &listed[0]["request"]["state"]),
        (&json!(true), &json!("done"))
    );
    let table = place.models(&["list"]).await.stdout;
    assert!(
        table.contains("serves") && table.contains("rebuild: done"),
        "{table}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_keeps_the_model_nothing_is_done_later() {
    let place = Place::new();
    place.append_batches(&[2]);
    drop(Program::start(&place).await);
    let asked = place.models(&["rebuild", "total", "--begin-within", "1"]).await;
    assert_eq!(asked.code, 6, "{asked:?}");
    assert!(asked.stderr.contains("no request is left"), "{asked:?}");
    let program = Program::start(&place).await;
    let listed = place.list().await;
    assert_eq!(listed[0]["request"]["state"], "failed", "{listed:?}");
    assert_eq!(program.count().await, 2);
    // Asked without waiting, it is done by the program that is started next.
    drop(program);
    let asked = place.models(&["rebuild", "total", "--no-wait"]).await;
    assert_eq!(asked.code, 0, "{asked:?}");
    let program = Program::start(&place).await;
    let rebuilt = async {
        while place.list().await[0]["request"]["state"] != "done" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, rebuilt)
        .await
        .expect("it is rebuilt");
    assert_eq!(program.count().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_waits_is_promoted() {
    let place = Place::new();
    place.append_batches(&[2, 1]);
    let program = Program::start(&place).await;
    let by_hand = ModelOptions::default().promotion(Promotion::ByHand);
    let next = Total {
        version: 2,
        held: None,
    };
    let second = program
        .models
        .project_with(&program.store, next, &by_hand)
        .await
        .unwrap();
    second.catch_up().await.unwrap();
    let table = place.models(&["list"]).await.stdout;
    assert!(table.contains("beside"), "{table}");
    let promoted = place.models(&["promote", "total"]).await;
    assert_eq!(promoted.code, 0, "{promoted:?}");
    assert!(promoted.stdout.contains("serves"), "{promoted:?}");
    assert!(second.status().is_serving);
    let listed = place.list().await;
    assert_eq!(
        (listed.len(), &listed[0]["version"]),
        (1, &json!(2)),
        "{listed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_under_way_is_seen_and_given_up() {
    let place = Place::new();
    place.append_batches(&[2, 1]);
    let store = Store::open(place.db()).unwrap();
    let models = ReadModels::open(place.path("views.db")).unwrap();
    let ((begun, has_begun), (go_on, may_go_on)) = (channel(), channel());
    let held = Total {
        version: 1,
        held: Some(Arc::new(Hold {
            begun,
            go_on: Mutex::new(may_go_on),
        })),
    };
    // Two batches pass when it is kept first.
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    let total = models.project(&store, held).await.unwrap();
    total.caught_up().await.unwrap();
    has_begun.iter().take(2).for_each(drop);
    let nothing = place.models(&["cancel", "total"]).await;
    assert!(
        nothing.code == 1 && nothing.stderr.contains("nothing is under way"),
        "{nothing:?}"
    );
    let rebuild = total.rebuild().await.unwrap();
    tokio::task::spawn_blocking(move || has_begun.recv().unwrap())
        .await
        .unwrap();
    let listed = place.list().await;
    assert_eq!(listed[0]["request"]["state"], "under way", "{listed:?}");
    let cancelled = place.models(&["cancel", "total"]).await;
    assert_eq!(cancelled.code, 0, "{cancelled:?}");
    let outcome = tokio::time::timeout(PATIENCE, rebuild.finished()).await;
    let error = outcome.expect("it is given up").unwrap_err().to_string();
    assert!(error.contains("cancelled"), "{error}");
    // The thread that holds it ends before the files go.
    drop(go_on);
    let listed = place.list().await;
    assert_eq!(listed[0]["request"]["state"], "failed", "{listed:?}");
    assert!(total.status().is_serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_names_that_are_not_there_are_told() {
    let place = Place::new();
    let missing = place.models(&["list"]).await;
    assert!(
        missing.code == 1 && missing.stderr.contains("does not exist"),
        "{missing:?}"
    );
    assert!(!place.path("views.db").exists());
    let unsaid = place.run(&["models", "list"]);
    assert!(
        unsaid.code == 2 && unsaid.stderr.contains("MILLSTREAM_MODELS"),
        "{unsaid:?}"
    );
    drop(ReadModels::open(place.path("views.db")).unwrap());
    let unknown = place.models(&["rebuild", "other"]).await;
    assert!(
        unknown.code == 1 && unknown.stderr.contains("`models list`"),
        "{unknown:?}"
    );
    let nothing = place.models(&["list"]).await;
    assert!(
        nothing.code == 0 && nothing.stderr.contains("no read model yet"),
        "{nothing:?}"
    );
}
