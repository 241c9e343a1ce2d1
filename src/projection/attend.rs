//! Looks at the poll interval for what was asked of the read models that are kept here, and does it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::error::ReadModelError;
use crate::projection::applier::blocking;
use crate::projection::catalog::Catalog;
use crate::projection::model::Shared;
use crate::projection::rebuilding::Rebuild;
use crate::projection::request::{ModelRequest, RequestReport};
use crate::sync::Mutex;

/// How often the list is looked at for requests.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The models that are kept here, and the task that looks for requests as long as there are any.
pub(crate) struct Attendance {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    models: HashMap<(String, u32), Weak<Shared>>,
    task: Option<AbortHandle>,
    /// Somebody was added since the list was looked at.
    has_grown: bool,
}

impl Attendance {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State::default()),
        }
    }

    /// From now on requests for the model are heard.
    pub(crate) fn add(self: &Arc<Self>, catalog: &Arc<Catalog>, shared: &Arc<Shared>) {
        let mut state = self.state.lock();
        state.models.insert(
            (shared.name().to_owned(), shared.version()),
            Arc::downgrade(shared),
        );
        // Something may have been asked of it before.
        state.has_grown = true;
        if state.task.as_ref().is_none_or(AbortHandle::is_finished) {
            let (attendance, catalog) = (Arc::downgrade(self), Arc::downgrade(catalog));
            state.task = Some(tokio::spawn(attend(attendance, catalog)).abort_handle());
        }
    }

    /// The models that are still kept. Nothing: there are none, and whoever adds one begins another task.
    fn models(&self) -> Option<Vec<Arc<Shared>>> {
        let mut state = self.state.lock();
        let models: Vec<_> = state.models.values().filter_map(Weak::upgrade).collect();
        state.models.retain(|_, model| model.strong_count() > 0);
        if models.is_empty() {
            state.task = None;
            return None;
        }
        Some(models)
    }

    fn has_grown(&self) -> bool {
        std::mem::take(&mut self.state.lock().has_grown)
    }
}

/// Ends when the list, or the last of its models, is gone.
async fn attend(attendance: Weak<Attendance>, catalog: Weak<Catalog>) {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let (Some(attendance), Some(catalog)) = (attendance.upgrade(), catalog.upgrade()) else {
            return;
        };
        let Some(models) = attendance.models() else {
            return;
        };
        let names = models.iter().map(|model| model.name().to_owned()).collect();
        match look(&catalog, names, attendance.has_grown()).await {
            Ok(requests) => {
                for request in requests {
                    if let Some(model) = addressed(&models, &request) {
                        tokio::spawn(serve(Arc::clone(model), request));
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "requests for read models cannot be looked for"),
        }
    }
}

/// Which of the versions that are kept here a request is for: the one that serves is rebuilt, the newest is promoted.
fn addressed<'a>(models: &'a [Arc<Shared>], request: &RequestReport) -> Option<&'a Arc<Shared>> {
    let of_name = models.iter().filter(|model| model.name() == request.name);
    of_name.max_by_key(|model| match request.request {
        ModelRequest::Rebuild => (model.is_serving(), model.version()),
        ModelRequest::Promote => (true, model.version()),
    })
}

async fn look(
    catalog: &Arc<Catalog>,
    names: Vec<String>,
    has_grown: bool,
) -> Result<Vec<RequestReport>, ReadModelError> {
    let catalog = Arc::clone(catalog);
    blocking(move || match catalog.has_changed()? || has_grown {
        true => catalog.begin_asked(&names),
        false => Ok(Vec::new()),
    })
    .await?
}

/// Does what was asked, and says what it came to.
async fn serve(shared: Arc<Shared>, request: RequestReport) {
    tracing::info!(
        name = shared.name(),
        request = request.request.as_str(),
        "something was asked of a read model"
    );
    let outcome = match request.request {
        ModelRequest::Rebuild => match Rebuild::begin_for(&shared, Some(request.number)).await {
            // The rebuild itself says what it came to.
            Ok(rebuild) => {
                let _ = rebuild.finished().await;
                return;
            }
            Err(error) => Err(error),
        },
        ModelRequest::Promote => shared.promote_if_caught_up().await,
    };
    let error = outcome.err().map(|error| error.to_string());
    let catalog = Arc::clone(shared.catalog());
    let noted = blocking(move || catalog.end(request.number, error.as_deref())).await;
    if let Err(error) | Ok(Err(error)) = noted {
        tracing::warn!(%error, "what was asked of a read model is done, and that could not be noted");
    }
}
