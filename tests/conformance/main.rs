//! The public conformance kit on the logs of this crate: in memory, in an SQLite file and on a PostgreSQL server.
//!
//! `guards` shows that the kit can fail; `tables` has what only a log in tables promises; `kit` what the kit says of itself.

#[path = "../common/mod.rs"]
mod common;
mod guards;
mod kit;
mod logs;
mod tables;

mod in_memory {
    millstream::conformance_tests!(crate::logs::in_memory());
}

mod sqlite {
    millstream::conformance_tests!(crate::logs::in_a_file(), shared, tampered);
}

mod postgres {
    millstream::conformance_tests!(crate::logs::on_a_server(), shared, tampered);
}
