//! The rows that say who runs a stream, and who stands by for it.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, Row, params};

use crate::clock::Timestamp;
use crate::error::StorageError;
use crate::log::owner::{Claim, ClaimWriter, InstanceId, Role, Sign};
use crate::log::sqlite::connection::storage;
use crate::log::sqlite::statement::Snapshot;
use crate::log::sqlite::write::SqliteWriter;

macro_rules! columns {
    () => {
        "SELECT claim.stream, claim.instance, claim.role, claim.since, instance.host, instance.process
        FROM claim JOIN instance ON instance.id = claim.instance"
    };
}

/// By the primary keys.
const OF_STREAM: &str = concat!(columns!(), " WHERE claim.stream = ?1");

/// The index of those who wait has an entry for each of them, and none where nobody stands by.
const CONTESTED: &str = concat!(
    columns!(),
    " WHERE claim.stream IN (SELECT stream FROM claim WHERE role IN ('standby', 'heir')) ORDER BY claim.stream"
);

/// In the order of the primary key: there is a row for each stream that runs, and they may be thousands. So the few instances are not
/// looked up for each of them.
const ALL: &str = "SELECT stream, instance, role, since FROM claim ORDER BY stream";

pub(super) fn of_stream(connection: &Connection, stream: &str) -> rusqlite::Result<Vec<Claim>> {
    let mut statement = connection.prepare_cached(OF_STREAM)?;
    statement.query_map([stream], claim)?.collect()
}

pub(super) fn contested(connection: &Connection) -> rusqlite::Result<Vec<Claim>> {
    let mut statement = connection.prepare_cached(CONTESTED)?;
    statement.query_map([], claim)?.collect()
}

pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<Claim>> {
    let _snapshot = Snapshot::begin(connection)?;
    let instances = instances(connection)?;
    let mut statement = connection.prepare_cached(ALL)?;
    let mut rows = statement.query([])?;
    let mut claims = Vec::new();
    while let Some(row) = rows.next()? {
        // An instance that is not there claims nothing.
        if let Some((instance, (host, process))) = instances.get_key_value(row.get_ref(1)?.as_str()?) {
            claims.push(Claim {
                stream: row.get_ref(0)?.as_str()?.into(),
                instance: Arc::clone(instance),
                role: role(row.get_ref(2)?.as_str()?),
                since: Timestamp::from_micros(row.get(3)?),
                host: Arc::clone(host),
                process: *process,
            });
        }
    }
    Ok(claims)
}

/// The host and the process of each instance.
fn instances(connection: &Connection) -> rusqlite::Result<HashMap<InstanceId, (Arc<str>, u32)>> {
    let mut statement = connection.prepare_cached("SELECT id, host, process FROM instance")?;
    let instances = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
    instances.collect()
}

pub(super) fn put(connection: &Connection, claim: &Claim) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO instance (id, host, process) VALUES (?1, ?2, ?3)")?
        .execute(params![claim.instance, claim.host, claim.process])?;
    connection
        .prepare_cached(
            "INSERT INTO claim (stream, instance, role, since) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (stream, instance) DO UPDATE SET role = excluded.role, since = excluded.since",
        )?
        .execute(params![
            claim.stream,
            claim.instance,
            text(claim.role),
            claim.since.as_micros()
        ])?;
    Ok(())
}

pub(super) fn remove(connection: &Connection, stream: &str, instance: &str) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached("DELETE FROM claim WHERE stream = ?1 AND instance = ?2")?;
    Ok(statement.execute([stream, instance])? > 0)
}

pub(super) fn remove_all(connection: &Connection, stream: &str) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("DELETE FROM claim WHERE stream = ?1")?;
    statement.execute([stream]).map(|_| ())
}

pub(super) fn strike(connection: &Connection, instance: &str) -> rusqlite::Result<bool> {
    let claims = connection
        .prepare_cached("DELETE FROM claim WHERE instance = ?1")?
        .execute([instance])?;
    let instances = connection
        .prepare_cached("DELETE FROM instance WHERE id = ?1")?
        .execute([instance])?;
    Ok(claims + instances > 0)
}

impl ClaimWriter for SqliteWriter {
    fn enter(&mut self) -> Result<InstanceId, StorageError> {
        let (connection, presence) = self.presence();
        let make_id = || {
            let id = connection.query_row("SELECT lower(hex(randomblob(16)))", [], |row| row.get(0));
            id.map_err(storage("make the id of an owner"))
        };
        match presence {
            Some(presence) => presence.enter(make_id),
            None => Ok("alone".into()),
        }
    }

