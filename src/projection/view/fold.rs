//! A view in memory: what it makes of given events, without files and without a runtime. For users' tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::error::{BoxError, InvalidEvent, ViewError};
use crate::event::draft::Drafts;
use crate::event::limits::Limits;
use crate::event::new_event::NewEvent;
use crate::event::record::EventRecord;
use crate::projection::view::definition::{Document, View};

impl<D: Document> View<D> {
    /// The documents that the view makes of some events, as if these were all that was ever appended: sequences count from 1, and
    /// what the view does not select is left out.
    ///
    /// It is for tests: given these events, then these documents. Every document goes through JSON after every event, as it does when the cache
    /// forgets it, so what JSON does not carry is missing here.
    ///
    /// ```
    /// use millstream::{EventQuery, NewEvent, View};
    ///
    /// let counts = View::<u64>::new("visits", 1)
    ///     .select(EventQuery::types(["visited"]))
    ///     .key(|event| event.tags().next().map(str::to_owned))
    ///     .evolve(|count, _| Some(count.unwrap_or(0) + 1));
    /// let visit = |page: &str| NewEvent::new("visited", ()).tag(page);
    /// let documents = counts.fold([visit("home"), visit("help"), visit("home")])?;
    /// assert_eq!(documents["home"], 2);
    /// # Ok::<(), millstream::ViewError>(())
    /// ```
    ///
    /// # Errors
    /// An event is refused as `append` would; the view fails on one; a document does not go through JSON.
    pub fn fold(&self, events: impl IntoIterator<Item = NewEvent>) -> Result<BTreeMap<String, D>, ViewError> {
        let mut drafts = Drafts::default();
        for (index, event) in events.into_iter().enumerate() {
            let drafted = event.draft(&Limits::default(), &mut drafts);
            drafted.map_err(|refused: InvalidEvent| self.on_event(index as u64 + 1, refused.into()))?;
        }
        let mut records = drafts.finish(Timestamp::now());
        for (record, sequence) in records.iter_mut().zip(1..) {
            record.sequence = sequence;
        }
        self.fold_records(&records)
    }

    /// The same with committed events, such as a [query](crate::Store::query) gives.
    ///
    /// # Errors
    /// As [`fold`](Self::fold).
    pub fn fold_records<'a>(
        &self,
        events: impl IntoIterator<Item = &'a EventRecord>,
    ) -> Result<BTreeMap<String, D>, ViewError> {
        let (mut documents, mut ids) = (BTreeMap::new(), Vec::new());
        for event in events {
            if !self.settings.query.matches(event) {
                continue;
            }
            let failed = |error: BoxError| self.on_event(event.sequence(), error);
            self.stage.ids(event, &mut ids).map_err(failed)?;
            for id in ids.drain(..) {
                let document = documents.remove(&id);
                let evolved = (self.stage.evolve)(&id, document, event).map_err(failed)?;
                if let Some(evolved) = evolved {
                    let through = self
                        .through_json(&id, &evolved)
                        .map_err(|error| failed(error.into()))?;
                    documents.insert(id, through);
                }
            }
        }
        Ok(documents)
    }

    fn through_json(&self, id: &str, document: &D) -> Result<D, ViewError> {
        let settings = &self.settings;
        let text = serde_json::to_string(document).map_err(|error| ViewError::UnwritableDocument {
            name: settings.name.clone(),
            id: id.to_owned(),
            source: Arc::new(error),
        })?;
        serde_json::from_str(&text).map_err(|error| ViewError::UnreadableDocument {
            name: settings.name.clone(),
            id: id.to_owned(),
            version: settings.version,
            written_by: settings.version,
            source: Arc::new(error),
        })
    }

    fn on_event(&self, sequence: u64, error: BoxError) -> ViewError {
        ViewError::on_event(&self.settings.name, sequence, error)
    }
}
