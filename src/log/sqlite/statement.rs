//! How rows of `event` are read.

use rusqlite::Connection;

/// The columns of an event's row, in the order in which they are read.
macro_rules! columns {
    () => {
        "event.sequence, event.batch_index, event.batch_size, event.recorded_at,
         event.type, event.tags, event.payload, event.metadata"
    };
}

/// The rows of a range, by the primary key.
pub(super) const SCAN: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM event WHERE sequence > ?1 AND sequence <= ?2 ORDER BY sequence"
);

/// One row, by the primary key.
pub(super) const ROW: &str = concat!("SELECT ", columns!(), " FROM event WHERE sequence = ?1");

/// The rows of one version of a type, by `event_by_type`.
pub(super) const ROWS_OF_TYPE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM (SELECT sequence FROM event WHERE type = ?3
            AND sequence > ?1 AND sequence <= ?2) AS found
      CROSS JOIN event ON event.sequence = found.sequence ORDER BY found.sequence"
);

/// A read transaction around several statements, for as long as it is held. Inside a transaction it is nothing.
pub(super) struct Snapshot<'a>(Option<&'a Connection>);

impl<'a> Snapshot<'a> {
    pub(super) fn begin(connection: &'a Connection) -> rusqlite::Result<Self> {
        if !connection.is_autocommit() {
            return Ok(Self(None));
        }
        connection.prepare_cached("BEGIN")?.execute([])?;
        Ok(Self(Some(connection)))
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            let ended = connection
                .prepare_cached("COMMIT")
                .and_then(|mut commit| commit.execute([]));
            if let Err(error) = ended {
                tracing::error!(%error, "a snapshot could not be let go");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sqlite::explain;
    use crate::log::sqlite::index::scan::OF_TYPE;
    use crate::log::sqlite::names::IDS_OF_TYPE;

    #[test]
    fn every_statement_searches_and_none_sorts() {
        let by_sequence = "SEARCH event USING INTEGER PRIMARY KEY";
        let by_type = "SEARCH event USING COVERING INDEX event_by_type (type=? AND rowid>? AND rowid<?)";
        let of_type = "SEARCH event_type USING COVERING INDEX sqlite_autoindex_event_type_1 (name=?)";
        let cases: [(&str, &[&str]); 5] = [
            (SCAN, &[by_sequence]),
            (ROW, &[by_sequence]),
            (ROWS_OF_TYPE, &[by_type, by_sequence]),
            (OF_TYPE, &[by_type]),
            (IDS_OF_TYPE, &[of_type]),
        ];
        for (sql, expected) in cases {
            let plan = explain::plan(sql);
            for step in expected {
                assert!(
                    plan.iter().any(|line| line.starts_with(step)),
                    "{step} in {plan:#?}"
                );
            }
            let bad = plan
                .iter()
                .find(|step| step.starts_with("SCAN") || step.contains("TEMP B-TREE"));
            assert_eq!(bad, None, "{plan:#?}");
        }
    }
}
