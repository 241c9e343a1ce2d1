//! What is said of a log when it is opened, whatever keeps it.

/// What a commit survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Power cuts: every commit of a group is synced to the disk. (SQLite: `synchronous=FULL`. PostgreSQL: as the server's
    /// `synchronous_commit` says, and `on` where that is `off`.)
    #[default]
    Full,
    /// The death of the process, but not a power cut or a crash of the server, which may cost the newest commits. The log stays
    /// consistent. (SQLite: `synchronous=NORMAL`. PostgreSQL: `synchronous_commit=off`.)
    Relaxed,
}

/// What becomes of a log that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Absent {
    #[default]
    Made,
    Refused,
}
