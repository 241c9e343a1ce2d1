//! What documents of a view are asked for.

use crate::error::ViewError;
use crate::projection::view::condition::Condition;
use crate::projection::view::token::PageToken;

/// Which documents of a view are wanted, in which order, and how many.
///
/// ```
/// use millstream::{Condition, ViewQuery};
///
/// let owing = ViewQuery::filter(Condition::less("/cents", 0)).sort_by("/cents").limit(20);
/// # let _ = owing;
/// ```
///
/// Documents are found without reading all of them where a part of the condition that every one has to meet, or the order, is on an
/// [indexed](crate::View::index) path.
#[derive(Clone, Debug)]
pub struct ViewQuery {
    pub(crate) condition: Condition,
    pub(crate) sort: SortBy,
    pub(crate) direction: Direction,
    pub(crate) limit: usize,
    pub(crate) after: Option<PageToken>,
}

#[derive(Clone, Debug)]
pub(crate) enum SortBy {
    Id,
    Path(String),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    Ascending,
    Descending,
}

/// Documents of a page, by default and at the most.
const LIMIT_DEFAULT: usize = 100;
pub(crate) const LIMIT_MAX: usize = 10_000;

impl ViewQuery {
    /// All documents.
    pub fn all() -> Self {
        Self::filter(Condition::all([]))
    }

    /// The documents for which a condition holds.
    pub fn filter(condition: Condition) -> Self {
        Self {
            condition,
            sort: SortBy::Id,
            direction: Direction::Ascending,
            limit: LIMIT_DEFAULT,
            after: None,
        }
    }

    /// Sorts by what stands at a path, which is written as in a [`Condition`]. Default: by id.
    ///
    /// Those where the path is missing come first, then null, `false` and `true`, numbers by value, texts byte by byte, and arrays and objects by
    /// their JSON text. Equal ones are sorted by id.
    #[must_use]
    pub fn sort_by(mut self, path: impl Into<String>) -> Self {
        self.sort = SortBy::Path(path.into());
        self
    }

    /// The same order backwards, with equal ones from the last id to the first.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.direction = Direction::Descending;
        self
    }

    /// How many documents a page has at the most, from 1 to 10,000. Default 100.
    #[must_use]
    pub fn limit(mut self, documents: usize) -> Self {
        self.limit = documents;
        self
    }

    /// The page behind another one: with [`ViewPage::next`]. The condition and the order have to be those of the other one.
    #[must_use]
    pub fn after(mut self, page: impl Into<Option<PageToken>>) -> Self {
        self.after = page.into();
        self
    }

    pub(crate) fn checked_limit(&self) -> Result<usize, ViewError> {
        match self.limit {
            1..=LIMIT_MAX => Ok(self.limit),
            value => Err(ViewError::InvalidLimit {
                option: "limit",
                value,
                max: LIMIT_MAX,
            }),
        }
    }
}

/// Some of the documents that a query finds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ViewPage<D> {
    /// The documents with their ids, in the order that was asked for.
    pub documents: Vec<(String, D)>,
    /// Where the next page begins; nothing: this is the last one.
    ///
    /// A page is what there is when it is read. The next one begins behind the last document of this one, wherever that is
    /// meanwhile: what does not change is neither left out nor there twice, whatever else comes and goes.
    pub next: Option<PageToken>,
}
