//! Runs one plan in this process.

mod append;
mod deliver;
mod drain;
mod memory;
mod replay;
mod work;

use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Builder;

use crate::peer::{Cannot, Failure, Kind, Peer};
use crate::protocol::{Measured, Outcome, Plan, Task};
use crate::run::deliver::Streams;
use crate::sink::Spread;

/// The main function of a peer: `peer PLAN FOLDER`.
pub fn main<P: Peer>() -> ! {
    let outcome = outcome::<P>().or_else(|failure| match failure.downcast::<Cannot>() {
        Ok(cannot) => Ok(Outcome::Cannot(cannot.to_string())),
        Err(failure) => Err(failure),
    });
    // What is still under way is neither measured nor waited for.
    match outcome {
        Ok(outcome) => {
            println!("{}", serde_json::to_string(&outcome).expect("outcomes are JSON"));
            std::process::exit(0)
        }
        Err(failure) => {
            eprintln!("{failure}");
            std::process::exit(1)
        }
    }
}

fn outcome<P: Peer>() -> Result<Outcome, Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(plan), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("started by the driver, as: peer PLAN FOLDER".into());
    };
    let plan: Plan = serde_json::from_str(&plan)?;
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    // Neither is dropped: a peer that is behind would first deliver all that is left.
    let runtime = ManuallyDrop::new(runtime);
    runtime.block_on(async {
        let peer = Arc::new(P::open(Path::new(&folder)).await?);
        let _keeps_it = ManuallyDrop::new(Arc::clone(&peer));
        run(&peer, &plan).await.map(Outcome::Measured)
    })
}

async fn run<P: Peer>(peer: &Arc<P>, plan: &Plan) -> Result<Measured, Failure> {
    match plan.task {
        Task::Append { writers, batch } => append::measure(peer, plan, writers, batch).await,
        Task::Fill { events, batch } => append::fill(peer, plan, events, batch).await,
        Task::Live { streams, batch } => {
            let streams = Streams::new(streams, Kind::Live, Spread::Own);
            deliver::measure(peer, plan, streams, batch).await
        }
        Task::Durable { streams, batch } => {
            let streams = Streams::new(streams, Kind::Durable, Spread::All);
            deliver::measure(peer, plan, streams, batch).await
        }
        Task::Delay { per_second } => deliver::measure_delay(peer, plan, per_second).await,
        Task::Replay { events } => replay::measure(peer, plan, events).await,
        Task::Memory { bytes, batch } => memory::measure(peer, plan, bytes, batch).await,
    }
}
