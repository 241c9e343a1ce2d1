//! What the server says of the read models there. The tables are made with the first model, in the log's schema.

use tokio_postgres::{Client, Error, Transaction};

use crate::clock::Timestamp;
use crate::error::{ReadModelError, StorageError};
use crate::log::postgres::beside::{ServerDesk, quoted};
use crate::projection::spec::Spec;

/// What the server says to a commit of a transaction that millstream has not brought to its end.
pub(super) const IS_UNDER_WAY: &str = "ZM001";

const TABLES: &str = r#"
CREATE TABLE millstream_model (
    name text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    -- The schema of its tables.
    namespace text NOT NULL UNIQUE,
    log_id text NOT NULL,
    query text NOT NULL,
    schema text NOT NULL,
    -- Everything up to here that the query selects is applied or set aside.
    position bigint NOT NULL,
    -- A transaction of its projection is under way: nobody else ever sees that it is.
    is_applying boolean NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (name, version)
) WITH (fillfactor = 50);
-- Dead letters that were applied later, by their first event, so that none is applied twice.
CREATE TABLE millstream_model_retried (
    name text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    first_sequence bigint NOT NULL,
    PRIMARY KEY (name, version, first_sequence)
);
-- Whatever a projection does, what it wrote is not committed without the position behind it.
CREATE FUNCTION refuse_foreign_end() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    is_under_way boolean;
BEGIN
    EXECUTE format('SELECT is_applying FROM %I.millstream_model WHERE name = $1 AND version = $2', TG_TABLE_SCHEMA)
        INTO is_under_way USING NEW.name, NEW.version;
    IF is_under_way THEN
        RAISE EXCEPTION 'the transaction of a read model is ended by millstream alone' USING ERRCODE = 'ZM001';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER model_is_at_its_end AFTER INSERT OR UPDATE ON millstream_model
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.is_applying) EXECUTE FUNCTION refuse_foreign_end();
"#;

/// Bytes of a name that PostgreSQL does not cut off.
const NAME_BYTES_MAX: usize = 63;
/// How many names are tried for a schema.
const TRIES_MAX: usize = 100;

/// A model that is there now.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) position: u64,
    /// The schema of its tables.
    pub(super) namespace: String,
}

/// The log that a model is kept from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub(super) log_id: &'a str,
    pub(super) head: u64,
}

/// Finds a model, or makes it with its schema. One process does so at a time.
pub(super) async fn open(
    desk: &ServerDesk,
    client: &mut Client,
    spec: &Spec,
    origin: Origin<'_>,
) -> Result<Opened, ReadModelError> {
    let failed = desk.failed("open a read model on the server");
    let tx = begin(desk, client).await?;
    if !is_made(desk, &tx).await? {
        tx.batch_execute(TABLES).await.map_err(&failed)?;
    }
    let sql = "SELECT namespace, log_id, query, schema, position FROM millstream_model WHERE name = $1 AND version = $2";
    let row = tx.query_opt(sql, &[&spec.name, &i64::from(spec.version)]).await;
    let opened = match row.map_err(&failed)? {
        Some(row) => {
            let stored = || {
                Ok(Stored {
                    namespace: row.try_get(0)?,
                    log_id: row.try_get(1)?,
                    query: row.try_get(2)?,
                    schema: row.try_get(3)?,
                    position: row.try_get::<_, i64>(4)? as u64,
                })
            };
            stored().map_err(&failed)?.check(spec, origin)?
        }
        None => make(desk, &tx, spec, origin).await?,
    };
    tx.commit().await.map_err(&failed)?;
    Ok(opened)
}

/// Begins a transaction that holds the lock on the list of models.
async fn begin<'a>(desk: &ServerDesk, client: &'a mut Client) -> Result<Transaction<'a>, StorageError> {
    let failed = desk.failed("lock the list of read models");
    let tx = client
        .build_transaction()
        .read_only(false)
        .start()
        .await
        .map_err(&failed)?;
    let lock = "SELECT pg_advisory_xact_lock(hashtext('millstream-model'), hashtext($1))";
    tx.execute(lock, &[&desk.schema()]).await.map_err(&failed)?;
    Ok(tx)
}

