//! Who may import whom: a module imports only from layers above it, and from its own folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module at the top of `src`, in the order of the layers, with the modules that it may import.
const LAYERS: &[(&str, &[&str])] = &[
    // 1. The vocabulary and the shims: pure.
    ("clock", &[]),
    ("sync", &[]),
    ("fault", &[]),
    ("error", &[]),
    ("event", &["clock", "error"]),
    ("meter", &["clock", "event"]),
    // 2. Two neighbours that do not know each other.
    ("log", &["clock", "sync", "fault", "meter", "error", "event"]),
    ("bus", &["clock", "sync", "error", "event"]),
    // What of it is public, for whoever writes a log.
    ("contract", &["clock", "event", "log"]),
    // 3. Where log and bus meet.
    (
        "stream",
        &["clock", "sync", "fault", "meter", "error", "event", "log", "bus"],
    ),
    // 5. The wiring.
    (
        "store",
        &["sync", "fault", "error", "event", "log", "stream", "builder"],
    ),
    // A use of streams: read models.
    (
        "projection",
        &[
            "clock", "sync", "fault", "meter", "error", "event", "log", "stream", "store",
        ],
    ),
    // What an operator asks of a whole log.
    ("inspect", &["error", "log", "store"]),
    (
        "builder",
        &[
            "clock", "fault", "meter", "error", "event", "log", "bus", "stream", "store",
        ],
    ),
    // Many stores in one folder.
    (
        "tenant",
        &["clock", "sync", "error", "log", "stream", "builder", "store"],
    ),
    // For the tests of programs.
    (
        "testing",
        &[
            "clock",
            "sync",
            "fault",
            "error",
            "event",
            "stream",
            "projection",
            "builder",
        ],
    ),
    // For this crate's own proofs.
    (
        "internals",
        &[
            "clock",
            "fault",
            "error",
            "event",
            "log",
            "bus",
            "stream",
            "projection",
            "builder",
            "tenant",
        ],
    ),
    // The proofs that a log is one.
    (
        "conformance",
        &[
            "fault",
            "error",
            "event",
            "log",
            "stream",
            "store",
            "builder",
            "internals",
        ],
    ),
];

/// 6. Clients of the public interface, which are crates of their own: they cannot see more of this one.
const CLIENTS: &[&str] = &["bin"];

/// What such a client must do without: the ways around the public interface.
const FOREIGN_TO_CLIENTS: &[&str] = &["rusqlite", "internals", "#[path", "include!("];

/// What the bus must do without, so that all of it runs under loom.
const FOREIGN_TO_THE_BUS: &[&str] = &["tokio", "rusqlite", "std::fs", "std::thread", "std::io"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The module at the top of `src` that a file belongs to.
fn module(path: &Path, root: &Path) -> String {
    let inside = path.strip_prefix(root).unwrap();
    let first = inside.components().next().unwrap().as_os_str();
    first.to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The modules that a text names as `crate::module`, comments left out.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    let names = code.split("crate::").skip(1);
    names
        .map(|rest| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap()
                .to_owned()
        })
        // Macros are all at the root, those that only other macros use begin so.
        .filter(|name| !name.is_empty() && !name.starts_with("__"))
        .collect()
}

#[test]
fn modules_import_only_from_the_layers_above_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30, "the sources are found");
    let mut wrong = Vec::new();
    for path in files {
        let module = module(&path, &root);
        if module == "lib" || CLIENTS.contains(&module.as_str()) {
            continue;
        }
        let layer = LAYERS.iter().find(|(name, _)| *name == module);
        let (_, allowed) = layer.unwrap_or_else(|| panic!("{module} has no layer yet: add it to the table"));
        for import in imports(&fs::read_to_string(&path).unwrap()) {
            if import != module && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} imports {import}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn layers_are_a_list_and_only_the_wiring_looks_up() {
    for (index, (module, allowed)) in LAYERS.iter().enumerate() {
        for import in *allowed {
            let place = LAYERS.iter().position(|(name, _)| name == import).unwrap();
            // The store opens builders, and a builder makes the store.
            let is_wiring = (*module, *import) == ("store", "builder");
            assert!(place < index || is_wiring, "{module} may not import {import}");
        }
    }
}

#[test]
fn the_bus_does_no_io_and_knows_no_runtime() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bus");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let found = FOREIGN_TO_THE_BUS.iter().find(|name| line.contains(*name));
            assert_eq!(found, None, "{}: {line}", path.display());
        }
    }
}

#[test]
fn clients_know_the_public_interface_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    CLIENTS
        .iter()
        .for_each(|client| sources(&root.join(client), &mut files));
    assert!(files.len() > 10, "the sources are found");
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let found = FOREIGN_TO_CLIENTS.iter().find(|name| line.contains(*name));
            assert_eq!(found, None, "{}: {line}", path.display());
        }
    }
}

#[test]
fn locks_come_from_the_module_that_the_models_see() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for path in files.iter().filter(|path| !path.ends_with("src/sync.rs")) {
        let text = fs::read_to_string(path).unwrap();
        for foreign in [
            "std::sync::Mutex",
            "std::sync::RwLock",
            "std::sync::Condvar",
            "parking_lot::",
        ] {
            assert!(!text.contains(foreign), "{} uses {foreign}", path.display());
        }
    }
}

#[test]
fn no_source_file_is_too_long_to_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for path in files {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 600, "{} has {lines} lines: split it", path.display());
    }
}
