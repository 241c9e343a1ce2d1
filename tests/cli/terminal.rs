//! The command line in a terminal: colours, widths, bars and questions.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use millstream::{FailurePolicy, Reset};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use unicode_width::UnicodeWidthStr;

use crate::service::{Service, append, cursor_of, with_stream};
use crate::{Place, command};

const COLUMNS: u16 = 60;
const PATIENCE: Duration = Duration::from_secs(25);

/// Runs a command in a terminal of 60 columns, types something, and gives its exit code and all that was shown.
fn in_terminal(place: &Place, arguments: &[&str], variables: &[(&str, &str)], typed: &str) -> (i32, String) {
    let mut terminal = Terminal::start(place, arguments, variables);
    terminal.write(typed);
    terminal.end()
}

/// A command under way in a terminal.
struct Terminal {
    child: Child,
    master: File,
    shown: Vec<u8>,
}

impl Terminal {
    fn start(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: COLUMNS,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let mut command = command(&place.db(), arguments);
        command
            .envs(variables.iter().copied())
            .stdin(end())
            .stdout(end())
            .stderr(end());
        // The terminal ends when nobody holds the other side of it any more: this one is dropped with the command.
        Self {
            child: command.spawn().unwrap(),
            master: File::from(master),
            shown: Vec::new(),
        }
    }

    fn write(&mut self, typed: &str) {
        self.master.write_all(typed.as_bytes()).unwrap();
    }

    /// Reads what is shown next; `false` at the end, which is an error on some systems.
    fn read(&mut self) -> bool {
        let mut piece = [0; 4096];
        let count = self.master.read(&mut piece).unwrap_or(0);
        self.shown.extend_from_slice(&piece[..count]);
        count > 0
    }

    /// Reads until a text was shown so many times.
    fn read_until(&mut self, text: &str, times: usize) {
        let begun = Instant::now();
        while String::from_utf8_lossy(&self.shown).matches(text).count() < times {
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {text:?}");
            assert!(
                self.read(),
                "{text:?} is not in {:?}",
                String::from_utf8_lossy(&self.shown)
            );
        }
    }

    fn interrupt(&self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).unwrap();
    }

    /// Waits for the end, and gives the exit code and all that was shown.
    fn end(mut self) -> (i32, String) {
        while self.read() {}
        let code = self.child.wait().unwrap().code().unwrap();
        (code, String::from_utf8(std::mem::take(&mut self.shown)).unwrap())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Only a test that failed leaves the command running.
        let _ = self.child.kill();
    }
}

/// What is left for the eye: without the commands to the terminal.
fn visible(line: &str) -> String {
    let mut shown = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else if character != '\r' {
            shown.push(character);
        }
    }
    shown
}

fn wide() -> Place {
    let place = Place::new();
    place.append_batches(&[3, 2]);
    let long = format!(
        r#"{{"type":"a-type-with-a-very-long-name-indeed","payload":{{"text":"{}"}},"tags":["{}"]}}"#,
        // A character that begins a command to the terminal, as it stands in the payload's text.
        "\u{9b}31m日本語 grüße ".repeat(20),
        "tag".repeat(30)
    );
    assert_eq!(place.feed(&["append"], &long).code, 0);
    place
}

