//! Text that many values share: a range of a reference-counted buffer.
//!
//! A page read from the log is one buffer, and every payload in it is a range of that buffer.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A range of a shared, immutable buffer. Cloning copies no text.
#[derive(Clone)]
pub(crate) struct SharedText {
    buffer: Arc<String>,
    range: TextRange,
}

/// Where a text lies in a buffer that something else holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TextRange {
    start: u32,
    end: u32,
}

impl TextRange {
    /// # Panics
    /// When the range does not lie inside the buffer, on character boundaries, or the buffer has 4 GiB or more; the limits
    /// on events and pages exclude both.
    pub(crate) fn new(buffer: &str, range: Range<usize>) -> Self {
        assert!(
            buffer.get(range.clone()).is_some(),
            "the range lies inside its buffer"
        );
        Self {
            start: u32::try_from(range.start).expect("a start is not above its end"),
            end: u32::try_from(range.end).expect("the limits keep buffers below 4 GiB"),
        }
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub(crate) fn as_range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn of(self, buffer: &str) -> &str {
        &buffer[self.as_range()]
    }
}

impl SharedText {
    /// The part of `buffer` in `range`.
    pub(crate) fn slice(buffer: &Arc<String>, range: Range<usize>) -> Self {
        Self {
            range: TextRange::new(buffer, range),
            buffer: Arc::clone(buffer),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        self.range.of(&self.buffer)
    }

    /// Another text in the same buffer.
    pub(crate) fn sibling(&self, range: TextRange) -> &str {
        range.of(&self.buffer)
    }

    pub(crate) fn as_range(&self) -> Range<usize> {
        self.range.as_range()
    }
}

impl fmt::Debug for SharedText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_one_buffer() {
        let buffer = Arc::new(String::from("grüße"));
        let text = SharedText::slice(&buffer, 0..4);
        assert_eq!(text.as_str(), "grü");
        assert_eq!(text.sibling(TextRange::new(&buffer, 4..7)), "ße");
        assert_eq!(Arc::strong_count(&buffer), 2);
    }
}
