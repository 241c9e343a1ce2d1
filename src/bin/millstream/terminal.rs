//! The terminal: how wide it is, what is said beside the results, and questions.

use std::future::poll_fn;
use std::io::{self, IsTerminal, Write};
use std::pin::Pin;
use std::task::Poll;

use anstream::AutoStream;
use serde_json::json;
use terminal_size::{Width, terminal_size_of};
use tokio::signal;

use crate::failure::{Exit, Failure};
use crate::output::{Colours, Format, Tone};

/// Narrower terminals are treated as this wide: a line has to hold something.
const COLUMNS_MIN: usize = 40;

/// The columns of the terminal that this goes to; nothing, when it goes elsewhere.
#[cfg(unix)]
pub(crate) fn width(stream: &(impl IsTerminal + std::os::fd::AsFd)) -> Option<usize> {
    columns(stream.is_terminal(), || terminal_size_of(stream))
}

/// The columns of the terminal that this goes to; nothing, when it goes elsewhere.
#[cfg(windows)]
pub(crate) fn width(stream: &(impl IsTerminal + std::os::windows::io::AsHandle)) -> Option<usize> {
    columns(stream.is_terminal(), || terminal_size_of(stream))
}

fn columns(
    is_terminal: bool,
    size: impl FnOnce() -> Option<(Width, terminal_size::Height)>,
) -> Option<usize> {
    // A terminal that does not know its width is as wide as they used to be.
    let width = |size: Option<(Width, _)>| size.map_or(80, |(Width(width), _)| usize::from(width));
    is_terminal.then(|| width(size()).max(COLUMNS_MIN))
}

/// Says something beside the results, on the standard error. When that is gone, nobody is there to be told.
pub(crate) fn say(text: &str) {
    let colours = Colours::of(AutoStream::choice(&io::stderr()));
    let _ = writeln!(io::stderr(), "{}", colours.paint(Tone::Faint, text));
}

/// Says why the command failed, on the standard error.
pub(crate) fn complain(failure: &Failure, format: Format) {
    let line = match format {
        Format::Json => {
            json!({ "error": failure.to_string(), "exit_code": failure.exit() as u8 }).to_string()
        }
        Format::Text => {
            let colours = Colours::of(AutoStream::choice(&io::stderr()));
            let kind = match failure.exit() {
                Exit::Conflict => "conflict:",
                _ => "error:",
            };
            format!("{} {failure}", colours.paint(Tone::Bad, kind))
        }
    };
    let _ = writeln!(io::stderr(), "{line}");
}

/// Listens from now on: Ctrl-C resolves the future, and does not end the process.
pub(crate) async fn interruption() -> Pin<Box<dyn Future<Output = io::Result<()>>>> {
    let mut interruption: Pin<Box<dyn Future<Output = io::Result<()>>>> = Box::pin(signal::ctrl_c());
    // The first look begins to listen.
    let answer = poll_fn(|task| Poll::Ready(interruption.as_mut().poll(task))).await;
    match answer {
        Poll::Pending => interruption,
        Poll::Ready(answer) => Box::pin(std::future::ready(answer)),
    }
}

/// Whether the user agreed beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    Given,
    Ask,
}

/// Goes on only if the user agrees.
pub(crate) fn confirm(consent: Consent, what: &str) -> Result<(), Failure> {
    if consent == Consent::Given {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "{what}: there is no terminal to ask at; give --yes to go on"
        )));
    }
    let failed = |error: io::Error| Failure::Failed(format!("the question could not be asked: {error}"));
    let mut answer = String::new();
    write!(io::stderr(), "{what}. Go on? [y/N] ").map_err(failed)?;
    io::stderr().flush().map_err(failed)?;
    io::stdin().read_line(&mut answer).map_err(failed)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Failed(String::from("nothing was done"))),
    }
}
