//! Names of tenants: whatever is accepted stays in the folder, and no two names are one file, on any file system.

#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use millstream::internals::tenant_log;

fuzz_target!(|text: &str| {
    let folder = Path::new("folder");
    let (one, other) = text.split_once('\n').unwrap_or((text, text));
    let Some(log) = tenant_log(folder, one) else {
        return;
    };
    let parts: Vec<_> = log.components().collect();
    assert!(
        parts.iter().all(|part| matches!(part, Component::Normal(_))),
        "{log:?}"
    );
    assert_eq!(parts.len(), 3, "{log:?}");
    assert_eq!(
        log.strip_prefix(folder).ok().and_then(Path::parent),
        Some(Path::new(one))
    );
    assert_eq!(naive_problem(one), None, "{one:?} is accepted");
    if let Some(other_log) = tenant_log(folder, other) {
        // As the coarsest of file systems compares.
        let folded = |log: &Path| log.to_string_lossy().to_uppercase();
        assert_eq!(
            folded(&log) == folded(&other_log),
            one == other,
            "{one:?} and {other:?}"
        );
    }
});

/// What would be wrong with a folder of this name, written down once more.
fn naive_problem(name: &str) -> Option<&'static str> {
    let stem = name.split('.').next().unwrap_or("");
    let devices = ["con", "prn", "aux", "nul", "clock$", "conin$", "conout$"];
    let numbered = ["com", "lpt"].iter().any(|device| {
        let rest = stem.strip_prefix(device).unwrap_or("");
        rest.chars().count() == 1 && rest.chars().all(char::is_numeric)
    });
    match () {
        () if name.is_empty() || name.len() > 64 => Some("its length"),
        () if name.starts_with(['.', '-', ' ']) => Some("its beginning"),
        () if name.ends_with(['.', ' ']) => Some("its end"),
        () if name.contains(['/', '\\', ':', '*', '?', '"', '<', '>', '|', '~']) => Some("a separator"),
        () if name
            .chars()
            .any(|c| c.is_control() || c.is_uppercase() || !c.is_ascii()) =>
        {
            Some("a character")
        }
        () if numbered || devices.contains(&stem) => Some("a device"),
        () => None,
    }
}
