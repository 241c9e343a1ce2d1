//! What the kernel says of this process.

/// Resident memory now, in MiB.
pub(crate) fn resident() -> f64 {
    status("VmRSS:")
}

/// The most resident memory there ever was, in MiB.
pub(crate) fn peak() -> f64 {
    status("VmHWM:")
}

fn status(name: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}
