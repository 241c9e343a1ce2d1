//! The history of a git repository as an event log, and three read models that follow it.
//!
//! ```sh
//! cargo run --release --example git_history -- [REPOSITORY] [--db FILE]
//! ```
//!
//! Every commit becomes one batch of facts: the commit, and the files that it changed. Three feature slices follow the
//! log, each through a durable stream of its own: who wrote how much, which files change most, when the work was done.
//! Run it again after new commits, or after it was killed: only what is new is read, and nothing is counted twice.
//!
//! The parts in reading order: `repository` and `history` ask git, `facts` says what goes into the log, `ingest` brings
//! it there, `slices` what is made of it, `views` how that stays right whatever happens, `progress` and `summary` what is
//! shown.

mod facts;
mod history;
mod ingest;
mod progress;
mod repository;
mod slices;
mod summary;
mod views;

use std::error::Error;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use futures::future;
use millstream::{Limits, Store, StreamState};
use tokio::sync::watch;
use tokio::{signal, task};

use crate::ingest::{Appended, Known};
use crate::progress::Progress;
use crate::repository::{CommitId, Repository};
use crate::slices::Running;
use crate::summary::{Fared, Figures};
use crate::views::Views;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The largest commit that stays one batch: the first one of an old project can have a hundred thousand files.
const COMMIT_EVENTS_MAX: usize = 1_000_000;
const COMMIT_BYTES_MAX: usize = 1 << 30;

const EXIT_UNUSABLE: u8 = 2;
const EXIT_INTERRUPTED: u8 = 130;

/// Reads the history of a git repository into an event log, and keeps three read models of it.
#[derive(Parser)]
struct Arguments {
    /// The repository to read [default: the one that the current directory is in]
    repository: Option<PathBuf>,
    /// The file of the log [default: one for each repository, in `target` or in the directory for temporary files]
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
}

/// The arguments name something that cannot be worked with.
#[derive(Debug)]
struct Unusable(String);

/// Ctrl-C, once it was pressed.
#[derive(Clone)]
struct Stop(watch::Receiver<bool>);

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            complain(&chain(error.as_ref()));
            ExitCode::from(if error.is::<Unusable>() { EXIT_UNUSABLE } else { 1 })
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    let stop = Stop::on_ctrl_c();
    let repository = Repository::find(arguments.repository.as_deref()).map_err(|error| {
        let place = arguments.repository.as_deref().unwrap_or(Path::new("."));
        Unusable(format!(
            "cannot read a git repository at {}: {error}",
            place.display()
        ))
    })?;
    let Some(head) = repository.head()? else {
        say(&format!(
            "{} has no commits yet: there is nothing to read\n",
            repository.root().display()
        ))?;
        return Ok(ExitCode::SUCCESS);
    };
    let db = arguments.db.unwrap_or_else(|| default_db(&repository));
    say(&format!("{} -> {}\n", repository.root().display(), db.display()))?;

    let limits = Limits::default()
        .batch_events_max(COMMIT_EVENTS_MAX)
        .batch_bytes_max(COMMIT_BYTES_MAX);
    let store = Store::builder()
        .limits(limits)
        .open(&db)
        .map_err(|error| Unusable(format!("cannot open {}: {}", db.display(), chain(&error))))?;
    let done = follow(&store, &repository, head, &db, &stop).await;
    // Also after an error: what is in flight is finished, and the cursors are stored.
    let closed = store.close().await;
    let Some(summary) = done? else {
        closed?;
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    closed?;
    say(&summary)?;
    Ok(ExitCode::SUCCESS)
}

