//! Measures millstream and other event stores in turn, one process for each and for every scenario.
//!
//! A full run writes the section of `docs/benchmarks.md` between its markers, and the charts beside it; a quick one
//! writes the same to `target/report`. Both print the tables.

mod chart;
mod child;
mod document;
mod machine;
mod peers;
mod plans;
mod results;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use scenario::protocol::Task;

use crate::child::Children;
use crate::document::Report;
use crate::peers::{PEERS, PeerInfo};
use crate::plans::{Scale, Scenario};
use crate::results::{Outcome, Results};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures millstream and its peers.
#[derive(Parser)]
struct Arguments {
    /// Shorter and fewer rounds: for a look, not for a verdict. Leaves the documentation alone.
    #[arg(long)]
    quick: bool,
    /// Write the documentation from a quick run too; it says there how short the rounds were.
    #[arg(long)]
    write: bool,
    /// Only peers whose name contains this.
    #[arg(long, default_value = "", value_name = "PEER")]
    only: String,
    /// Only the scenario of this name, or those whose name contains it.
    #[arg(long, default_value = "", value_name = "NAME")]
    scenario: String,
    /// Where the files of the stores are made, and removed again; by default in the build folder, because a folder for
    /// temporary files is often in memory, where a sync costs nothing.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Name peers and scenarios, and end.
    #[arg(long)]
    list: bool,
    /// Build all, and end.
    #[arg(long)]
    build: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let scale = if arguments.quick {
        Scale::quick()
    } else {
        Scale::full()
    };
    let scenarios: Vec<_> = scale.scenarios();
    let wanted = &arguments.scenario;
    let is_name = scenarios.iter().any(|it| it.name == *wanted);
    let chosen: Vec<_> = scenarios
        .iter()
        .filter(|it| it.name == *wanted || (!is_name && it.name.contains(wanted)))
        .collect();
    let peers: Vec<_> = PEERS
        .iter()
        .filter(|peer| peer.name.contains(&arguments.only))
        .collect();
    if arguments.list {
        list(&chosen, &peers);
        return Ok(());
    }
    let children = Children::build(&peers, arguments.dir.as_deref())?;
    if arguments.build {
        return Ok(());
    }
    let results = measure(&children, &peers, &chosen);
    let is_whole = chosen.len() == scenarios.len() && peers.len() == PEERS.len();
    let report = Report {
        results: &results,
        scale: &scale,
        data: children.data(),
    };
    println!("\n{}", report.tables());
    let charts = if is_whole && (arguments.write || !arguments.quick) {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../docs")
            .canonicalize()?;
        report.write_section(&docs.join("benchmarks.md"))?;
        docs.join("charts")
    } else {
        let folder = child::target().join("report");
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join("results.json"),
            serde_json::to_string_pretty(&results)?,
        )?;
        fs::write(folder.join("peers.md"), report.section())?;
        folder.join("charts")
    };
    chart::write_all(&results, &charts)?;
    println!("charts are in {}", charts.display());
    Ok(())
}

fn list(scenarios: &[&Scenario], peers: &[&PeerInfo]) {
    for scenario in scenarios {
        println!("{:<16} {}", scenario.name, scenario.title);
    }
    println!();
    for peer in peers {
        println!("{:<16} {}; {}", peer.name, peer.versions(), peer.durability);
    }
}

/// Every scenario in rounds, every peer in turn within a round.
fn measure(children: &Children, peers: &[&'static PeerInfo], scenarios: &[&Scenario]) -> Results {
    let begin = Instant::now();
    let runs: usize = scenarios
        .iter()
        .map(|scenario| scenario.rounds * peers.len())
        .sum();
    let mut results = Results::default();
    let mut done = 0;
    for scenario in scenarios {
        for _ in 0..scenario.rounds {
            for peer in peers {
                done += 1;
                let elapsed = begin.elapsed().as_secs();
                print!(
                    "[{done:>3}/{runs}, {elapsed:>3} s] {:<12} {:<16} ",
                    scenario.name, peer.name
                );
                let _ = std::io::Write::flush(&mut std::io::stdout());
                let outcome = run_one(children, peer, scenario);
                println!("{}", table::brief(scenario, &outcome));
                results.add(scenario.name, peer.name, outcome);
            }
        }
    }
    println!("\nmeasured for {} s", begin.elapsed().as_secs());
    results
}

fn run_one(children: &Children, peer: &PeerInfo, scenario: &Scenario) -> Outcome {
    let Some(fill) = &scenario.fill else {
        return children.run(peer, std::slice::from_ref(&scenario.plan));
    };
    // The replay is told how much there is by the process that filled the log.
    let mut replay = scenario.plan.clone();
    replay.task = Task::Replay { events: 0 };
    children.run(peer, &[fill.clone(), replay])
}
