//! A real browser without a window, steered over its DevTools protocol.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

use crate::service::PATIENCE;

const PROGRAM: &str = "chromium";
/// With this variable a test that finds no browser fails, and is not skipped.
const REQUIRED: &str = "MILLSTREAM_BROWSER_REQUIRED";

/// A browser with one page. It ends when this is dropped.
pub(crate) struct Browser {
    child: Child,
    socket: WebSocket<TcpStream>,
    session: Option<String>,
    calls: u64,
    // Removed after the process has ended.
    _profile: TempDir,
}

impl Browser {
    /// Starts it. Where there is none, the test is skipped and says so, unless it must not be.
    pub(crate) fn start() -> Option<Self> {
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new(PROGRAM)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--no-proxy-server",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match child {
            Ok(child) => Some(Self::connect(child, profile)),
            Err(error) => {
                let why = format!("`{PROGRAM}` cannot be started: {error}; install the package {PROGRAM}");
                assert!(env::var(REQUIRED).as_deref() != Ok("1"), "{why}");
                // Past what the test harness captures: a test that was skipped is not seen otherwise.
                let _ = writeln!(
                    io::stderr(),
                    "SKIPPED, no browser: {why}, or set {REQUIRED}=1 to fail"
                );
                None
            }
        }
    }

    fn connect(mut child: Child, profile: TempDir) -> Self {
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (found, endpoint) = mpsc::sync_channel(1);
        // Reads on to the end, so that the browser never waits for room in the pipe.
        thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                if let Some(url) = line.strip_prefix("DevTools listening on ") {
                    let _ = found.try_send(url.to_owned());
                }
            }
        });
        let Ok(url) = endpoint.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the browser does not say where it listens");
        };
        let address = url.trim_start_matches("ws://").split('/').next().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(&url, stream).unwrap();
        Self {
            child,
            socket,
            session: None,
            calls: 0,
            _profile: profile,
        }
    }

    pub(crate) fn open(&mut self, url: &str) {
        let target = self.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.call("Target.attachToTarget", &attach);
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        let navigated = self.call("Page.navigate", &json!({ "url": url }));
        assert!(navigated["errorText"].is_null(), "{navigated}");
    }

    /// The value of an expression in the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", &params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until a condition holds in the page, which is looked at whenever the page changes.
    pub(crate) fn until(&mut self, condition: &str) {
        let promise = format!(
            "new Promise(resolve => {{
                const look = () => {{ if ({condition}) {{ observer.disconnect(); resolve(true); }} }};
                const observer = new MutationObserver(look);
                observer.observe(document, {{ subtree: true, childList: true, characterData: true }});
                look();
            }})"
        );
        assert_eq!(self.value(&promise), true, "{condition}");
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": params});
        if let Some(session) = &self.session {
            call["sessionId"] = json!(session);
        }
        self.socket.send(Message::text(call.to_string())).unwrap();
        loop {
            let answer = self.socket.read();
            let answer = answer.unwrap_or_else(|error| panic!("no answer to {call}: {error}"));
            let Message::Text(text) = answer else {
                continue;
            };
            let mut answer: Value = serde_json::from_str(&text).unwrap();
            // What has no id is an event.
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{call}: {answer}");
                return answer["result"].take();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to, it ends its own processes too.
        let close = json!({"id": self.calls + 1, "method": "Browser.close"});
        let asked = self.socket.send(Message::text(close.to_string()));
        let closed = asked.is_ok()
            && loop {
                match self.socket.read() {
                    Ok(_) => (),
                    Err(error) => break !matches!(error, tungstenite::Error::Io(_)),
                }
            };
        if !closed {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
