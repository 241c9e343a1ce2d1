//! The file, and what the stores of a process share of it: the state that was committed, whose turn it is to write, and who lives.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use millstream::StorageError;
use millstream::contract::{InstanceId, Sign};

use crate::state::{Change, State};

pub(crate) struct JsonLines {
    shared: Mutex<Shared>,
    /// A transaction has ended.
    ended: Condvar,
}

struct Shared {
    file: File,
    /// What was committed. Readers take it as it is.
    state: Arc<State>,
    /// Whether somebody has a transaction open.
    is_taken: bool,
    commits: i64,
    /// The beats of the instances that live.
    living: HashMap<InstanceId, i128>,
}

/// An open transaction: nobody else writes. It has to be committed or given back.
pub(crate) struct Transaction {
    /// What was committed, with the changes.
    pub(crate) state: Arc<State>,
    changes: Vec<String>,
}

impl Transaction {
    pub(crate) fn make(&mut self, change: Change) {
        self.changes
            .push(serde_json::to_string(&change).expect("changes are JSON"));
        Arc::make_mut(&mut self.state).apply(change);
    }
}

fn failed(operation: &'static str) -> impl Fn(std::io::Error) -> StorageError {
    move |error| StorageError::of_log(operation, error)
}

/// Says which line of the file is none.
pub(crate) fn corrupt(line: usize, problem: impl std::fmt::Display) -> StorageError {
    let problem = std::io::Error::new(ErrorKind::InvalidData, format!("line {line}: {problem}"));
    StorageError::of_log("read its file", problem)
}

/// 128 random bits, as text.
pub(crate) fn random_id() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}

impl JsonLines {
    /// Reads the file, or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self, StorageError> {
        let options = OpenOptions::new().create(true).append(true).read(true).open(path);
        let file = options.map_err(failed("open its file"))?;
        let mut state = State::default();
        for (index, line) in BufReader::new(&file).lines().enumerate() {
            let line = line.map_err(failed("read its file"))?;
            let changes: Vec<Change> =
                serde_json::from_str(&line).map_err(|problem| corrupt(index + 1, problem))?;
            changes.into_iter().for_each(|change| state.apply(change));
        }
        let is_new = state.log_id.is_empty();
        let log = Self {
            shared: Mutex::new(Shared {
                file,
                state: Arc::new(state),
                is_taken: false,
                commits: 0,
                living: HashMap::new(),
            }),
            ended: Condvar::new(),
        };
        if is_new {
            let mut transaction = log.begin();
            transaction.make(Change::Make { log_id: random_id() });
            log.commit(transaction)?;
        }
        Ok(log)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("nobody panics with it")
    }

    /// What was committed.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.shared().state)
    }

    pub(crate) fn commits(&self) -> i64 {
        self.shared().commits
    }

    /// Waits until nobody else writes.
    pub(crate) fn begin(&self) -> Transaction {
        let free = self.ended.wait_while(self.shared(), |shared| shared.is_taken);
        let mut shared = free.expect("nobody panics with it");
        shared.is_taken = true;
        Transaction {
            state: Arc::clone(&shared.state),
            changes: Vec::new(),
        }
    }

    /// Writes the line, and shows what it changed. When it cannot be written whole, it is taken back. Says how many commits that was: one
    /// that changes nothing is none.
    pub(crate) fn commit(&self, transaction: Transaction) -> Result<i64, StorageError> {
        let mut shared = self.shared();
        shared.is_taken = false;
        self.ended.notify_one();
        if transaction.changes.is_empty() {
            return Ok(0);
        }
        let line = format!("[{}]\n", transaction.changes.join(","));
        let length = shared.file.metadata().map_err(failed("commit"))?.len();
        let written = shared.file.write_all(line.as_bytes());
        if let Err(error) = written.and_then(|()| shared.file.sync_data()) {
            shared
                .file
                .set_len(length)
                .map_err(failed("take a commit back"))?;
            return Err(failed("commit")(error));
        }
        shared.state = transaction.state;
        shared.commits += 1;
        Ok(1)
    }

    /// Gives a transaction back that is not to be.
    pub(crate) fn roll_back(&self, _: Transaction) {
        self.shared().is_taken = false;
        self.ended.notify_one();
    }

    pub(crate) fn enter(&self) -> InstanceId {
        let id = InstanceId::from(random_id());
        self.shared().living.insert(Arc::clone(&id), 0);
        id
    }

    pub(crate) fn beat(&self, instance: &str) {
        if let Some(beats) = self.shared().living.get_mut(instance) {
            *beats += 1;
        }
    }

    pub(crate) fn leave(&self, instance: &str) {
        self.shared().living.remove(instance);
    }

    pub(crate) fn sign(&self, instance: &str) -> Sign {
        match self.shared().living.get(instance) {
            Some(beats) => Sign::Beat(*beats),
            None => Sign::Gone,
        }
    }
}
