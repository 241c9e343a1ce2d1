//! Steering from a second process (D9): this process has the file open and steers, and another one, which is this binary
//! again, runs the stream and says what it does, a line for each thing. The other process is killed once.

#[path = "common/mod.rs"]
mod common;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use millstream::{
    Durability, DurableStream, EventBatch, HandleStream, Reset, Retry, SteerError, Store, StreamState,
};
use tokio::sync::mpsc::{Receiver, channel};

use crate::common::{append, in_time};

const FILE: &str = "MILLSTREAM_STEERED_FILE";
/// A child whose parent died must not run for ever.
const LIFETIME: Duration = Duration::from_secs(60);

fn open(path: &Path) -> Store {
    let builder = Store::builder().durability(Durability::Relaxed);
    let builder = builder.poll_interval(Duration::from_millis(20));
    builder.open(path).expect("the file opens")
}

/// One write, so that lines stay whole.
fn say(line: String) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n> {line}\n").as_bytes())
        .and_then(|()| out.flush())
        .expect("the parent listens");
}

/// Not a test of its own: what the other process runs.
#[test]
fn child() {
    let Ok(path) = env::var(FILE) else { return };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let _ = tokio::time::timeout(LIFETIME, run(&PathBuf::from(path))).await;
    });
}

async fn run(path: &Path) {
    let store = open(path);
    let handler = HandleStream::new(|batch: EventBatch| async move {
        let last = batch.last_sequence();
        if batch.iter().any(|event| event.event_type() == "poison") {
            say(format!("failed {last}"));
            return Err("poison");
        }
        say(format!("handled {last}"));
        Ok(())
    });
    let an_hour = Duration::from_secs(3_600);
    let patient = Retry::default()
        .delay_min(an_hour)
        .delay_max(an_hour)
        .elapsed_max(24 * an_hour);
    let name = DurableStream::new("ledger");
    let stream = store
        .stream_all_durable(&name, handler.retry(patient))
        .await
        .expect("the stream is registered");
    let mut watch = stream.watch();
    let mut was_paused = false;
    let mut status = Some(watch.current());
    while let Some(now) = status {
        let is_paused = matches!(now.state, StreamState::Paused { .. });
        // That it goes on is seen from what it handles: this task may be late to say so.
        if is_paused && !was_paused {
            say("rests".to_owned());
        }
        was_paused = is_paused;
        status = watch.changed().await;
    }
    say(format!("stopped: {}", stream.stopped().await));
}

/// The other process, and what it says.
struct Runner {
    process: Child,
    lines: Receiver<String>,
}

impl Runner {
    fn start(path: &Path) -> Self {
        let mut process = Command::new(env::current_exe().expect("this binary"))
            .args(["--exact", "child", "--nocapture"])
            .env(FILE, path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let out = process.stdout.take().expect("it was piped");
        let (tell, lines) = channel(256);
        std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            for line in lines.filter_map(|line| line.strip_prefix("> ").map(str::to_owned)) {
                if tell.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, lines }
    }

    /// The next things that it says are these.
    async fn says(&mut self, expected: &[&str]) {
        for expected in expected {
            let line = in_time(expected, self.lines.recv()).await;
            assert_eq!(line.as_deref(), Some(*expected));
        }
    }

    fn kill(&mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it ends");
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d9_a_stream_that_another_process_runs_heeds_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let store = open(&path);
    for _ in 0..3 {
        append(&store, "a", 1).await;
    }
    let mut runner = Runner::start(&path);
    runner.says(&["handled 1", "handled 2", "handled 3"]).await;
    let ledger = store.stream("ledger").await.unwrap();
    in_time("it is stored", ledger.wait_for(3)).await.unwrap();

    ledger.pause("anna").await.unwrap();
    runner.says(&["rests"]).await;
    append(&store, "a", 1).await;
    ledger.reset(Reset::To(1), 3).await.unwrap();
    let refused = ledger.reset(Reset::Now, 3).await;
    assert!(
        matches!(refused, Err(SteerError::CursorMoved { found: 1, .. })),
        "{refused:?}"
    );
    ledger.resume().await.unwrap();
    runner.says(&["handled 2", "handled 3", "handled 4"]).await;

    append(&store, "poison", 1).await;
    append(&store, "a", 1).await;
    runner.says(&["failed 5"]).await;
    in_time("what came before is stored", ledger.wait_for(4))
        .await
        .unwrap();
    ledger.skip_batch(4, "anna").await.unwrap();
    runner.says(&["handled 6"]).await;
    in_time("it is stored", ledger.wait_for(6)).await.unwrap();

    runner.kill();
    ledger.pause("anna").await.unwrap();
    append(&store, "a", 1).await;
    let mut runner = Runner::start(&path);
    runner.says(&["rests"]).await;
    ledger.resume().await.unwrap();
    runner.says(&["handled 7"]).await;
    in_time("it is stored", ledger.wait_for(7)).await.unwrap();

    let books = ledger.rename("books").await.unwrap();
    runner
        .says(&["stopped: the durable stream was renamed to \"books\"; register it under that name to go on"])
        .await;
    let status = books.status().await.unwrap();
    assert_eq!((status.cursor, status.is_here), (Some(7), false));
    books.delete().await.unwrap();
    assert!(store.streams().await.unwrap().is_empty());

    let mut runner = Runner::start(&path);
    runner
        .says(&["handled 1", "handled 2", "handled 3", "handled 4", "failed 5"])
        .await;
    store.stream("ledger").await.unwrap().delete().await.unwrap();
    runner
        .says(&["stopped: the durable stream was deleted; registered again, it is a new one"])
        .await;
}
