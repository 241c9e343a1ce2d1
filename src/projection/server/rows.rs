//! One build of a read model on the server: how it is found, made, and taken over.

use tokio_postgres::{Client, Error, Transaction};

use crate::clock::Timestamp;
use crate::error::ReadModelError;
use crate::log::postgres::beside::{ServerDesk, quoted};
use crate::projection::resume::refuse_pruned;
use crate::projection::server::claim::Claim;
use crate::projection::server::list::{self, LOCK_PATIENCE};
use crate::projection::server::requests;
use crate::projection::server::tables::OWNED_WITH_STREAM;
use crate::projection::spec::Spec;
use crate::projection::standing::{BuildRow, BuildState, goes_on, older, serving};

/// Bytes of a name that PostgreSQL does not cut off.
const NAME_BYTES_MAX: usize = 63;
/// How many numbers of builds, and with them names, are tried for a schema.
const TRIES_MAX: usize = 100;
/// A number that says whose a build is that no stream owns.
const NEW_OWNER: &str = "1 + (random() * 9e15)::bigint";

/// A build that is there now.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) row: BuildRow,
    pub(super) position: u64,
    /// Who may write it.
    pub(super) owner: i64,
}

/// The log that a model is kept from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub(super) log_id: &'a str,
    pub(super) head: u64,
    pub(super) pruned_through: u64,
}

/// What is wanted of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To know whether it fits. Whoever writes it goes on.
    Look,
    /// To write it as the owner of its stream.
    WriteWithStream,
    /// To write it without a stream, and nobody else.
    WriteAlone,
}

/// Finds the build with which a version goes on, or makes it. The first of its name serves from the start, any other is built beside.
pub(super) async fn open(
    desk: &ServerDesk,
    client: &mut Client,
    spec: &Spec,
    origin: Origin<'_>,
    wish: Wish,
) -> Result<Opened, ReadModelError> {
    let failed = desk.failed("open a read model on the server");
    let tx = list::begin_made(desk, client).await?;
    let known = list::known(&tx, &spec.name).await.map_err(&failed)?;
    let found = goes_on(&known, spec.version).map_err(|serving| older(&spec.name, spec.version, serving))?;
    let mut opened = match found {
        Some(row) => find(desk, &tx, row.clone(), spec, origin).await?,
        None => {
            let state = match serving(&known) {
                None => BuildState::Serving,
                Some(_) => BuildState::Beside,
            };
            make(desk, &tx, spec, origin, state).await?
        }
    };
    refuse_pruned(&opened.row, opened.position, origin.pruned_through)?;
    if wish != Wish::Look {
        // Whoever wrote it so far may be in the middle of a transaction.
        tx.batch_execute(LOCK_PATIENCE).await.map_err(&failed)?;
        take(&tx, &mut opened, wish).await.map_err(&failed)?;
        if opened.row.state == BuildState::Serving {
            requests::end_left(&tx, &spec.name).await.map_err(&failed)?;
        }
    }
    tx.commit().await.map_err(&failed)?;
    Ok(opened)
}

/// Makes a build of a version beside the one that there is, for a rebuild. What an earlier rebuild left is not wanted any more. Whoever lost
/// the model, or has an older version than the one that serves, is refused, and nothing is changed.
pub(super) async fn make_beside(
    desk: &ServerDesk,
    client: &mut Client,
    spec: &Spec,
    origin: Origin<'_>,
    claim: Claim<'_>,
) -> Result<Opened, ReadModelError> {
    let failed = desk.failed("begin to rebuild a read model on the server");
    if origin.pruned_through > 0 {
        return Err(ReadModelError::Pruned {
            name: spec.name.clone(),
            position: 0,
            pruned_through: origin.pruned_through,
        });
    }
    let lost = || ReadModelError::OwnershipLost {
        name: spec.name.clone(),
        version: spec.version,
    };
    let tx = list::begin_made(desk, client).await?;
    let known = list::known(&tx, &spec.name).await.map_err(&failed)?;
    goes_on(&known, spec.version).map_err(|serving| older(&spec.name, spec.version, serving))?;
    if !claim.has_serving(&tx).await.map_err(&failed)? {
        return Err(lost());
    }
    let mut opened = make(desk, &tx, spec, origin, BuildState::Beside).await?;
    // Behind what the user's statements do: the stream's row is held for as short as can be.
    if !claim.holds_stream(&tx).await.map_err(&failed)? {
        return Err(lost());
    }
    take(&tx, &mut opened, Wish::WriteAlone).await.map_err(&failed)?;
    tx.commit().await.map_err(&failed)?;
    Ok(opened)
}

