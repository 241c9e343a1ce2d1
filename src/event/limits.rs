//! What is refused before it reaches a log (L5).

use crate::error::{InvalidEvent, InvalidKey};

/// How large events and batches may be. Everything over a limit is refused before it is queued.
///
/// ```
/// use millstream::{Limits, Store};
///
/// let store = Store::builder().limits(Limits::default().payload_bytes_max(64 * 1024)).in_memory()?;
/// # Ok::<(), millstream::OpenError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    pub(crate) batch_events_max: usize,
    pub(crate) batch_bytes_max: usize,
    pub(crate) type_bytes_max: usize,
    pub(crate) tags_max: usize,
    pub(crate) tag_bytes_max: usize,
    pub(crate) payload_bytes_max: usize,
    pub(crate) metadata_bytes_max: usize,
    pub(crate) key_bytes_max: usize,
}

/// How deep JSON may be nested: what `serde_json` can read back.
const DEPTH_MAX: usize = 127;

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_events_max: 10_000,
            batch_bytes_max: 32 << 20,
            type_bytes_max: 255,
            tags_max: 64,
            tag_bytes_max: 255,
            payload_bytes_max: 1 << 20,
            metadata_bytes_max: 64 << 10,
            key_bytes_max: 255,
        }
    }
}

impl Limits {
    /// Events in one append. Default 10,000.
    #[must_use]
    pub fn batch_events_max(mut self, events: usize) -> Self {
        self.batch_events_max = events;
        self
    }

    /// Bytes of one append, all its parts and their place in memory together. Default 32 MiB.
    #[must_use]
    pub fn batch_bytes_max(mut self, bytes: usize) -> Self {
        self.batch_bytes_max = bytes;
        self
    }

    /// Bytes of an event type. Default 255.
    #[must_use]
    pub fn type_bytes_max(mut self, bytes: usize) -> Self {
        self.type_bytes_max = bytes;
        self
    }

    /// Tags of one event. Default 64.
    #[must_use]
    pub fn tags_max(mut self, tags: usize) -> Self {
        self.tags_max = tags;
        self
    }

    /// Bytes of one tag. Default 255.
    #[must_use]
    pub fn tag_bytes_max(mut self, bytes: usize) -> Self {
        self.tag_bytes_max = bytes;
        self
    }

    /// Bytes of one payload, as JSON text. Default 1 MiB.
    #[must_use]
    pub fn payload_bytes_max(mut self, bytes: usize) -> Self {
        self.payload_bytes_max = bytes;
        self
    }

    /// Bytes of one event's metadata, as JSON text. Default 64 KiB.
    #[must_use]
    pub fn metadata_bytes_max(mut self, bytes: usize) -> Self {
        self.metadata_bytes_max = bytes;
        self
    }

    /// Bytes of one [idempotency key](crate::Store::append_once). Default 255.
    #[must_use]
    pub fn key_bytes_max(mut self, bytes: usize) -> Self {
        self.key_bytes_max = bytes;
        self
    }

    /// The options in the form the builder checks: name and value.
    pub(crate) fn options(&self) -> [(&'static str, usize); 8] {
        [
            ("batch_events_max", self.batch_events_max),
            ("batch_bytes_max", self.batch_bytes_max),
            ("type_bytes_max", self.type_bytes_max),
            ("tags_max", self.tags_max),
            ("tag_bytes_max", self.tag_bytes_max),
            ("payload_bytes_max", self.payload_bytes_max),
            ("metadata_bytes_max", self.metadata_bytes_max),
            ("key_bytes_max", self.key_bytes_max),
        ]
    }

    pub(crate) fn check_key(&self, key: &str) -> Result<(), InvalidKey> {
        if key.is_empty() {
            return Err(InvalidKey::Empty);
        }
        let (bytes, max) = (key.len(), self.key_bytes_max);
        if bytes > max {
            return Err(InvalidKey::TooLong { bytes, max });
        }
        if key.chars().any(char::is_control) {
            let key = key.into();
            return Err(InvalidKey::ControlCharacter { key });
        }
        Ok(())
    }

    pub(crate) fn check_type(&self, event_type: &str) -> Result<(), InvalidEvent> {
        if event_type.is_empty() {
            return Err(InvalidEvent::TypeEmpty);
        }
        let (bytes, max) = (event_type.len(), self.type_bytes_max);
        if bytes > max {
            return Err(InvalidEvent::TypeTooLong { bytes, max });
        }
        if event_type.chars().any(char::is_control) {
            return Err(InvalidEvent::ControlCharacter {
                field: "event type",
                text: event_type.into(),
            });
        }
        Ok(())
    }

    pub(crate) fn check_tags(&self, tags: &[String]) -> Result<(), InvalidEvent> {
        let (count, max) = (tags.len(), self.tags_max);
        if count > max {
            return Err(InvalidEvent::TooManyTags { count, max });
        }
        for tag in tags {
            if tag.is_empty() {
                return Err(InvalidEvent::TagEmpty);
            }
            let (bytes, max) = (tag.len(), self.tag_bytes_max);
            if bytes > max {
                let tag = tag.as_str().into();
                return Err(InvalidEvent::TagTooLong { tag, bytes, max });
            }
            if tag.chars().any(char::is_control) {
                return Err(InvalidEvent::ControlCharacter {
                    field: "tag",
                    text: tag.as_str().into(),
                });
            }
        }
        Ok(())
    }

    pub(crate) fn check_payload(&self, text: &str) -> Result<(), InvalidEvent> {
        let (bytes, max) = (text.len(), self.payload_bytes_max);
        if bytes > max {
            return Err(InvalidEvent::PayloadTooLarge { bytes, max });
        }
        check_depth(text)
    }

    pub(crate) fn check_metadata(&self, text: &str) -> Result<(), InvalidEvent> {
        let (bytes, max) = (text.len(), self.metadata_bytes_max);
        if bytes > max {
            return Err(InvalidEvent::MetadataTooLarge { bytes, max });
        }
        check_depth(text)
    }
}

/// Refuses JSON that is nested deeper than it could be read back.
pub(crate) fn check_depth(text: &str) -> Result<(), InvalidEvent> {
    let opening = text.bytes().filter(|byte| matches!(byte, b'{' | b'['));
    if opening.count() <= DEPTH_MAX {
        return Ok(());
    }
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    if deepest > DEPTH_MAX {
        let max = DEPTH_MAX;
        return Err(InvalidEvent::TooDeep { depth: deepest, max });
    }
    Ok(())
}
