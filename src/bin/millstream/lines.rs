//! The input, line by line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::Path;

use crate::failure::Failure;
use crate::terminal;

/// How long a line may be.
const LINE_BYTES_MAX: u64 = 1 << 30;

/// The lines of a file or of the standard input. Empty ones are passed over, and counted.
pub(crate) struct Lines {
    input: Box<dyn BufRead>,
    number: u64,
    bytes: u64,
    total_bytes: Option<u64>,
}

/// One line.
pub(crate) struct Line {
    /// Its number, counted from 1.
    pub(crate) number: u64,
    pub(crate) text: String,
}

impl Lines {
    pub(crate) fn of_stdin() -> Self {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            terminal::say("reading events from the terminal, one line of JSON each; Ctrl-D ends the input");
        }
        Self::new(Box::new(BufReader::new(stdin)), None)
    }

    pub(crate) fn of_file(path: &Path) -> Result<Self, Failure> {
        let failed =
            |error: io::Error| Failure::Failed(format!("{} could not be read: {error}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let total_bytes = file.metadata().map_err(failed)?.len();
        Ok(Self::new(Box::new(BufReader::new(file)), Some(total_bytes)))
    }

    fn new(input: Box<dyn BufRead>, total_bytes: Option<u64>) -> Self {
        Self {
            input,
            number: 0,
            bytes: 0,
            total_bytes,
        }
    }

    /// How many bytes were read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many there are, as far as that is known.
    pub(crate) fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }

    /// The next line with anything in it.
    pub(crate) fn next(&mut self) -> Result<Option<Line>, Failure> {
        loop {
            let mut text = Vec::new();
            let number = self.number + 1;
            let read = (&mut self.input)
                .take(LINE_BYTES_MAX)
                .read_until(b'\n', &mut text)
                .map_err(|error| Failure::Failed(format!("line {number} could not be read: {error}")))?;
            if read == 0 {
                return Ok(None);
            }
            self.number = number;
            self.bytes += read as u64;
            if read as u64 == LINE_BYTES_MAX && text.last() != Some(&b'\n') {
                return Err(Failure::Failed(format!("line {number} has more than 1 GiB")));
            }
            let text = String::from_utf8(text)
                .map_err(|error| Failure::Failed(format!("line {number} is not UTF-8: {error}")))?;
            // Editors of one system put a mark there that JSON does not know.
            let text = text
                .strip_prefix('\u{feff}')
                .filter(|_| number == 1)
                .unwrap_or(&text);
            let text = text.trim();
            if !text.is_empty() {
                let text = text.to_owned();
                return Ok(Some(Line { number, text }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lines_are_passed_over_and_counted() {
        let input: &[u8] = b"\xef\xbb\xbfone\r\n\n  \ntwo";
        let mut lines = Lines::new(Box::new(input), None);
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            found.push((line.number, line.text));
        }
        assert_eq!(found, [(1, String::from("one")), (4, String::from("two"))]);
        assert_eq!(lines.bytes(), input.len() as u64);
    }

    #[test]
    fn a_line_that_is_not_utf_8_is_named() {
        let mut lines = Lines::new(Box::new(&b"one\n\xff\n"[..]), None);
        lines.next().unwrap();
        let failure = lines.next().err().unwrap().to_string();
        assert!(failure.starts_with("line 2 is not UTF-8"), "{failure}");
    }
}
