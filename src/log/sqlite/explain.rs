//! How SQLite would run a statement, for the tests that ask.

use rusqlite::Connection;

use crate::log::sqlite::schema;

/// The steps of a statement's plan, on the tables of the newest format.
pub(super) fn plan(sql: &str) -> Vec<String> {
    let mut connection = Connection::open_in_memory().unwrap();
    schema::prepare_tables(&mut connection, "memory".as_ref()).unwrap();
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    for number in 1..=statement.parameter_count() {
        statement.raw_bind_parameter(number, 1).unwrap();
    }
    let mut plan = Vec::new();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().unwrap() {
        plan.push(row.get(3).unwrap());
    }
    plan
}
