//! Accounts that are opened, moved and closed; and what their view is to hold.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::TryStreamExt;
use millstream::{BoxError, Documents, EventQuery, NewEvent, ReadModels, Store, View};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) owner: String,
    pub(crate) cents: i64,
    pub(crate) moves: u64,
}

pub(crate) fn opened(id: &str, owner: &str) -> NewEvent {
    NewEvent::new("opened", json!({ "owner": owner })).tag(id)
}

pub(crate) fn moved(id: &str, cents: i64) -> NewEvent {
    NewEvent::new("moved", json!({ "cents": cents })).tag(id)
}

pub(crate) fn closed(id: &str) -> NewEvent {
    NewEvent::new("closed", json!({})).tag(id)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fact {
    Opened { owner: String },
    Moved { cents: i64 },
    Closed {},
}

/// What tests do to the view from outside.
#[derive(Default)]
pub(crate) struct Sabotage {
    /// Fails on this event.
    pub(crate) fails_at: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) failures: AtomicU64,
}

pub(crate) fn accounts(version: u32, sabotage: &Arc<Sabotage>) -> View<Account> {
    let sabotage = Arc::clone(sabotage);
    View::<Account>::new("account", version)
        .select(EventQuery::types(["opened", "moved", "closed"]))
        .key(|event| event.tags().next().map(str::to_owned))
        .try_evolve(move |account, event| {
            sabotage.calls.fetch_add(1, Ordering::SeqCst);
            if event.sequence() == sabotage.fails_at.load(Ordering::SeqCst) {
                sabotage.failures.fetch_add(1, Ordering::SeqCst);
                return Err(BoxError::from("told to fail"));
            }
            let account: Option<Account> = account;
            Ok(match event.decode::<Fact>()? {
                Fact::Opened { owner } => Some(Account {
                    owner,
                    ..Account::default()
                }),
                Fact::Moved { cents } => {
                    let account = account.unwrap_or_default();
                    Some(Account {
                        cents: account.cents + cents,
                        moves: account.moves + 1,
                        ..account
                    })
                }
                Fact::Closed {} => None,
            })
        })
}

/// What the view is to hold, by a fold of its own.
pub(crate) async fn expected(store: &Store) -> BTreeMap<String, Account> {
    let mut accounts = BTreeMap::<String, Account>::new();
    let mut reader = store.read(&EventQuery::all());
    while let Some(batch) = reader.try_next().await.unwrap() {
        for event in &batch {
            let id = event.tags().next().unwrap().to_owned();
            let payload = event.payload().json().unwrap();
            match event.event_type() {
                "opened" => {
                    let owner = payload["owner"].as_str().unwrap().to_owned();
                    accounts.insert(
                        id,
                        Account {
                            owner,
                            ..Account::default()
                        },
                    );
                }
                "moved" => {
                    let account = accounts.entry(id).or_default();
                    account.cents += payload["cents"].as_i64().unwrap();
                    account.moves += 1;
                }
                "closed" => {
                    accounts.remove(&id);
                }
                _ => {}
            }
        }
    }
    accounts
}

pub(crate) async fn listed(documents: &Documents<Account>) -> BTreeMap<String, Account> {
    documents.list("").try_collect().await.unwrap()
}

/// A folder with a log and views.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(self.path("log.db")).unwrap()
    }

    pub(crate) fn models(&self) -> ReadModels {
        ReadModels::open(self.path("views.db")).unwrap()
    }

    /// The file of the only build that there is.
    pub(crate) fn build(&self) -> PathBuf {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut builds = entries.map(|entry| entry.unwrap().path()).filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("views.account-") && name.ends_with(".db")
        });
        builds.next().unwrap()
    }
}
