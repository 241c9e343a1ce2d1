//! Looks at the poll interval for what was asked of the read models that are kept here, and does it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::error::ReadModelError;
use crate::projection::rebuilding::Rebuild;
use crate::projection::request::{ModelRequest, RequestList, RequestReport, Version};
use crate::sync::Mutex;

/// How often the list is looked at for requests.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A read model that is kept here, and does what is asked of it.
pub(crate) trait Attended: Send + Sync + 'static {
    type List: RequestList;

    fn name(&self) -> &str;
    fn version(&self) -> u32;

    /// Whether anything can still be asked of it.
    fn is_open(&self) -> bool;

    fn rebuild(
        self: &Arc<Self>,
        request: u64,
    ) -> impl Future<Output = Result<Rebuild, ReadModelError>> + Send;

    fn promote_if_caught_up(self: &Arc<Self>) -> impl Future<Output = Result<(), ReadModelError>> + Send;
}

/// The models that are kept here, and the task that looks for requests as long as there are any.
pub(crate) struct Attendance<M> {
    state: Mutex<State<M>>,
}

struct State<M> {
    models: HashMap<Version, Weak<M>>,
    task: Option<AbortHandle>,
}

impl<M: Attended> Attendance<M> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                models: HashMap::new(),
                task: None,
            }),
        }
    }

    /// From now on requests for the model are heard.
    pub(crate) fn add(self: &Arc<Self>, list: &Arc<M::List>, model: &Arc<M>) {
        let mut state = self.state.lock();
        state.models.insert(version(&**model), Arc::downgrade(model));
        if state.task.as_ref().is_none_or(AbortHandle::is_finished) {
            let (attendance, list) = (Arc::downgrade(self), Arc::downgrade(list));
            state.task = Some(tokio::spawn(attend(attendance, list)).abort_handle());
        }
    }

    /// Somebody else has the model now, and is to be asked.
    fn forget(&self, model: &Arc<M>) {
        let mut state = self.state.lock();
        state
            .models
            .retain(|_, kept| !std::ptr::eq(kept.as_ptr(), Arc::as_ptr(model)));
    }

    /// The models that are still kept. Nothing: there are none, and whoever adds one begins another task.
    fn models(&self) -> Option<Vec<Arc<M>>> {
        let mut state = self.state.lock();
        let models = state.models.values().filter_map(Weak::upgrade);
        let models: Vec<_> = models.filter(|model| model.is_open()).collect();
        state.models.retain(|_, model| model.strong_count() > 0);
        if models.is_empty() {
            state.task = None;
            return None;
        }
        Some(models)
    }
}

/// Ends when the list, or the last of its models, is gone.
async fn attend<M: Attended>(attendance: Weak<Attendance<M>>, list: Weak<M::List>) {
    let mut fails = false;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let (Some(attendance), Some(list)) = (attendance.upgrade(), list.upgrade()) else {
            return;
        };
        let Some(models) = attendance.models() else {
            return;
        };
        let kept = models.iter().map(|model| version(&**model)).collect();
        let asked = list.take_up(kept).await;
        if let Err(error) = &asked
            && !fails
        {
            tracing::warn!(%error, "requests for read models cannot be looked for; it is tried again and again");
        }
        fails = asked.is_err();
        for addressed in asked.unwrap_or_default() {
            if let Some(model) = models
                .iter()
                .find(|model| version(&***model) == addressed.version)
            {
                let (attendance, model, list) =
                    (Arc::clone(&attendance), Arc::clone(model), Arc::clone(&list));
                tokio::spawn(serve(attendance, model, list, addressed.request));
            }
        }
    }
}

fn version<M: Attended>(model: &M) -> Version {
    (model.name().to_owned(), model.version())
}

/// Does what was asked, and says what it came to; or leaves it to whoever has taken the model over.
async fn serve<M: Attended>(
    attendance: Arc<Attendance<M>>,
    model: Arc<M>,
    list: Arc<M::List>,
    request: RequestReport,
) {
    tracing::info!(
        name = model.name(),
        request = request.request.as_str(),
        "something was asked of a read model"
    );
    let outcome = match request.request {
        ModelRequest::Rebuild => match model.rebuild(request.number).await {
            // The rebuild itself says what it came to.
            Ok(rebuild) => {
                let _ = rebuild.finished().await;
                return;
            }
            Err(error) => Err(error),
        },
        ModelRequest::Promote => model.promote_if_caught_up().await,
    };
    let noted = match outcome {
        Err(ReadModelError::OwnershipLost { .. }) => {
            attendance.forget(&model);
            list.give_back(request.number).await
        }
        outcome => {
            let error = outcome.err().map(|error| error.to_string());
            list.note_end(request.number, error).await
        }
    };
    if let Err(error) = noted {
        tracing::warn!(%error, "what became of what was asked of a read model could not be noted");
    }
}
