//! Who is measured.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct PeerInfo {
    pub(crate) name: &'static str,
    /// The folder and the binary.
    pub(crate) package: &'static str,
    /// Whose versions are told.
    crates: &'static [&'static str],
    pub(crate) durability: &'static str,
    /// The colour in every chart.
    pub(crate) colour: (u8, u8, u8),
}

/// The one that the others are compared with.
pub(crate) const OURS: &str = "millstream";
pub(crate) const FACTSTR: &str = "factstr-sqlite";

/// In the order in which they are measured. The colours are told apart by colour-blind readers too.
pub(crate) const PEERS: &[PeerInfo] = &[
    PeerInfo {
        name: OURS,
        package: "peer-millstream",
        crates: &["millstream", "rusqlite"],
        durability: "WAL, synchronous=FULL, the default",
        colour: (213, 94, 0),
    },
    PeerInfo {
        name: FACTSTR,
        package: "peer-factstr",
        crates: &["factstr-sqlite", "sqlx"],
        durability: "WAL, synchronous=FULL, set by itself",
        colour: (0, 114, 178),
    },
    PeerInfo {
        name: "eventcore-sqlite",
        package: "peer-eventcore",
        crates: &["eventcore-sqlite", "eventcore", "rusqlite"],
        durability: "WAL, synchronous=FULL, set by the adapter",
        colour: (0, 158, 115),
    },
    PeerInfo {
        name: "umadb-core",
        package: "peer-umadb",
        crates: &["umadb-core"],
        durability: "its own file format; two fdatasync for every commit, cannot be set",
        colour: (204, 121, 167),
    },
    PeerInfo {
        name: "evento",
        package: "peer-evento",
        crates: &["evento", "sqlx"],
        durability: "WAL, synchronous=FULL, set by the adapter",
        colour: (230, 159, 0),
    },
    PeerInfo {
        name: "hand-written",
        package: "peer-handwritten",
        crates: &["tokio", "rusqlite"],
        durability: "WAL, synchronous=FULL, set by the adapter",
        colour: (90, 90, 90),
    },
];

impl PeerInfo {
    pub(crate) fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(self.package)
    }

    /// The versions that its lock file names.
    pub(crate) fn versions(&self) -> String {
        let lock = fs::read_to_string(self.folder().join("Cargo.lock")).unwrap_or_default();
        let versions: Vec<_> = self
            .crates
            .iter()
            .map(|name| {
                format!(
                    "{name} {}",
                    version_in(&lock, name).unwrap_or("of unknown version")
                )
            })
            .collect();
        versions.join(", ")
    }
}

/// The version of a package in the text of a lock file.
fn version_in<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let (_, package) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    package.split_once('"').map(|(version, _)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_lock_files() {
        let lock = "[[package]]\nname = \"a-b\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"b\"\nversion = \"4.5\"\n";
        assert_eq!(version_in(lock, "b"), Some("4.5"));
        assert_eq!(version_in(lock, "c"), None);
        for peer in PEERS {
            assert!(!peer.versions().contains("unknown"), "{}", peer.versions());
        }
    }
}
