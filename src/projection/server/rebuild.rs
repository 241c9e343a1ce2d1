//! A read model on the server is built anew beside the one that serves, and takes its place in one step (R2).
//!
//! The step is one transaction: the list says that the new build serves and the old one does not, the old one may be written by nobody any more,
//! and the new one by whoever wrote the old one, who is its owner still.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_postgres::{Error, Transaction};

use crate::error::{ReadModelError, StorageError};
use crate::fault::FaultPoint;
use crate::log::postgres::beside::Purpose;
use crate::projection::rebuilding::{Course, LAST_STEP_EVENTS, Rebuild, RebuildProgress, report};
use crate::projection::request::{ModelRequest, RequestList};
use crate::projection::server::claim::holds_stream;
use crate::projection::server::hand::Hand;
use crate::projection::server::keeper::{Tries, Writer};
use crate::projection::server::list;
use crate::projection::server::requests;
use crate::projection::server::rows::{self, Opened, Origin};
use crate::projection::server::shared::{Shared, UnderWay};
use crate::projection::server::tables::OWNED_BY_NOBODY;
use crate::projection::standing::{BuildRow, Promoted};

/// What is done, for whoever reads an error.
const SWITCH: &str = "let a rebuilt read model serve";

/// Begins one, because of a request or unasked.
pub(super) async fn begin(shared: &Arc<Shared>, request: Option<u64>) -> Result<Rebuild, ReadModelError> {
    shared.check_serving().await?;
    let under_way = shared.begin_rebuild()?;
    let (name, version) = (shared.name().to_owned(), shared.version());
    let (course, progress) = Course::new(&shared.catch_up, &name, version, shared.position());
    let opened = make(shared).await?;
    let mut attempt = Attempt {
        shared: Arc::clone(shared),
        row: Some(opened.row.clone()),
        request,
        runtime: Handle::current(),
        _under_way: under_way,
    };
    if request.is_none() {
        attempt.request = shared
            .requests
            .begin_unasked(&name, ModelRequest::Rebuild)
            .await?;
    }
    let task = tokio::spawn(go_through(attempt, course, opened, progress.clone()));
    Ok(Rebuild::new(name, progress, task))
}

/// Goes through with it, unless somebody cancels it from outside.
async fn go_through(
    attempt: Attempt,
    course: Course,
    opened: Opened,
    mut progress: watch::Receiver<RebuildProgress>,
) -> Result<(), ReadModelError> {
    let Some(request) = attempt.request else {
        return run(attempt, course, opened).await;
    };
    let requests = Arc::clone(&attempt.shared.requests);
    tokio::select! {
        outcome = run(attempt, course, opened) => outcome,
        cancelled = report(&requests, request, &mut progress) => Err(cancelled),
    }
}

/// Makes the new build.
async fn make(shared: &Shared) -> Result<Opened, ReadModelError> {
    let store = shared.store();
    let extent = store.log().extent().await?;
    let origin = Origin {
        log_id: store.log_id(),
        head: extent.head,
        pruned_through: extent.pruned_through,
    };
    let claim = shared.claim()?;
    let mut client = shared.desk().connect(Purpose::Write).await?;
    rows::make_beside(shared.desk(), &mut client, &shared.plan().spec, origin, claim).await
}

/// A build that is not wanted unless it comes to serve.
struct Attempt {
    shared: Arc<Shared>,
    /// Nothing: it serves, or is given up.
    row: Option<BuildRow>,
    /// What the list knows it by.
    request: Option<u64>,
    runtime: Handle,
    _under_way: UnderWay,
}

