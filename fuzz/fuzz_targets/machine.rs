//! The stream machine with the bus: nothing skipped, nothing doubled, whatever the order of things.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| millstream::internals::drive_machine(script));
