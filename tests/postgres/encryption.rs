//! TLS: with an authority of one's own, and with everything that is not to be trusted.

use std::path::Path;
use std::process::Command;

use millstream::{OpenError, Store};
use tempfile::TempDir;

use crate::common::postgres::{Cluster, cluster_with, on_connection, shared_cluster, with_parameter};
use crate::common::{Recorder, append, in_time};

/// Makes an authority, and a certificate for this machine that it has signed.
const MAKE: &str = "
set -e
new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 $new -keyout ca.key -out ca.pem -days 2 -subj /CN=authority
openssl req $new -keyout server.key -out server.csr -subj /CN=server
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' >names
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names
";

const SETTINGS: &str = "-c ssl=on -c ssl_cert_file=server.pem -c ssl_key_file=server.key";

struct Fixture {
    folder: TempDir,
    cluster: Cluster,
}

impl Fixture {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let made = Command::new("sh")
            .args(["-c", MAKE])
            .current_dir(&folder)
            .output();
        let made = made.expect("there is a shell");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let file = |name: &'static str| {
            let text = std::fs::read_to_string(folder.path().join(name));
            (name, text.expect("openssl made it"))
        };
        let cluster = cluster_with(&[file("server.pem"), file("server.key")], SETTINGS)?;
        Some(Self { folder, cluster })
    }

    fn authority(&self) -> String {
        let path = self.folder.path().join("ca.pem");
        path.to_str().expect("a plain path").to_owned()
    }

    /// The address with parameters.
    fn address(&self, parameters: &[(&str, &str)]) -> String {
        parameters
            .iter()
            .fold(self.cluster.address(), |address, (name, value)| {
                with_parameter(&address, name, value)
            })
    }
}

async fn refused(address: String) -> OpenError {
    let outcome = in_time("it is refused", Store::connect(address)).await;
    outcome.expect_err("it is not to be trusted")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_trusted_is_spoken_to_in_secret_over_every_connection() {
    let Some(fixture) = Fixture::new() else { return };
    let authority = fixture.authority();
    let trusts = [("sslmode", "verify-full"), ("sslrootcert", &*authority)];
    let store = Store::connect(fixture.address(&trusts)).await.unwrap();
    let words = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=millstream dbname=postgres sslmode=require sslrootcert='{authority}'",
        fixture.cluster.port()
    );
    let other = Store::connect(words).await.unwrap();
    let recorder = Recorder::new();
    let ledger = millstream::DurableStream::new("ledger");
    let stream = other
        .stream_all_durable(&ledger, recorder.handler())
        .await
        .unwrap();
    append(&store, "a", 2).await;
    in_time("it is delivered", stream.wait_for(2)).await.unwrap();
    let sessions = on_connection(&fixture.cluster.address(), async |client| {
        let sql = "SELECT count(*), count(*) FILTER (WHERE NOT ssl) FROM pg_stat_ssl
            JOIN pg_stat_activity USING (pid) WHERE application_name = 'millstream'";
        let row = client.query_one(sql, &[]).await.expect("sessions are shown");
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    });
    assert!(
        sessions.0 >= 5,
        "writers, wake-ups and a sign of life: {sessions:?}"
    );
    assert_eq!(sessions.1, 0, "none of them is in the open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_to_be_trusted_is_told_nothing_and_named() {
    let Some(fixture) = Fixture::new() else { return };
    let server = format!("127.0.0.1:{}/postgres", fixture.cluster.port());
    // Signed by nobody whom this system trusts.
    for mode in ["require", "verify-full"] {
        let error = refused(fixture.address(&[("sslmode", mode)])).await;
        let text = error.to_string();
        let OpenError::UntrustedServer { server: found, .. } = error else {
            panic!("{text}");
        };
        assert_eq!(found, server);
        assert!(
            text.contains("UnknownIssuer") && text.contains("sslrootcert"),
            "{text}"
        );
    }
    // The certificate is of another host.
    let elsewhere = format!(
        "host=db.example hostaddr=127.0.0.1 port={} user=millstream sslmode=verify-full sslrootcert={}",
        fixture.cluster.port(),
        fixture.authority()
    );
    let error = refused(elsewhere).await;
    assert!(matches!(error, OpenError::UntrustedServer { .. }), "{error:?}");
    assert!(error.to_string().contains("db.example"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_cannot_be_used_are_named() {
    let address = |file: &Path| {
        let file = file.to_str().expect("a plain path");
        format!("postgres://anna:secret@127.0.0.1:1/shop?sslmode=verify-full&sslrootcert={file}")
    };
    let folder = tempfile::tempdir().unwrap();
    let (absent, empty) = (folder.path().join("absent.pem"), folder.path().join("empty.pem"));
    std::fs::write(&empty, "nothing").unwrap();
    for file in [absent, empty] {
        let error = refused(address(&file)).await;
        assert!(
            matches!(&error, OpenError::RootCertificates { path, .. } if *path == file),
            "{error:?}"
        );
    }
    let open = "postgres://anna:secret@127.0.0.1:1/shop?sslrootcert=/etc/ca.pem";
    let error = refused(open.to_owned()).await.to_string();
    assert!(
        error.contains("sslmode=verify-full") && !error.contains("secret"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_encryption_is_refused_where_it_is_wanted() {
    let Some(cluster) = shared_cluster() else { return };
    let address = with_parameter(&cluster.address(), "sslmode", "verify-full");
    let OpenError::Storage(error) = refused(address).await else {
        panic!("the storage was to fail");
    };
    assert!(!error.is_retryable(), "{error}");
    assert!(error.to_string().contains("does not support TLS"), "{error}");
}
