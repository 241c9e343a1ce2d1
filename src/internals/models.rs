//! The list of read models without read models: for fuzzing their names.

use std::path::{Path, PathBuf};

use crate::error::ReadModelError;
use crate::projection::catalog::Catalog;
use crate::projection::models;

/// The list of a file, which is made where there is none.
pub struct ModelList(Catalog);

/// What a version of a read model was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file of its build.
    pub file: PathBuf,
    /// The durable stream that keeps it.
    pub stream: String,
}

impl ModelList {
    /// Opens the list.
    ///
    /// # Errors
    /// As [`ReadModels::open`](crate::ReadModels::open).
    pub fn open(path: &Path) -> Result<Self, ReadModelError> {
        Catalog::open(path).map(Self)
    }

    /// Registers a version, as a projection is registered.
    ///
    /// # Errors
    /// As [`ReadModels::project`](crate::ReadModels::project).
    pub fn register(&self, name: &str, version: u32) -> Result<Place, ReadModelError> {
        models::check(name, version)?;
        let row = self.0.claim(name, version)?;
        Ok(Place {
            file: self.0.file_of(&row),
            stream: models::stream_name(name, version),
        })
    }

    /// The names and versions of all that were registered.
    ///
    /// # Errors
    /// As [`ReadModels::versions`](crate::ReadModels::versions).
    pub fn registered(&self) -> Result<Vec<(String, u32)>, ReadModelError> {
        let rows = self.0.builds()?;
        Ok(rows.into_iter().map(|row| (row.name, row.version)).collect())
    }
}
