//! How views are registered.

use crate::error::ReadModelError;
use crate::projection::models::ReadModels;
use crate::projection::options::ModelOptions;
use crate::projection::view::definition::{Document, View};
use crate::projection::view::documents::Documents;
use crate::projection::view::keep::ViewProjection;
use crate::store::Store;

impl ReadModels {
    /// Keeps a view continuously, as [`project`](Self::project) keeps a projection. See [`View`] for an example.
    ///
    /// # Errors
    /// As [`project`](Self::project); the path of an index is refused.
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn view<D: Document>(
        &self,
        store: &Store,
        view: View<D>,
    ) -> Result<Documents<D>, ReadModelError> {
        self.view_with(store, view, &ModelOptions::default()).await
    }

    /// The same with other [options](ModelOptions).
    ///
    /// # Errors
    /// As [`view`](Self::view), and when the options do not fit together.
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn view_with<D: Document>(
        &self,
        store: &Store,
        view: View<D>,
        options: &ModelOptions,
    ) -> Result<Documents<D>, ReadModelError> {
        let projection = ViewProjection::new(view)?;
        let model = self.project_with(store, projection, options).await?;
        Ok(Documents::new(model))
    }

    /// Keeps a view on demand: nothing runs, and [`catch_up`](crate::ReadModel::catch_up) brings it to the head before it is read.
    ///
    /// # Errors
    /// As [`view`](Self::view).
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn view_on_demand<D: Document>(
        &self,
        store: &Store,
        view: View<D>,
    ) -> Result<Documents<D>, ReadModelError> {
        self.view_on_demand_with(store, view, &ModelOptions::default())
            .await
    }

    /// The same with other [options](ModelOptions).
    ///
    /// # Errors
    /// As [`view`](Self::view).
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn view_on_demand_with<D: Document>(
        &self,
        store: &Store,
        view: View<D>,
        options: &ModelOptions,
    ) -> Result<Documents<D>, ReadModelError> {
        let projection = ViewProjection::new(view)?;
        let model = self.on_demand_with(store, projection, options).await?;
        Ok(Documents::new(model))
    }
}