/// From here on nobody else writes the build, and no rebuild of it goes on.
async fn take(tx: &Transaction<'_>, opened: &mut Opened, wish: Wish) -> Result<(), Error> {
    let BuildRow {
        build, name, version, ..
    } = &opened.row;
    list::retire_beside(tx, name, *version, *build).await?;
    if wish == Wish::WriteAlone {
        let take =
            format!("UPDATE millstream_model SET owner = {NEW_OWNER} WHERE build = $1 RETURNING owner");
        opened.owner = tx.query_one(&take, &[build]).await?.try_get(0)?;
    } else if opened.owner != OWNED_WITH_STREAM {
        let take = "UPDATE millstream_model SET owner = $2 WHERE build = $1";
        tx.execute(take, &[build, &OWNED_WITH_STREAM]).await?;
        opened.owner = OWNED_WITH_STREAM;
    }
    Ok(())
}

/// A build that is there, if it fits.
async fn find(
    desk: &ServerDesk,
    tx: &Transaction<'_>,
    row: BuildRow,
    spec: &Spec,
    origin: Origin<'_>,
) -> Result<Opened, ReadModelError> {
    let sql = "SELECT log_id, query, schema, position, owner FROM millstream_model WHERE build = $1";
    let found = tx.query_one(sql, &[&row.build]).await;
    let stored = found.and_then(|found| {
        Ok(Stored {
            log_id: found.try_get(0)?,
            query: found.try_get(1)?,
            schema: found.try_get(2)?,
            position: found.try_get::<_, i64>(3)? as u64,
            owner: found.try_get(4)?,
        })
    });
    let stored = stored.map_err(desk.failed("look at a read model on the server"))?;
    stored.check(spec, origin)?;
    Ok(Opened {
        row,
        position: stored.position,
        owner: stored.owner,
    })
}

/// A build's row.
struct Stored {
    log_id: String,
    query: String,
    schema: String,
    position: u64,
    owner: i64,
}

