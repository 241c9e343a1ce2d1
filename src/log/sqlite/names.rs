//! The event types as rows know them, by a number for each type and schema version; shared by all events of a page.

use std::sync::Arc;

use rusqlite::Connection;

use crate::event::evolution::Evolution;
use crate::event::lineage::Lineage;
use crate::log::show::Kind;

/// The types that were met. The one met last comes first: a log has few types, and they come in runs.
#[derive(Default)]
pub(super) struct TypeNames {
    known: Vec<(i64, Kind)>,
    evolution: Option<Arc<Evolution>>,
}

/// How many types are kept.
const TYPE_NAMES_MAX: usize = 256;

/// By the table's own index. The numbers of a type, one for each of its schema versions.
pub(super) const IDS_OF_TYPE: &str = "SELECT id FROM event_type WHERE name = ?1";

/// The numbers of a type: one for each schema version that was stored of it.
pub(super) fn ids_of_type(connection: &Connection, name: &str) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(IDS_OF_TYPE)?;
    statement.query_map([name], |row| row.get(0))?.collect()
}

impl TypeNames {
    pub(super) fn new(evolution: Option<Arc<Evolution>>) -> Self {
        Self {
            known: Vec::new(),
            evolution,
        }
    }

    pub(super) fn evolution(&self) -> Option<&Arc<Evolution>> {
        self.evolution.as_ref()
    }

    /// Forgets all types: a number may be given to another one.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// Lets the next page have names of its own: whoever drops the events of this one counts on other memory than
    /// whoever reads the next.
    pub(super) fn renew(&mut self) {
        for (_, kind) in &mut self.known {
            if Arc::strong_count(&kind.name) > 1 {
                kind.name = Arc::from(&*kind.name);
                kind.lineage = Lineage::of_version(kind.version);
            }
        }
    }

    pub(super) fn kind(&mut self, connection: &Connection, id: i64) -> rusqlite::Result<Kind> {
        match self.known.iter().position(|(known, _)| *known == id) {
            Some(0) => {}
            Some(index) => self.known.swap(0, index),
            None => {
                let (name, version): (String, u32) = connection
                    .prepare_cached("SELECT name, schema_version FROM event_type WHERE id = ?1")?
                    .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
                let kind = Kind::new(&name, version, self.evolution.as_deref());
                self.known.truncate(TYPE_NAMES_MAX - 1);
                self.known.insert(0, (id, kind));
            }
        }
        Ok(self.known[0].1.clone())
    }
}
