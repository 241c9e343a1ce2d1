//! What can be seen of a read model.

use crate::stream::status::StreamStatus;

/// One version of a read model, as its list has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadModelVersion {
    /// The read model.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Whether this is what readers read.
    pub is_serving: bool,
    /// The last sequence that is applied, or that its query does not select.
    pub position: u64,
    /// Its database file, beside the file of read models; on a server, the schema of its tables.
    pub file: String,
}

/// A read model as its handle sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReadModelStatus {
    /// The read model.
    pub name: String,
    /// The version of the handle.
    pub version: u32,
    /// Whether this version is what readers read.
    pub is_serving: bool,
    /// The last sequence that is applied, or that its query does not select.
    pub position: u64,
    /// The last committed sequence.
    pub head: u64,
    /// How many events of the log lie between them.
    pub lag: u64,
    /// Whether it is being rebuilt.
    pub is_rebuilding: bool,
    /// The stream that keeps it; nothing, for a read model on demand.
    pub stream: Option<StreamStatus>,
}

impl ReadModelStatus {
    /// Of a model that serves and is not being rebuilt. What is applied, and how far the log goes, are looked up apart from what
    /// its stream says, which may be further by now.
    pub(crate) fn serving(
        (name, version): (&str, u32),
        applied: u64,
        head: u64,
        stream: Option<StreamStatus>,
    ) -> Self {
        let handled = stream.as_ref().map_or(0, |stream| stream.position);
        let position = applied.max(handled);
        let head = head.max(position);
        Self {
            name: name.to_owned(),
            version,
            is_serving: true,
            position,
            head,
            lag: head - position,
            is_rebuilding: false,
            stream,
        }
    }
}
