//! Conditions, orders and pages over a view's documents: what SQL finds, and what a plain walk over them finds. Paths and page
//! tokens of any text.

#![no_main]

#[path = "../../tests/views/naive.rs"]
mod naive;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| naive::check(bytes));
