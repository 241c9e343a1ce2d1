//! What it costs that appends go to many logs and not to one, and how much of that the files cost.

use std::path::Path;
use std::time::{Duration, Instant};

use millstream::Tenants;
use rusqlite::Connection;
use tokio::runtime::Runtime;

use crate::order::Order;
use crate::report::{Report, Target, per_second};
use crate::{Failure, Scale, plain};

/// How many tenants are open.
const TENANTS: usize = 100;

/// One writer asks for a tenant and appends, one event after the other: to a hundred tenants in turn, and to one. With several writers the
/// one log would share its syncs among them, which a hundred logs cannot; that would compare something else.
pub(crate) fn measure(
    runtime: &Runtime,
    folder: &Path,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    if !report.wants_any(&["tenants", "tenants_plain"]) {
        return Ok(());
    }
    let plainly = Files::open(folder)?;
    let tenants = Tenants::builder()
        .open_max(TENANTS + 1)
        .never_idle()
        .open(folder.join("tenants"))?;
    let names: Vec<String> = (0..TENANTS).map(|number| format!("tenant-{number}")).collect();
    let one = [String::from("one")];
    // Opened, and each with its first events, before the time is taken.
    runtime.block_on(append(&tenants, &names, 2 * TENANTS))?;
    runtime.block_on(append(&tenants, &one, 2 * TENANTS))?;
    plainly.append(2 * TENANTS)?;
    let (mut rounds, mut of_plain) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        let mut rates = [0.0; 2];
        for (rate, names) in rates.iter_mut().zip([&names[..], &one[..]]) {
            let started = Instant::now();
            runtime.block_on(append(&tenants, names, scale.commits))?;
            *rate = per_second(scale.commits, started.elapsed());
        }
        rounds.push((rates[0], rates[1]));
        of_plain.push((
            rates[0],
            per_second(scale.commits, plainly.append(scale.commits)?),
        ));
    }
    report.add("tenants", "events/s", &rounds, Target::AtLeast(0.80));
    report.add("tenants_plain", "events/s", &of_plain, Target::AtLeast(0.50));
    runtime.block_on(tenants.close())?;
    Ok(())
}

async fn append(tenants: &Tenants, names: &[String], appends: usize) -> Result<(), Failure> {
    for (number, name) in names.iter().cycle().take(appends).enumerate() {
        let tenant = tenants.tenant(name).await?;
        tenant.append([Order::event(number as u64)]).await?;
    }
    Ok(())
}

/// As many files as there are tenants, through plain rusqlite.
struct Files(Vec<Connection>);

impl Files {
    fn open(folder: &Path) -> Result<Self, Failure> {
        let file = |number| plain::open(&folder.join(format!("tenant-{number}.db")));
        Ok(Self((0..TENANTS).map(file).collect::<Result<_, _>>()?))
    }

    /// Commits to one after the other.
    fn append(&self, commits: usize) -> Result<Duration, Failure> {
        let mut took = Duration::ZERO;
        for file in self.0.iter().cycle().take(commits) {
            took += plain::append(file, 1, 1, 1)?.iter().sum::<Duration>();
        }
        Ok(took)
    }
}
