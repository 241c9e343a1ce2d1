//! Which server, and how a connection to it is made.

use std::fmt::Write;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{AsyncMessage, Config, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::OpenError;
use crate::log::opening::Durability;
use crate::log::postgres::Options;
use crate::log::postgres::address::Address;
use crate::log::postgres::session::Session;
use crate::log::postgres::tls;
use crate::log::postgres::trouble::Trouble;

/// How long a connection may take to be made, unless the address says otherwise.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// When a silent connection is asked whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
/// How much longer than the server this process waits for it, so that the server's own answer comes first.
const SLACK: Duration = Duration::from_secs(3);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Reader,
    Listener,
    /// By which the store is seen to live.
    Presence,
    /// Keeps a read model.
    Model,
}

/// A server, a database on it and a schema in that.
pub(super) struct Server {
    config: Config,
    /// `host:port/database`, for whoever reads an error.
    pub(super) name: Arc<str>,
    pub(super) schema: String,
    pub(super) durability: Durability,
    /// How long a statement, or another session that holds the log, is waited for.
    pub(super) limit: Duration,
    tls: Option<MakeRustlsConnect>,
}

/// PostgreSQL cuts longer names off.
const SCHEMA_BYTES_MAX: usize = 63;

impl Server {
    pub(super) fn new(address: &str, options: &Options, durability: Durability) -> Result<Self, OpenError> {
        // What the driver says of an address may quote it, and so the password.
        let problem = "it cannot be read";
        let address = Address::parse(address)?;
        let mut config: Config = address
            .rest
            .parse()
            .map_err(|_| OpenError::InvalidAddress { problem })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            let problem = "it names no host";
            return Err(OpenError::InvalidAddress { problem });
        }
        let schema = address.schema.unwrap_or_else(|| options.schema.clone());
        if schema.is_empty() || schema.len() > SCHEMA_BYTES_MAX || schema.chars().any(char::is_control) {
            return Err(OpenError::InvalidOption {
                option: "schema",
                value: format!("{schema:?}"),
                problem: "not a name; 1 to 63 bytes without control characters are needed",
            });
        }
        if config.get_application_name().is_none() {
            config.application_name("millstream");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_MAX);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(options.limit + SLACK);
        }
        config.keepalives_idle(KEEPALIVE_AFTER);
        // A standby is behind: who reads there would not see what was committed before.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let tls = match (config.get_ssl_mode(), address.root_certificates) {
            (SslMode::Require, roots) => Some(tls::connector(roots.as_deref())?),
            (_, None) => None,
            (_, Some(_)) => {
                let problem = "sslrootcert= is there and nothing would be encrypted; add sslmode=verify-full";
                return Err(OpenError::InvalidAddress { problem });
            }
        };
        Ok(Self {
            name: name(&config).into(),
            schema,
            durability,
            limit: options.limit,
            tls,
            config,
        })
    }

    /// How long this process waits for one answer.
    pub(super) fn patience(&self) -> Duration {
        self.limit + 2 * SLACK
    }

    /// The schema, as SQL names it.
    pub(super) fn quoted_schema(&self) -> String {
        format!("\"{}\"", self.schema.replace('"', "\"\""))
    }

    /// Makes a connection, on the runtime that this is polled in. Gives the number of each session that is heard of there.
    pub(super) async fn connect(&self, role: Role, heard: Option<Heard>) -> Result<Session, Trouble> {
        let client = match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                tokio::spawn(run(connection, heard));
                client
            }
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                tokio::spawn(run(connection, heard));
                client
            }
        };
        client.batch_execute(&self.settings(role)).await?;
        let mut session = Session::new(client);
        match role {
            Role::Writer => make_durable(&mut session, self.durability).await?,
            // A stream goes on from what was acknowledged to it, whatever the durability of the log.
            Role::Model => make_durable(&mut session, Durability::Full).await?,
            Role::Reader | Role::Listener | Role::Presence => {}
        }
        Ok(session)
    }

    /// What a session is told before anything else. Names without a schema are those of the log, whatever else there is in the database.
    pub(super) fn settings(&self, role: Role) -> String {
        let limit = self.limit.as_millis().max(1);
        let statement = (self.limit + SLACK).as_millis();
        let mut sql = format!(
            "SET search_path TO {}; SET lock_timeout = {limit}; SET statement_timeout = {statement};
             SET idle_in_transaction_session_timeout = {statement};
             SET default_transaction_isolation = 'read committed'; SET client_min_messages = warning",
            self.quoted_schema()
        );
        match role {
            Role::Writer => {}
            // A plan for all ranges and texts would be none for the one that is asked for.
            Role::Reader => sql.push_str(
                "; SET default_transaction_read_only = on; SET plan_cache_mode = force_custom_plan",
            ),
            // A word to the others is worth no sync.
            Role::Listener => sql.push_str("; SET synchronous_commit = off"),
            // The server is to notice soon that nobody is there any more, whose lock it holds.
            Role::Presence => sql.push_str(
                "; SET synchronous_commit = off; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2;
                 SET tcp_keepalives_count = 3; SET tcp_user_timeout = 10000",
            ),
            // What is written outside of a transaction of millstream's is refused: a projection has no business there.
            Role::Model => sql.push_str(
                "; SET default_transaction_read_only = on;
                 SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3",
            ),
        }
        sql
    }
}

