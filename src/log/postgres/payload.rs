//! What stands at the indexed paths of payloads: the function by which the server knows it, the indexes, and the same in this process.
//!
//! The server may find more than a query selects, and never less: each row that it finds is asked again. So what it cannot tell has a key
//! of its own, which every search asks for beside its own: a text with the character NUL, a number beyond 64-bit floats, JSON that is nested
//! too deeply for it, or that it does not take for JSON.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::error::OpenError;
use crate::event::digest::Digest;
use crate::event::matching::{NumberValue, Scalar};
use crate::log::payload_path::{PATHS_MAX, PayloadPath};
use crate::log::postgres::server::{Role, Server};
use crate::log::postgres::session::Session;
use crate::log::postgres::trouble::Trouble;

/// The scalar at a path, as an index can hold it: numbers by their nearest 64-bit float, as queries compare them, and of a long text its
/// beginning. NULL: no scalar stands there. Its cost keeps the server from calling it for rows that an index finds as well.
pub(super) const FUNCTION: &str = r#"
CREATE FUNCTION payload_scalar(payload text, path text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT COST 1000 AS $$
DECLARE
    found json;
BEGIN
    found := payload::json #> path;
    CASE json_typeof(found)
        WHEN 'string' THEN RETURN '"' || left(found #>> '{}', 200);
        WHEN 'number' THEN RETURN 'n' || encode(float8send((found #>> '{}')::float8 + 0), 'hex');
        WHEN 'boolean', 'null' THEN RETURN found::text;
        ELSE RETURN NULL;
    END CASE;
EXCEPTION WHEN OTHERS THEN
    RETURN '?';
END
$$;
"#;

/// How many characters of a text the function keeps.
const TEXT_CHARS_MAX: usize = 200;
/// What the function says of a payload that the server cannot read.
pub(super) const UNKNOWN: &str = "?";

/// How long indexing a long log may take.
pub(super) const INDEXING_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The pause between two looks whether somebody else is done with indexing.
const PAUSE: Duration = Duration::from_millis(50);

/// What the function says of the payloads of which this process says this.
pub(super) fn key(scalar: Scalar<'_>) -> String {
    let of_float = |float: f64| match float.is_finite() {
        true => format!("n{:016x}", float.to_bits()),
        false => UNKNOWN.to_owned(),
    };
    match scalar {
        Scalar::Null => "null".to_owned(),
        Scalar::Flag(flag) => flag.to_string(),
        Scalar::Number(NumberValue::Whole(integer)) => of_float(integer as f64),
        Scalar::Number(NumberValue::Float(bits)) => of_float(f64::from_bits(bits)),
        Scalar::Text(text) if text.contains('\0') => UNKNOWN.to_owned(),
        Scalar::Text(text) => std::iter::once('"')
            .chain(text.chars().take(TEXT_CHARS_MAX))
            .collect(),
    }
}

/// What a row is asked, and what the index of a path holds.
pub(super) fn expression(path: &PayloadPath) -> String {
    let members = path.members().iter().map(|member| literal(member));
    let members: Vec<String> = members.collect();
    format!("payload_scalar(payload, ARRAY[{}]::text[])", members.join(", "))
}

fn literal(text: &str) -> String {
    // With an E, whatever the session says of backslashes.
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// By the comment the path of an index is known: a name may be too short for it.
const COMMENT: &str = "payload path ";

/// All indexes of paths that are complete.
const INDEXES: &str = "SELECT substr(obj_description(indexrelid, 'pg_class'), length($1) + 1) FROM pg_index
    WHERE indrelid = 'event'::regclass AND indisvalid AND current_setting('server_encoding') = 'UTF8'
        AND left(obj_description(indexrelid, 'pg_class'), length($1)) = $1
    ORDER BY 1";

fn index_name(path: &PayloadPath) -> String {
    let mut digest = Digest::new();
    digest.text(path.pointer());
    format!("event_by_payload_{:032x}", digest.finish())
}

/// The paths that are indexed, whoever asked for it.
pub(super) async fn indexed(session: &mut Session) -> Result<Vec<PayloadPath>, Trouble> {
    let rows = session.client.query(INDEXES, &[&COMMENT]).await?;
    let mut paths = Vec::with_capacity(rows.len());
    for row in &rows {
        paths.extend(PayloadPath::parse(row.try_get(0)?).ok());
    }
    Ok(paths)
}

/// Has these paths indexed, beside those that are, and gives all of them. Others go on appending meanwhile.
pub(super) async fn declare(
    session: &mut Session,
    server: &Server,
    wanted: &[PayloadPath],
) -> Result<Result<Vec<PayloadPath>, OpenError>, Trouble> {
    let encoding = session.one("SHOW server_encoding", &[]).await?;
    if encoding.try_get::<_, &str>(0)? != "UTF8" {
        // It would count the characters of a text otherwise than this process does. Queries find the same without an index.
        return Ok(Ok(Vec::new()));
    }
    let mut paths = indexed(session).await?;
    let missing: Vec<&PayloadPath> = wanted.iter().filter(|path| !paths.contains(path)).collect();
    let refused = |value, problem| {
        Ok(Err(OpenError::InvalidOption {
            option: "index_payload",
            value,
            problem,
        }))
    };
    if let Some(path) = missing.iter().find(|path| path.pointer().contains('\0')) {
        let problem = "it has the character NUL, which a server cannot hold";
        return refused(format!("{:?}", path.pointer()), problem);
    }
    let count = paths.len() + missing.len();
    if count > PATHS_MAX {
        return refused(format!("{count} paths in all"), "too many; a log has 16 at most");
    }
    for path in missing {
        if index_alone(session, server, path).await? == Made::Now {
            paths.push(path.clone());
        }
    }
    Ok(Ok(paths))
}

/// Whether there is an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Now,
    /// This user may not make one. Queries find the same without it.
    Refused,
}

/// Of several who want an index one makes it. The others look now and then: whoever waited for a lock inside a statement would be waited
/// for by the server, until the index is made.
async fn index_alone(session: &mut Session, server: &Server, path: &PayloadPath) -> Result<Made, Trouble> {
    let lock = "SELECT pg_try_advisory_lock(hashtext('millstream index'), hashtext($1))";
    while !session
        .client
        .query_one(lock, &[&server.schema])
        .await?
        .try_get::<_, bool>(0)?
    {
        tokio::time::sleep(PAUSE).await;
    }
    let made = index(session, server, path).await;
    let unlock = "SELECT pg_advisory_unlock(hashtext('millstream index'), hashtext($1))";
    session.client.execute(unlock, &[&server.schema]).await?;
    made
}

async fn index(session: &mut Session, server: &Server, path: &PayloadPath) -> Result<Made, Trouble> {
    if indexed(session).await?.contains(path) {
        return Ok(Made::Now);
    }
    let (name, pointer) = (index_name(path), path.pointer());
    tracing::info!(server = %server.name, path = pointer, "a path of the payloads is being indexed");
    // One that somebody has begun and did not end is of no use.
    let steps = [
        String::from("SET statement_timeout = 0"),
        String::from("SET lock_timeout = 0"),
        format!("DROP INDEX CONCURRENTLY IF EXISTS {name}"),
        format!(
            "CREATE INDEX CONCURRENTLY {name} ON event ({}, sequence)",
            expression(path)
        ),
        format!(
            "COMMENT ON INDEX {name} IS {}",
            literal(&format!("{COMMENT}{pointer}"))
        ),
    ];
    let mut outcome = Ok(());
    for step in &steps {
        outcome = session.client.batch_execute(step).await;
        if outcome.is_err() {
            break;
        }
    }
    session
        .client
        .batch_execute(&server.settings(Role::Writer))
        .await?;
    match outcome {
        Ok(()) => Ok(Made::Now),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            tracing::warn!(
                server = %server.name, path = pointer,
                "this user may not index a path of the payloads: let the owner of the tables open the log with it once"
            );
            Ok(Made::Refused)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_scalars_have_equal_keys_and_what_the_server_cannot_tell_has_one_of_its_own() {
        let of = |text: &str| key(Scalar::of(&serde_json::from_str(text).unwrap()).unwrap());
        for (one, other) in [
            ("1", "1.0"),
            ("-0.0", "0"),
            ("9007199254740992", "9007199254740993"),
            ("18446744073709551615", "18446744073709551616"),
            ("\"a\\u0000\"", "\"\\u0000\""),
        ] {
            assert_eq!(of(one), of(other), "{one} and {other}");
        }
        assert_eq!(of("1"), "n3ff0000000000000");
        assert_eq!(of("true"), "true");
        assert_eq!(of("\"rue\""), "\"rue");
        assert_eq!(of("null"), "null");
        assert_eq!(of("\"\\u0000\""), UNKNOWN);
        let long = json!("ü".repeat(500));
        assert_eq!(key(Scalar::of(&long).unwrap()).chars().count(), 201);
    }

    #[test]
    fn a_path_is_quoted() {
        let path = PayloadPath::parse("/a'b\\c/~1").unwrap();
        assert_eq!(
            expression(&path),
            r"payload_scalar(payload, ARRAY[E'a''b\\c', E'/']::text[])"
        );
    }
}
