//! How views on the server are registered.

use crate::error::ReadModelError;
use crate::projection::server::models::ServerModels;
use crate::projection::server::options::ServerModelOptions;
use crate::projection::server::view::documents::ServerDocuments;
use crate::projection::server::view::keep::ServerView;
use crate::projection::view::definition::{Document, View};

impl ServerModels {
    /// Keeps a view continuously, as [`project`](Self::project) keeps a projection: the same [`View`], with its documents as rows of JSONB in
    /// the table `document` of its schema.
    ///
    /// ```no_run
    /// # async fn accounts(store: &millstream::Store) -> Result<(), Box<dyn std::error::Error>> {
    /// use millstream::{Condition, EventQuery, ServerModels, View, ViewQuery};
    ///
    /// let visits = View::<u64>::new("visits", 1)
    ///     .select(EventQuery::types(["visited"]))
    ///     .key(|event| event.tags().next().map(str::to_owned))
    ///     .evolve(|count, _| Some(count.unwrap_or(0) + 1));
    /// let visits = ServerModels::of(store)?.view(visits).await?;
    /// visits.caught_up().await?;
    /// let home = visits.get("home").await?;
    /// let often = visits.query(&ViewQuery::filter(Condition::greater("", 100))).await?;
    /// # let _ = (home, often);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`project`](Self::project); the path of an index is refused.
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn view<D: Document>(&self, view: View<D>) -> Result<ServerDocuments<D>, ReadModelError> {
        self.view_with(view, &ServerModelOptions::default()).await
    }

    /// The same with other [options](ServerModelOptions).
    ///
    /// # Errors
    /// As [`view`](Self::view), and when the options do not fit together.
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn view_with<D: Document>(
        &self,
        view: View<D>,
        options: &ServerModelOptions,
    ) -> Result<ServerDocuments<D>, ReadModelError> {
        let model = self.project_with(ServerView::new(view)?, options).await?;
        Ok(ServerDocuments::new(model))
    }

    /// Keeps a view on demand: nothing runs, and [`catch_up`](crate::ServerModel::catch_up) brings it to the head before it is read.
    ///
    /// # Errors
    /// As [`view`](Self::view).
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn view_on_demand<D: Document>(
        &self,
        view: View<D>,
    ) -> Result<ServerDocuments<D>, ReadModelError> {
        self.view_on_demand_with(view, &ServerModelOptions::default())
            .await
    }

    /// The same with other [options](ServerModelOptions).
    ///
    /// # Errors
    /// As [`view`](Self::view).
    ///
    /// # Cancel safety
    /// As [`project`](Self::project).
    pub async fn view_on_demand_with<D: Document>(
        &self,
        view: View<D>,
        options: &ServerModelOptions,
    ) -> Result<ServerDocuments<D>, ReadModelError> {
        let model = self.on_demand_with(ServerView::new(view)?, options).await?;
        Ok(ServerDocuments::new(model))
    }
}
