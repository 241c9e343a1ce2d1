//! What the code of a user may do on the connection that writes the log: with tables of its own, and nothing else.
//!
//! Three hooks of SQLite see to it. The *authorizer* is asked about every action when a statement is prepared. The *progress handler*
//! ends statements when the time is over. The *commit hook* lets nothing be committed while foreign code has the
//! connection: an interrupted statement may have ended the transaction, and what would follow it would be committed by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::error::InLogError;
use crate::sync::Mutex;

/// How many steps of SQLite's machine lie between two looks at the clock.
const STEPS_PER_LOOK: i32 = 1_000;
/// Names that belong to this crate, and to SQLite.
const RESERVED: [&str; 2] = ["millstream_", "sqlite_"];

/// Where SQLite writes down what there is.
const CATALOG: [&str; 2] = ["sqlite_master", "sqlite_schema"];

/// What foreign code may do.
#[derive(Clone, Debug)]
pub(crate) enum Rules {
    /// It writes rows of its tables.
    Write {
        /// The names of its tables and views, in lower case.
        own: Arc<BTreeSet<String>>,
        /// What else there is in the file.
        others: Arc<BTreeSet<String>>,
    },
    /// It makes tables, and writes their first rows.
    Make {
        /// What it has made by now.
        own: BTreeSet<String>,
        others: Arc<BTreeSet<String>>,
    },
}

/// Who has the connection.
#[derive(Default)]
enum Holder {
    #[default]
    Us,
    Foreign {
        rules: Rules,
        /// Nothing: for ever.
        until: Option<Instant>,
    },
}

#[derive(Default)]
struct State {
    holder: Holder,
    /// The first thing that foreign code was refused.
    refused: Option<InLogError>,
}

/// What the hooks look at.
pub(super) struct Guard {
    state: Arc<Mutex<State>>,
}

/// Foreign code has the connection until this is dropped, also by a panic.
pub(super) struct Shift<'a>(&'a Guard);

impl Guard {
    pub(super) fn new() -> Self {
        Self {
            state: Arc::new(Mutex::new(State::default())),
        }
    }

    /// Hangs the hooks on the connection.
    pub(super) fn install(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let state = Arc::clone(&self.state);
        connection.authorizer(Some(move |asked: AuthContext<'_>| state.lock().judge(&asked)))?;
        let state = Arc::clone(&self.state);
        connection.progress_handler(STEPS_PER_LOOK, Some(move || state.lock().is_over()))?;
        let state = Arc::clone(&self.state);
        connection.commit_hook(Some(move || {
            matches!(state.lock().holder, Holder::Foreign { .. })
        }))
    }

    /// Takes them away.
    pub(super) fn remove(connection: &mut Connection) -> rusqlite::Result<()> {
        connection.commit_hook(None::<fn() -> bool>)?;
        connection.progress_handler(0, None::<fn() -> bool>)?;
        connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)
    }

    /// Foreign code gets the connection.
    pub(super) fn begin(&self, rules: Rules, until: Option<Instant>) -> Shift<'_> {
        self.state.lock().holder = Holder::Foreign { rules, until };
        Shift(self)
    }
}

impl Shift<'_> {
    /// The connection is ours again. Gives what was refused.
    pub(super) fn end(self) -> Option<InLogError> {
        self.0.state.lock().refused.take()
    }
}

impl Drop for Shift<'_> {
    fn drop(&mut self) {
        self.0.state.lock().holder = Holder::Us;
    }
}

impl State {
    fn is_over(&self) -> bool {
        match &self.holder {
            Holder::Foreign { until, .. } => until.is_some_and(|until| Instant::now() >= until),
            Holder::Us => false,
        }
    }

    fn judge(&mut self, asked: &AuthContext<'_>) -> Authorization {
        let Holder::Foreign { rules, .. } = &mut self.holder else {
            return Authorization::Allow;
        };
        match rules.judge(asked) {
            Ok(()) => Authorization::Allow,
            Err(refused) => {
                self.refused.get_or_insert(refused);
                Authorization::Deny
            }
        }
    }
}