async fn is_made(desk: &ServerDesk, tx: &Transaction<'_>) -> Result<bool, StorageError> {
    // Asked of the catalogs as they are now: what a session once looked up by name it may remember.
    let asked = "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = $1 AND relname = 'millstream_model')";
    let row = tx.query_one(asked, &[&desk.schema()]).await;
    let is_made = row.and_then(|row| row.try_get(0));
    is_made.map_err(desk.failed("look for the list of read models"))
}

/// A model's row.
struct Stored {
    namespace: String,
    log_id: String,
    query: String,
    schema: String,
    position: u64,
}

impl Stored {
    /// Refuses a row that does not fit the log or the projection.
    fn check(self, spec: &Spec, origin: Origin<'_>) -> Result<Opened, ReadModelError> {
        let name = || spec.name.clone();
        if self.log_id != origin.log_id {
            return Err(ReadModelError::ForeignLog {
                name: name(),
                built_from: self.log_id,
                log: origin.log_id.to_owned(),
            });
        }
        if self.position > origin.head {
            return Err(ReadModelError::AheadOfLog {
                name: name(),
                position: self.position,
                head: origin.head,
            });
        }
        let changed = [
            ("query", self.query != spec.query),
            ("schema", self.schema != spec.schema),
        ];
        match changed.into_iter().find(|(_, has_changed)| *has_changed) {
            Some((what, _)) => Err(ReadModelError::Changed {
                name: name(),
                version: spec.version,
                what,
            }),
            None => Ok(Opened {
                position: self.position,
                namespace: self.namespace,
            }),
        }
    }
}

/// Makes the schema of a model and what the user's statements make in it.
async fn make(
    desk: &ServerDesk,
    tx: &Transaction<'_>,
    spec: &Spec,
    origin: Origin<'_>,
) -> Result<Opened, ReadModelError> {
    let failed = desk.failed("make a read model on the server");
    let refused = |error: Error| match ServerDesk::is_lost(&error) {
        true => failed(error).into(),
        false => ReadModelError::Schema {
            name: spec.name.clone(),
            version: spec.version,
            error: told(&error).into(),
        },
    };
    let namespace = free_name(desk, tx, spec).await?;
    let version = i64::from(spec.version);
    let row = "INSERT INTO millstream_model (name, version, namespace, log_id, query, schema, position, is_applying, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, 0, true, $7)";
    let now = Timestamp::now().as_micros();
    tx.execute(
        row,
        &[
            &spec.name,
            &version,
            &namespace,
            &origin.log_id,
            &spec.query,
            &spec.schema,
            &now,
        ],
    )
    .await
    .map_err(&refused)?;
    let quoted_namespace = quoted(&namespace);
    let enter = format!("CREATE SCHEMA {quoted_namespace}; SET LOCAL search_path TO {quoted_namespace}");
    tx.batch_execute(&enter).await.map_err(&failed)?;
    tx.batch_execute(&spec.schema).await.map_err(&refused)?;
    let close = format!(
        "UPDATE {}.millstream_model SET is_applying = false
         WHERE name = $1 AND version = $2 AND is_applying",
        quoted(desk.schema())
    );
    let closed = tx.execute(&close, &[&spec.name, &version]).await;
    match closed {
        Ok(1..) => Ok(Opened {
            position: 0,
            namespace,
        }),
        Err(error) if ServerDesk::is_lost(&error) => Err(failed(error).into()),
        // The row is not there, or may not be written: this is another transaction, or none.
        Ok(0) | Err(_) => Err(ReadModelError::Schema {
            name: spec.name.clone(),
            version: spec.version,
            error: "it ends the transaction in which it runs".into(),
        }),
    }
}

