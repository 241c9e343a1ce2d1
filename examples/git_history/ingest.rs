//! From the repository into the log: which log it may be, what it has already, and the appends.

use std::collections::HashSet;
use std::path::Path;
use std::pin::pin;

use futures::{StreamExt, stream};
use millstream::{AppendError, EventQuery, ExpectedContext, Store};
use tokio::task;

use crate::facts::Fact;
use crate::progress::Progress;
use crate::repository::{CommitId, Repository};
use crate::{Result, Stop, Unusable, facts, history};

/// How many commits are on their way into the log at a time: those that arrive while the disk syncs share the next sync.
const APPENDS_IN_FLIGHT_MAX: usize = 64;

/// The commits that the log has up to a sequence.
pub(crate) struct Known {
    pub(crate) commits: HashSet<CommitId>,
    head: u64,
}

/// What a run has appended.
pub(crate) struct Appended {
    pub(crate) commits: u64,
    pub(crate) events: u64,
}

/// The first commit of a log says which repository it belongs to: that repository has it, whatever happened since.
pub(crate) async fn refuse_other_repository(store: &Store, repository: &Repository, db: &Path) -> Result<()> {
    let db = db.display();
    let Some(first) = store.read(&EventQuery::all()).next().await else {
        return Ok(());
    };
    let first = first?;
    let id = first.iter().next().and_then(|event| match event.decode() {
        Ok(Fact::CommitRecorded { commit, .. }) => CommitId::parse(&commit),
        _ => None,
    });
    let Some(id) = id else {
        return Err(Unusable(format!("{db} is a log of something else; choose another --db")).into());
    };
    if repository.has(id)? {
        return Ok(());
    }
    let root = repository.root().display();
    let text = format!("{db} belongs to another repository: {root} has no commit {id}; choose another --db");
    Err(Unusable(text).into())
}

pub(crate) async fn known_commits(store: &Store) -> Result<Known> {
    let head = store.head();
    let mut commits = HashSet::new();
    let mut batches = store.read(&EventQuery::types([Fact::COMMIT]));
    while let Some(batch) = batches.next().await {
        for event in &batch? {
            if let Fact::CommitRecorded { commit, .. } = event.decode()? {
                commits.extend(CommitId::parse(&commit));
            }
        }
    }
    Ok(Known { commits, head })
}

/// Appends these commits, each as one batch, in order. When asked to stop, it reads no more and waits for what is in flight.
///
/// Another process can do the same at the same time, so the log itself makes sure that it gets no commit twice.
pub(crate) async fn append(
    store: &Store,
    repository: &Repository,
    commits: Vec<CommitId>,
    known: &Known,
    progress: &Progress,
    stop: &Stop,
) -> Result<Appended> {
    let mut total = Appended {
        commits: 0,
        events: 0,
    };
    if commits.is_empty() {
        return Ok(total);
    }
    let (sender, mut receiver) = history::channel();
    let repository = repository.clone();
    let reader = task::spawn_blocking(move || history::read(&repository, &commits, &sender));

    let appended = {
        let read = stream::poll_fn(move |context| receiver.poll_recv(context));
        // `buffered` polls its futures in the order they come, which is the order in which appends enter the log.
        let mut appends = pin!(
            read.take_until(stop.requested())
                .map(|commit| async move {
                    let unknown = ExpectedContext::nothing_after(known.head);
                    let recorded = facts::recorded(&commit.id);
                    store.append_if(facts::batch(commit), &recorded, unknown).await
                })
                .buffered(APPENDS_IN_FLIGHT_MAX)
        );
        loop {
            match appends.next().await {
                Some(Ok(appended)) => {
                    total.commits += 1;
                    total.events += appended.committed_count as u64;
                    progress.commit_appended();
                }
                // Another process was faster.
                Some(Err(AppendError::Conflict { .. })) => {}
                Some(Err(error)) => break Err(error),
                None => break Ok(total),
            }
        }
    };
    // Nobody receives any more, so the reader has ended or is about to.
    let read = reader.await?;
    let total = appended?;
    read?;
    Ok(total)
}
