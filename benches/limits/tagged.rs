//! What tags cost: two of high cardinality on every event, as a log of orders and customers has them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use millstream::{Durability, EventQuery, NewEvent, Store};
use rusqlite::{Connection, params};
use tokio::runtime::Runtime;

use crate::order::{Order, TYPE};
use crate::report::{Report, Target, micros, per_second};
use crate::{Failure, Scale, plain};

const BATCH: u64 = 100;
/// How many events one customer has.
const EVENTS_PER_CUSTOMER: u64 = 10;

pub(crate) fn measure(
    runtime: &Runtime,
    folder: &Path,
    scale: Scale,
    report: &mut Report,
) -> Result<(), Failure> {
    if report.wants_any(&[
        "append_tagged",
        "append_tagged_cost",
        "append_tagged_p999",
        "query_tag",
    ]) {
        two_million(runtime, folder, scale, report)?;
    }
    if report.wants_any(&["append_at_10m", "open_10m"]) {
        ten_million(runtime, folder, scale, report)?;
    }
    Ok(())
}

/// The tags of an event in a log that is to have so many.
fn tags(number: u64, events: u64) -> [String; 2] {
    let customers = events / EVENTS_PER_CUSTOMER;
    // Neighbours in the log are no neighbours in any order of the tags.
    let customer = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % customers;
    [format!("order:{number}"), format!("customer:{customer}")]
}

/// Three logs that grow alike: ours with and without tags, and the plain one with a row per tag.
struct Side {
    times: Vec<Duration>,
}

impl Side {
    fn rate(&self) -> f64 {
        per_second(self.times.len() * BATCH as usize, self.times.iter().sum())
    }
}

fn two_million(runtime: &Runtime, folder: &Path, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let events = 2 * scale.history;
    let round = events / 20;
    let tagged = Store::open(folder.join("tagged.db"))?;
    let untagged = Store::open(folder.join("untagged.db"))?;
    let plain = PlainTagged::open(&folder.join("tagged-plain.db"))?;
    let tags = |number| Vec::from(tags(number, events));
    let (mut against_plain, mut cost) = (Vec::new(), Vec::new());
    let (mut with_tags, mut without_tags) = (Vec::new(), Vec::new());
    for first in (0..events).step_by(round as usize) {
        let ours = runtime.block_on(append(&tagged, first, round, tags))?;
        let bare = runtime.block_on(append(&untagged, first, round, |_| Vec::new()))?;
        let limit = plain.append(first, round, tags)?;
        if first >= events / 20 * 15 {
            against_plain.push((ours.rate(), limit.rate()));
            cost.push((ours.rate(), bare.rate()));
            with_tags.extend(ours.times);
            without_tags.extend(bare.times);
        }
    }
    report.add("append_tagged", "events/s", &against_plain, Target::AtLeast(4.0));
    report.add("append_tagged_cost", "events/s", &cost, Target::AtLeast(0.60));
    let p999 = (percentile(with_tags, 0.999), percentile(without_tags, 0.999));
    report.add("append_tagged_p999", "us", &[p999], Target::AtMost(3.0));
    query_tag(runtime, &tagged, &plain, events, report)?;
    runtime.block_on(tagged.close())?;
    runtime.block_on(untagged.close())?;
    Ok(())
}

/// Appends so many events in batches, and says how long each took.
async fn append(
    store: &Store,
    first: u64,
    count: u64,
    tags: impl Fn(u64) -> Vec<String>,
) -> Result<Side, Failure> {
    let mut times = Vec::new();
    for first in (first..first + count).step_by(BATCH as usize) {
        let started = Instant::now();
        let event = |number| NewEvent::new(TYPE, Order::new(number)).tags(tags(number));
        store.append((first..first + BATCH).map(event)).await?;
        times.push(started.elapsed());
    }
    Ok(Side { times })
}

/// The median time of a query that finds the ten events of a customer.
fn query_tag(
    runtime: &Runtime,
    store: &Store,
    plain: &PlainTagged,
    events: u64,
    report: &mut Report,
) -> Result<(), Failure> {
    let customers = events / EVENTS_PER_CUSTOMER;
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for number in 0..2_000_u64 {
        let tag = format!("customer:{}", (number * 7_919) % customers);
        let query = EventQuery::tags([tag.as_str()]);
        let started = Instant::now();
        let found = runtime.block_on(store.query(&query))?.events.len();
        ours.push(started.elapsed());
        let started = Instant::now();
        let expected = plain.query(&tag)?;
        limit.push(started.elapsed());
        if found != expected {
            return Err(format!("{found} events with {tag}, {expected} in the plain log").into());
        }
    }
    let medians = (percentile(ours, 0.5), percentile(limit, 0.5));
    report.add("query_tag", "us", &[medians], Target::AtMost(20.0));
    Ok(())
}

