//! Which builds of a read model there are, and which one serves: what follows from the list of them, wherever that is. Pure.

use crate::error::ReadModelError;
use crate::projection::request::{Addressed, ModelRequest, RequestReport, Version};

/// One build of one version of a read model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BuildRow {
    pub(crate) build: i64,
    pub(crate) name: String,
    pub(crate) version: u32,
    /// Where its tables are: a file beside the list, or a schema on the server.
    pub(crate) place: String,
    pub(crate) state: BuildState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuildState {
    Beside,
    Serving,
    Retired,
}

impl BuildState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Beside => "beside",
            Self::Serving => "serving",
            Self::Retired => "retired",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Beside, Self::Serving, Self::Retired]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// What became of letting a build serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promoted {
    Now,
    /// It did already.
    Before,
    /// It was retired meanwhile.
    No,
}

/// The build that serves, of all of a name.
pub(crate) fn serving(known: &[BuildRow]) -> Option<&BuildRow> {
    known.iter().find(|row| row.state == BuildState::Serving)
}

/// With which of the builds of its name a version goes on, if there is one. Refused: a newer version serves, which is given.
pub(crate) fn goes_on(known: &[BuildRow], version: u32) -> Result<Option<&BuildRow>, u32> {
    let serving = serving(known);
    if let Some(serving) = serving.filter(|serving| serving.version > version) {
        return Err(serving.version);
    }
    let same = |row: &&BuildRow| row.version == version;
    Ok(serving.filter(same).or_else(|| known.iter().find(same)))
}

/// Which of the requests that nobody has begun are for versions that are kept here: what serves is rebuilt, the newest is promoted.
pub(crate) fn addressed(asked: Vec<RequestReport>, builds: &[BuildRow], kept: &[Version]) -> Vec<Addressed> {
    let version = |request: &RequestReport| {
        let mut of_name = builds.iter().filter(|row| row.name == request.name);
        match request.request {
            ModelRequest::Rebuild => of_name
                .find(|row| row.state == BuildState::Serving)
                .map(|row| row.version),
            ModelRequest::Promote => of_name.map(|row| row.version).max(),
        }
    };
    asked
        .into_iter()
        .filter_map(|request| {
            let version = (request.name.clone(), version(&request)?);
            kept.contains(&version).then_some(Addressed { version, request })
        })
        .collect()
}

/// An older version is not kept while a newer one serves.
pub(crate) fn older(name: &str, version: u32, serving: u32) -> ReadModelError {
    ReadModelError::OlderVersion {
        name: name.to_owned(),
        version,
        serving,
    }
}
