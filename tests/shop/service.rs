//! The process under test, and how it is talked to.

use std::env;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body, BodyReader};

/// Nothing takes as long as this, unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The example as a program, built beside the tests and as they are: of an example that has tests of its own, `cargo test` builds
/// these alone.
pub(crate) fn binary() -> &'static Path {
    static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
        let tests = env::current_exe().unwrap();
        let folder = tests.ancestors().nth(2).unwrap();
        let profile = match folder.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args([
                "build",
                "--quiet",
                "--example",
                "shop_slices",
                "--profile",
                profile,
                "--target-dir",
            ])
            .arg(folder.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        // With other features everything would be built again, and with what cargo says to tests those that look at it.
        if cfg!(feature = "metrics") {
            cargo.arg("--all-features");
        }
        for (name, _) in env::vars_os() {
            if ["CARGO_PKG_", "CARGO_MANIFEST_"]
                .iter()
                .any(|of_package| name.to_string_lossy().starts_with(of_package))
            {
                cargo.env_remove(name);
            }
        }
        let built = cargo.output().unwrap();
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        folder.join("examples/shop_slices")
    });
    &BINARY
}

/// A running example. It is killed when this is dropped.
pub(crate) struct Service {
    child: Option<Child>,
    address: String,
    agent: Agent,
}

/// What a request was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Value,
}

impl Service {
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_on(folder, 0)
    }

    pub(crate) fn start_on(folder: &Path, port: u16) -> Self {
        let mut child = Command::new(binary())
            .args(["--port", &port.to_string(), "--db"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut service = Self {
            child: Some(child),
            address: String::new(),
            agent: Agent::config_builder()
                .timeout_global(Some(PATIENCE))
                .http_status_as_error(false)
                .proxy(None)
                .build()
                .into(),
        };
        let first_line = within_patience(move || output.lines().next());
        let first_line = first_line.expect("it starts").expect("it says something");
        let address = first_line.unwrap();
        let address = address.strip_prefix("listening on http://").expect("an address");
        service.address = address.to_owned();
        service
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn port(&self) -> u16 {
        let (_, port) = self.address.rsplit_once(':').unwrap();
        port.parse().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        Answer::of(self.agent.get(self.url(path)).call().unwrap())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, "application/json", &body.to_string())
    }

    pub(crate) fn post_text(&self, path: &str, content_type: &str, body: &str) -> Answer {
        let request = self.agent.post(self.url(path)).content_type(content_type);
        Answer::of(request.send(body).unwrap())
    }

    /// Places an order for some mugs.
    pub(crate) fn order(&self, number: &str, customer: &str, mugs: u32) -> Answer {
        self.post("/orders", &order(number, customer, mugs))
    }

    pub(crate) fn restock(&self, mugs: u32) {
        let answer = self.post("/stock/mug", &json!({ "quantity": mugs }));
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// The feed from a path such as `/feed?after=3` on.
    pub(crate) fn feed(&self, path: &str, last_event_id: Option<u64>) -> Feed {
        let request = self.agent.get(self.url(path));
        let request = match last_event_id {
            Some(id) => request.header("Last-Event-ID", id.to_string()),
            None => request,
        };
        let answer = request.call().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Feed {
            lines: BufReader::new(answer.into_body().into_reader()).lines(),
        }
    }

    /// The answer to a `GET` with this `Last-Event-ID`, which is not a feed.
    pub(crate) fn refused_feed(&self, path: &str, last_event_id: &str) -> Answer {
        let request = self.agent.get(self.url(path));
        Answer::of(request.header("Last-Event-ID", last_event_id).call().unwrap())
    }

    /// Sends a signal, and waits for the end. Tells what was said on the standard error.
    pub(crate) fn end(mut self, signal: Signal) -> Output {
        let child = self.child.take().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
        within_patience(move || child.wait_with_output().unwrap()).unwrap_or_else(|| {
            kill(pid, Signal::SIGKILL).unwrap();
            panic!("it goes on in spite of {signal}");
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            if let Ok(output) = child.wait_with_output() {
                eprint!("{}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }
}

pub(crate) fn order(number: &str, customer: &str, mugs: u32) -> Value {
    json!({"number": number, "customer": customer, "lines": [{"sku": "mug", "quantity": mugs}]})
}

/// What blocks, in a thread of its own. Nothing, if it takes too long.
pub(crate) fn within_patience<T: Send + 'static>(block: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = mpsc::sync_channel(1);
    thread::spawn(move || done.send(block()));
    result.recv_timeout(PATIENCE).ok()
}

impl Answer {
    fn of(mut answer: Response<Body>) -> Self {
        let mut text = String::new();
        answer.body_mut().as_reader().read_to_string(&mut text).unwrap();
        let content_type = answer.headers().get("content-type");
        Self {
            status: answer.status().as_u16(),
            content_type: content_type
                .map_or("", |found| found.to_str().unwrap())
                .to_owned(),
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    }
}

/// Server-sent events, as they come.
pub(crate) struct Feed {
    lines: Lines<BufReader<BodyReader<'static>>>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) id: u64,
    pub(crate) event: String,
    pub(crate) data: Value,
}

impl Feed {
    /// The next message; nothing, when the feed has ended.
    pub(crate) fn next(&mut self) -> Option<Message> {
        let (mut id, mut event, mut data) = (None, None, None);
        loop {
            let line = self.lines.next()?.unwrap();
            match line.split_once(": ") {
                Some(("id", value)) => id = Some(value.parse().unwrap()),
                Some(("event", value)) => event = Some(value.to_owned()),
                Some(("data", value)) => data = Some(serde_json::from_str(value).unwrap()),
                _ if line.is_empty() && id.is_some() => {
                    return Some(Message {
                        id: id?,
                        event: event?,
                        data: data?,
                    });
                }
                // A comment, which keeps the connection alive.
                _ => (),
            }
        }
    }

    /// Goes on to what happened to an order.
    pub(crate) fn until(&mut self, event: &str, number: &str) -> Message {
        loop {
            let message = self.next().expect("the feed goes on");
            if message.event == event && message.data["number"] == number {
                return message;
            }
        }
    }
}
