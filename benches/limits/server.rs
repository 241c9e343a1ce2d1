//! The log on a PostgreSQL server, against plain `tokio-postgres`.
//!
//! The server is started for the measurement from the programs that are installed here: in the build folder, so that it shares the disk
//! of the other scenarios, with its default settings, and with `fsync`. Where there are no programs, the scenarios say that they are
//! left out.

mod append;
#[path = "../../tests/common/postgres/cluster.rs"]
#[allow(dead_code, reason = "tests stop and start their servers, too")]
mod cluster;
mod latency;
mod replay;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use millstream::{Store, StoreBuilder};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use self::cluster::Cluster;
use crate::report::{self, Report};
use crate::{Failure, Scale};

pub(crate) use self::latency::child;

const SCENARIOS: &[&str] = &[
    "pg_append_64_writers",
    "pg_append_64_writers_arrays",
    "pg_replay_1m",
    "pg_latency",
];

pub(crate) fn measure(runtime: &Runtime, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    if !SCENARIOS.iter().any(|scenario| report.is_named(scenario)) {
        return Ok(());
    }
    // The user whom the server runs as has to get in, and to tidy up.
    let folder = tempfile::tempdir_in(report::target_folder())?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
    let cluster = match Cluster::start(Some(folder.path()), &[], "-c fsync=on") {
        Ok(cluster) => cluster,
        Err(problem) => {
            println!(
                "  left out, {}: no PostgreSQL server, {problem}",
                SCENARIOS.join(", ")
            );
            return Ok(());
        }
    };
    let server = Server {
        cluster,
        _folder: folder,
    };
    append::measure(runtime, &server, scale, report)?;
    replay::measure(runtime, &server, scale, report)?;
    latency::measure(runtime, &server, scale, report)
}

/// The server that is measured.
struct Server {
    cluster: Cluster,
    /// Is removed when the server has stopped.
    _folder: TempDir,
}

impl Server {
    fn address(&self) -> String {
        self.cluster.address()
    }

    /// The log in a schema of its own.
    async fn store(&self, schema: &str, builder: StoreBuilder) -> Result<Store, Failure> {
        Ok(builder.schema(schema).connect(self.address()).await?)
    }

    /// A plain connection to such a schema.
    async fn plain(&self, schema: &str) -> Result<Client, Failure> {
        let (client, connection) = tokio_postgres::connect(&self.address(), NoTls).await?;
        tokio::spawn(connection);
        client
            .batch_execute(&format!("SET search_path TO {schema}"))
            .await?;
        Ok(client)
    }
}