/// Brings the log and its read models up to the repository's head. Returns what there is to say; nothing when interrupted.
async fn follow(
    store: &Store,
    repository: &Repository,
    head: CommitId,
    db: &Path,
    stop: &Stop,
) -> Result<Option<String>> {
    ingest::refuse_other_repository(store, repository, db).await?;
    let tables: Vec<_> = slices::ALL.iter().map(|slice| slice.tables).collect();
    let views = Views::open(views::with_suffix(db, ".views"), store.log_id(), &tables)?;
    let views = Arc::new(views);

    let started_at = Instant::now();
    let prepared = tokio::select! {
        prepared = prepare(store, repository, head, &views) => prepared?,
        () = stop.requested() => {
            complain("interrupted; the same command goes on");
            return Ok(None);
        }
    };
    let Prepared { running, known, new } = prepared;
    let new_commits = new.len() as u64;
    let progress = Progress::start(new_commits, &running);
    let appended = ingest::append(store, repository, new, &known, &progress, stop).await;
    let settled = match &appended {
        Ok(_) if !stop.is_requested() => tokio::select! {
            settled = store.settled() => Some(settled),
            () = stop.requested() => None,
        },
        _ => None,
    };
    progress.finish().await;
    let Appended { commits, events } = appended?;
    refuse_stopped_streams(&running)?;
    let Some(settled) = settled else {
        let text =
            format!("interrupted after {commits} of {new_commits} new commits; the same command goes on");
        complain(&text);
        return Ok(None);
    };
    settled?;

    let figures = Figures {
        repository: repository.name(),
        commits,
        events,
        elapsed: started_at.elapsed(),
        head: store.head(),
        commits_in_log: known.commits.len() as u64 + commits,
        log: (db.to_owned(), size_bytes(db)),
        views: (views.path().to_owned(), size_bytes(views.path())),
    };
    let fared: Vec<_> = running.iter().map(|running| Fared::of(running, &views)).collect();
    summary::render(&figures, &fared, &views).map(Some)
}

struct Prepared {
    running: Vec<Running>,
    known: Known,
    /// The commits that the log lacks, every one after its parents.
    new: Vec<CommitId>,
}

async fn prepare(
    store: &Store,
    repository: &Repository,
    head: CommitId,
    views: &Arc<Views>,
) -> Result<Prepared> {
    let mut running = Vec::new();
    for slice in slices::ALL {
        running.push(slices::start(slice, store, views).await?);
    }
    // History can be rewritten and branches interleave, so "after the last commit" would not do: every commit in the log
    // is known by name.
    let known = ingest::known_commits(store).await?;
    let repository = repository.clone();
    let (known, new) = task::spawn_blocking(move || {
        let new = repository.commits(head, &known.commits);
        (known, new)
    })
    .await?;
    Ok(Prepared {
        running,
        known,
        new: new?,
    })
}

fn refuse_stopped_streams(running: &[Running]) -> Result<()> {
    for running in running {
        if let StreamState::Stopped(cause) = running.stream.status().state {
            return Err(format!("the stream {} has stopped: {cause}", running.slice.name).into());
        }
    }
    Ok(())
}

impl Stop {
    fn on_ctrl_c() -> Self {
        let (request, requested) = watch::channel(false);
        tokio::spawn(async move {
            if signal::ctrl_c().await.is_err() {
                // Then Ctrl-C ends the program at once, which is as safe.
                return future::pending().await;
            }
            request.send_replace(true);
            // Whoever presses it twice does not want to wait; the next run goes on all the same.
            if signal::ctrl_c().await.is_ok() {
                process::exit(i32::from(EXIT_INTERRUPTED));
            }
        });
        Self(requested)
    }

    fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    async fn requested(&self) {
        if self.0.clone().wait_for(|requested| *requested).await.is_err() {
            future::pending().await
        }
    }
}

/// A file for each repository, beside what else can be built again.
fn default_db(repository: &Repository) -> PathBuf {
    let target = Path::new("target");
    let directory = if target.is_dir() {
        target.to_owned()
    } else {
        std::env::temp_dir()
    };
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let name = repository.name();
    let name: String = name
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .take(60)
        .collect();
    let digest = facts::digest(repository.root().as_os_str().as_encoded_bytes());
    directory.join(format!("git-history-{name}-{:08x}.db", digest >> 32))
}

/// The file and what SQLite has not yet moved into it.
fn size_bytes(path: &Path) -> u64 {
    let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    size(path) + size(&views::with_suffix(path, "-wal"))
}

/// Writes to the standard output. Whoever has read enough is not an error.
fn say(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// One line on the standard error.
fn complain(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(io::stderr(), "git_history: {text}");
}

/// An error and its causes on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Unusable {}