impl Stored {
    /// Refuses a row that does not fit the log or the projection.
    fn check(&self, spec: &Spec, origin: Origin<'_>) -> Result<(), ReadModelError> {
        let name = || spec.name.clone();
        if self.log_id != origin.log_id {
            return Err(ReadModelError::ForeignLog {
                name: name(),
                built_from: self.log_id.clone(),
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
            None => Ok(()),
        }
    }
}

/// Makes a build, with a schema and what the user's statements make in it.
async fn make(
    desk: &ServerDesk,
    tx: &Transaction<'_>,
    spec: &Spec,
    origin: Origin<'_>,
    state: BuildState,
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
    let (build, place) = free_place(desk, tx, spec).await?;
    let inserted = insert(tx, spec, origin, (build, &place), state).await;
    inserted.map_err(&refused)?;
    let namespace = quoted(&place);
    let enter = format!("CREATE SCHEMA {namespace}; SET LOCAL search_path TO {namespace}");
    tx.batch_execute(&enter).await.map_err(&failed)?;
    tx.batch_execute(&spec.schema).await.map_err(&refused)?;
    let leave = format!(
        "UPDATE {0}.millstream_model SET is_applying = false WHERE build = $1 AND is_applying
         RETURNING set_config('search_path', $2, true)",
        quoted(desk.schema())
    );
    match tx.query_opt(&leave, &[&build, &quoted(desk.schema())]).await {
        Ok(Some(_)) => Ok(Opened {
            row: BuildRow {
                build,
                name: spec.name.clone(),
                version: spec.version,
                place,
                state,
            },
            position: 0,
            owner: OWNED_WITH_STREAM,
        }),
        Err(error) if ServerDesk::is_lost(&error) => Err(failed(error).into()),
        // The row is not there, or may not be written: this is another transaction, or none.
        Ok(None) | Err(_) => Err(ReadModelError::Schema {
            name: spec.name.clone(),
            version: spec.version,
            error: "it ends the transaction in which it runs".into(),
        }),
    }
}

/// The rows of a build whose tables are yet to be made. Its transaction cannot be committed until they are.
async fn insert(
    tx: &Transaction<'_>,
    spec: &Spec,
    origin: Origin<'_>,
    (build, namespace): (i64, &str),
    state: BuildState,
) -> Result<(), Error> {
    let (version, now) = (i64::from(spec.version), Timestamp::now().as_micros());
    let sql = "INSERT INTO millstream_model_build (build, name, version, namespace, state, created_at)
        OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6)";
    tx.execute(
        sql,
        &[&build, &spec.name, &version, &namespace, &state.as_str(), &now],
    )
    .await?;
    let sql = "INSERT INTO millstream_model
        (build, log_id, query, schema, position, owner, rebuilt_through, is_applying, updated_at)
        VALUES ($1, $2, $3, $4, 0, $5, 0, true, $6)";
    tx.execute(
        sql,
        &[
            &build,
            &origin.log_id,
            &spec.query,
            &spec.schema,
            &OWNED_WITH_STREAM,
            &now,
        ],
    )
    .await?;
    Ok(())
}

/// What the server says, or else the driver.
fn told(error: &Error) -> String {
    match error.as_db_error() {
        Some(told) => told.message().to_owned(),
        None => error.to_string(),
    }
}

/// A number for a build with which its schema has a name that nobody has. Neither is ever given again: whoever removes a schema by its name
/// removes no other one.
async fn free_place(
    desk: &ServerDesk,
    tx: &Transaction<'_>,
    spec: &Spec,
) -> Result<(i64, String), ReadModelError> {
    let failed = desk.failed("name the schema of a read model");
    let taken = tx.query("SELECT nspname::text FROM pg_namespace", &[]).await;
    let taken = taken.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect());
    let taken: Vec<String> = taken.map_err(&failed)?;
    let mut last = String::new();
    for _ in 0..TRIES_MAX {
        let build = next_build(desk, tx).await.map_err(&failed)?;
        let place = place(desk.schema(), spec, build);
        if !taken.contains(&place) {
            return Ok((build, place));
        }
        last = place;
    }
    Err(ReadModelError::Refused {
        name: spec.name.clone(),
        problem: format!(
            "the schema {last:?} and all of {TRIES_MAX} like it are there already; remove what is not needed"
        ),
    })
}

/// The number of a build that is yet to be made.
async fn next_build(desk: &ServerDesk, tx: &Transaction<'_>) -> Result<i64, Error> {
    let sql =
        "SELECT nextval(pg_get_serial_sequence(format('%I.millstream_model_build', $1::text), 'build'))";
    tx.query_one(sql, &[&desk.schema()]).await?.try_get(0)
}

/// The name of a build's schema, within what PostgreSQL tells apart. No other build of the log has it.
fn place(log: &str, spec: &Spec, build: i64) -> String {
    let base = format!("{log}_{}", spec.name);
    let end = format!("_{}_{build}", spec.version);
    let mut length = base.len().min(NAME_BYTES_MAX - end.len());
    while !base.is_char_boundary(length) {
        length -= 1;
    }
    format!("{}{end}", &base[..length])
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
        assert_eq!(place("shop", &balances, 7), "shop_balances_3_7");
        for name in ["ä".repeat(100), "x".repeat(200)] {
            for schema in ["s", &"y".repeat(63)] {
                let builds = [1, 2, 12, i64::MAX - 1, i64::MAX];
                let found = builds.map(|build| place(schema, &spec(&name, u32::MAX), build));
                assert!(found.iter().all(|name| name.len() <= NAME_BYTES_MAX), "{found:?}");
                let different: std::collections::BTreeSet<&String> = found.iter().collect();
                assert_eq!(different.len(), builds.len());
            }
        }
    }
}