/// Has commits of a session survive a crash of the server, as far as that is wanted.
async fn make_durable(session: &mut Session, durability: Durability) -> Result<(), Trouble> {
    let setting = match durability {
        Durability::Relaxed => "off",
        Durability::Full => {
            let row = session.client.query_one("SHOW synchronous_commit", &[]).await?;
            match row.try_get::<_, &str>(0)? {
                "off" => "on",
                _ => return Ok(()),
            }
        }
    };
    let sql = format!("SET synchronous_commit = {setting}");
    Ok(session.client.batch_execute(&sql).await?)
}

/// Where the number of a session goes whose word was heard.
pub(super) type Heard = mpsc::Sender<i32>;

/// Moves what goes to and fro, until the client is dropped or the connection is lost. Who waits for an answer is told then, and so is
/// who waits for a word.
async fn run<S>(mut connection: Connection<Socket, S>, heard: Option<Heard>)
where
    S: TlsStream + Unpin,
{
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(word))) => {
                if let Some(heard) = &heard {
                    // Who listens may have gone, or have enough to hear: one word says as much as many.
                    let _ = heard.try_send(word.process_id());
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "a connection to the server was lost");
                return;
            }
            None => return,
        }
    }
}

/// Where it is, without who one is there.
fn name(config: &Config) -> String {
    let mut name = String::new();
    let of_host = |host: &Host| match host {
        Host::Tcp(host) => host.clone(),
        #[cfg(unix)]
        Host::Unix(folder) => folder.to_string_lossy().into_owned(),
    };
    let mut hosts: Vec<String> = config.get_hosts().iter().map(of_host).collect();
    if hosts.is_empty() {
        hosts.extend(config.get_hostaddrs().iter().map(ToString::to_string));
    }
    for (index, host) in hosts.iter().enumerate() {
        if index > 0 {
            name.push(',');
        }
        let ports = config.get_ports();
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        // Writing into a text does not fail.
        let _ = write!(name, "{host}:{port}");
    }
    // Without a name of its own the database is called like the user.
    if let Some(database) = config.get_dbname().or(config.get_user()) {
        name.push('/');
        name.push_str(database);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(address: &str, schema: &str) -> Result<Server, OpenError> {
        let options = Options {
            schema: schema.into(),
            ..Options::default()
        };
        Server::new(address, &options, Durability::Full)
    }

    #[test]
    fn a_server_is_named_without_its_password() {
        let found = server("postgres://anna:secret@db.example:5433/shop", "millstream").unwrap();
        assert_eq!(&*found.name, "db.example:5433/shop");
        let found = server("hostaddr=127.0.0.1 user=anna password=secret", "millstream").unwrap();
        assert_eq!(&*found.name, "127.0.0.1:5432/anna");
        let found = server("host=/run/pg,db user=anna password=secret", "millstream").unwrap();
        assert_eq!(&*found.name, "/run/pg:5432,db:5432/anna");
    }

    #[test]
    fn an_address_that_cannot_be_read_is_not_repeated() {
        for address in [
            "postgres://anna:secret@db/shop?cret=x",
            "postgres://anna:secret@db:port/shop",
            "dbname=secret",
            "/tmp/secret.db",
            "secret",
        ] {
            let Err(refused) = server(address, "millstream") else {
                panic!("{address} is refused");
            };
            let told = format!("{refused} {refused:?}");
            assert!(matches!(refused, OpenError::InvalidAddress { .. }), "{told}");
            assert!(!told.contains("secret") && !told.contains("cret"), "{told}");
        }
    }

    #[test]
    fn a_schema_is_a_name_and_is_quoted() {
        let address = "postgres://db/shop";
        assert_eq!(server(address, "a\"b").unwrap().quoted_schema(), "\"a\"\"b\"");
        for wrong in ["", "a\nb", &"x".repeat(64)] {
            let refused = server(address, wrong).err().map(|error| error.to_string());
            assert!(refused.is_some_and(|text| text.contains("`schema`")), "{wrong:?}");
        }
    }
}
