//! The checker: reads the file that a killed process left with plain SQL, and compares it with the process's journals. It
//! uses nothing of the crate under test, and says in its own words what a stream selects.
//!
//! The file is opened read-only, so that the next process finds the write-ahead log as the kill left it.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use crate::digest;
use crate::keyed::{self, KeyedCheck};

pub(crate) type Checked<T = ()> = Result<T, Box<dyn Error>>;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Killed,
    Closed,
}

/// What the checker knows of a durable stream.
struct Spec {
    name: &'static str,
    /// SQL for: the stream selects this event.
    selects: &'static str,
    /// How many handled batches may come again.
    repeats_max: usize,
}

const SPECS: [Spec; 3] = [
    Spec {
        name: "coalesced",
        selects: "1",
        repeats_max: 1024,
    },
    Spec {
        name: "every",
        selects: "type.name = 'order-sent'
            OR (type.name IN ('order-placed', 'order-paid')
                AND EXISTS (SELECT 1 FROM json_each(event.tags) WHERE value = 'region:1'))",
        repeats_max: 8,
    },
    Spec {
        name: "strict",
        selects: "event.payload ->> 'vip' = 1
            AND EXISTS (SELECT 1 FROM json_each(event.tags) WHERE value = 'customer:3')",
        repeats_max: 1,
    },
];

/// How often a stream handled a batch again, and how many batches at most after one kill.
#[derive(Clone, Copy, Default)]
pub(crate) struct Repeats {
    spec: usize,
    all: usize,
    unstored_max: usize,
}

impl Repeats {
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            spec: other.spec,
            all: self.all + other.all,
            unstored_max: self.unstored_max.max(other.unstored_max),
        }
    }
}

impl fmt::Display for Repeats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spec {
            name, repeats_max, ..
        } = SPECS[self.spec];
        write!(
            formatter,
            "{name} {} ({} of {repeats_max} unstored)",
            self.all, self.unstored_max
        )
    }
}

/// What is known of one database file after the kills so far.
pub(crate) struct Checker {
    dir: PathBuf,
    /// What the events say, by sequence - 1.
    contents: Vec<u64>,
    /// The last sequence of each batch.
    batch_ends: Vec<i64>,
    batch_ids: HashSet<String>,
    streams: [StreamCheck; 3],
    keyed: KeyedCheck,
    acknowledged: usize,
    /// Everything up to here may be gone, and is.
    pruned_through: usize,
}

