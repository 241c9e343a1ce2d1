//! How a command ends: the exit codes, and errors as one line for people.

use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitCode;

use millstream::{
    AppendError, BackupError, CloseError, CopyError, DeadLetterError, OpenError, ReadError, ReadModelError,
    SteerError, VerifyError,
};

/// How a command ends. The numbers are promised in `docs/command-line.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Fine = 0,
    Failed = 1,
    Usage = 2,
    Conflict = 3,
    Damaged = 4,
    LettersLeft = 5,
    NobodyRuns = 6,
    GoesOn = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do what it was told to. The text is shown as it is.
#[derive(Debug)]
pub(crate) enum Failure {
    Failed(String),
    Usage(String),
    Conflict(String),
    /// The file is damaged so far that it cannot be looked at, or a copy is not what its source is.
    Damaged(String),
    /// No process runs the stream, which it takes.
    NobodyRuns(String),
    /// What was begun is not waited for any longer.
    GoesOn(String),
    /// The reader of the output has gone.
    NobodyReads,
}

impl Failure {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Failed(_) => Exit::Failed,
            Self::Usage(_) => Exit::Usage,
            Self::Conflict(_) => Exit::Conflict,
            Self::Damaged(_) => Exit::Damaged,
            Self::NobodyRuns(_) => Exit::NobodyRuns,
            Self::GoesOn(_) => Exit::GoesOn,
            Self::NobodyReads => Exit::Fine,
        }
    }

    /// The standard output could not be written.
    pub(crate) fn of_output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::NobodyReads,
            _ => Self::Failed(format!("the output could not be written: {error}")),
        }
    }

    /// Adds what came of the work before the failure.
    pub(crate) fn after(self, done: impl fmt::Display) -> Self {
        match self {
            Self::Failed(text) => Self::Failed(format!("{text}; {done}")),
            other => other,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text)
            | Self::Usage(text)
            | Self::Conflict(text)
            | Self::Damaged(text)
            | Self::NobodyRuns(text)
            | Self::GoesOn(text) => formatter.write_str(text),
            Self::NobodyReads => formatter.write_str("nobody reads the output"),
        }
    }
}

/// Errors whose message says everything there is to say.
macro_rules! failed {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Failed(error.to_string())
            }
        })*
    };
}

failed!(
    OpenError,
    ReadError,
    BackupError,
    VerifyError,
    CloseError,
    DeadLetterError
);

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict { expected, found } => Self::Conflict(format!(
                "the context moved: expected {expected}, found {found}; nothing was appended, look again with `context` and decide again"
            )),
            AppendError::KeyReused {
                key,
                first_sequence,
                last_sequence,
            } => Self::Conflict(format!(
                "the key {key:?} was used for other events, which are {first_sequence} to {last_sequence} of the log; nothing was appended"
            )),
            // What people are told of here is lines, not the crate's options.
            AppendError::InvalidEvent { source, .. } => Self::Failed(without_position(&source)),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Differs { .. } => Self::Damaged(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<ReadModelError> for Failure {
    fn from(error: ReadModelError) -> Self {
        match error {
            ReadModelError::NoSuchModel { name } => Self::Failed(format!(
                "there is no read model named {name:?}; `models list` shows those there are"
            )),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<SteerError> for Failure {
    /// What to do next is said in commands and options, where the crate's error names its functions.
    fn from(error: SteerError) -> Self {
        match error {
            SteerError::CursorMoved {
                name,
                expected,
                found,
            } => Self::Conflict(format!(
                "the cursor of {name:?} moved: expected {expected}, found {found}; nothing was changed, look again with `stream` and decide again"
            )),
            SteerError::NoSuchStream { name, nearest: None } => Self::Failed(format!(
                "there is no durable stream named {name:?}; `streams` lists those there are"
            )),
            SteerError::NobodyRuns { name } => Self::NobodyRuns(format!(
                "no process runs {name:?}, and a retry takes its handler; nothing was retried, and no request is left: start the program, and ask again"
            )),
            error @ SteerError::RetryUnderWay { .. } => Self::Conflict(error.to_string()),
            SteerError::Ahead { name, position, head } => Self::Failed(format!(
                "{name:?} is to be moved to {position}, the log ends at {head}; use `--to now` for what comes next"
            )),
            SteerError::Pruned {
                name,
                position,
                pruned_through,
            } => Self::Failed(format!(
                "{name:?} is to be moved to {position}, the log was pruned through {pruned_through}; use `--to beginning` for all that is left"
            )),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// The text of an error, in which the parser says "line 1" of what is a line itself.
pub(crate) fn without_position(error: &dyn Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}
