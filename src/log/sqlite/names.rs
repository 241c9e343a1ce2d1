//! The names of event types, shared by all events of a type in a page.

use std::sync::Arc;

use rusqlite::Connection;

/// The names that were met. The one met last comes first: a log has few types, and they come in runs.
#[derive(Default)]
pub(super) struct TypeNames(Vec<(i64, Arc<str>)>);

/// How many names are kept.
const TYPE_NAMES_MAX: usize = 256;

impl TypeNames {
    /// Lets the next page have names of its own: whoever drops the events of this one counts on other memory than
    /// whoever reads the next.
    pub(super) fn renew(&mut self) {
        for (_, name) in &mut self.0 {
            if Arc::strong_count(name) > 1 {
                *name = Arc::from(&**name);
            }
        }
    }

    pub(super) fn name(&mut self, connection: &Connection, id: i64) -> rusqlite::Result<Arc<str>> {
        match self.0.iter().position(|(known, _)| *known == id) {
            Some(0) => {}
            Some(index) => self.0.swap(0, index),
            None => {
                let name: String = connection
                    .prepare_cached("SELECT name FROM event_type WHERE id = ?1")?
                    .query_row([id], |row| row.get(0))?;
                self.0.truncate(TYPE_NAMES_MAX - 1);
                self.0.insert(0, (id, name.into()));
            }
        }
        Ok(Arc::clone(&self.0[0].1))
    }
}
