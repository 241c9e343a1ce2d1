//! The read models that a command is about: in files, or on the log's server.

use millstream::{Cancelled, ModelRequest, ReadModelError, ReadModelVersion, ReadModels, RequestReport};

pub(crate) enum Models {
    Files(ReadModels),
    #[cfg(feature = "postgres")]
    Server(millstream::ServerModels),
}

/// Asks wherever they are.
macro_rules! ask {
    ($models:expr, $question:ident($($what:expr),*)) => {
        match $models {
            Models::Files(models) => models.$question($($what),*).await,
            #[cfg(feature = "postgres")]
            Models::Server(models) => models.$question($($what),*).await,
        }
    };
}

impl Models {
    pub(crate) async fn versions(&self) -> Result<Vec<ReadModelVersion>, ReadModelError> {
        ask!(self, versions())
    }

    pub(crate) async fn ask(&self, name: &str, request: ModelRequest) -> Result<u64, ReadModelError> {
        ask!(self, ask(name, request))
    }

    pub(crate) async fn request(&self, number: u64) -> Result<Option<RequestReport>, ReadModelError> {
        ask!(self, request(number))
    }

    pub(crate) async fn requests(&self) -> Result<Vec<RequestReport>, ReadModelError> {
        ask!(self, requests())
    }

    pub(crate) async fn cancel_request(&self, number: u64) -> Result<Cancelled, ReadModelError> {
        ask!(self, cancel_request(number))
    }
}
