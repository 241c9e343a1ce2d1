//! What the test targets share: handlers that write down what they get, and ways to wait for a state, which are those of the public
//! conformance kit; and a PostgreSQL server.

#![allow(dead_code, unused_imports, reason = "no test target uses all of it")]

pub(crate) mod postgres;

pub(crate) use millstream::conformance::tools::*;