    fn beat(&mut self) -> Result<(), StorageError> {
        self.presence().1.map_or(Ok(()), |presence| presence.beat())
    }

    fn sign(&mut self, instance: &str) -> Result<Sign, StorageError> {
        self.presence()
            .1
            .map_or(Ok(Sign::Gone), |presence| presence.sign(instance))
    }

    fn leave(&mut self) {
        if let Some(presence) = self.presence().1 {
            presence.leave();
        }
    }

    fn claims_of(&mut self, stream: &str) -> Result<Vec<Claim>, StorageError> {
        of_stream(self.connection(), stream).map_err(storage("read who runs a stream"))
    }

    fn contested(&mut self) -> Result<Vec<Claim>, StorageError> {
        contested(self.connection()).map_err(storage("read who stands by"))
    }

    fn put_claim(&mut self, claim: &Claim) -> Result<(), StorageError> {
        put(self.connection(), claim).map_err(storage("claim a stream"))
    }

    fn remove_claim(&mut self, stream: &str, instance: &str) -> Result<bool, StorageError> {
        remove(self.connection(), stream, instance).map_err(storage("let go of a stream"))
    }

    fn remove_claims(&mut self, stream: &str) -> Result<(), StorageError> {
        remove_all(self.connection(), stream).map_err(storage("let go of a stream"))
    }

    fn strike(&mut self, instance: &str) -> Result<bool, StorageError> {
        strike(self.connection(), instance).map_err(storage("remove an owner that has gone"))
    }
}

fn text(role: Role) -> &'static str {
    match role {
        Role::Owner => "owner",
        Role::SoleOwner => "sole-owner",
        Role::Heir => "heir",
        Role::Standby => "standby",
    }
}

fn role(text: &str) -> Role {
    match text {
        "owner" => Role::Owner,
        "sole-owner" => Role::SoleOwner,
        "heir" => Role::Heir,
        _ => Role::Standby,
    }
}

fn claim(row: &Row<'_>) -> rusqlite::Result<Claim> {
    Ok(Claim {
        stream: row.get(0)?,
        instance: row.get(1)?,
        role: role(row.get_ref(2)?.as_str()?),
        since: Timestamp::from_micros(row.get(3)?),
        host: row.get(4)?,
        process: row.get(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::explain::plan;
    use crate::log::sqlite::schema;

    fn claimed(stream: &str, instance: &str, role: Role) -> Claim {
        Claim {
            stream: stream.into(),
            instance: instance.into(),
            role,
            since: Timestamp::from_micros(7),
            host: "host".into(),
            process: 42,
        }
    }

    #[test]
    fn claims_are_searched_and_who_stands_by_for_nothing_costs_nothing() {
        let of_stream = plan(OF_STREAM);
        assert!(
            of_stream.contains(&String::from("SEARCH claim USING PRIMARY KEY (stream=?)")),
            "{of_stream:#?}"
        );
        let contested = plan(CONTESTED);
        assert!(
            contested.iter().any(|step| step.contains("claim_that_waits")),
            "{contested:#?}"
        );
        assert!(!contested.contains(&String::from("SCAN claim")), "{contested:#?}");
        let all = plan(ALL);
        assert!(!all.iter().any(|step| step.contains("TEMP B-TREE")), "{all:#?}");
    }

    #[test]
    fn a_claim_comes_back_as_it_was_put_and_a_stream_has_one_owner() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::prepare_tables(&mut connection, "memory".as_ref()).unwrap();
        let claims = [
            claimed("books", "one", Role::SoleOwner),
            claimed("ledger", "one", Role::Owner),
            claimed("ledger", "two", Role::Standby),
            claimed("mails", "two", Role::Heir),
        ];
        for claim in &claims {
            put(&connection, claim).unwrap();
        }
        assert_eq!(all(&connection).unwrap(), claims);
        assert_eq!(of_stream(&connection, "ledger").unwrap(), claims[1..3]);
        assert_eq!(contested(&connection).unwrap(), claims[1..]);
        put(&connection, &claimed("ledger", "two", Role::SoleOwner)).unwrap_err();
        assert!(remove(&connection, "ledger", "one").unwrap());
        assert!(!remove(&connection, "ledger", "one").unwrap());
        put(&connection, &claimed("ledger", "two", Role::Owner)).unwrap();
        assert!(strike(&connection, "two").unwrap());
        assert!(!strike(&connection, "two").unwrap());
        assert_eq!(all(&connection).unwrap(), claims[..1]);
        remove_all(&connection, "books").unwrap();
        assert_eq!(all(&connection).unwrap(), []);
    }
}
