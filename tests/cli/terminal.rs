//! The command line in a terminal: colours, widths, bars and questions.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::Stdio;

use nix::pty::{OpenptyResult, Winsize, openpty};
use unicode_width::UnicodeWidthStr;

use crate::{Place, command};

const COLUMNS: u16 = 60;

/// Runs a command in a terminal of 60 columns, types something, and gives its exit code and all that was shown.
fn in_terminal(place: &Place, arguments: &[&str], variables: &[(&str, &str)], typed: &str) -> (i32, String) {
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
    let mut child = command.spawn().unwrap();
    // The terminal ends when nobody holds this side of it any more.
    drop(command);
    drop(slave);
    let mut master = File::from(master);
    master.write_all(typed.as_bytes()).unwrap();
    let mut shown = Vec::new();
    let mut piece = [0; 4096];
    // The end of a terminal is an error on some systems.
    while let Ok(count) = master.read(&mut piece)
        && count > 0
    {
        shown.extend_from_slice(&piece[..count]);
    }
    let code = child.wait().unwrap().code().unwrap();
    (code, String::from_utf8(shown).unwrap())
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
    for (arguments, verb, result) in [
        (
            ["export", &export],
            "exporting",
            "exported 10000 events in 2 batches",
        ),
        (["backup", &backup], "copying", "copied the log through 10000"),
        (
            ["import", &export],
            "importing",
            "imported 10000 events in 2 batches",
        ),
    ] {
        let (code, shown) = in_terminal(&place, &arguments, &[], "");
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
