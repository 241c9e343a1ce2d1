//! The rows that say who runs a stream, and who stands by for it.

use tokio_postgres::Row;

use crate::clock::Timestamp;
use crate::error::StorageError;
use crate::log::owner::{Claim, ClaimWriter, InstanceId, Role, Sign};
use crate::log::postgres::presence;
use crate::log::postgres::session::{Session, number};
use crate::log::postgres::trouble::Trouble;
use crate::log::postgres::write::PostgresWriter;

macro_rules! columns {
    () => {
        "SELECT claim.stream, claim.instance, claim.role, claim.since, instance.host, instance.process
        FROM claim JOIN instance ON instance.id = claim.instance"
    };
}

/// By the primary keys.
const OF_STREAM: &str = concat!(columns!(), " WHERE claim.stream = $1 ORDER BY claim.instance");

/// The index of those who wait has an entry for each of them, and none where nobody stands by.
const CONTESTED: &str = concat!(
    columns!(),
    " WHERE claim.stream IN (SELECT stream FROM claim WHERE role IN ('standby', 'heir'))
     ORDER BY claim.stream, claim.instance"
);

/// There is a row for each stream that runs.
const ALL: &str = concat!(columns!(), " ORDER BY claim.stream, claim.instance");

const ENTER: &str =
    "INSERT INTO instance (id, host, process) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING";

const LONG_GONE: &str = "SELECT instance FROM beat WHERE beaten_at < now() - interval '1 day'";

const PUT: &str = "INSERT INTO claim (stream, instance, role, since) VALUES ($1, $2, $3, $4)
    ON CONFLICT (stream, instance) DO UPDATE SET role = excluded.role, since = excluded.since";

/// By the primary key.
const REMOVE: &str = "DELETE FROM claim WHERE stream = $1 AND instance = $2";

/// By the primary key.
const REMOVE_ALL: &str = "DELETE FROM claim WHERE stream = $1";

/// The claims of a stream, or all of them.
pub(super) async fn read(session: &mut Session, of: Option<&str>) -> Result<Vec<Claim>, Trouble> {
    let rows = match of {
        Some(stream) => session.all(OF_STREAM, &[&stream]).await?,
        None => session.all(ALL, &[]).await?,
    };
    rows.iter().map(claim).collect()
}

/// The same, of instances that live.
pub(super) async fn living(session: &mut Session, of: Option<&str>) -> Result<Vec<Claim>, Trouble> {
    let mut living: Vec<Claim> = Vec::new();
    let mut gone: Vec<InstanceId> = Vec::new();
    for claim in read(session, of).await? {
        let is_known = living.iter().any(|other| other.instance == claim.instance);
        if gone.contains(&claim.instance) {
            continue;
        }
        if !is_known && presence::sign(session, &claim.instance).await? == Sign::Gone {
            gone.push(claim.instance);
            continue;
        }
        living.push(claim);
    }
    Ok(living)
}

pub(super) async fn remove_all(session: &mut Session, stream: &str) -> Result<(), Trouble> {
    session.execute(REMOVE_ALL, &[&stream]).await?;
    Ok(())
}

async fn put(session: &mut Session, claim: &Claim) -> Result<(), Trouble> {
    let (stream, instance, host) = (&*claim.stream, &*claim.instance, &*claim.host);
    let process = i64::from(claim.process);
    if session.execute(ENTER, &[&instance, &host, &process]).await? > 0 {
        tidy(session).await?;
    }
    let (role, since) = (text(claim.role), claim.since.as_micros());
    session.execute(PUT, &[&stream, &instance, &role, &since]).await?;
    Ok(())
}

/// Removes instances that have gone, and gave no sign of life for a day.
async fn tidy(session: &mut Session) -> Result<(), Trouble> {
    for row in session.all(LONG_GONE, &[]).await? {
        let instance: &str = row.try_get(0)?;
        if presence::sign(session, instance).await? == Sign::Gone {
            strike(session, instance).await?;
        }
    }
    Ok(())
}

async fn strike(session: &mut Session, instance: &str) -> Result<bool, Trouble> {
    let mut removed = 0;
    for sql in [
        "DELETE FROM claim WHERE instance = $1",
        "DELETE FROM instance WHERE id = $1",
        "DELETE FROM beat WHERE instance = $1",
    ] {
        removed += session.execute(sql, &[&instance]).await?;
    }
    Ok(removed > 0)
}

impl ClaimWriter for PostgresWriter {
    fn enter(&mut self) -> Result<InstanceId, StorageError> {
        self.presence().enter()
    }

    fn beat(&mut self) -> Result<(), StorageError> {
        self.presence().beat()
    }

    fn sign(&mut self, instance: &str) -> Result<Sign, StorageError> {
        let (is_free, beat) = self.with("look for the owner of a stream", async |session| {
            presence::look(session, instance).await
        })?;
        Ok(match is_free && !self.presence().others_may_be_late() {
            true => Sign::Gone,
            false => beat,
        })
    }

    fn leave(&mut self) {
        self.presence().leave();
    }

    fn claims_of(&mut self, stream: &str) -> Result<Vec<Claim>, StorageError> {
        self.with("read who runs a stream", async |session| {
            read(session, Some(stream)).await
        })
    }

    fn contested(&mut self) -> Result<Vec<Claim>, StorageError> {
        self.with("read who stands by", async |session| {
            let rows = session.all(CONTESTED, &[]).await?;
            rows.iter().map(claim).collect()
        })
    }

    fn put_claim(&mut self, claim: &Claim) -> Result<(), StorageError> {
        self.with("claim a stream", async |session| put(session, claim).await)
    }

    fn remove_claim(&mut self, stream: &str, instance: &str) -> Result<bool, StorageError> {
        self.with("let go of a stream", async |session| {
            Ok(session.execute(REMOVE, &[&stream, &instance]).await? > 0)
        })
    }

    fn remove_claims(&mut self, stream: &str) -> Result<(), StorageError> {
        self.with("let go of a stream", async |session| {
            remove_all(session, stream).await
        })
    }

    fn may_come_back(&self) -> bool {
        true
    }

    fn strike(&mut self, instance: &str) -> Result<bool, StorageError> {
        self.with("remove an owner that has gone", async |session| {
            strike(session, instance).await
        })
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

fn claim(row: &Row) -> Result<Claim, Trouble> {
    let text = |column| row.try_get::<_, &str>(column);
    Ok(Claim {
        stream: text(0)?.into(),
        instance: text(1)?.into(),
        role: match text(2)? {
            "owner" => Role::Owner,
            "sole-owner" => Role::SoleOwner,
            "heir" => Role::Heir,
            _ => Role::Standby,
        },
        since: Timestamp::from_micros(row.try_get(3)?),
        host: text(4)?.into(),
        process: u32::try_from(number(row, 5)?).unwrap_or(u32::MAX),
    })
}