fn ten_million(runtime: &Runtime, folder: &Path, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let events = 10 * scale.history;
    let (long, short) = (folder.join("long.db"), folder.join("short.db"));
    let tags = |number| Vec::from(tags(number, events));
    println!("  filling a log with {events} tagged events ...");
    let store = Store::builder().durability(Durability::Relaxed).open(&long)?;
    runtime.block_on(append(&store, 0, events, tags))?;
    runtime.block_on(store.close())?;
    drop(Store::open(&short)?);

    let mut opened = Vec::new();
    for round in 0..4 * scale.rounds as u64 {
        let mut times = [0.0; 2];
        for (time, path) in times.iter_mut().zip([&long, &short]) {
            let started = Instant::now();
            let store = Store::open(path)?;
            runtime.block_on(store.append([NewEvent::new(TYPE, Order::new(round))]))?;
            *time = micros(started.elapsed());
            runtime.block_on(store.close())?;
        }
        opened.push((times[0], times[1]));
    }
    report.add("open_10m", "us", &opened, Target::AtMost(3.0));

    let stores = [Store::open(&long)?, Store::open(&short)?];
    let mut rounds = Vec::new();
    for round in 0..scale.rounds as u64 {
        let mut rates = [0.0; 2];
        for (rate, store) in rates.iter_mut().zip(&stores) {
            let first = events + round * scale.history / 10;
            *rate = runtime
                .block_on(append(store, first, scale.history / 10, tags))?
                .rate();
        }
        rounds.push((rates[0], rates[1]));
    }
    report.add("append_at_10m", "events/s", &rounds, Target::AtLeast(0.75));
    for store in stores {
        runtime.block_on(store.close())?;
    }
    fs::remove_file(long)?;
    Ok(())
}

fn percentile(mut times: Vec<Duration>, share: f64) -> f64 {
    times.sort_unstable();
    micros(times[(times.len() as f64 * share) as usize])
}

/// The limit: the same rows, and a row per tag, ordered by tag.
struct PlainTagged(Connection);

impl PlainTagged {
    fn open(path: &Path) -> Result<Self, Failure> {
        let connection = plain::open(path)?;
        connection.execute_batch(
            "CREATE TABLE event_tag (
                 tag TEXT NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (tag, sequence)
             ) STRICT, WITHOUT ROWID",
        )?;
        Ok(Self(connection))
    }

    fn append(&self, first: u64, count: u64, tags: impl Fn(u64) -> Vec<String>) -> Result<Side, Failure> {
        let mut insert = self.0.prepare(
            "INSERT INTO event (sequence, batch_index, batch_size, recorded_at, type, tags, payload, metadata)
             VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, NULL)",
        )?;
        let mut insert_tag = self
            .0
            .prepare("INSERT INTO event_tag (tag, sequence) VALUES (?1, ?2)")?;
        let mut begin = self.0.prepare("BEGIN IMMEDIATE")?;
        let mut commit = self.0.prepare("COMMIT")?;
        let mut times = Vec::new();
        for first in (first..first + count).step_by(BATCH as usize) {
            let started = Instant::now();
            begin.execute([])?;
            for number in first..first + BATCH {
                let (sequence, tags) = (number as i64 + 1, tags(number));
                insert.execute(params![
                    sequence,
                    (number - first) as i64,
                    BATCH as i64,
                    1_700_000_000_000_000_i64,
                    serde_json::to_string(&tags)?,
                    serde_json::to_string(&Order::new(number))?,
                ])?;
                for tag in tags {
                    insert_tag.execute(params![tag, sequence])?;
                }
            }
            commit.execute([])?;
            times.push(started.elapsed());
        }
        Ok(Side { times })
    }

    /// How many events carry a tag, each read as a whole.
    fn query(&self, tag: &str) -> Result<usize, Failure> {
        let mut statement = self.0.prepare_cached(
            "SELECT event.sequence, recorded_at, type, tags, payload, metadata
             FROM event_tag JOIN event USING (sequence) WHERE event_tag.tag = ?1 ORDER BY sequence",
        )?;
        let rows = statement.query_map([tag], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, String>(3)?,
                row.get::<_, String>(4)?,
                row.get::<_, Option<String>>(5)?,
            ))
        })?;
        Ok(rows.collect::<Result<Vec<_>, _>>()?.len())
    }
}
