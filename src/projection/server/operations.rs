//! The read models on a server for whoever is on duty: what is there, and what may be asked of the process that keeps it.

use crate::error::ReadModelError;
use crate::projection::request::{Cancelled, ModelRequest, RequestReport};
use crate::projection::server::models::ServerModels;
use crate::projection::spec::runtime;
use crate::projection::status::ReadModelVersion;

impl ServerModels {
    /// All versions that are there, by name and version: what serves, what is built beside it, and how far each is.
    ///
    /// # Errors
    /// The server cannot be reached.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn versions(&self) -> Result<Vec<ReadModelVersion>, ReadModelError> {
        runtime()?;
        self.requests.versions().await
    }

    /// Asks the process that keeps a model for something, and gives the number of the request. That process hears of it within
    /// half a second; without one the request waits until the model is registered, or it is [cancelled](Self::cancel_request).
    ///
    /// ```
    /// # async fn rebuild(models: &millstream::ServerModels) -> Result<(), millstream::ReadModelError> {
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
    /// There is no such model; the server cannot be reached.
    ///
    /// # Cancel safety
    /// The request may have been left when the future is dropped.
    pub async fn ask(&self, name: &str, request: ModelRequest) -> Result<u64, ReadModelError> {
        runtime()?;
        self.requests.ask(name, request).await
    }

    /// How far a request is, or what it came to. The newest twenty of each model are kept.
    ///
    /// # Errors
    /// The server cannot be reached.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn request(&self, number: u64) -> Result<Option<RequestReport>, ReadModelError> {
        runtime()?;
        self.requests.report(number).await
    }

    /// The newest request of each model, and rebuilds that the program itself began.
    ///
    /// # Errors
    /// The server cannot be reached.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn requests(&self) -> Result<Vec<RequestReport>, ReadModelError> {
        runtime()?;
        self.requests.newest().await
    }

    /// Takes a request back that nobody has begun, or has a rebuild given up, wherever it is under way.
    ///
    /// # Errors
    /// The server cannot be reached.
    ///
    /// # Cancel safety
    /// The request may be cancelled when the future is dropped.
    pub async fn cancel_request(&self, number: u64) -> Result<Cancelled, ReadModelError> {
        runtime()?;
        self.requests.cancel(number).await
    }
}
