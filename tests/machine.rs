//! The stream machine with a real bus, driven by random scripts: nothing skipped, nothing doubled (S2, S3, D2).

use millstream::internals::drive_machine;
use proptest::collection::vec;
use proptest::prelude::any;

proptest::proptest! {
    #[test]
    fn s3_d2_no_script_makes_the_machine_skip_or_repeat(script in vec(any::<u8>(), 0..400)) {
        drive_machine(&script);
    }
}
