//! What a tenant is on the disk: names, listing, making, deleting, and other processes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use millstream::{NameProblem, Store, TenantError, Tenants};

use crate::common::{Recorder, eventually, hasty};
use crate::{append, texts};

/// Everything below a folder.
fn all_below(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
        if path.is_dir() {
            found.extend(all_below(&path));
        }
    }
    found
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused_before_the_disk_is_touched() {
    let outer = tempfile::tempdir().unwrap();
    let tenants = Tenants::open(outer.path().join("tenants")).unwrap();
    let before = all_below(outer.path());
    for name in [
        "",
        "..",
        "../out",
        "/etc",
        "a/b",
        "a\\b",
        "nul",
        "Acme",
        "a\0",
        "acme ",
        "ä",
        &"a".repeat(65),
    ] {
        for outcome in [
            tenants.tenant(name).await.map(drop),
            tenants.create(name).await.map(drop),
            tenants.delete(name).await,
        ] {
            let error = outcome.unwrap_err();
            assert!(
                matches!(error, TenantError::InvalidName { .. }),
                "{name:?}: {error}"
            );
        }
    }
    assert_eq!(all_below(outer.path()), before);
    let error = tenants.tenant("a/b").await.unwrap_err().to_string();
    assert!(
        error.starts_with("the name \"a/b\" is refused: it has '/' at byte 1; only"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_of_a_tenant_lies_beside_its_log_and_is_deleted_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::open(folder.path()).unwrap();
    let acme = tenants.tenant("acme").await.unwrap();
    append(&acme, "one").await;
    let views = acme.file("views.db").unwrap();
    assert_eq!(views.parent(), Some(acme.path()));
    fs::write(&views, "rows").unwrap();
    fs::write(acme.path().join("views.db-wal"), "rows").unwrap();
    for (name, problem) in [
        ("log.db", NameProblem::Taken),
        ("log.db-wal", NameProblem::Taken),
        ("tenant.lock", NameProblem::Taken),
        ("../globex", NameProblem::Beginning { found: '.' }),
    ] {
        match acme.file(name) {
            Err(TenantError::InvalidName { problem: found, .. }) => assert!(
                found == problem || matches!(found, NameProblem::Character { character: '/', .. }),
                "{name}: {found}"
            ),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(
        all_below(folder.path()).contains("log.db-wal"),
        "SQLite's files are there while it is open"
    );
    match tenants.delete("acme").await {
        Err(TenantError::InUse { handles: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    append(&acme, "it is held, so it is there").await;
    drop(acme);
    tenants.delete("acme").await.unwrap();
    assert_eq!(
        all_below(folder.path()),
        BTreeSet::from([".tenants.lock".to_owned()])
    );
    assert!(matches!(
        tenants.delete("acme").await,
        Err(TenantError::Missing { .. })
    ));
    let acme = tenants.tenant("acme").await.unwrap();
    assert_eq!(acme.head(), 0, "it is another tenant");
}

#[tokio::test]
async fn a_tenant_is_deleted_whatever_its_streams_have_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::new();
    let tenants = Tenants::builder()
        .on_open(move |tenant: millstream::OpenedTenant| {
            let handler = recorder.failing(|_| true).retry(hasty());
            async move {
                tenant
                    .stream_all_durable(&millstream::DurableStream::new("ledger"), handler)
                    .await
            }
        })
        .open(folder.path())
        .unwrap();
    let acme = tenants.tenant("acme").await.unwrap();
    append(&acme, "one").await;
    drop(acme);
    tenants.delete("acme").await.unwrap();
    assert!(tenants.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_log_that_somebody_else_has_open_is_not_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::open(folder.path()).unwrap();
    let acme = tenants.tenant("acme").await.unwrap();
    append(&acme, "one").await;
    let log = acme.path().join("log.db");
    drop(acme);
    let in_use = |outcome| matches!(outcome, Err(TenantError::InUseElsewhere { .. }));

    // By its path, without asking for a tenant.
    let store = Store::open(&log).unwrap();
    assert!(in_use(tenants.delete("acme").await));
    store
        .append([millstream::NewEvent::new("noted", "two")])
        .await
        .unwrap();
    store.close().await.unwrap();

    // As a tenant of another `Tenants`.
    let others = Tenants::open(folder.path()).unwrap();
    let theirs = others.tenant("acme").await.unwrap();
    assert!(in_use(tenants.delete("acme").await));
    assert_eq!(texts(&theirs).await, ["one", "two"]);
    drop(theirs);
    others.close().await.unwrap();
    tenants.delete("acme").await.unwrap();
}

/// What the other process does in the test below; in a run of all tests it does nothing.
#[tokio::test]
async fn other_process() {
    let Some(folder) = std::env::var_os("MILLSTREAM_TENANTS") else {
        return;
    };
    let tenants = Tenants::open(folder).unwrap();
    let acme = tenants.tenant("acme").await.unwrap();
    append(&acme, "from elsewhere").await;
    println!("\nappended");
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
    drop(acme);
}

#[tokio::test]
async fn a_tenant_that_another_process_has_open_is_shared_with_it_and_not_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "files::other_process", "--nocapture"])
        .env("MILLSTREAM_TENANTS", folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "appended"));

    let tenants = Tenants::open(folder.path()).unwrap();
    assert_eq!(
        texts(&tenants.tenant("acme").await.unwrap()).await,
        ["from elsewhere"]
    );
    assert!(matches!(
        tenants.delete("acme").await,
        Err(TenantError::InUseElsewhere { .. })
    ));
    append(&tenants.tenant("acme").await.unwrap(), "still there").await;

    other.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(other.wait().unwrap().success());
    tenants.delete("acme").await.unwrap();
    assert!(tenants.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn of_several_who_make_a_tenant_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let here = Tenants::builder().must_exist().open(folder.path()).unwrap();
    let there = Tenants::builder().must_exist().open(folder.path()).unwrap();
    for round in 0..5 {
        let name = format!("t{round}");
        assert!(matches!(
            here.tenant(&name).await,
            Err(TenantError::Missing { .. })
        ));
        let made =
            futures::future::join_all([&here, &there, &here, &there].map(|tenants| tenants.create(&name)))
                .await;
        let exists = |outcome: &&Result<_, _>| matches!(outcome, Err(TenantError::Exists { .. }));
        assert_eq!(made.iter().filter(exists).count(), 3, "{made:?}");
        assert_eq!(made.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        append(&there.tenant(&name).await.unwrap(), "one").await;
    }
}

#[tokio::test]
async fn who_asks_for_a_tenant_is_not_told_that_it_exists() {
    let folder = tempfile::tempdir().unwrap();
    drop(
        Tenants::open(folder.path())
            .unwrap()
            .tenant("acme")
            .await
            .unwrap(),
    );
    let tenants = Tenants::open(folder.path()).unwrap();
    // The first opens it, wants it to be new, and fails; the second has joined it.
    let (made, asked) = futures::join!(tenants.create("acme"), tenants.tenant("acme"));
    assert!(matches!(made, Err(TenantError::Exists { .. })));
    assert_eq!(asked.unwrap().name(), "acme");
}

#[tokio::test]
async fn only_tenants_are_listed_and_what_a_crash_left_of_others_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::open(folder.path()).unwrap();
    for name in ["globex", "acme"] {
        append(&tenants.tenant(name).await.unwrap(), name).await;
    }
    tenants.close().await.unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    fs::create_dir(folder.path().join("Upper")).unwrap();
    fs::write(folder.path().join("Upper/log.db"), "").unwrap();
    fs::write(folder.path().join("a-file"), "").unwrap();
    // The process died between the renaming and the removal.
    fs::rename(
        folder.path().join("globex"),
        folder.path().join(".removed-globex-1"),
    )
    .unwrap();
    let tenants = Tenants::open(folder.path()).unwrap();
    assert_eq!(tenants.list().await.unwrap(), ["acme"]);
    assert!(!folder.path().join(".removed-globex-1").exists());
    assert!(matches!(
        tenants.tenant("a-file").await,
        Err(TenantError::Foreign { found: "a file", .. })
    ));
}

#[tokio::test]
async fn a_backup_put_in_place_is_a_tenant() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::open(folder.path().join("tenants")).unwrap();
    let acme = tenants.tenant("acme").await.unwrap();
    append(&acme, "one").await;
    let copy = folder.path().join("acme.backup");
    acme.backup_to(&copy).await.unwrap();
    fs::create_dir(tenants.path().join("acme-copy")).unwrap();
    fs::rename(copy, tenants.path().join("acme-copy/log.db")).unwrap();
    assert_eq!(tenants.list().await.unwrap(), ["acme", "acme-copy"]);
    assert_eq!(texts(&tenants.tenant("acme-copy").await.unwrap()).await, ["one"]);
}

#[tokio::test]
async fn a_tenant_that_does_not_come_to_be_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::builder()
        .store(|store| store.readers(0))
        .open(folder.path())
        .unwrap();
    let error = tenants.tenant("acme").await.unwrap_err();
    assert!(matches!(error, TenantError::Open { .. }), "{error}");
    assert!(!folder.path().join("acme").exists());
    eventually("its place is free", || tenants.status().tenants.is_empty()).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_does_not_let_two_names_share_a_log() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::open(folder.path()).unwrap();
    let acme = tenants.tenant("acme").await.unwrap();
    append(&acme, "a secret").await;
    symlink(acme.path(), folder.path().join("globex")).unwrap();
    fs::create_dir(folder.path().join("initech")).unwrap();
    symlink(acme.path().join("log.db"), folder.path().join("initech/log.db")).unwrap();
    for name in ["globex", "initech"] {
        let error = tenants.tenant(name).await.unwrap_err();
        assert!(
            matches!(
                error,
                TenantError::Foreign {
                    found: "a symbolic link",
                    ..
                }
            ),
            "{error}"
        );
        assert!(tenants.delete(name).await.is_err());
    }
    assert_eq!(tenants.list().await.unwrap(), ["acme"]);
    assert_eq!(texts(&acme).await, ["a secret"]);
}
