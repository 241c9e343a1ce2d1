//! Names of read models: whatever is accepted is listed as it was given, has a file of its own in the folder of the list, and a
//! stream of its own.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use millstream::ReadModelError;
use millstream::internals::{ModelList, Place};

/// Of a name.
const BYTES_MAX: usize = 200;

thread_local! {
    /// The folder of this process, which is made anew for each input.
    static FOLDER: PathBuf = std::env::temp_dir().join(format!("millstream-model-names-{}", std::process::id()));
}

fuzz_target!(|text: &str| {
    FOLDER.with(|folder| {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder).expect("makes a folder");
        let list = ModelList::open(&folder.join("views.db")).expect("makes the list");
        let mut known = BTreeMap::new();
        for name in text.split('\n').take(4) {
            let registered = list.register(name, 1);
            if let Some(problem) = naive_problem(name) {
                let refused =
                    matches!(&registered, Err(ReadModelError::Refused { name: said, .. }) if said == name);
                assert!(refused, "{name:?} is to be refused, {problem}: {registered:?}");
                continue;
            }
            let place = registered.expect("nothing is wrong with the name");
            assert_eq!(place.file.parent(), Some(folder.as_path()));
            let in_folder = folder.canonicalize().expect("the folder is there");
            std::fs::write(&place.file, "").expect("any file system has files of this name");
            assert_eq!(
                place.file.canonicalize().expect("it is there").parent(),
                Some(in_folder.as_path())
            );
            assert_eq!(place.stream, format!("{name}@1"));
            let before = known.insert((name.to_owned(), 1), place.clone());
            assert!(
                before.is_none_or(|before| before == place),
                "{name:?} has two places"
            );
        }
        let files: BTreeSet<_> = known.values().map(|place: &Place| &place.file).collect();
        assert_eq!(files.len(), known.len(), "two names share a file: {known:?}");
        let registered = list.registered().expect("the list can be read");
        assert_eq!(registered, known.into_keys().collect::<Vec<_>>());
    });
});

/// What would be wrong with the name, written down once more.
fn naive_problem(name: &str) -> Option<&'static str> {
    match () {
        () if name.is_empty() => Some("it is empty"),
        () if name.len() > BYTES_MAX => Some("it is too long"),
        () if name.chars().any(char::is_control) => Some("it has a control character"),
        () if name.contains('@') => Some("its stream could be another one's"),
        () => None,
    }
}
