//! The slices of the example know each other through events alone.

use std::fs;
use std::path::Path;

const SLICES: [&str; 3] = ["ordering", "stock", "dispatch"];

#[test]
fn no_slice_imports_another_one() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shop_slices");
    let mut looked_at = 0;
    for slice in SLICES {
        for entry in fs::read_dir(example.join(slice)).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            looked_at += 1;
            for other in SLICES.into_iter().filter(|other| *other != slice) {
                let import = format!("crate::{other}");
                assert!(!text.contains(&import), "{} imports {other}", path.display());
            }
        }
    }
    assert!(looked_at > 10, "{looked_at} files");
}