impl Checker {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            contents: Vec::new(),
            batch_ends: Vec::new(),
            batch_ids: HashSet::new(),
            streams: [0, 1, 2].map(StreamCheck::new),
            keyed: KeyedCheck::default(),
            acknowledged: 0,
            pruned_through: 0,
        }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    pub(crate) fn pruned_through(&self) -> usize {
        self.pruned_through
    }

    pub(crate) fn head(&self) -> usize {
        self.contents.len()
    }

    /// How many batches the stream of several keys handled again at most, after a kill.
    pub(crate) fn keyed_repeats_max(&self) -> usize {
        self.keyed.repeats_max
    }

    pub(crate) fn repeats(&self) -> [Repeats; 3] {
        [0, 1, 2].map(|spec| Repeats {
            spec,
            all: self.streams[spec].repeats,
            unstored_max: self.streams[spec].unstored_max,
        })
    }

    /// Looks at everything after one life of the process.
    pub(crate) fn check(&mut self, run: u32, end: End) -> Checked {
        let Some(connection) = self.open()? else {
            return self.check_journals_of_nothing(run);
        };
        self.read_new_events(&connection)?;
        self.check_pruned(&connection)?;
        self.check_nothing_vanished(&connection)?;
        self.check_acknowledged(run)?;
        for stream in &mut self.streams {
            let name = SPECS[stream.spec].name;
            let cursor = connection
                .query_row("SELECT position FROM cursor WHERE name = ?1", [name], |row| {
                    row.get(0)
                })
                .optional()?
                .unwrap_or(0);
            let is_batch_end = cursor == 0 || self.batch_ends.binary_search(&cursor).is_ok();
            ensure(is_batch_end, || {
                format!("{name}: the cursor {cursor} is not the end of a batch")
            })?;
            stream.check(
                cursor,
                self.pruned_through as i64,
                &journal(&self.dir, name, run)?,
                end,
            )?;
        }
        let effects = journal(&self.dir, keyed::NAME, run)?;
        self.keyed
            .check(&connection, self.pruned_through, &effects, end)?;
        if end == End::Closed || run.is_multiple_of(4) {
            check_integrity(&connection)?;
        }
        if end == End::Closed {
            let mut again = Self::new(&self.dir);
            let pruned = &self.contents[..self.pruned_through];
            again.contents = pruned.to_vec();
            again.read_new_events(&connection)?;
            ensure(again.contents == self.contents, || {
                "events changed after they were read first".to_owned()
            })?;
        }
        Ok(())
    }

    /// The file as the killed process left it; nothing, when it was killed before there were tables.
    fn open(&self) -> Checked<Option<Connection>> {
        let path = self.dir.join("log.db");
        if !path.exists() {
            return Ok(None);
        }
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'event'";
        let has_tables = connection.query_row(sql, [], |row| row.get::<_, bool>(0))?;
        Ok(has_tables.then_some(connection))
    }

    fn check_journals_of_nothing(&self, run: u32) -> Checked {
        ensure(self.contents.is_empty(), || {
            "the file has lost its tables".to_owned()
        })?;
        for name in SPECS
            .iter()
            .map(|spec| spec.name)
            .chain(["acknowledged", keyed::NAME])
        {
            let lines = journal(&self.dir, name, run)?;
            ensure(lines.is_empty(), || {
                format!("{name} has lines, but there is no log")
            })?;
        }
        Ok(())
    }

    /// Sequences are dense from 1, and batches are whole, in order and there once (L1).
    fn read_new_events(&mut self, connection: &Connection) -> Checked {
        let mut statement = connection.prepare(&format!(
            "SELECT event.sequence, event.batch_index, event.batch_size, type.name, event.tags, event.payload,
                    event.payload ->> 'id', event.payload ->> 'index', event.payload ->> 'size', {}, {}, {}
             FROM event LEFT JOIN event_type AS type ON type.id = event.type
             WHERE event.sequence > ?1 ORDER BY event.sequence",
            SPECS[0].selects, SPECS[1].selects, SPECS[2].selects
        ))?;
        let mut rows = statement.query([self.contents.len() as i64])?;
        let mut batch: Vec<Event> = Vec::new();
        while let Some(row) = rows.next()? {
            let event = Event::read(row)?;
            let expected = (self.contents.len() + 1) as i64;
            ensure(event.sequence == expected, || {
                format!("after the sequence {} comes {}", expected - 1, event.sequence)
            })?;
            event.check_place(&batch)?;
            self.contents.push(event.content);
            let is_last = event.batch_index + 1 == event.batch_size;
            batch.push(event);
            if is_last {
                self.add_batch(&std::mem::take(&mut batch))?;
            }
        }
        ensure(batch.is_empty(), || {
            format!("the log ends with {} events of a torn batch", batch.len())
        })
    }

    fn add_batch(&mut self, batch: &[Event]) -> Checked {
        let Event { id, sequence, .. } = &batch[0];
        ensure(self.batch_ids.insert(id.clone()), || {
            format!("the batch {id} is there again at {sequence}")
        })?;
        let last = batch[batch.len() - 1].sequence;
        self.batch_ends.push(last);
        for stream in &mut self.streams {
            let mut selected = batch
                .iter()
                .filter(|event| event.is_selected[stream.spec])
                .peekable();
            if let Some(first) = selected.peek().map(|event| event.sequence) {
                let events = selected.map(|event| format!("{}:{}", event.sequence, event.content));
                let line = format!("{last} {}", events.collect::<Vec<_>>().join(","));
                stream.deliveries.push(Delivery { first, last, line });
            }
        }
        Ok(())
    }

    /// The log was pruned by whole batches, not beyond a cursor, and what was pruned does not come back.
    fn check_pruned(&mut self, connection: &Connection) -> Checked {
        let pruned: i64 = connection.query_row("SELECT pruned_through FROM log", [], |row| row.get(0))?;
        let is_batch_end = pruned == 0 || self.batch_ends.binary_search(&pruned).is_ok();
        ensure(is_batch_end, || {
            format!("the log is pruned through {pruned}, which is not the end of a batch")
        })?;
        ensure(pruned as usize >= self.pruned_through, || {
            format!(
                "the log was pruned through {}, now through {pruned}",
                self.pruned_through
            )
        })?;
        let sql = "SELECT count(*) FROM cursor WHERE position < ?1";
        let passed: i64 = connection.query_row(sql, [pruned], |row| row.get(0))?;
        ensure(passed == 0, || {
            format!("the log is pruned beyond {passed} cursors")
        })?;
        self.pruned_through = pruned as usize;
        Ok(())
    }

    /// What an earlier look found, and was not pruned, is still there (L4).
    fn check_nothing_vanished(&self, connection: &Connection) -> Checked {
        let sql = "SELECT count(*), ifnull(min(sequence), 1) - 1, ifnull(max(sequence), 0) FROM event";
        let found: (i64, i64, i64) =
            connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let (pruned, head) = (self.pruned_through as i64, self.head() as i64);
        let expected = match head - pruned {
            0 => (0, 0, 0),
            left => (left, pruned, head),
        };
        ensure(found == expected, || {
            format!(
                "of {head} events, pruned through {pruned}, {} are left, after {} to {}",
                found.0, found.1, found.2
            )
        })
    }

    /// What was acknowledged is in the log, and says what was appended (L2).
    fn check_acknowledged(&mut self, run: u32) -> Checked {
        for line in journal(&self.dir, "acknowledged", run)? {
            let mut words = line.split(' ');
            let mut word = || words.next().ok_or("a word is missing");
            let (first, last, digests) = (word()?.parse::<usize>()?, word()?.parse::<usize>()?, word()?);
            let appended = digests
                .split(',')
                .map(str::parse)
                .collect::<Result<Vec<u64>, _>>()?;
            let found = self.contents.get(first - 1..last);
            ensure(found.is_some(), || {
                format!("lost: {first} to {last} were acknowledged")
            })?;
            let is_whole = found == Some(&appended) && self.batch_ends.binary_search(&(last as i64)).is_ok();
            ensure(is_whole, || {
                format!("{first} to {last} are not what was acknowledged")
            })?;
            self.acknowledged += appended.len();
        }
        Ok(())
    }
}

