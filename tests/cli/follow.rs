//! `follow`, beside processes that append.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use millstream::{NewEvent, Store};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{Place, command};

const PATIENCE: Duration = Duration::from_secs(25);

/// A command under way that writes line after line, such as `follow`.
pub(crate) struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        Self::of(place, &[&["follow"], arguments].concat())
    }

    pub(crate) fn of(place: &Place, arguments: &[&str]) -> Self {
        let mut child = command(&place.db(), arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (give, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                give.send(line.unwrap()).unwrap();
            }
        });
        Self { child, lines }
    }

    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line comes")
    }

    fn sequence(&self) -> u64 {
        let event: Value = serde_json::from_str(&self.line()).unwrap();
        event["sequence"].as_u64().unwrap()
    }

    pub(crate) fn interrupt(&self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).unwrap();
    }

    /// Waits for the end, and gives what was not read yet.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<String>) {
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("waited in vain for the end"),
            }
        }
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // Only a test that failed leaves it running.
        let _ = self.child.kill();
    }
}

#[test]
fn follow_sees_what_other_processes_append_until_ctrl_c() {
    let place = Place::new();
    place.append_batches(&[2]);
    let following = Following::start(&place, &["--json", "--after", "0"]);
    assert_eq!([following.sequence(), following.sequence()], [1, 2]);
    place.append_batches(&[1]);
    assert_eq!(following.sequence(), 3);
    place.append_batches(&[3]);
    assert_eq!([4, 5, 6].map(|_| following.sequence()), [4, 5, 6]);
    following.interrupt();
    assert_eq!(following.end(), (Some(0), Vec::new()));
}

#[test]
fn follow_begins_with_what_comes_and_ends_after_its_limit() {
    let place = Place::new();
    place.append_batches(&[2]);
    let following = Following::start(&place, &["--type", "wanted", "-n", "2"]);
    // The heading is written when the place to begin at is known.
    assert!(following.line().starts_with("sequence"));
    let store = Store::open(place.db()).unwrap();
    for number in 0..4 {
        let event_type = if number % 2 == 0 { "other" } else { "wanted" };
        store
            .append_blocking([NewEvent::new(event_type, number)])
            .unwrap();
    }
    assert!(following.line().contains("  wanted  "));
    assert!(following.line().trim_start().starts_with('6'));
    assert_eq!(following.end(), (Some(0), Vec::new()));
}

#[test]
fn ctrl_c_ends_a_follow_that_has_nothing_to_show() {
    let place = Place::new();
    place.append_batches(&[1]);
    let following = Following::start(&place, &[]);
    assert!(following.line().starts_with("sequence"));
    following.interrupt();
    assert_eq!(following.end(), (Some(0), Vec::new()));
}
