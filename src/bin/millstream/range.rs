//! Which stretch of the log, as options.

use std::time::SystemTime;

use clap::Args;
use millstream::{EventQuery, EventReader, Store};

use crate::failure::Failure;
use crate::time::parse_time;

/// Which stretch of the log.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RangeOptions {
    /// Only what comes after this sequence
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<u64>,
    /// Only up to and with this sequence
    #[arg(long, value_name = "SEQUENCE")]
    through: Option<u64>,
    /// Only what was recorded at this time or later: 2026-05-01, 2026-05-01T12:00Z, or 2h, 3d for that long ago; UTC
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<SystemTime>,
    /// Only what was recorded before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<SystemTime>,
}

/// A stretch of the log in sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// Nothing: from the beginning, or from what pruning left.
    pub(crate) after: Option<u64>,
    pub(crate) through: u64,
}

impl RangeOptions {
    /// What the options mean in this log, as it is now.
    pub(crate) async fn find(&self, store: &Store) -> Result<Range, Failure> {
        let mut range = Range {
            after: self.after,
            through: self.through.unwrap_or(u64::MAX).min(store.head()),
        };
        if let Some(since) = self.since {
            range.after = range.after.max(Some(store.position_at(since).await?));
        }
        if let Some(until) = self.until {
            range.through = range.through.min(store.position_at(until).await?);
        }
        Ok(range)
    }
}

impl Range {
    pub(crate) fn is_empty(self) -> bool {
        self.after.unwrap_or(0) >= self.through
    }

    pub(crate) fn contains(self, sequence: u64) -> bool {
        self.after.unwrap_or(0) < sequence && sequence <= self.through
    }

    /// A reader of the stretch. Its last batch may go beyond it.
    pub(crate) fn read(self, store: &Store, query: &EventQuery) -> EventReader {
        let reader = store.read(query).through(self.through);
        match self.after {
            Some(after) => reader.after(after),
            None => reader,
        }
    }
}
