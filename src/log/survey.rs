//! All durable streams of a log at one moment.

use std::collections::HashMap;
use std::sync::Arc;

use crate::log::cursor::NamedCursor;
use crate::log::letter::LetterCounts;
use crate::log::owner::Claim;

/// What is stored of all durable streams. Read at once, because there may be thousands.
pub(crate) struct Survey {
    /// The last committed sequence.
    pub(crate) head: u64,
    /// Sorted by name.
    pub(crate) rows: Vec<NamedCursor>,
    /// Of the streams that have dead letters.
    pub(crate) letters: HashMap<Arc<str>, LetterCounts>,
    /// Of living instances, sorted by stream.
    pub(crate) claims: Vec<Claim>,
}

impl Survey {
    pub(crate) fn letters_of(&self, name: &str) -> LetterCounts {
        self.letters.get(name).copied().unwrap_or_default()
    }

    /// Who runs a stream, and who stands by for it.
    pub(crate) fn claims_of(&self, name: &str) -> &[Claim] {
        let first = self.claims.partition_point(|claim| *claim.stream < *name);
        let of_name = self.claims[first..].partition_point(|claim| *claim.stream == *name);
        &self.claims[first..first + of_name]
    }
}