/// A row of the log.
struct Event {
    sequence: i64,
    batch_index: i64,
    batch_size: i64,
    content: u64,
    /// What the appender wrote into the payload: the batch, the place in it, and its size.
    id: String,
    index: i64,
    size: i64,
    is_selected: [bool; 3],
}

impl Event {
    fn read(row: &Row<'_>) -> Checked<Self> {
        let (event_type, tags, payload): (String, Option<String>, String) =
            (row.get(3)?, row.get(4)?, row.get(5)?);
        let tags: Vec<String> = tags.map_or(Ok(Vec::new()), |tags| serde_json::from_str(&tags))?;
        let is_selected = |column| row.get::<_, Option<bool>>(column).map(Option::unwrap_or_default);
        Ok(Self {
            sequence: row.get(0)?,
            batch_index: row.get(1)?,
            batch_size: row.get(2)?,
            content: digest(&event_type, tags.iter().map(String::as_str), &payload),
            id: row.get(6)?,
            index: row.get(7)?,
            size: row.get(8)?,
            is_selected: [is_selected(9)?, is_selected(10)?, is_selected(11)?],
        })
    }

    fn check_place(&self, batch: &[Self]) -> Checked {
        let place = (self.batch_index, self.batch_size);
        let is_next = self.batch_index == batch.len() as i64 && place == (self.index, self.size);
        let is_of_batch = batch
            .first()
            .is_none_or(|first| first.id == self.id && first.size == self.size);
        ensure(is_next && is_of_batch, || {
            let Self {
                sequence, id, index, ..
            } = self;
            format!("{sequence} stands at {place:?} in a batch, and was appended in {id} at {index}")
        })
    }
}

/// What a stream has to be given of one batch.
struct Delivery {
    /// The first selected sequence.
    first: i64,
    /// The last sequence of the batch, selected or not.
    last: i64,
    /// What the handler writes down.
    line: String,
}

struct StreamCheck {
    spec: usize,
    deliveries: Vec<Delivery>,
    /// The cursor as the last kill left it.
    cursor: i64,
    /// How many of the deliveries were handled, in any run.
    handled: usize,
    repeats: usize,
    unstored_max: usize,
}

impl StreamCheck {
    fn new(spec: usize) -> Self {
        Self {
            spec,
            deliveries: Vec::new(),
            cursor: 0,
            handled: 0,
            repeats: 0,
            unstored_max: 0,
        }
    }

