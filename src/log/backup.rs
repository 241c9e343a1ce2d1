//! What is said of a backup, while it is made and afterwards.

/// How far a backup is; what [`backup_with_progress`](crate::Store::backup_with_progress) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupProgress {
    /// How many bytes of the file are copied.
    pub copied_bytes: u64,
    /// How many there are to copy.
    pub total_bytes: u64,
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackedUp {
    /// The last sequence in the backup: the log as it was when the backup began.
    pub head: u64,
    /// The size of the file.
    pub bytes: u64,
}
