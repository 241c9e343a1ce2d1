//! What an address says beside what the driver reads.

use std::path::PathBuf;

use crate::error::OpenError;

/// An address, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// What is left for the driver.
    pub(super) rest: String,
    /// The schema that a URL names with `schema=`. Of several the last one counts.
    pub(super) schema: Option<String>,
    /// The file with the authorities that are trusted. Nothing: those that this system trusts.
    pub(super) root_certificates: Option<PathBuf>,
}

impl Address {
    pub(super) fn parse(address: &str) -> Result<Self, OpenError> {
        let mut parsed = Self {
            rest: String::new(),
            schema: None,
            root_certificates: None,
        };
        parsed.rest = match address.contains("://") {
            true => parsed.url(address)?,
            false => parsed.words(address)?,
        };
        Ok(parsed)
    }

    fn url(&mut self, address: &str) -> Result<String, OpenError> {
        let Some((base, parameters)) = address.split_once('?') else {
            return Ok(address.to_owned());
        };
        let mut others = Vec::new();
        for parameter in parameters.split('&') {
            match parameter.split_once('=') {
                Some(("schema", schema)) => self.schema = Some(schema.to_owned()),
                Some(("sslrootcert", file)) => self.trust(&percent_decoded(file)?),
                Some(("sslmode", mode)) => others.push(format!("sslmode={}", verified(mode)?)),
                _ => others.push(parameter.to_owned()),
            }
        }
        Ok(match others.is_empty() {
            true => base.to_owned(),
            false => format!("{base}?{}", others.join("&")),
        })
    }

    fn words(&mut self, address: &str) -> Result<String, OpenError> {
        let mut others = Vec::new();
        for word in words(address) {
            match word.split_once('=') {
                Some(("sslrootcert", file)) => self.trust(&unquoted(file)),
                Some(("sslmode", mode)) => others.push(format!("sslmode={}", verified(&unquoted(mode))?)),
                _ => others.push(word.to_owned()),
            }
        }
        Ok(others.join(" "))
    }

    /// `system` is what `libpq` calls the certificates of this system.
    fn trust(&mut self, file: &str) {
        self.root_certificates = (file != "system").then(|| file.into());
    }
}

/// The mode as the driver knows it. Where anything is encrypted, the certificate is checked, and the host's name in it.
fn verified(mode: &str) -> Result<&str, OpenError> {
    let problem = match mode {
        "verify-full" => return Ok("require"),
        "verify-ca" => "sslmode=verify-ca is not offered; use verify-full, which checks the host's name, too",
        "allow" => "sslmode=allow is not offered; use disable or verify-full",
        mode => return Ok(mode),
    };
    Err(OpenError::InvalidAddress { problem })
}

/// The words of an address that is no URL. What is between quotes, or behind a backslash, parts none.
fn words(address: &str) -> Vec<&str> {
    let (mut words, mut begin) = (Vec::new(), None);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, character) in address.char_indices() {
        if character.is_whitespace() && !is_quoted && !is_escaped {
            words.extend(begin.take().map(|begin| &address[begin..at]));
            continue;
        }
        begin.get_or_insert(at);
        is_quoted ^= character == '\'' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
    }
    words.extend(begin.map(|begin| &address[begin..]));
    words
}

fn unquoted(value: &str) -> String {
    let inner = value
        .strip_prefix('\'')
        .and_then(|value| value.strip_suffix('\''));
    let (mut plain, mut is_escaped) = (String::new(), false);
    for character in inner.unwrap_or(value).chars() {
        is_escaped = character == '\\' && !is_escaped;
        if !is_escaped {
            plain.push(character);
        }
    }
    plain
}

fn percent_decoded(value: &str) -> Result<String, OpenError> {
    let malformed = || OpenError::InvalidAddress {
        problem: "the path after sslrootcert= is not percent-encoded text",
    };
    let mut bytes = Vec::with_capacity(value.len());
    let mut parts = value.split('%');
    bytes.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        let code = part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(code.ok_or_else(malformed)?);
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(address: &str) -> (String, Option<String>, Option<String>) {
        let parsed = Address::parse(address).unwrap();
        let file = parsed
            .root_certificates
            .map(|file| file.to_str().unwrap().to_owned());
        (parsed.rest, parsed.schema, file)
    }

    #[test]
    fn a_schema_is_taken_out_of_a_url_and_everything_else_stays() {
        for (address, rest, schema) in [
            ("postgres://h/d", "postgres://h/d", None),
            ("postgres://h/d?schema=shop", "postgres://h/d", Some("shop")),
            (
                "postgres://h/d?sslmode=require&schema=shop&a=b",
                "postgres://h/d?sslmode=require&a=b",
                Some("shop"),
            ),
            ("postgres://h/d?schema=a&schema=b", "postgres://h/d", Some("b")),
            ("postgres://h/d?schema=", "postgres://h/d", Some("")),
            ("postgres://h/d?schematic=a", "postgres://h/d?schematic=a", None),
            ("host=h dbname=d", "host=h dbname=d", None),
        ] {
            let expected = (rest.to_owned(), schema.map(str::to_owned), None);
            assert_eq!(parsed(address), expected, "{address}");
        }
    }

    #[test]
    fn whom_to_trust_is_taken_out_of_either_form() {
        for (address, rest, file) in [
            (
                "postgres://h/d?sslmode=verify-full&sslrootcert=/etc/a%20b.pem",
                "postgres://h/d?sslmode=require",
                Some("/etc/a b.pem"),
            ),
            (
                "host=h sslmode=verify-full  password='a sslrootcert=x' sslrootcert='/a b.pem'",
                "host=h sslmode=require password='a sslrootcert=x'",
                Some("/a b.pem"),
            ),
            (r"host=h sslrootcert=/a\ b.pem", "host=h", Some("/a b.pem")),
            (
                "host=h sslmode=verify-full sslrootcert=system",
                "host=h sslmode=require",
                None,
            ),
            (r"host=h password=a\'b\ c", r"host=h password=a\'b\ c", None),
        ] {
            let expected = (rest.to_owned(), None, file.map(str::to_owned));
            assert_eq!(parsed(address), expected, "{address}");
        }
    }

    #[test]
    fn what_is_not_offered_is_said_and_the_address_is_not_repeated() {
        for (address, said) in [
            ("postgres://a:secret@h/d?sslmode=verify-ca", "verify-full"),
            ("host=h password=secret sslmode=allow", "verify-full"),
            ("postgres://a:secret@h/d?sslrootcert=%zz", "percent-encoded"),
            ("postgres://a:secret@h/d?sslrootcert=%f", "percent-encoded"),
            ("postgres://a:secret@h/d?sslrootcert=%\u{e4}", "percent-encoded"),
        ] {
            let refused = Address::parse(address).unwrap_err().to_string();
            assert!(refused.contains(said) && !refused.contains("secret"), "{refused}");
        }
    }
}
