//! Builds the peers, and runs them: one process for each scenario, in a new folder.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use scenario::protocol::{self, Measured, Plan, Task};

use crate::Failure;
use crate::peers::PeerInfo;
use crate::results::Outcome;

/// What a process may take beside what its plan says: registrations, counting what is stored.
const ALLOWANCE: Duration = Duration::from_secs(20);

pub(crate) struct Children {
    /// Why it cannot be started, for those that did not build.
    broken: HashMap<&'static str, String>,
    data: PathBuf,
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(default, PathBuf::from)
}

impl Children {
    /// Builds these peers in one build folder, each with its own lock file.
    pub(crate) fn build(peers: &[&'static PeerInfo], dir: Option<&Path>) -> Result<Self, Failure> {
        let parent = dir.map_or_else(target, Path::to_owned);
        let data = parent.join(format!("peers-data-{}", std::process::id()));
        fs::create_dir_all(&data)?;
        let data = data.canonicalize()?;
        let mut broken = HashMap::new();
        for peer in peers {
            eprintln!("building {}", peer.name);
            if let Err(failure) = build(peer) {
                eprintln!("{failure}");
                broken.insert(peer.name, format!("does not build: {failure}"));
            }
        }
        Ok(Self { broken, data })
    }

    /// Where the stores have their files.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Runs plans one after the other on the same files, and gives the outcome of the last. A replay is told how many
    /// events the process before it left.
    pub(crate) fn run(&self, peer: &PeerInfo, plans: &[Plan]) -> Outcome {
        if let Some(reason) = self.broken.get(peer.name) {
            return Outcome::Failed(reason.clone());
        }
        let folder = self.data.join(peer.package);
        let outcome = run_all(peer, plans, &folder);
        let _ = fs::remove_dir_all(&folder);
        outcome.unwrap_or_else(|failure| Outcome::Failed(failure.to_string()))
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.data);
    }
}

fn build(peer: &PeerInfo) -> Result<(), Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--manifest-path"])
        .arg(peer.folder().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target())
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.starts_with("error"));
    Err(line.unwrap_or("cargo failed").to_owned().into())
}

fn run_all(peer: &PeerInfo, plans: &[Plan], folder: &Path) -> Result<Outcome, Failure> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    let mut last = Measured::default();
    for plan in plans {
        let mut plan = plan.clone();
        if let Task::Replay { events } = &mut plan.task {
            *events = last.events;
        }
        match run(peer, &plan, folder)? {
            protocol::Outcome::Measured(measured) => last = measured,
            protocol::Outcome::Cannot(reason) => return Ok(Outcome::Cannot(reason)),
        }
    }
    Ok(Outcome::Measured(last))
}

/// One process.
fn run(peer: &PeerInfo, plan: &Plan, folder: &Path) -> Result<protocol::Outcome, Failure> {
    let errors = folder.join("errors.txt");
    let mut child = Command::new(target().join("release").join(peer.package))
        .arg(serde_json::to_string(plan)?)
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&errors)?)
        .spawn()?;
    let limit = ALLOWANCE + Duration::from_secs_f64(2.0 * (plan.seconds + plan.drain_seconds));
    let output = read_all(&mut child, limit);
    if output.is_none() {
        child.kill()?;
    }
    let status = child.wait()?;
    let Some(output) = output else {
        return Err(format!("not done after {} s", limit.as_secs()).into());
    };
    let word = first_word(&fs::read_to_string(&errors).unwrap_or_default());
    match output
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
    {
        Some(protocol::Outcome::Measured(mut measured)) => {
            measured.error = measured.error.or(word);
            Ok(protocol::Outcome::Measured(measured))
        }
        Some(cannot) => Ok(cannot),
        None => Err(format!("ended with {status}: {}", word.unwrap_or_default()).into()),
    }
}

/// What a process first complained of; of a panic the message, not the place.
fn first_word(errors: &str) -> Option<String> {
    let mut lines = errors.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next()?;
    match lines.next() {
        Some(message) if first.contains("panicked at ") => Some(format!("panicked: {message}")),
        _ => Some(first.to_owned()),
    }
}

/// What the process prints until it ends, unless that takes too long.
fn read_all(child: &mut Child, limit: Duration) -> Option<String> {
    let mut pipe = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut output = String::new();
        let _ = pipe.read_to_string(&mut output);
        let _ = sender.send(output);
    });
    receiver.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_panic_the_message_is_told() {
        let panic = "\nthread 'a' panicked at src/b.rs:1:2:\nout of order\nnote: run with more\n";
        assert_eq!(first_word(panic).unwrap(), "panicked: out of order");
        assert_eq!(first_word("disk full\nend\n").unwrap(), "disk full");
        assert_eq!(first_word("\n"), None);
    }
}
