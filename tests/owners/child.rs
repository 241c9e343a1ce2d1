//! The other process: what it runs, and how it is started, listened to, stopped and killed.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use millstream::{
    Checkpoint, DurableStream, EventBatch, EventStream, HandleStream, ModelOptions, Ownership, ReadModels,
    StreamState,
};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinSet;

use crate::Counts;
use crate::common::in_time;
use crate::place::Place;
use crate::random;

/// What the child is to do, and with which log.
const ORDERS: &str = "MILLSTREAM_OWNER_ORDERS";
/// A child whose parent died must not run for ever.
const LIFETIME: Duration = Duration::from_secs(120);
/// After so long an owner without a sign of life is taken over from.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(1);
/// How many batches of a stream a crash may repeat.
pub(crate) const BATCHES_UNSTORED_MAX: u32 = 8;

/// How a process registers its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Fail,
    Standby,
    StandbyWithModel,
    /// Stands by, appends, writes down what it handles, and registers its streams again when it lost them.
    Worker,
}

const ROLES: [Role; 4] = [Role::Fail, Role::Standby, Role::StandbyWithModel, Role::Worker];

/// One write, so that lines stay whole.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n> {line}\n").as_bytes())
        .and_then(|()| out.flush())
        .expect("the parent listens");
}

/// Not a test of its own: what the other process runs.
#[test]
fn run_as_child() {
    let Ok(orders) = env::var(ORDERS) else { return };
    let mut orders = orders.split('\n');
    let mut next = || orders.next().expect("an order").to_owned();
    let role = ROLES[next().parse::<usize>().expect("a role")];
    let place = Place::of_words([next(), next(), next()]);
    let names: Vec<String> = orders.map(str::to_owned).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let _ = tokio::time::timeout(LIFETIME, run(role, &place, &names)).await;
    });
}

async fn run(role: Role, place: &Place, names: &[String]) {
    let store = place.open().await;
    if role == Role::Worker {
        return random::work(&store, place, names).await;
    }
    let mut tasks = JoinSet::new();
    for name in names {
        let durable = durable(name, role);
        let named = name.clone();
        let let_go = let_go_file(place);
        let handler = HandleStream::new(move |batch: EventBatch| {
            let last = batch.last_sequence();
            let line = |word: &str| format!("{word} {named} {last}");
            let (holds, handled) = (line("holds"), line("handled"));
            let is_held = batch.iter().any(|event| event.event_type() == "held");
            let let_go = let_go.clone();
            async move {
                if is_held {
                    say(&holds);
                    while !let_go.exists() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                say(&handled);
                Ok::<_, std::io::Error>(())
            }
        });
        let stream = store.stream_all_durable(&durable, handler).await;
        tasks.spawn(tell(stream.expect("it is registered"), name.clone()));
    }
    if role == Role::StandbyWithModel {
        let models = ReadModels::open(place.beside("models.db")).expect("the file opens");
        let options = ModelOptions::default();
        let model = models.project_with(&store, Counts, &options).await;
        let model = model.expect("it is kept");
        say("keeps counts");
        tasks.spawn(async move {
            let cause = model.stopped().await.expect("it has a stream");
            say(&format!("stopped counts: {cause}"));
        });
    }
    while tasks.join_next().await.is_some() {}
    std::future::pending().await
}

/// Calls with a held event return when this file is there.
pub(crate) fn let_go_file(place: &Place) -> PathBuf {
    place.beside("let-go")
}

pub(crate) fn durable(name: &str, role: Role) -> DurableStream {
    let checkpoint = Checkpoint::Every {
        batches: BATCHES_UNSTORED_MAX,
        within: Duration::from_millis(50),
    };
    DurableStream::new(name)
        .checkpoint(checkpoint)
        .ownership(match role {
            Role::Fail => Ownership::Fail,
            _ => Ownership::Standby,
        })
}

/// Says when it owns a stream, when it stands by, and when the stream has stopped.
async fn tell(stream: EventStream, name: String) {
    let mut watch = stream.watch();
    let mut stood_by = None;
    let mut status = Some(watch.current());
    while let Some(now) = status {
        let stands_by = matches!(now.state, StreamState::Standby);
        if stood_by.replace(stands_by) != Some(stands_by) {
            say(&format!(
                "{} {name}",
                if stands_by { "waits for" } else { "owns" }
            ));
        }
        status = watch.changed().await;
    }
    say(&format!("stopped {name}: {}", stream.stopped().await));
}

/// The other process, and what it says.
pub(crate) struct Process {
    process: Child,
    lines: Receiver<String>,
}

impl Process {
    pub(crate) fn start(place: &Place, role: Role, names: &[&str]) -> Self {
        let role = ROLES
            .iter()
            .position(|known| *known == role)
            .expect("it is listed");
        let (role, place) = (role.to_string(), place.words());
        let orders = [&role].into_iter().chain(&place).map(String::as_str);
        let orders: Vec<&str> = orders.chain(names.iter().copied()).collect();
        let mut process = Command::new(env::current_exe().expect("this binary"))
            .args(["--exact", "child::run_as_child", "--nocapture"])
            .env(ORDERS, orders.join("\n"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let out = process.stdout.take().expect("it was piped");
        let (tell, lines) = channel(4_096);
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

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// It says this sooner or later; what it says before is passed over.
    pub(crate) async fn says(&mut self, expected: &str) {
        self.says_all(&[expected]).await;
    }

    /// It says all of this sooner or later, in any order.
    pub(crate) async fn says_all(&mut self, expected: &[&str]) {
        let (mut awaited, mut passed) = (expected.to_vec(), Vec::new());
        let waiting = async {
            while !awaited.is_empty() {
                let Some(line) = self.lines.recv().await else {
                    panic!("it ended without having said {awaited:?}: {passed:?}");
                };
                awaited.retain(|awaited| *awaited != line);
                passed.push(line);
            }
        };
        in_time(&format!("it says {expected:?}"), waiting).await;
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([format!("-{signal}"), self.id().to_string()])
            .status();
        assert!(status.expect("kill is there").success(), "{signal}");
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
