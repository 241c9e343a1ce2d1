//! Whether a projection fits the build that it would go on with, asked before anybody loses that build.

use std::sync::Arc;

use crate::error::ReadModelError;
use crate::projection::applier::blocking;
use crate::projection::build::{Build, Origin, Spec};
use crate::projection::catalog::Catalog;
use crate::projection::models::stream_name;
use crate::projection::options::ModelOptions;
use crate::projection::resume::refuse_pruned;
use crate::store::Store;

/// Refuses what would be refused when the build is opened, and changes nothing.
pub(crate) async fn check(
    store: &Store,
    catalog: &Arc<Catalog>,
    spec: &Spec,
    options: &ModelOptions,
) -> Result<(), ReadModelError> {
    options
        .stream(&stream_name(&spec.name, spec.version), 0)
        .validate()?;
    let (catalog, asked) = (Arc::clone(catalog), spec.clone());
    let found = blocking(move || {
        let Some(row) = catalog.claimable(&asked.name, asked.version)? else {
            return Ok(None);
        };
        let stored = Build::peek(&catalog.file_of(&row))?;
        Ok::<_, ReadModelError>(stored.map(|stored| (row, stored)))
    })
    .await??;
    let Some((row, stored)) = found else { return Ok(()) };
    // Behind the look at the build: whoever keeps it moves it on, and never beyond this head.
    let extent = store.log().extent().await?;
    let position = stored.check(spec, &Origin::of(store, extent.head))?;
    refuse_pruned(&row, position, extent.pruned_through)
}
