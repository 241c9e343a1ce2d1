//! Measures millstream and the physical limit in turn, in one run: the same rows through plain rusqlite.
//!
//! `cargo bench --bench limits` prints a table and writes `target/limits.json`; `-- --quick` takes under a minute,
//! `-- --only NAME` runs the scenarios whose name contains NAME.

mod append;
mod fan_out;
mod fill;
mod idle;
mod keyed;
mod latency;
mod memory;
mod order;
mod plain;
mod project;
mod rebuild;
mod replay;
mod report;
mod server;
#[cfg(feature = "metrics")]
mod status;
mod tagged;
mod tenants;
mod two_processes;

use std::path::Path;

use clap::Parser;

use crate::report::Report;

/// What went wrong, for a harness that has nobody to handle it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures millstream against its limits.
#[derive(Parser)]
struct Arguments {
    /// Fewer and shorter rounds, for tables and not for verdicts.
    #[arg(long)]
    quick: bool,
    /// Run only the scenarios whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Measure in this process, which the harness starts for it.
    #[arg(long, hide = true, num_args = 3)]
    child: Option<Vec<String>>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// Rounds of each side, in turn.
    pub(crate) rounds: usize,
    /// Commits of one round.
    pub(crate) commits: usize,
    /// Events of the long log.
    pub(crate) history: u64,
}

const FULL: Scale = Scale {
    rounds: 5,
    commits: 2_000,
    history: 1_000_000,
};

const QUICK: Scale = Scale {
    rounds: 3,
    commits: 400,
    history: 100_000,
};

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    if let Some(child) = &arguments.child {
        return memory::child(&child[0], Path::new(&child[1]), &child[2]);
    }
    let scale = if arguments.quick { QUICK } else { FULL };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let folder = tempfile::tempdir_in(report::target_folder())?;
    let mut report = Report::new(&arguments.only);
    append::measure(&runtime, folder.path(), scale, &mut report)?;
    latency::measure(&runtime, folder.path(), scale, &mut report)?;
    latency::measure_slowest(&runtime, folder.path(), scale, &mut report)?;
    replay::measure(&runtime, folder.path(), scale, &mut report)?;
    replay::measure_shared(&runtime, folder.path(), scale, &mut report)?;
    tagged::measure(&runtime, folder.path(), scale, &mut report)?;
    memory::measure(folder.path(), scale, &mut report)?;
    rebuild::measure(&runtime, folder.path(), scale, &mut report)?;
    fan_out::measure(&runtime, folder.path(), scale, &mut report)?;
    idle::measure(folder.path(), scale, &mut report)?;
    #[cfg(feature = "metrics")]
    status::measure(folder.path(), scale, &mut report)?;
    if !cfg!(feature = "metrics") && report.wants("status_cost") {
        println!("  left out: it needs --features metrics");
    }
    keyed::measure(&runtime, folder.path(), scale, &mut report)?;
    tenants::measure(&runtime, folder.path(), scale, &mut report)?;
    project::measure(&runtime, folder.path(), scale, &mut report)?;
    two_processes::measure(folder.path(), scale, &mut report)?;
    server::measure(&runtime, scale, &mut report)?;
    report.finish()
}
