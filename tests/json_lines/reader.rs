//! The half that reads: the state that was committed last, as the contract asks for it.

use std::sync::Arc;

use millstream::contract::{
    Claim, Decoder, Extent, LetterCounts, LetterRange, LetterReader, LogReader, More, NamedCursor, Page,
    PageBounds, PageBuilder, Range, Sign, StoredCursor, Timestamp, count,
};
use millstream::{DeadLetter, EventQuery, LogStatistics, ReadError, StorageError};

use crate::file::JsonLines;
use crate::state::State;

pub(crate) struct Reader {
    log: Arc<JsonLines>,
    log_id: String,
    decoder: Decoder,
}

impl Reader {
    pub(crate) fn new(log: Arc<JsonLines>, decoder: Decoder) -> Self {
        let log_id = log.state().log_id.clone();
        Self { log, log_id, decoder }
    }
}

pub(crate) fn page(
    state: &State,
    decoder: &Decoder,
    query: &EventQuery,
    range: Range,
    bounds: PageBounds,
) -> Result<Page, ReadError> {
    let mut page = PageBuilder::new(query, range, bounds);
    for batch in state.beyond(range.after) {
        if page.take(&batch.decode(decoder)?) == More::No {
            break;
        }
    }
    Ok(page.finish())
}

pub(crate) fn cursor(state: &State, name: &str) -> Result<Option<StoredCursor>, StorageError> {
    let text = state.cursors.get(name);
    text.map(|text| StoredCursor::from_text(text)).transpose()
}

pub(crate) fn cursors(state: &State) -> Result<Vec<NamedCursor>, StorageError> {
    let rows = state.cursors.iter().map(|(name, text)| {
        Ok(NamedCursor {
            name: name.as_str().into(),
            cursor: StoredCursor::from_text(text)?,
        })
    });
    rows.collect()
}

pub(crate) fn claims(state: &State) -> Result<Vec<Claim>, StorageError> {
    state.claims.values().map(|text| Claim::from_text(text)).collect()
}

impl LogReader for Reader {
    fn page(&self, query: &EventQuery, range: Range, bounds: PageBounds) -> Result<Page, ReadError> {
        let state = self.log.state();
        let pruned_through = state.tail().pruned_through;
        if range.after < pruned_through {
            let after = range.after;
            return Err(ReadError::Pruned {
                after,
                pruned_through,
            });
        }
        page(&state, &self.decoder, query, range, bounds)
    }

    fn head(&self) -> Result<u64, StorageError> {
        Ok(self.log.state().tail().head)
    }

    fn extent(&self) -> Result<Extent, StorageError> {
        Ok(self.log.state().tail().into())
    }

    fn cursors(&self) -> Result<Vec<NamedCursor>, StorageError> {
        cursors(&self.log.state())
    }

    fn cursor(&self, name: &str) -> Result<Option<StoredCursor>, StorageError> {
        cursor(&self.log.state(), name)
    }

    fn claims(&self, of: Option<&str>) -> Result<Vec<Claim>, StorageError> {
        let mut claims = claims(&self.log.state())?;
        let lives = |claim: &Claim| self.log.sign(claim.instance()) != Sign::Gone;
        claims.retain(|claim| of.is_none_or(|stream| claim.stream() == stream) && lives(claim));
        Ok(claims)
    }

    fn log_id(&self) -> &str {
        &self.log_id
    }

    fn release(&self) {}

    fn is_blocking(&self) -> bool {
        false
    }

    fn position_at(&self, time: Timestamp) -> Result<u64, StorageError> {
        Ok(self.log.state().position_at(time))
    }

    fn statistics(&self) -> Result<LogStatistics, StorageError> {
        let state = self.log.state();
        let events = state.batches.iter().flat_map(|batch| {
            let events = batch.events.iter();
            events.map(|event| (event.event_type.as_str(), batch.recorded_at))
        });
        let mut statistics = count(state.tail().into(), events);
        statistics.idempotency_keys = state.keys.len() as u64;
        Ok(statistics)
    }
}

impl LetterReader for Reader {
    fn letters(&self, range: LetterRange<'_>) -> Result<Vec<DeadLetter>, StorageError> {
        let mut letters = self.log.state().letters_of(range.name, range.after)?;
        letters.truncate(range.count_max);
        Ok(letters)
    }

    fn first_of_key(&self, name: &str, key: &str) -> Result<Option<DeadLetter>, StorageError> {
        let letters = self.log.state().letters_of(name, 0)?;
        Ok(letters
            .into_iter()
            .find(|letter| letter.key.as_deref() == Some(key)))
    }

    fn counts(&self, name: &str) -> Result<LetterCounts, StorageError> {
        Ok(LetterCounts::of(&self.log.state().letters_of(name, 0)?))
    }

    fn keys(&self, name: &str) -> Result<Vec<Box<str>>, StorageError> {
        let keys = self.log.state().letter_keys(name)?;
        Ok(keys.into_iter().map(String::into_boxed_str).collect())
    }
}