#[test]
fn listings_fit_a_narrow_terminal_and_have_colours() {
    let place = wide();
    for arguments in [
        &["events"][..],
        &["stats"],
        &["events", "--reverse"],
        &["follow", "--after", "0", "-n", "6"],
    ] {
        let (code, shown) = in_terminal(&place, arguments, &[], "");
        assert_eq!(code, 0, "{shown}");
        assert!(shown.contains("\u{1b}["), "{arguments:?} has colours: {shown:?}");
        assert!(!shown.contains('\u{9b}'), "{shown:?}");
        for line in shown.lines().map(visible) {
            assert!(
                line.width() <= usize::from(COLUMNS),
                "{} columns: {line}",
                line.width()
            );
        }
        assert!(visible(&shown).contains("counted"), "{shown}");
    }
    let (_, shown) = in_terminal(&place, &["events"], &[], "");
    let cut = shown
        .lines()
        .map(visible)
        .filter(|line| line.contains('…'))
        .count();
    assert_eq!(cut, 1, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_terminal_goes_without_some_columns_and_breaks_no_word() {
    let place = Place::new();
    append(&place, "bad", 1);
    let service = Service::start(&place, "ledger-of-all-accounts", FailurePolicy::park()).await;
    service.settle(1).await;
    for (arguments, words) in [
        (
            &["dead-letters", "list", "ledger-of-all-accounts"][..],
            &["sequence", "parked", "the bank is"][..],
        ),
        (
            &["streams"],
            &["ledger-of-all-accounts", "not here", "what is wrong"],
        ),
    ] {
        let (code, shown) = in_terminal(&place, arguments, &[], "");
        assert_eq!(code, 0, "{shown}");
        let shown: Vec<String> = shown.lines().map(visible).collect();
        for word in words {
            assert!(
                shown.iter().any(|line| line.contains(word)),
                "{word} in {shown:#?}"
            );
        }
        let widest = shown.iter().map(|line| line.width()).max();
        assert!(widest <= Some(usize::from(COLUMNS)), "{widest:?}: {shown:#?}");
    }
}

#[test]
fn no_color_is_respected() {
    let place = wide();
    for arguments in [&["events"][..], &["stats"], &["verify"]] {
        let (code, shown) = in_terminal(&place, arguments, &[("NO_COLOR", "1")], "");
        assert_eq!(code, 0);
        assert!(!shown.contains('\u{1b}'), "{arguments:?}: {shown:?}");
    }
    let (_, shown) = in_terminal(&place, &["verify"], &[], "");
    assert!(shown.contains("\u{1b}[1m\u{1b}[32msound"), "{shown:?}");
}

#[test]
fn a_long_command_shows_how_far_it_is_and_takes_the_bar_away() {
    let place = Place::new();
    place.append_batches(&[5000, 5000]);
    let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let (export, backup) = (path("export.jsonl"), path("backup.db"));
    let (source, moved) = (path("log.db"), path("moved.db"));
    for (arguments, verb, result) in [
        (
            &["export", &export][..],
            "exporting",
            "exported 10000 events in 2 batches",
        ),
        (&["backup", &backup], "copying", "copied the log through 10000"),
        (
            &["copy", &source, &moved],
            "copying",
            "copied the log through 10000",
        ),
        (
            &["copy", &source, &format!("{moved}.2")],
            "verifying",
            "copied the log through 10000",
        ),
        (
            &["import", &export],
            "importing",
            "imported 10000 events in 2 batches",
        ),
    ] {
        let (code, shown) = in_terminal(&place, arguments, &[], "");
        assert_eq!(code, 0, "{shown}");
        let bar = shown.find(verb).unwrap_or_else(|| panic!("{verb} in {shown:?}"));
        assert!(shown[bar..].contains("left"), "{shown:?}");
        let last: Vec<&str> = shown.split("\u{1b}[2K").collect();
        let result: String = result.chars().take(usize::from(COLUMNS) - 20).collect();
        assert!(last.last().unwrap().contains(&result), "{shown:?}");
        assert!(!last.last().unwrap().contains(verb), "{shown:?}");
    }
}

#[test]
fn a_question_is_asked_before_a_file_is_overwritten() {
    let place = wide();
    let file = place.path("export.jsonl");
    fs::write(&file, "something else").unwrap();
    let arguments = ["export", file.to_str().unwrap()];
    let (code, shown) = in_terminal(&place, &arguments, &[], "n\n");
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("would be overwritten. Go on? [y/N]"), "{shown}");
    assert!(shown.contains("nothing was done"), "{shown}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "something else");
    let (code, shown) = in_terminal(&place, &arguments, &[], "y\n");
    assert_eq!(code, 0, "{shown}");
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 6);
}

#[test]
fn a_reset_shows_where_the_cursor_stands_and_asks() {
    let place = with_stream("ledger", &[2, 1]);
    let arguments = ["reset", "ledger", "--to", "beginning"];
    let (code, shown) = in_terminal(&place, &arguments, &[], "n\n");
    assert_eq!((code, cursor_of(&place, "ledger")), (1, 3), "{shown}");
    let question = "the cursor of \"ledger\", which stands at 3, is moved to the beginning. Go on? [y/N]";
    assert!(shown.contains(question), "{shown}");
    let (code, shown) = in_terminal(&place, &arguments, &[], "y\n");
    assert_eq!((code, cursor_of(&place, "ledger")), (0, 0), "{shown}");
}

#[tokio::test]
async fn a_cursor_that_moves_while_the_question_stands_is_a_conflict() {
    let place = with_stream("ledger", &[2, 1]);
    for (arguments, shown_at, moved_to) in [
        (&["reset", "ledger", "--to", "beginning"][..], 3, 1),
        (&["skip", "ledger"], 1, 2),
    ] {
        assert_eq!(cursor_of(&place, "ledger"), shown_at);
        let mut terminal = Terminal::start(&place, arguments, &[]);
        terminal.read_until("[y/N]", 1);
        let store = millstream::Store::open(place.db()).unwrap();
        let ledger = store.stream("ledger").await.unwrap();
        ledger.reset(Reset::To(moved_to), shown_at).await.unwrap();
        store.close().await.unwrap();
        terminal.write("y\n");
        let (code, shown) = terminal.end();
        assert_eq!((code, cursor_of(&place, "ledger")), (3, moved_to), "{shown}");
        let reason = format!("moved: expected {shown_at}, found {moved_to}");
        assert!(shown.contains(&reason), "{shown}");
    }
}

#[test]
fn a_watch_is_redrawn_in_place_and_ends_on_ctrl_c() {
    let place = with_stream("a-stream-with-a-rather-long-name", &[1]);
    let mut terminal = Terminal::start(&place, &["streams", "--watch"], &[]);
    terminal.read_until("\u{1b}[H\u{1b}[J", 3);
    terminal.interrupt();
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    for line in shown.lines().map(visible) {
        assert!(
            line.width() <= usize::from(COLUMNS),
            "{} columns: {line}",
            line.width()
        );
    }
}