impl Rules {
    fn judge(&mut self, asked: &AuthContext<'_>) -> Result<(), InLogError> {
        use AuthAction::{
            CreateIndex, CreateTable, CreateTrigger, CreateView, Delete, Function, Insert, Read, Recursive,
            Reindex, Savepoint, Select, Update,
        };
        let is_main = matches!(asked.database_name, None | Some("main"));
        match asked.action {
            Select | Recursive | Savepoint { .. } => Ok(()),
            Function { function_name } if !function_name.eq_ignore_ascii_case("load_extension") => Ok(()),
            Read { table_name, .. } => match self.may_read(table_name) {
                true => Ok(()),
                false => forbidden(format!("read `{table_name}`")),
            },
            Insert { table_name } | Update { table_name, .. } | Delete { table_name } => {
                match is_main && self.may_write(table_name) {
                    true => Ok(()),
                    false => forbidden(written(table_name)),
                }
            }
            CreateTable { table_name: name } | CreateView { view_name: name } if is_main => self.make(name),
            CreateIndex {
                index_name: name,
                table_name,
            }
            | CreateTrigger {
                trigger_name: name,
                table_name,
            } if is_main && self.is_own(table_name) => match is_automatic(name) {
                true => Ok(()),
                false => self.make(name),
            },
            Reindex { index_name } if is_automatic(index_name) || self.is_own(index_name) => Ok(()),
            ref other => forbidden(described(other)),
        }
    }

    fn is_own(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        match self {
            Self::Write { own, .. } => own.contains(&name),
            Self::Make { own, .. } => own.contains(&name),
        }
    }

    fn may_read(&self, name: &str) -> bool {
        match self {
            // What is not in the file is a table that a function makes, such as json_each.
            Self::Write { others, .. } => {
                let name = name.to_ascii_lowercase();
                self.is_own(&name) || !(others.contains(&name) || is_reserved(&name))
            }
            Self::Make { others, .. } => !others.contains(&name.to_ascii_lowercase()),
        }
    }

    fn may_write(&self, name: &str) -> bool {
        // What is made is written down by SQLite itself. It lets nobody else write there.
        let is_catalog = || CATALOG.contains(&name);
        self.is_own(name) || (matches!(self, Self::Make { .. }) && is_catalog())
    }

    fn make(&mut self, name: &str) -> Result<(), InLogError> {
        let lower = name.to_ascii_lowercase();
        match self {
            Self::Write { .. } => forbidden(format!("make `{name}` outside its schema")),
            // SQLite makes it for columns that never use a number twice, and keeps it for itself.
            Self::Make { .. } if lower == "sqlite_sequence" => Ok(()),
            Self::Make { .. } if is_reserved(&lower) => {
                forbidden(format!("make `{name}`, a name that is reserved"))
            }
            Self::Make { others, .. } if others.contains(&lower) => Err(InLogError::NameTaken {
                object: name.to_owned(),
            }),
            Self::Make { own, .. } => {
                own.insert(lower);
                Ok(())
            }
        }
    }
}

fn forbidden(action: String) -> Result<(), InLogError> {
    Err(InLogError::Forbidden { action })
}

fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|prefix| name.starts_with(prefix))
}

/// The indexes that SQLite makes for primary keys and unique columns.
fn is_automatic(index: &str) -> bool {
    index.starts_with("sqlite_autoindex_")
}

/// What a refusal calls writing to a table.
fn written(table: &str) -> String {
    match table {
        "sqlite_temp_master" => "make something temporary".to_owned(),
        table if CATALOG.contains(&table) => "make or drop something outside its schema".to_owned(),
        table => format!("write `{table}`"),
    }
}

/// What a refusal says of an action that is never allowed.
fn described(action: &AuthAction<'_>) -> String {
    match action {
        AuthAction::Transaction { operation } => {
            format!("begin or end a transaction ({operation:?})")
        }
        AuthAction::Pragma { pragma_name, .. } => format!("use `PRAGMA {pragma_name}`"),
        AuthAction::Attach { .. } | AuthAction::Detach { .. } => "attach or detach a database".to_owned(),
        AuthAction::AlterTable { table_name, .. } => format!("alter `{table_name}`"),
        AuthAction::DropTable { table_name } => format!("drop `{table_name}`"),
        AuthAction::CreateVtable { table_name, .. } => format!("make the virtual table `{table_name}`"),
        AuthAction::CreateIndex { table_name, .. } | AuthAction::CreateTrigger { table_name, .. } => {
            format!("make an index or a trigger on `{table_name}`")
        }
        other => format!("do what SQLite calls {other:?}"),
    }
}
