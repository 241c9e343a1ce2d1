//! Where a log is: a path, or the address of a server. One function reads what somebody wrote, for every command and every program.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::OpenError;

/// Where a log is, as somebody wrote it down: the path of a file, or the address of a PostgreSQL server. A text with a scheme before `://`
/// is an address.
///
/// ```
/// use millstream::{LogLocation, OpenError};
///
/// assert_eq!(LogLocation::parse("shop.db")?.to_string(), "shop.db");
/// let mistaken = LogLocation::parse("https://example.com/shop.db");
/// assert!(matches!(mistaken, Err(OpenError::UnknownScheme { .. })));
/// # Ok::<(), OpenError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct LogLocation(Place);

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    File(PathBuf),
    /// The address of a server, as it was written down.
    #[cfg(feature = "postgres")]
    Server(String),
}

impl LogLocation {
    /// Reads a location: a path, or an address such as `postgres://user@host/database`.
    ///
    /// # Errors
    /// [`OpenError::NotBuiltIn`] for the address of a PostgreSQL server, when this program was built without it;
    /// [`OpenError::UnknownScheme`] for another address.
    pub fn parse(text: impl AsRef<OsStr>) -> Result<Self, OpenError> {
        let text = text.as_ref();
        match text.to_str().and_then(|text| Some((text, scheme(text)?))) {
            None => Ok(Self::file(Path::new(text))),
            #[cfg(feature = "postgres")]
            Some((text, "postgres" | "postgresql")) => Ok(Self(Place::Server(text.to_owned()))),
            #[cfg(not(feature = "postgres"))]
            Some((text, "postgres" | "postgresql")) => Err(OpenError::NotBuiltIn {
                location: without_secrets(text),
                feature: "postgres",
            }),
            Some((text, scheme)) => Err(OpenError::UnknownScheme {
                location: without_secrets(text),
                scheme: scheme.to_owned(),
            }),
        }
    }

    /// The file at this path, whatever it is called.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Place::File(path.into()))
    }

    /// The path, when it is a file.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Place::File(path) => Some(path),
            #[cfg(feature = "postgres")]
            Place::Server(_) => None,
        }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.0
    }
}

/// The path; of an address all but what is secret in it.
impl fmt::Display for LogLocation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::File(path) => write!(formatter, "{}", path.display()),
            #[cfg(feature = "postgres")]
            Place::Server(address) => write!(formatter, "{}", without_secrets(address)),
        }
    }
}

impl fmt::Debug for LogLocation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "LogLocation({self})")
    }
}

/// What stands before `://`, when that is a scheme. A single letter is a drive.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = scheme.len() > 1
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    is_scheme.then_some(scheme)
}

/// An address without its password, and without what follows a question mark, where there may be another one. Whatever stands before the
/// last `@` may be a password that was not encoded.
fn without_secrets(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return address.to_owned();
    };
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, rest),
    };
    let place = place.split('?').next().unwrap_or(place);
    match user {
        Some(user) => {
            let user = user.split([':', '/', '?']).next().unwrap_or(user);
            format!("{scheme}://{user}@{place}")
        }
        None => format!("{scheme}://{place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_file_and_an_address_is_told_without_its_secrets() {
        for path in [
            "shop.db",
            "/var/lib/shop.db",
            "C:\\shop.db",
            "c://shop.db",
            "a b://c",
            "://x",
            "",
        ] {
            assert_eq!(
                LogLocation::parse(path).unwrap(),
                LogLocation::file(path),
                "{path}"
            );
        }
        for (address, told) in [
            (
                "postgres://anna:se@cret@host:5432/shop?password=x",
                "postgres://anna@host:5432/shop",
            ),
            ("postgresql://host/shop?sslmode=require", "postgresql://host/shop"),
            ("postgres://a:se/cr?et@h/shop?x=y", "postgres://a@h/shop"),
            ("mysql://u:p@h", "mysql://u@h"),
        ] {
            let read = match LogLocation::parse(address) {
                Ok(location) => format!("{location} "),
                Err(refused) => refused.to_string(),
            };
            assert!(read.starts_with(&format!("{told} ")), "{read}");
        }
    }
}
