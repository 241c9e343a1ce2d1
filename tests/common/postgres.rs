//! A PostgreSQL server for tests.
//!
//! `DATABASE_URL` names one. Otherwise one is started from the programs that are installed here, in a folder of its own and on a port of
//! its own; all tests of a process share it. A shell watches the process from outside: when the process ends, however it does, its
//! end of a pipe is closed, and the shell stops the server and removes the folder. Each test has a schema of its own.
//!
//! Where there is no server the tests say that they are skipped; with `MILLSTREAM_POSTGRES_REQUIRED=1` they fail.

mod cluster;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::executor::block_on;
use millstream::{OpenError, Store, StoreBuilder};
use tokio_postgres::{Client, NoTls};

pub(crate) use self::cluster::Cluster;

/// A schema on a server, for one test.
pub(crate) struct Database {
    pub(crate) address: String,
    pub(crate) schema: String,
    /// Whether the server goes on when the test process ends, so that what the test made is to be removed.
    is_lasting: bool,
}

/// A new schema; nothing, when there is no server.
pub(crate) fn database() -> Option<Database> {
    let (address, is_lasting) = match std::env::var("DATABASE_URL") {
        Ok(address) => (address, true),
        Err(_) => (shared_cluster()?.address(), false),
    };
    Some(Database {
        address,
        schema: new_schema(),
        is_lasting,
    })
}

/// The server that the tests of this process share; nothing, when no programs are installed.
pub(crate) fn shared_cluster() -> Option<Arc<Cluster>> {
    static CLUSTER: OnceLock<Option<Arc<Cluster>>> = OnceLock::new();
    CLUSTER.get_or_init(|| cluster().map(Arc::new)).clone()
}

/// A server for one test alone, which may be stopped and started; nothing, when no programs are installed.
pub(crate) fn cluster() -> Option<Cluster> {
    cluster_with(&[], "")
}

/// The same, with files in its folder and words for its command line.
pub(crate) fn cluster_with(files: &[(&str, String)], settings: &str) -> Option<Cluster> {
    match Cluster::start(None, files, settings) {
        Ok(cluster) => Some(cluster),
        Err(problem) if std::env::var("MILLSTREAM_POSTGRES_REQUIRED").is_ok_and(|value| value == "1") => {
            panic!("a PostgreSQL server is required here, and {problem}");
        }
        Err(problem) => {
            eprintln!("skipped: no PostgreSQL server, {problem}");
            None
        }
    }
}

/// A name that no other test has, on a server that others may use.
pub(crate) fn new_schema() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later");
    format!("test_{}_{}_{number}", std::process::id(), since.as_nanos())
}

/// An address with one more parameter, whichever form it has.
pub(crate) fn with_parameter(address: &str, name: &str, value: &str) -> String {
    match (address.contains("://"), address.contains('?')) {
        (false, _) => format!("{address} {name}={value}"),
        (true, false) => format!("{address}?{name}={value}"),
        (true, true) => format!("{address}&{name}={value}"),
    }
}

/// Does something with a plain connection, on a thread and a runtime of its own: tests call it wherever they are.
pub(crate) fn on_connection<T: Send + 'static>(
    address: &str,
    act: impl AsyncFnOnce(&Client) -> T + Send + 'static,
) -> T {
    let address = address.to_owned();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("makes a runtime").block_on(async {
            let (client, connection) = tokio_postgres::connect(&address, NoTls).await.expect("connects");
            let connection = tokio::spawn(connection);
            let done = act(&client).await;
            drop(client);
            // The server has said good-bye, or is gone.
            let _ = connection.await;
            done
        })
    });
    thread.join().expect("the connection's thread ends in order")
}

impl Database {
    pub(crate) fn builder(&self) -> StoreBuilder {
        Store::builder().schema(&self.schema)
    }

    /// Opens the log from a test that is not asynchronous there.
    pub(crate) fn open(&self, builder: StoreBuilder) -> Store {
        self.try_open(builder).expect("opens the log on the server")
    }

    pub(crate) fn try_open(&self, builder: StoreBuilder) -> Result<Store, OpenError> {
        let (builder, address) = (builder.schema(&self.schema), self.address.clone());
        block_on(builder.connect(address))
    }

    /// Changes tables past the store.
    pub(crate) fn execute(&self, sql: &str) -> Result<usize, String> {
        let sql = format!("SET search_path TO {}; {sql}", self.schema);
        on_connection(&self.address, async move |client| {
            let messages = client.simple_query(&sql).await;
            let messages = messages.map_err(|error| match error.as_db_error() {
                Some(told) => told.message().to_owned(),
                None => error.to_string(),
            })?;
            let changed = messages.iter().rev().find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::CommandComplete(rows) => Some(*rows as usize),
                _ => None,
            });
            Ok(changed.unwrap_or(0))
        })
    }

    /// Removes the schemas of read models.
    pub(crate) fn remove_models(&self) {
        let sql = format!(
            "DO $$ DECLARE name text; BEGIN
                 FOR name IN SELECT nspname FROM pg_namespace WHERE starts_with(nspname, '{}_') LOOP
                     EXECUTE format('DROP SCHEMA %I CASCADE', name);
                 END LOOP;
             END $$",
            self.schema
        );
        // A projection of the test may hang in its transaction.
        let hanging = format!(
            "SELECT pg_terminate_backend(held.pid)
             FROM pg_locks held JOIN pg_class ON pg_class.oid = held.relation JOIN pg_namespace ON pg_namespace.oid = relnamespace
             WHERE starts_with(nspname, '{}_') AND held.pid <> pg_backend_pid()
                 AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            self.schema
        );
        let _ = self.execute(&hanging);
        // A test that fails leaves them behind where they cannot be removed.
        let _ = self.execute(&sql);
    }

    /// A number that stands in the tables.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        let (path, sql) = (format!("SET search_path TO {}", self.schema), sql.to_owned());
        on_connection(&self.address, async move |client| {
            client.batch_execute(&path).await.expect("sets the path");
            let row = client.query_one(&sql, &[]).await.expect("there is a row");
            row.get(0)
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.is_lasting {
            let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema);
            let address = self.address.clone();
            // It is left behind where it cannot be removed. A test that fails for this reason is not to end all others.
            let removing =
                move || on_connection(&address, async move |client| client.batch_execute(&sql).await);
            let _ = std::thread::spawn(removing).join();
        }
    }
}
