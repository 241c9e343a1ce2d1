//! A thousand tenants cost as many threads and open files as are open at once. In a process of its own, because it counts what the
//! process has.

#![cfg(all(feature = "sqlite", target_os = "linux"))]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt, stream};
use millstream::{
    Durability, DurableStream, EventQuery, HandleStream, NewEvent, OpenedTenant, TenantError, Tenants,
};

const TENANTS: usize = 1_000;
const OPEN_MAX: usize = 40;
/// The threads on which tenants commit.
const COMMITTER_THREADS: usize = 16;
/// What a tenant may have open: the log and its write-ahead log for the writer and for each of two readers, the shared memory, the lock
/// of the tenant, and the file by which the owner of its streams is seen to live.
const FILES_A_TENANT: usize = 9;
/// How many of these there are at least while a tenant is open.
const COMMITTERS_BEFORE: usize = 1;
/// The threads on which the runtime runs what blocks.
const BLOCKING_THREADS: usize = 16;

fn threads() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    line.unwrap().trim().parse().unwrap()
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// How many files below a folder are open, by the entry of the folder that they are in: the tenant.
fn open_files_below(folder: &Path) -> HashMap<PathBuf, usize> {
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        // One that is closed meanwhile has no path any more.
        let Ok(path) = fs::read_link(entry.unwrap().path()) else {
            continue;
        };
        if let Ok(below) = path.strip_prefix(folder) {
            let tenant: PathBuf = below.iter().take(1).collect();
            *found.entry(tenant).or_default() += 1;
        }
    }
    found
}

/// A tenant that appends, runs a durable stream, and is asked by many at once comes to have as many files open as is said, and no more.
async fn open_files_of_one(tenants: &Tenants, folder: &Path) {
    let tenant = tenants.tenant("one").await.unwrap();
    for number in 0..20 {
        tenant.append([NewEvent::new("noted", number)]).await.unwrap();
    }
    tenant.settled().await.unwrap();
    let everything = EventQuery::all();
    // The second reader is opened when two read at the same moment.
    for _ in 0..5_000 {
        let asked = join_all((0..8).map(|_| tenant.query(&everything))).await;
        assert!(
            asked
                .iter()
                .all(|asked| asked.as_ref().is_ok_and(|asked| asked.head == 20))
        );
        let found = open_files_below(folder)[Path::new("one")];
        assert!(found <= FILES_A_TENANT, "{found} files");
        if found == FILES_A_TENANT {
            return;
        }
    }
    panic!("it never has {FILES_A_TENANT} files open; correct the number, here and where it is promised");
}

/// Appends to all tenants, many at a time, and says how many threads and open files there were at most.
async fn use_all(tenants: &Tenants) -> (usize, usize) {
    let uses = stream::iter(0..TENANTS).map(|number| async move {
        let tenant = tenants.tenant(&format!("tenant-{number}")).await?;
        tenant.append([NewEvent::new("noted", number)]).await.unwrap();
        tenant.settled().await.unwrap();
        Ok::<_, TenantError>((threads(), open_files()))
    });
    let most =
        |most: (usize, usize), now: (usize, usize)| async move { Ok((most.0.max(now.0), most.1.max(now.1))) };
    uses.buffer_unordered(50).try_fold((0, 0), most).await.unwrap()
}

#[test]
fn a_thousand_tenants_have_no_more_threads_and_files_than_those_that_are_open() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let handle = || HandleStream::new(|_| async { Ok::<_, std::io::Error>(()) });
    let tenants = Tenants::builder()
        .open_max(OPEN_MAX)
        .wait_max(Duration::from_secs(60))
        .store(|store| store.durability(Durability::Relaxed))
        .on_open(move |tenant: OpenedTenant| async move {
            tenant
                .stream_all_durable(&DurableStream::new("ledger"), handle())
                .await
        })
        .open(folder.path())
        .unwrap();
    runtime.block_on(open_files_of_one(&tenants, folder.path()));
    runtime.block_on(tenants.delete("one")).unwrap();
    let (threads_before, files_before) = (threads(), open_files());
    for round in 1..=2 {
        let (threads, files) = runtime.block_on(use_all(&tenants));
        // Those of the runtime's threads that block are begun when they are needed.
        assert!(
            threads <= threads_before + BLOCKING_THREADS + COMMITTER_THREADS,
            "{threads} threads"
        );
        // Each thread that blocks may hold the lock of all, or read a folder.
        let files_max = files_before + OPEN_MAX * FILES_A_TENANT + 2 * BLOCKING_THREADS;
        assert!(files <= files_max, "{files} files");
        assert!(tenants.status().tenants.len() <= OPEN_MAX);
        let mut names = runtime.block_on(tenants.list()).unwrap();
        assert_eq!(names.len(), TENANTS);
        names.truncate(3);
        for name in names {
            let head = runtime.block_on(tenants.tenant(&name)).unwrap().head();
            assert_eq!(head, round);
        }
    }
    runtime.block_on(tenants.close()).unwrap();
    // They end when their last tenant is closed, which is heard of a little earlier.
    let closed = Instant::now();
    while threads() > threads_before + BLOCKING_THREADS - COMMITTERS_BEFORE {
        assert!(
            closed.elapsed() < Duration::from_secs(5),
            "a committer's thread is left"
        );
        thread::yield_now();
    }
    assert!(open_files() <= files_before + 2, "no file is left open");
}
