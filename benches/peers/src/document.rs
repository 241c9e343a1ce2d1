//! The section of the documentation.

use std::fs;
use std::path::Path;

use crate::Failure;
use crate::peers::PEERS;
use crate::plans::Scale;
use crate::results::Results;
use crate::{chart, machine, table};

const BEGIN: &str = "<!-- peers -->";
const END: &str = "<!-- /peers -->";

pub(crate) struct Report<'a> {
    pub(crate) results: &'a Results,
    pub(crate) scale: &'a Scale,
    /// The folder in which it was measured.
    pub(crate) data: &'a Path,
}

impl Report<'_> {
    pub(crate) fn tables(&self) -> String {
        table::all(self.results)
    }

    /// Everything between the markers.
    pub(crate) fn section(&self) -> String {
        format!(
            "## Compared with other event stores\n\n{}\n\n{}\n{}\n{}",
            INTRODUCTION,
            self.method(),
            self.tables(),
            charts()
        )
    }

    /// Replaces what is between the markers of this file.
    pub(crate) fn write_section(&self, path: &Path) -> Result<(), Failure> {
        let text = fs::read_to_string(path)?;
        fs::write(path, replaced(&text, &self.section())?)?;
        println!("written to {}", path.display());
        Ok(())
    }

    fn method(&self) -> String {
        let scale = self.scale;
        let mut text = String::from("| measured | versions | durability |\n| --- | --- | --- |\n");
        for peer in PEERS {
            text += &format!("| {} | {} | {} |\n", peer.name, peer.versions(), peer.durability);
        }
        text += &format!("\nMachine: {}.\n\n", machine::describe(self.data));
        text += &format!(
            "- Appends and deliveries: {} rounds of {} s for each peer, in turn; the median is shown. Delay: {} events a \
             second for {} s. Replay: a log that was filled by another process for at most {} s, for at most {} s. \
             Memory: events of 1 KiB, at most {} MiB and {} s.\n",
            scale.rounds,
            scale.seconds,
            scale.delay_per_second,
            scale.delay_seconds,
            scale.fill_seconds,
            scale.replay_seconds,
            scale.memory_mib,
            scale.memory_seconds,
        );
        text += METHOD;
        text
    }
}

/// The text with another section between the markers.
fn replaced(text: &str, section: &str) -> Result<String, Failure> {
    let missing = || format!("there is no {BEGIN} with a {END} after it");
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", section.trim()))
}

fn charts() -> String {
    let images = chart::TITLES
        .iter()
        .map(|(file, title)| format!("![{title}](charts/{file})\n"));
    format!("### Charts\n\n{}", images.collect::<Vec<_>>().join("\n"))
}

const INTRODUCTION: &str = "\
The same scenarios on published crates, and on what one writes by hand: a table in SQLite and `tokio::sync::broadcast`. \
The programs are in `benches/peers`, with a page on what each scenario does and on the limits of the comparison. This \
section is written by

```sh
cargo run --release --manifest-path benches/peers/Cargo.toml              # all, and writes this section
cargo run --release --manifest-path benches/peers/Cargo.toml -- --quick   # for a look; writes nothing here
```";

const METHOD: &str = "\
- Each peer runs in a process of its own for each scenario, in a new folder, on a tokio runtime with default options.
- An acknowledged append is synced to the disk in all of them.
- An event is an order of about 150 bytes of JSON. Each peer is given the same struct and makes of it what its interface
  takes; that is part of what is measured.
- Every handled event is recognised by its number and counted. *Lost* was acknowledged and never stored or handled, until
  no handler was called for 4 s; *late* was still coming when the time was over; *doubled* was handled twice, *foreign* by a
  stream that did not want it; *failed* are appends that were refused.
- The rate of a delivery is what was handled, divided by the time from the first append to the last handled event. The
  writer is never more than 20,000 handler calls ahead.
- A ratio above 1 says that millstream is better. Peers that lost events or refused appends are not compared.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let text = "a\n<!-- peers -->\nold\n<!-- /peers -->\nz\n";
        let new = replaced(text, "new\n").unwrap();
        assert_eq!(new, "a\n<!-- peers -->\n\nnew\n\n<!-- /peers -->\nz\n");
        assert_eq!(replaced(&new, "new\n").unwrap(), new);
        assert!(replaced("a<!-- /peers --><!-- peers -->", "new").is_err());
    }
}