impl Attempt {
    /// Removes what was built, also when nobody waits for that any more.
    async fn give_up(mut self, error: &ReadModelError) {
        if let Some(row) = self.row.take() {
            let given_up = give_up(Arc::clone(&self.shared), row, self.request, error.to_string());
            // When the runtime is shut down, the next who registers the model removes it.
            let _ = self.runtime.spawn(given_up).await;
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(row) = self.row.take() {
            let name = row.name.clone();
            let why = ReadModelError::Cancelled { name }.to_string();
            self.runtime
                .spawn(give_up(Arc::clone(&self.shared), row, self.request, why));
        }
    }
}

async fn give_up(shared: Arc<Shared>, row: BuildRow, request: Option<u64>, why: String) {
    if let Err(error) = list::retire(shared.desk(), row.build).await {
        tracing::warn!(name = %row.name, %error, "a rebuild that was given up stays in the list until the model is registered or rebuilt again");
    }
    list::sweep(shared.desk()).await;
    if let Some(request) = request {
        // Nobody waits for that: the server may be away for long.
        tokio::spawn(note(shared, request, why));
    }
}

async fn note(shared: Arc<Shared>, request: u64, why: String) {
    if let Err(error) = shared.requests.note_end(request, Some(why)).await {
        tracing::warn!(name = shared.name(), %error, "what a rebuild came to could not be noted");
    }
}

async fn run(attempt: Attempt, mut course: Course, opened: Opened) -> Result<(), ReadModelError> {
    let shared = Arc::clone(&attempt.shared);
    let (name, version) = (shared.name(), shared.version());
    tracing::info!(name, version, "a read model is rebuilt");
    let built = match build(&shared, &mut course, opened).await {
        Ok(built) => built,
        Err(error) => {
            attempt.give_up(&error).await;
            return Err(error);
        }
    };
    let through = built.through;
    let switch = Switch {
        terms: Terms::of(&attempt, &built, course.given_up()),
        attempt,
        built,
    };
    // Once it has begun it comes to its end, whoever cancels the rebuild: the list and this process are to say the same.
    match tokio::spawn(switch.run()).await {
        Ok(switched) => switched?,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shut down.
        Err(_) => return Err(ReadModelError::NoRuntime),
    }
    course.end(through).await;
    tracing::info!(name, version, "a read model was rebuilt, and serves");
    Ok(())
}

/// A build that is as far as the one that serves, whose stream waits.
struct Built {
    serving: OwnedMutexGuard<Hand>,
    rebuilt: Box<Hand>,
    /// Where both are.
    through: u64,
}

async fn build(shared: &Shared, course: &mut Course, opened: Opened) -> Result<Built, ReadModelError> {
    let rebuilt = shared.keeper.lock().await.beside(opened);
    let mut writer = Writer {
        work: Arc::clone(shared.keeper.work()),
        hand: Box::new(rebuilt),
    };
    // It goes as far as what serves. What comes then is the stream's, with all that it does when something fails.
    loop {
        let through = shared.position();
        course.note_total(through);
        if through.saturating_sub(writer.hand.position()) <= LAST_STEP_EVENTS {
            break;
        }
        writer = course.run(writer, through).await?;
    }
    // From here on the stream waits, so that it is passed by nothing.
    let mut serving = shared.keeper.lock().await;
    let through = settled(shared, &mut serving).await?;
    writer = course.run(writer, through).await?;
    Ok(Built {
        serving,
        rebuilt: writer.hand,
        through,
    })
}

/// Where the build is that serves, also after a commit whose answer was lost.
async fn settled(shared: &Shared, serving: &mut Hand) -> Result<u64, ReadModelError> {
    let mut tries = Tries::begin();
    loop {
        let position = match position(shared, serving.row.build, serving.owner).await {
            Ok(position) => position,
            Err(error) if error.is_retryable() && !tries.are_over(shared.desk().limit()) => {
                tries.pause().await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let position = position.ok_or_else(|| shared.plan().lost())?;
        return Ok(serving.knows(position));
    }
}

/// Waits for whatever transaction is still under way. Nothing, when the build is another one's.
async fn position(shared: &Shared, build: i64, owner: i64) -> Result<Option<u64>, StorageError> {
    let failed = shared.desk().failed(SWITCH);
    let mut client = shared.desk().connect(Purpose::Write).await?;
    let tx = client.build_transaction().read_only(false).start().await;
    let tx = tx.map_err(&failed)?;
    let sql = "SELECT position FROM millstream_model WHERE build = $1 AND owner = $2 FOR UPDATE";
    let row = tx.query_opt(sql, &[&build, &owner]).await;
    let position = row.and_then(|row| row.map(|row| row.try_get::<_, i64>(0)).transpose());
    Ok(position.map_err(&failed)?.map(|position| position as u64))
}

/// What it takes for a build to serve in place of another. The stream waits.
struct Switch {
    attempt: Attempt,
    built: Built,
    terms: Terms,
}

/// What is written then.
struct Terms {
    shared: Arc<Shared>,
    request: Option<u64>,
    rebuilt: BuildRow,
    rebuilt_owner: i64,
    serving: i64,
    owner: i64,
    through: u64,
    /// The dead letters that the new build lacks, by their first events.
    given_up: Vec<i64>,
}

/// What became of one try.
enum Switched {
    Yes,
    /// The new build was retired, because a newer version serves, or because somebody else registered the model. Or somebody has cancelled it.
    Retired,
    /// Whoever tried is not the owner any more.
    Lost,
}

impl Switch {
    async fn run(mut self) -> Result<(), ReadModelError> {
        let shared = Arc::clone(&self.attempt.shared);
        let refused = match self.terms.persist().await {
            Ok(Switched::Yes) => None,
            Ok(Switched::Retired) => Some(ReadModelError::Cancelled {
                name: shared.name().to_owned(),
            }),
            Ok(Switched::Lost) => Some(shared.plan().lost()),
            Err(error) => Some(error),
        };
        if let Some(error) = refused {
            // The stream goes on meanwhile.
            drop(self.built);
            self.attempt.give_up(&error).await;
            return Err(error);
        }
        if let Some(row) = self.attempt.row.take() {
            shared.serves(row);
        }
        self.built.serving.go_on_with(*self.built.rebuilt);
        drop(self.built.serving);
        list::sweep(shared.desk()).await;
        Ok(())
    }
}

impl Terms {
    fn of(attempt: &Attempt, built: &Built, given_up: Vec<u64>) -> Self {
        Self {
            shared: Arc::clone(&attempt.shared),
            request: attempt.request,
            rebuilt: built.rebuilt.row.clone(),
            rebuilt_owner: built.rebuilt.owner,
            serving: built.serving.row.build,
            owner: built.serving.owner,
            through: built.through,
            given_up: given_up.into_iter().map(|first| first as i64).collect(),
        }
    }

    /// One transaction, tried for as long as the server is waited for. It may be repeated.
    async fn persist(&self) -> Result<Switched, ReadModelError> {
        let mut tries = Tries::begin();
        loop {
            let epoch = self.shared.keeper.work().epoch()?;
            let tried = self.shared.desk().answer(SWITCH, self.switch(epoch)).await;
            match tried.flatten() {
                Err(error) if error.is_retryable() && !tries.are_over(self.shared.desk().limit()) => {
                    tracing::debug!(name = self.shared.name(), %error, "the last step of a rebuild is tried again");
                }
                outcome => return Ok(outcome?),
            }
            tries.pause().await;
        }
    }

    async fn switch(&self, epoch: Option<u64>) -> Result<Switched, StorageError> {
        let (desk, plan) = (self.shared.desk(), self.shared.plan());
        let failed = desk.failed(SWITCH);
        let mut client = desk.connect(Purpose::Write).await?;
        let tx = list::begin(desk, &mut client).await?;
        let promoted = list::promote(&tx, &self.rebuilt).await;
        match promoted.map_err(&failed)? {
            Promoted::Now => {}
            // The answer to an earlier try was lost.
            Promoted::Before => return Ok(Switched::Yes),
            Promoted::No => return Ok(Switched::Retired),
        }
        let is_handed_over = self.hand_over(&tx).await.map_err(&failed)?;
        let is_owner = self.is_owner(&tx, epoch).await.map_err(&failed)?;
        if !is_handed_over || !is_owner {
            return Ok(Switched::Lost);
        }
        if let Some(request) = self.request {
            let done = requests::done(&tx, request, self.through).await;
            if !done.map_err(&failed)? {
                return Ok(Switched::Retired);
            }
        }
        if plan.faults.hit(FaultPoint::BeforeSwitch) {
            let injected = std::io::Error::other("a fault was injected");
            return Err(StorageError::new(SWITCH, injected).busy());
        }
        tx.commit().await.map_err(&failed)?;
        plan.faults.hit(FaultPoint::AfterSwitch);
        Ok(Switched::Yes)
    }

    /// Gives the new build the owner of the old one. `false`: somebody else has one of them.
    async fn hand_over(&self, tx: &Transaction<'_>) -> Result<bool, Error> {
        let leave =
            "UPDATE millstream_model SET owner = $3 WHERE build = $1 AND owner = $2 RETURNING position";
        let left = tx
            .query_opt(leave, &[&self.serving, &self.owner, &OWNED_BY_NOBODY])
            .await?;
        let left = left.map(|row| row.try_get::<_, i64>(0)).transpose()?;
        // Its row may be behind dead letters that nobody applies.
        let is_as_far = left.is_some_and(|left| left as u64 <= self.through);
        let take = "UPDATE millstream_model SET owner = $3, rebuilt_through = position WHERE build = $1 AND owner = $2";
        let rebuilt = &self.rebuilt.build;
        let taken = tx
            .execute(take, &[rebuilt, &self.rebuilt_owner, &self.owner])
            .await?;
        let lack =
            "INSERT INTO millstream_model_lacking (build, first_sequence) SELECT $1, unnest($2::bigint[])";
        tx.execute(lack, &[rebuilt, &self.given_up]).await?;
        Ok(is_as_far && taken == 1)
    }

    /// Whether the stream is this store's still. From here on whoever takes it over waits for the commit.
    async fn is_owner(&self, tx: &Transaction<'_>, epoch: Option<u64>) -> Result<bool, Error> {
        holds_stream(tx, &self.shared.plan().stream, epoch).await
    }
}
