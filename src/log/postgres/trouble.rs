//! What goes wrong between this process and the server, what is known then, and whether a retry helps.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::error::{ReadError, StorageError};
use crate::log::postgres::tls;

/// Why something could not be done.
#[derive(Debug)]
pub(super) enum Trouble {
    Postgres(tokio_postgres::Error),
    /// There was no answer in time.
    NoAnswer {
        limit: Duration,
    },
    /// The connection was lost before, within the same transaction.
    TransactionIsGone,
    /// The server refused a statement of the transaction before, and so the transaction.
    TransactionIsBroken,
    /// The connection was lost during the commit, and nobody could be asked what became of it.
    OutcomeUnknown(Box<Trouble>),
    /// The server says that the transaction was not committed, whose commit was lost.
    NotCommitted(Box<Trouble>),
    /// What was read makes no sense, or may not be read.
    Read(Box<ReadError>),
    /// A stored text is not what it is to be.
    Malformed(String),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        Self::Read(Box::new(error))
    }
}

/// What a failure says of the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The connection is of no use any more; a new one may be.
    Lost,
    /// Somebody else was in the way.
    Busy,
    Lasting,
}

impl Trouble {
    fn standing(&self) -> Standing {
        match self {
            Self::Postgres(error) => standing(error),
            Self::NoAnswer { .. } | Self::TransactionIsGone => Standing::Lost,
            Self::TransactionIsBroken => Standing::Busy,
            Self::OutcomeUnknown(_) | Self::NotCommitted(_) | Self::Read(_) | Self::Malformed(_) => {
                Standing::Lasting
            }
        }
    }

    /// Whether the connection is of no use any more, and another one may be.
    pub(super) fn is_lost(&self) -> bool {
        self.standing() == Standing::Lost
    }

    /// Why the server is not trusted, if that is it.
    pub(super) fn distrust(&self) -> Option<String> {
        match self {
            Self::Postgres(error) => tls::distrust(error),
            _ => None,
        }
    }

    /// The same of what the driver says.
    pub(super) fn is_lost_with(error: &tokio_postgres::Error) -> bool {
        standing(error) == Standing::Lost
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::OutcomeUnknown(_) => {
                "whether it was committed is not known: look into the log before you try it again"
            }
            Self::NotCommitted(_) => "nothing was committed, it can be tried again",
            _ => match self.standing() {
                Standing::Lost => "the connection is made anew; nothing was changed, it can be tried again",
                Standing::Busy => {
                    "another session was in the way; nothing was changed, it can be tried again"
                }
                Standing::Lasting => "trying again will not help before the cause is removed",
            },
        }
    }

    /// The error that the rest of the crate knows. It names the server, and never a password.
    pub(super) fn into_storage(self, server: &Arc<str>, operation: &'static str) -> StorageError {
        let standing = self.standing();
        let is_unknown = matches!(self, Self::OutcomeUnknown(_));
        let can_be_repeated = matches!(self, Self::NotCommitted(_));
        let source = ServerError {
            server: Arc::clone(server),
            advice: self.advice(),
            trouble: self,
        };
        let error = StorageError::new(operation, source).at_server(server);
        match standing {
            _ if is_unknown => error.outcome_unknown(),
            Standing::Lost => error.unreachable(),
            _ if can_be_repeated => error.unreachable(),
            Standing::Busy => error.busy(),
            Standing::Lasting => error,
        }
    }

    /// The same for a read, which may have an answer of its own.
    pub(super) fn into_read(self, server: &Arc<str>, operation: &'static str) -> ReadError {
        match self {
            Self::Read(error) => *error,
            trouble => trouble.into_storage(server, operation).into(),
        }
    }
}

fn standing(error: &tokio_postgres::Error) -> Standing {
    let Some(code) = error.code() else {
        if tls::distrust(error).is_some() {
            return Standing::Lasting;
        }
        let is_io = error.source().is_some_and(|source| source.is::<std::io::Error>());
        return match error.is_closed() || is_io || is_connect(error) {
            true => Standing::Lost,
            false => Standing::Lasting,
        };
    };
    const LOST: &[SqlState] = &[
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        SqlState::READ_ONLY_SQL_TRANSACTION,
    ];
    const BUSY: &[SqlState] = &[
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::QUERY_CANCELED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::TOO_MANY_CONNECTIONS,
    ];
    if LOST.contains(code) || code.code().starts_with("08") {
        Standing::Lost
    } else if BUSY.contains(code) {
        Standing::Busy
    } else {
        Standing::Lasting
    }
}

/// The driver keeps its kinds of errors to itself, but for their texts.
fn is_connect(error: &tokio_postgres::Error) -> bool {
    error.to_string().starts_with("error connecting to server")
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(error) => match error.as_db_error() {
                Some(told) => write!(formatter, "{} (SQLSTATE {})", told.message(), told.code().code()),
                None => {
                    write!(formatter, "{error}")?;
                    let mut source = error.source();
                    while let Some(cause) = source {
                        let text = cause.to_string();
                        if !error.to_string().contains(&text) {
                            write!(formatter, ": {text}")?;
                        }
                        source = cause.source();
                    }
                    Ok(())
                }
            },
            Self::NoAnswer { limit } => write!(formatter, "there was no answer within {limit:?}"),
            Self::TransactionIsGone => formatter.write_str("the connection was lost during the transaction"),
            Self::TransactionIsBroken => {
                formatter.write_str("the server refused another statement of the same transaction")
            }
            Self::OutcomeUnknown(cause) => {
                write!(formatter, "the connection was lost during the commit ({cause})")
            }
            Self::NotCommitted(cause) => {
                write!(
                    formatter,
                    "the connection was lost, and the transaction with it ({cause})"
                )
            }
            Self::Read(error) => error.fmt(formatter),
            Self::Malformed(problem) => formatter.write_str(problem),
        }
    }
}

/// A trouble, as a user is told of it.
#[derive(Debug)]
pub(super) struct ServerError {
    server: Arc<str>,
    advice: &'static str,
    trouble: Trouble,
}

impl fmt::Display for ServerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            server,
            advice,
            trouble,
        } = self;
        write!(formatter, "{trouble}, at {server}; {advice}")
    }
}

impl Error for ServerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.trouble {
            Trouble::Postgres(error) => Some(error),
            Trouble::Read(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(trouble: Trouble) -> StorageError {
        trouble.into_storage(&Arc::from("db:5432/shop"), "append")
    }

    #[test]
    fn it_says_where_what_and_whether_to_try_again() {
        let limit = Duration::from_secs(3);
        let lost = error(Trouble::NoAnswer { limit });
        assert_eq!(
            lost.to_string(),
            "the log could not append: there was no answer within 3s, at db:5432/shop; the connection is made anew; nothing was \
             changed, it can be tried again"
        );
        assert_eq!(lost.server(), Some("db:5432/shop"));
        assert!(lost.is_retryable() && !lost.is_outcome_unknown());
        let unknown = error(Trouble::OutcomeUnknown(Box::new(Trouble::NoAnswer { limit })));
        assert!(unknown.is_outcome_unknown() && !unknown.is_retryable());
        assert!(unknown.to_string().contains("not known"), "{unknown}");
        let undone = error(Trouble::NotCommitted(Box::new(Trouble::TransactionIsGone)));
        assert!(undone.is_retryable() && !undone.is_outcome_unknown());
        assert!(!error(Trouble::Malformed(String::new())).is_retryable());
    }
}
