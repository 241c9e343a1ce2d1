//! What the log says about a repository: the facts, and how one commit becomes one batch of them.

use std::iter;

use millstream::{EventFilter, EventQuery, NewEvent};
use serde::{Deserialize, Serialize};

use crate::history::{Change, Commit};

/// The most characters of a name, an address or a subject that a fact keeps.
const TEXT_CHARS_MAX: usize = 1_000;
/// The most bytes of a tag that every store accepts.
const TAG_BYTES_MAX: usize = 255;

/// The events of the log. The variant is the event's type, its fields are the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fact {
    CommitRecorded {
        commit: String,
        parents: Vec<String>,
        author: Author,
        /// Seconds since 1970; none when the commit's date cannot be read.
        authored_at: Option<i64>,
        subject: String,
    },
    FileAdded {
        commit: String,
        path: String,
        lines: Option<Lines>,
    },
    FileModified {
        commit: String,
        path: String,
        lines: Option<Lines>,
    },
    FileDeleted {
        commit: String,
        path: String,
        lines: Option<Lines>,
    },
    FileRenamed {
        commit: String,
        from: String,
        path: String,
        lines: Option<Lines>,
    },
}

/// Who wrote a commit, as the commit itself says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Author {
    pub(crate) name: String,
    pub(crate) email: String,
}

/// How many lines a change added and removed. A binary file has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lines {
    pub(crate) added: u64,
    pub(crate) removed: u64,
}

impl Fact {
    /// The type of the event that stands for a commit.
    pub(crate) const COMMIT: &str = "commit-recorded";
    /// The types of the events that stand for a changed file.
    pub(crate) const FILES: [&str; 4] = ["file-added", "file-modified", "file-deleted", "file-renamed"];
}

/// The batch of a commit: the commit first, then its files.
pub(crate) fn batch(commit: Commit) -> Vec<NewEvent> {
    let by_commit = tag("commit", &commit.id);
    let by_author = tag("author", &commit.author_email);
    let recorded = Fact::CommitRecorded {
        commit: commit.id.clone(),
        parents: commit.parents,
        author: Author {
            name: shortened(&commit.author_name),
            email: shortened(&commit.author_email),
        },
        authored_at: commit.authored_at,
        subject: shortened(&commit.subject),
    };
    let files = commit.changes.into_iter().map(|change| file(&commit.id, change));
    iter::once(NewEvent::encode(&recorded))
        .chain(files)
        .map(|event| event.tags([&by_commit, &by_author]))
        .collect()
}

/// Selects what says that a commit is in the log.
pub(crate) fn recorded(commit: &str) -> EventQuery {
    EventFilter::types([Fact::COMMIT])
        .tags([tag("commit", commit)])
        .into()
}

fn file(commit: &str, change: Change) -> NewEvent {
    let commit = commit.to_owned();
    let by_path = tag("path", change.path());
    match change {
        Change::Added { path, lines } => {
            NewEvent::encode(&Fact::FileAdded { commit, path, lines }).tag(by_path)
        }
        Change::Modified { path, lines } => {
            NewEvent::encode(&Fact::FileModified { commit, path, lines }).tag(by_path)
        }
        Change::Deleted { path, lines } => {
            NewEvent::encode(&Fact::FileDeleted { commit, path, lines }).tag(by_path)
        }
        Change::Renamed { from, path, lines } => {
            let by_old_path = tag("path", &from);
            let renamed = Fact::FileRenamed {
                commit,
                from,
                path,
                lines,
            };
            NewEvent::encode(&renamed).tags([by_path, by_old_path])
        }
    }
}

/// A tag that every store accepts, whatever the value: git allows control characters in paths and addresses, and any
/// length. A value that had to be changed ends in a digest of the original, so that different values keep different tags.
pub(crate) fn tag(key: &str, value: &str) -> String {
    let whole = format!("{key}:{value}");
    if whole.len() <= TAG_BYTES_MAX && !value.contains(char::is_control) {
        return whole;
    }
    let digest = format!("~{:016x}", digest(value.as_bytes()));
    let mut safe = whole.replace(char::is_control, "\u{fffd}");
    safe.truncate(safe.floor_char_boundary(TAG_BYTES_MAX - digest.len()));
    safe + &digest
}

/// FNV-1a: the same on every machine and in every version, which the hashes of the standard library do not promise.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::{TAG_BYTES_MAX, tag};

    #[test]
    fn ordinary_value_is_its_own_tag() {
        assert_eq!(tag("path", "src/lib.rs"), "path:src/lib.rs");
        assert_eq!(tag("author", ""), "author:");
    }

    #[test]
    fn tag_is_bounded_and_has_no_control_characters() {
        let long = format!("path\n{}", "\u{e9}".repeat(400));
        let safe = tag("path", &long);
        assert!(safe.len() <= TAG_BYTES_MAX);
        assert!(!safe.contains(char::is_control));
    }

    #[test]
    fn different_values_keep_different_tags() {
        let long = "x".repeat(300);
        assert_ne!(tag("path", &long), tag("path", &format!("{long}y")));
        assert_ne!(tag("path", "a\tb"), tag("path", "a\nb"));
    }
}
