//! Random histories of many tenants against a naive map: from names to what was appended. `PROPTEST_CASES` sets how many are tried.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use millstream::{
    Durability, DurableStream, EventBatch, HandleStream, OpenedTenant, Tenant, TenantError, Tenants,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::common::in_time;
use crate::{append, texts};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Fewer than there are names, and more than are held at once.
const OPEN_MAX: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    /// Takes a tenant, appends, and gives it back.
    Append(usize),
    /// Asks for a tenant and gives up after so many polls.
    GiveUp {
        name: usize,
        polls: usize,
    },
    /// Takes a tenant and keeps it.
    Hold(usize),
    LetGo,
    CloseIdle,
    Delete(usize),
    List,
    /// Closes all tenants, or drops them, and opens the folder anew.
    Reopen {
        closes: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        8 => name.clone().prop_map(Step::Append),
        3 => (name.clone(), 1..4_usize).prop_map(|(name, polls)| Step::GiveUp { name, polls }),
        2 => name.clone().prop_map(Step::Hold),
        2 => Just(Step::LetGo),
        2 => Just(Step::CloseIdle),
        2 => name.prop_map(Step::Delete),
        1 => Just(Step::List),
        1 => any::<bool>().prop_map(|closes| Step::Reopen { closes }),
    ]
}

type Texts = BTreeMap<String, Vec<String>>;

/// What durable streams were given, by tenant.
#[derive(Clone, Default)]
struct Given(Arc<Mutex<BTreeMap<String, Vec<u64>>>>);

impl Given {
    fn handler(&self, name: &str) -> HandleStream {
        let (given, name) = (self.clone(), name.to_owned());
        HandleStream::new(move |batch: EventBatch| {
            let mut given = given.0.lock().unwrap();
            given
                .entry(name.clone())
                .or_default()
                .extend(batch.iter().map(|event| event.sequence()));
            async { Ok::<_, std::io::Error>(()) }
        })
    }
}

struct World {
    folder: tempfile::TempDir,
    tenants: Tenants,
    given: Given,
    expected: Texts,
    held: Option<Tenant>,
    appended: u64,
}

impl World {
    fn open(folder: &std::path::Path, given: &Given) -> Tenants {
        let given = given.clone();
        Tenants::builder()
            .open_max(OPEN_MAX)
            .store(|store| store.durability(Durability::Relaxed))
            .on_open(move |tenant: OpenedTenant| {
                let handler = given.handler(tenant.name());
                async move {
                    tenant
                        .stream_all_durable(&DurableStream::new("given"), handler)
                        .await
                }
            })
            .open(folder)
            .unwrap()
    }

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let given = Given::default();
        Self {
            tenants: Self::open(folder.path(), &given),
            folder,
            given,
            expected: Texts::new(),
            held: None,
            appended: 0,
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Append(name) => {
                let tenant = self.tenants.tenant(NAMES[name]).await.unwrap();
                let expected = self.expected.entry(NAMES[name].to_owned()).or_default();
                assert_eq!(texts(&tenant).await, *expected);
                self.appended += 1;
                let text = format!("{} {}", NAMES[name], self.appended);
                append(&tenant, &text).await;
                expected.push(text);
            }
            Step::GiveUp { name, polls } => {
                let mut asking = Box::pin(self.tenants.tenant(NAMES[name]));
                for _ in 0..polls {
                    if futures::poll!(&mut asking).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(asking);
                // Whether it was made is not said: asked for again, it is there.
                drop(self.tenants.tenant(NAMES[name]).await.unwrap());
                self.expected.entry(NAMES[name].to_owned()).or_default();
            }
            Step::Hold(name) => {
                self.held = Some(self.tenants.tenant(NAMES[name]).await.unwrap());
                self.expected.entry(NAMES[name].to_owned()).or_default();
            }
            Step::LetGo => self.held = None,
            Step::CloseIdle => {
                self.tenants.close_idle().await;
                if let Some(held) = &self.held {
                    append(held, "held").await;
                    self.expected
                        .get_mut(held.name())
                        .unwrap()
                        .push("held".to_owned());
                }
            }
            Step::Delete(name) => self.delete(NAMES[name]).await,
            Step::List => {
                let names: Vec<_> = self.expected.keys().cloned().collect();
                assert_eq!(self.tenants.list().await.unwrap(), names);
            }
            Step::Reopen { closes } => {
                self.held = None;
                if closes {
                    self.tenants.close().await.unwrap();
                }
                self.tenants = Self::open(self.folder.path(), &self.given);
            }
        }
        let open = self.tenants.status().tenants.len();
        assert!(open <= OPEN_MAX, "{open} are open");
    }

    async fn delete(&mut self, name: &str) {
        let is_held = self.held.as_ref().is_some_and(|held| held.name() == name);
        let outcome = loop {
            match self.tenants.delete(name).await {
                // Who gave up asking has yet to give it back.
                Err(TenantError::InUse { .. }) if !is_held => tokio::task::yield_now().await,
                outcome => break outcome,
            }
        };
        match outcome {
            Ok(()) => {
                assert!(!is_held);
                assert!(self.expected.remove(name).is_some());
                self.given.0.lock().unwrap().remove(name);
            }
            Err(TenantError::InUse { .. }) => assert!(is_held),
            Err(TenantError::Missing { .. }) => assert!(!self.expected.contains_key(name)),
            // The tenants before these were dropped a moment ago, and have yet to end.
            Err(TenantError::InUseElsewhere { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// In the end each log has what was appended, and each durable stream was given all of it, in order.
    async fn check(mut self) {
        self.held = None;
        for (name, expected) in &self.expected {
            let tenant = self.tenants.tenant(name).await.unwrap();
            assert_eq!(texts(&tenant).await, *expected, "{name}");
            tenant.settled().await.unwrap();
            let mut given = self.given.0.lock().unwrap().remove(name).unwrap_or_default();
            // A store that was dropped may repeat what it was given last.
            given.sort_unstable();
            given.dedup();
            let all: Vec<u64> = (1..=expected.len() as u64).collect();
            assert_eq!(given, all, "{name}");
        }
        self.tenants.close().await.unwrap();
    }
}

#[test]
fn tenants_have_what_was_appended_to_them_whatever_was_closed_in_between() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(24);
    let mut runner = TestRunner::new(Config::with_cases(cases));
    let histories = prop::collection::vec(step(), 1..40);
    let outcome = runner.run(&histories, |steps| {
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                in_time("a step", world.step(step)).await;
            }
            in_time("the end", world.check()).await;
        });
        Ok(())
    });
    outcome.unwrap();
}
