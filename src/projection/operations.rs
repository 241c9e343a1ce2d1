//! The file of read models for whoever is on duty: what is there, and what may be asked of the process that keeps it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};

use crate::error::ReadModelError;
use crate::projection::applier::blocking;
use crate::projection::catalog::{Catalog, storage};
use crate::projection::models::{ReadModels, runtime};
use crate::projection::request::{Cancelled, ModelRequest, RequestReport};
use crate::projection::standing::{BuildRow, BuildState};
use crate::projection::status::ReadModelVersion;

impl ReadModels {
    /// Opens a file of read models that is there, and makes none.
    ///
    /// # Errors
    /// There is no such file: [`ReadModelError::Missing`]; as [`open`](Self::open).
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Self, ReadModelError> {
        let path = path.as_ref();
        if !path.exists() {
            let path = path.to_owned();
            return Err(ReadModelError::Missing { path });
        }
        Self::open(path)
    }

    /// All versions that are there, by name and version: what serves, what is built beside it, and how far each is.
    ///
    /// # Errors
    /// The storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn versions(&self) -> Result<Vec<ReadModelVersion>, ReadModelError> {
        self.ask_catalog(|catalog| {
            let builds = catalog.builds()?;
            builds.into_iter().map(|row| version(catalog, row)).collect()
        })
        .await
    }

    /// Asks the process that keeps a model for something, and gives the number of the request. That process hears of it within
    /// half a second; without one the request waits until the model is registered, or it is [cancelled](Self::cancel_request).
    ///
    /// ```
    /// # async fn rebuild(models: &millstream::ReadModels) -> Result<(), millstream::ReadModelError> {
    /// use millstream::ModelRequest;
    ///
    /// let number = models.ask("balances", ModelRequest::Rebuild).await?;
    /// while let Some(report) = models.request(number).await?.filter(|report| !report.state.is_over()) {
    ///     println!("{} of {} events, {:?} left", report.done, report.total, report.remaining());
    ///     tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// There is no such model; the storage fails.
    ///
    /// # Cancel safety
    /// The request may have been left when the future is dropped.
    pub async fn ask(&self, name: &str, request: ModelRequest) -> Result<u64, ReadModelError> {
        let name = name.to_owned();
        self.ask_catalog(move |catalog| {
            if catalog.builds()?.iter().all(|row| row.name != name) {
                return Err(ReadModelError::NoSuchModel { name });
            }
            catalog.ask(&name, request)
        })
        .await
    }

    /// How far a request is, or what it came to. The newest twenty of each model are kept.
    ///
    /// # Errors
    /// The storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn request(&self, number: u64) -> Result<Option<RequestReport>, ReadModelError> {
        self.ask_catalog(move |catalog| catalog.report(number)).await
    }

    /// The newest request of each model, and rebuilds that the program itself began.
    ///
    /// # Errors
    /// The storage fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn requests(&self) -> Result<Vec<RequestReport>, ReadModelError> {
        self.ask_catalog(Catalog::newest).await
    }

    /// Takes a request back that nobody has begun, or has a rebuild given up, wherever it is under way.
    ///
    /// # Errors
    /// The storage fails.
    ///
    /// # Cancel safety
    /// The request may be cancelled when the future is dropped.
    pub async fn cancel_request(&self, number: u64) -> Result<Cancelled, ReadModelError> {
        self.ask_catalog(move |catalog| catalog.cancel(number)).await
    }

    async fn ask_catalog<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Catalog) -> Result<T, ReadModelError> + Send + 'static,
    ) -> Result<T, ReadModelError> {
        runtime()?;
        let catalog = Arc::clone(self.catalog());
        blocking(move || ask(&catalog)).await?
    }
}

fn version(catalog: &Catalog, row: BuildRow) -> Result<ReadModelVersion, ReadModelError> {
    Ok(ReadModelVersion {
        is_serving: row.state == BuildState::Serving,
        position: position(catalog.file_of(&row)).map_err(storage("read how far a read model is"))?,
        name: row.name,
        version: row.version,
        file: row.place,
    })
}

/// How far a build is; 0, when its file is yet to be made.
fn position(file: PathBuf) -> rusqlite::Result<u64> {
    if !file.exists() {
        return Ok(0);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    let is_made = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'millstream_build')";
    if !connection.query_row(is_made, [], |row| row.get::<_, bool>(0))? {
        return Ok(0);
    }
    let position = connection.query_row("SELECT position FROM millstream_build", [], |row| {
        row.get::<_, i64>(0)
    });
    position.map(|position| position as u64)
}