/// What the server says, or else the driver.
fn told(error: &Error) -> String {
    match error.as_db_error() {
        Some(told) => told.message().to_owned(),
        None => error.to_string(),
    }
}

/// The first name for a schema that nobody has.
async fn free_name(desk: &ServerDesk, tx: &Transaction<'_>, spec: &Spec) -> Result<String, ReadModelError> {
    let taken = tx.query("SELECT nspname::text FROM pg_namespace", &[]).await;
    let taken = taken.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect());
    let taken: Vec<String> = taken.map_err(desk.failed("look for schemas"))?;
    let name = names(desk.schema(), spec).find(|name| !taken.contains(name));
    name.ok_or_else(|| ReadModelError::Refused {
        name: spec.name.clone(),
        problem: format!(
            "the schema {:?} and {TRIES_MAX} like it are there already; remove what is not needed",
            names(desk.schema(), spec).next().unwrap_or_default()
        ),
    })
}

/// Names for the schema of a model, each within what PostgreSQL tells apart.
fn names(log: &str, spec: &Spec) -> impl Iterator<Item = String> {
    let (base, version) = (format!("{log}_{}", spec.name), spec.version);
    (0..TRIES_MAX).map(move |number| {
        let end = match number {
            0 => format!("_{version}"),
            number => format!("_{version}_{number}"),
        };
        let mut length = base.len().min(NAME_BYTES_MAX - end.len());
        while !base.is_char_boundary(length) {
            length -= 1;
        }
        format!("{}{end}", &base[..length])
    })
}

/// Whether there is such a model.
pub(super) async fn has(
    desk: &ServerDesk,
    client: &mut Client,
    name: &str,
    version: u32,
) -> Result<bool, StorageError> {
    let tx = begin(desk, client).await?;
    if !is_made(desk, &tx).await? {
        return Ok(false);
    }
    let sql = "SELECT true FROM millstream_model WHERE name = $1 AND version = $2";
    let row = tx.query_opt(sql, &[&name, &i64::from(version)]).await;
    Ok(row.map_err(desk.failed("look for a read model"))?.is_some())
}

/// Removes a model with all that its schema made.
pub(super) async fn remove(
    desk: &ServerDesk,
    client: &mut Client,
    name: &str,
    version: u32,
) -> Result<(), StorageError> {
    let failed = desk.failed("remove a read model from the server");
    let tx = begin(desk, client).await?;
    let version = i64::from(version);
    let sql = "DELETE FROM millstream_model WHERE name = $1 AND version = $2 RETURNING namespace";
    let row = tx.query_opt(sql, &[&name, &version]).await.map_err(&failed)?;
    let Some(row) = row else { return Ok(()) };
    let namespace: String = row.try_get(0).map_err(&failed)?;
    let sql = "DELETE FROM millstream_model_retried WHERE name = $1 AND version = $2";
    tx.execute(sql, &[&name, &version]).await.map_err(&failed)?;
    let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(&namespace));
    tx.batch_execute(&drop).await.map_err(&failed)?;
    tx.commit().await.map_err(&failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_schemas_say_whose_they_are_and_are_not_cut_off() {
        let spec = |name: &str, version| Spec {
            name: name.to_owned(),
            version,
            query: String::new(),
            schema: String::new(),
        };
        let balances = spec("balances", 3);
        let mut found = names("shop", &balances);
        assert_eq!(found.next().as_deref(), Some("shop_balances_3"));
        assert_eq!(found.next().as_deref(), Some("shop_balances_3_1"));
        for name in ["ä".repeat(100), "x".repeat(200)] {
            for schema in ["s", &"y".repeat(63)] {
                let found: Vec<String> = names(schema, &spec(&name, u32::MAX)).collect();
                assert!(found.iter().all(|name| name.len() <= NAME_BYTES_MAX), "{found:?}");
                let different: std::collections::BTreeSet<&String> = found.iter().collect();
                assert_eq!(different.len(), TRIES_MAX);
            }
        }
    }
}
