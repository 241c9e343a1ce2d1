//! The machine it was measured on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

/// In one sentence.
pub(crate) fn describe(data: &Path) -> String {
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| String::from("an unknown processor"));
    let cores = available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let disk = disk(data).unwrap_or_else(|| String::from("an unknown file system"));
    format!(
        "{cpu}, {cores} cores as the system counts them, {:.0} GiB of memory, Linux {}, {disk}, {}",
        kib / f64::from(1 << 20),
        kernel.trim(),
        compiler(),
    )
}

/// The value of the first line with this name.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The file system that a folder is on, and its device.
fn disk(folder: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, point, kind) = (words.next()?, words.next()?, words.next()?);
        folder.starts_with(point).then_some((point.len(), device, kind))
    });
    let (_, device, kind) = mounts.max()?;
    Some(format!("{kind} on {device}"))
}

fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let version = output
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok());
    version.unwrap_or_default().trim().to_owned()
}
