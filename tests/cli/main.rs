//! The command line, through the built binary.

mod append;
mod copies;
mod copy;
mod follow;
mod letters;
mod listing;
mod models;
mod once;
mod retries;
mod service;
mod steering;
mod streams;
#[cfg(unix)]
mod terminal;
mod verify;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

/// A place for logs that goes away with the test.
struct Place(TempDir);

/// How a command ended, and what it said.
#[derive(Debug)]
struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn db(&self) -> PathBuf {
        self.path("log.db")
    }

    /// Runs a command on the log.
    fn run(&self, arguments: &[&str]) -> Outcome {
        self.feed(arguments, "")
    }

    /// Runs a command on the log with this input.
    fn feed(&self, arguments: &[&str], input: &str) -> Outcome {
        outcome(command(&self.db(), arguments), input)
    }

    /// Runs a command that has to succeed, and gives what it wrote.
    fn ok(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, 0, "{arguments:?}: {outcome:?}");
        outcome.stdout
    }

    /// Appends batches of so many events each, of the type `counted`, with a tag.
    fn append_batches(&self, sizes: &[usize]) {
        let mut number = 0;
        let mut input = String::new();
        for size in sizes {
            let events = (0..*size).map(|_| {
                number += 1;
                json!({"type": "counted", "payload": {"number": number}, "tags": [format!("number:{number}")]})
            });
            let batch: Vec<Value> = events.collect();
            input.push_str(&format!("{}\n", json!(batch)));
        }
        let outcome = self.feed(&["append"], &input);
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }
}

/// The binary, with nothing of the environment that it would listen to.
fn command(db: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    for variable in [
        "MILLSTREAM_DB",
        "MILLSTREAM_MODELS",
        "NO_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(variable);
    }
    command
        .env("TERM", "xterm-256color")
        .env(if cfg!(windows) { "USERNAME" } else { "USER" }, "carla")
        .arg("--db")
        .arg(db)
        .args(arguments);
    command
}

fn outcome(mut command: Command, input: &str) -> Outcome {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A command that fails early leaves the rest of its input unread.
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()).is_ok());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Outcome {
        code: output.status.code().expect("the command was not killed"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Every line as JSON.
fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The sequences of lines with events.
fn sequences(text: &str) -> Vec<u64> {
    lines(text)
        .iter()
        .map(|line| line["sequence"].as_u64().unwrap())
        .collect()
}

#[test]
fn a_reading_command_makes_no_file_and_says_what_to_do() {
    let place = Place::new();
    for arguments in [
        &["events"][..],
        &["follow"],
        &["stats"],
        &["verify"],
        &["context"],
        &["export"],
        &["backup", "target.db"],
        &["streams"],
        &["stream", "ledger"],
        &["pause", "ledger", "--by", "anna"],
        &["delete", "ledger", "--yes"],
        &["dead-letters", "list", "ledger"],
    ] {
        let outcome = place.run(arguments);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(
            outcome.stderr.contains("does not exist; check the path"),
            "{outcome:?}"
        );
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert_eq!(
            std::fs::read_dir(place.0.path()).unwrap().count(),
            0,
            "{arguments:?}"
        );
    }
}

#[test]
fn an_empty_file_and_a_foreign_one_are_left_alone() {
    let place = Place::new();
    std::fs::write(place.db(), "").unwrap();
    let outcome = place.run(&["events"]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("it is empty"), "{outcome:?}");
    assert_eq!(std::fs::read(place.db()).unwrap(), b"");
    std::fs::write(place.db(), "a letter, and no database").unwrap();
    let outcome = place.run(&["append"]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("is not a millstream log"), "{outcome:?}");
}

#[test]
fn a_command_line_without_sense_is_refused_with_code_2() {
    let place = Place::new();
    for arguments in [
        &[][..],
        &["evens"],
        &["events", "--after", "now"],
        &["events", "--payload", "{"],
        &["events", "--since", "lately"],
        &["append", "--batch", "0"],
        &["append", "--tag", "order:7"],
        &["append", "--batch", "2", "--if-unchanged"],
        &["reset", "ledger"],
        &["reset", "ledger", "--to", "end"],
        &["pause", "ledger", "--by", ""],
        &["dead-letters", "drop", "ledger", "7"],
        &["dead-letters", "drop", "ledger", "--reason", "no"],
        &["dead-letters", "drop", "ledger", "7", "--all", "--reason", "no"],
        &["dead-letters", "retry", "ledger", "--by", "anna"],
        &["dead-letters", "retry", "ledger", "7", "--all", "--by", "anna"],
        &[
            "dead-letters",
            "retry",
            "ledger",
            "7",
            "--key",
            "k",
            "--by",
            "anna",
        ],
        &[
            "dead-letters",
            "retry",
            "ledger",
            "--all",
            "--key",
            "k",
            "--by",
            "anna",
        ],
        &[
            "dead-letters",
            "retry",
            "ledger",
            "7",
            "--begin-within",
            "0",
            "--by",
            "anna",
        ],
    ] {
        let outcome = place.run(arguments);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(outcome.stderr.contains("error:"), "{outcome:?}");
    }
    let mut without_db = Command::new(env!("CARGO_BIN_EXE_millstream"));
    without_db.env_remove("MILLSTREAM_DB").arg("stats");
    let outcome = outcome(without_db, "");
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains("MILLSTREAM_DB"), "{outcome:?}");
}

#[test]
fn the_log_may_be_named_by_the_environment() {
    let place = Place::new();
    place.append_batches(&[1]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command
        .env("MILLSTREAM_DB", place.db())
        .args(["context", "--json"]);
    let outcome = outcome(command, "");
    assert_eq!(lines(&outcome.stdout), [json!({"context_version": 1, "head": 1})]);
}

#[test]
fn errors_are_json_when_the_results_are() {
    let place = Place::new();
    let outcome = place.run(&["--json", "stats"]);
    let error: Value = serde_json::from_str(&outcome.stderr).unwrap();
    assert_eq!(error["exit_code"], 1);
    assert!(error["error"].as_str().unwrap().contains("does not exist"));
}

#[test]
fn help_names_the_exit_codes_and_every_shell_gets_completions() {
    let place = Place::new();
    for arguments in [&["--help"][..], &["append", "--help"], &["verify", "-h"]] {
        let help = place.ok(arguments);
        assert!(help.contains("4  the verification found damage"), "{help}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(place.ok(&["completions", shell]).contains("backup"), "{shell}");
    }
    assert!(!place.db().exists());
}
