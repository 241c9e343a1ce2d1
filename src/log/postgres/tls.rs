//! Encryption on the way to the server: whom to trust, and how it is known that somebody was not trusted.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{OpenError, StorageError};

/// TLS with the authorities of a file and no others, or with those that this system trusts. Names of hosts are always checked.
pub(super) fn connector(root_certificates: Option<&Path>) -> Result<MakeRustlsConnect, OpenError> {
    let roots = match root_certificates {
        Some(path) => roots_of(path)?,
        None => roots_of_this_system(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StorageError::new("prepare TLS", io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn roots_of(path: &Path) -> Result<RootCertStore, OpenError> {
    let refused = |problem: String| OpenError::RootCertificates {
        path: path.to_owned(),
        problem,
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| refused(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| refused(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| refused(error.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(refused(String::from("there is no certificate in it"))),
        false => Ok(roots),
    }
}

fn roots_of_this_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    for error in found.errors {
        tracing::warn!(%error, "a certificate of this system could not be loaded");
    }
    roots
}

/// Why the server is not trusted, if that is what failed: no later try is better.
pub(super) fn distrust(error: &tokio_postgres::Error) -> Option<String> {
    // An error of the network has the one of the encryption inside, and not as its source.
    let inner = error.source()?.downcast_ref::<io::Error>()?.get_ref()?;
    match inner.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(why) => Some(why.to_string()),
        _ => None,
    }
}