    /// The effects of a run are exactly what follows the cursor that it found, in order and without a gap (S2, S3, D1);
    /// the cursor that it left covers nothing unhandled (D2), and not too little (D3).
    fn check(&mut self, cursor: i64, pruned: i64, effects: &[String], end: End) -> Checked {
        let Spec {
            name, repeats_max, ..
        } = SPECS[self.spec];
        let resumed = self.resumed(cursor, pruned, effects);
        for (place, effect) in (resumed..).zip(effects) {
            let expected = self.deliveries.get(place).map(|delivery| delivery.line.as_str());
            ensure(expected == Some(effect), || {
                let (resumed, expected) = (self.cursor, expected.unwrap_or("nothing"));
                format!(
                    "{name}: after the cursor {resumed}, {effect:.60} was handled in place of {expected:.60}"
                )
            })?;
        }
        let handled = resumed + effects.len();
        let settled = self
            .deliveries
            .partition_point(|delivery| delivery.first <= cursor);
        ensure(cursor >= self.cursor, || {
            format!("{name}: the cursor went back from {} to {cursor}", self.cursor)
        })?;
        ensure(settled <= handled, || {
            let missed = &self.deliveries[handled].line;
            format!("{name}: the cursor is at {cursor}, but {missed:.60} was not handled")
        })?;
        let unstored = handled - settled;
        ensure(unstored <= repeats_max, || {
            format!(
                "{name}: {unstored} batches after the cursor {cursor} were handled, {repeats_max} are allowed"
            )
        })?;
        if end == End::Closed {
            let all = self.deliveries.len();
            ensure((handled, unstored) == (all, 0), || {
                format!("{name}: closed with {handled} of {all} batches handled, {unstored} of them unstored")
            })?;
        }
        self.repeats += self.handled.saturating_sub(resumed).min(effects.len());
        self.unstored_max = self.unstored_max.max(unstored);
        self.handled = self.handled.max(handled);
        self.cursor = cursor;
        Ok(())
    }

    /// With which delivery the run began: with the first after the cursor; under a new name with the first of what was
    /// left then, which is no more than what is pruned by now.
    fn resumed(&self, cursor: i64, pruned: i64, effects: &[String]) -> usize {
        let after = |position| {
            self.deliveries
                .partition_point(|delivery| delivery.last <= position)
        };
        if self.cursor > 0 {
            return after(self.cursor);
        }
        let first = effects.first().and_then(|effect| {
            self.deliveries
                .iter()
                .position(|delivery| delivery.line == *effect)
        });
        first.unwrap_or(after(cursor)).min(after(pruned))
    }
}

fn check_integrity(connection: &Connection) -> Checked {
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure(verdict == "ok", || format!("the file is damaged: {verdict}"))?;
    check_index(connection)
}

/// The runs of the index hold, for every event up to `indexed_through`, an entry for each of its tags, and nothing else but
/// entries of pruned events, which leave with the next merge.
fn check_index(connection: &Connection) -> Checked {
    let (indexed_through, pruned_through): (i64, i64) =
        connection.query_row("SELECT indexed_through, pruned_through FROM log", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let mut entries = Vec::new();
    let mut statement = connection.prepare(
        "SELECT run.after, run.through, block.entries FROM index_run AS run JOIN index_block AS block USING (run)",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (after, through): (i64, i64) = (row.get(0)?, row.get(1)?);
        let block: Vec<u8> = row.get(2)?;
        for entry in block.chunks(16) {
            let number =
                |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().expect("an entry is two integers"));
            let (key, sequence) = (number(&entry[..8]), number(&entry[8..]));
            ensure(after < sequence && sequence <= through, || {
                format!("the run of {after} to {through} has an entry of event {sequence}")
            })?;
            if sequence > pruned_through {
                entries.push((sequence, key));
            }
        }
    }
    let mut expected = Vec::new();
    let mut statement = connection.prepare(
        "SELECT sequence, tag.value FROM event, json_each(event.tags) AS tag WHERE sequence <= ?1",
    )?;
    let mut rows = statement.query([indexed_through])?;
    while let Some(row) = rows.next()? {
        expected.push((row.get(0)?, fnv1a(row.get_ref(1)?.as_str()?)));
    }
    entries.sort_unstable();
    expected.sort_unstable();
    ensure(entries == expected, || {
        format!(
            "the index holds {} entries of events up to {indexed_through}, which carry {} tags",
            entries.len(),
            expected.len()
        )
    })
}

fn fnv1a(text: &str) -> i64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.cast_signed()
}

/// The whole lines that a run wrote. A last line without an end was being written when the kill came.
fn journal(dir: &Path, name: &str, run: u32) -> Checked<Vec<String>> {
    let path = dir.join(format!("{name}-{run}"));
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    Ok(whole.lines().map(str::to_owned).collect())
}

pub(crate) fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(problem().into()) }
}
