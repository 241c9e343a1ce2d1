//! The checker: reads with plain SQL what a killed process left, in a file or on a server, and compares it with the process's journals.
//! It uses nothing of the crate under test, and says in its own words what a stream selects.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::keyed::{self, KeyedCheck};
use crate::source::{Event, Extent, Place, Source};

pub(crate) type Checked<T = ()> = Result<T, Box<dyn Error>>;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Killed,
    Closed,
}

/// What the checker knows of a durable stream.
#[derive(Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    /// SQL for: the stream selects this event. In the words of SQLite, and of PostgreSQL.
    pub(crate) in_a_file: &'static str,
    pub(crate) on_a_server: &'static str,
    /// How many handled batches may come again.
    repeats_max: usize,
}

pub(crate) const SPECS: [Spec; 3] = [
    Spec {
        name: "coalesced",
        in_a_file: "1",
        on_a_server: "true",
        repeats_max: 1024,
    },
    Spec {
        name: "every",
        in_a_file: "type.name = 'order-sent'
            OR (type.name IN ('order-placed', 'order-paid')
                AND EXISTS (SELECT 1 FROM json_each(event.tags) WHERE value = 'region:1'))",
        on_a_server: "type = 'order-sent' OR (type IN ('order-placed', 'order-paid') AND 'region:1' = ANY (tags))",
        repeats_max: 8,
    },
    Spec {
        name: "strict",
        in_a_file: "event.payload ->> 'vip' = 1
            AND EXISTS (SELECT 1 FROM json_each(event.tags) WHERE value = 'customer:3')",
        on_a_server: "payload::jsonb @> '{\"vip\": true}' AND 'customer:3' = ANY (tags)",
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

/// What is known of one log after the kills so far.
pub(crate) struct Checker {
    /// Where the journals are.
    dir: PathBuf,
    place: Place,
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
    pub(crate) fn new(dir: &Path, place: &Place) -> Self {
        Self {
            dir: dir.to_owned(),
            place: place.clone(),
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
        let Some(mut source) = Source::open(&self.place)? else {
            return self.check_journals_of_nothing(run);
        };
        let new = source.events_after(self.contents.len() as i64)?;
        self.keyed.add_events(&new)?;
        self.add_events(new)?;
        let head = source.head()?;
        ensure(head == self.head() as i64, || {
            format!("the log says that it ends at {head}, and ends at {}", self.head())
        })?;
        self.check_pruned(&mut source)?;
        self.check_nothing_vanished(&mut source)?;
        self.check_acknowledged(run)?;
        for stream in &mut self.streams {
            let name = SPECS[stream.spec].name;
            let cursor = source.cursor(name)?;
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
        let cursor = source.cursor(keyed::NAME)?;
        self.keyed.check(cursor, self.pruned_through, &effects, end)?;
        if end == End::Closed || run.is_multiple_of(4) {
            source.check_integrity()?;
        }
        if end == End::Closed {
            let mut again = Self::new(&self.dir, &self.place);
            let pruned = &self.contents[..self.pruned_through];
            again.contents = pruned.to_vec();
            again.add_events(source.events_after(self.pruned_through as i64)?)?;
            ensure(again.contents == self.contents, || {
                "events changed after they were read first".to_owned()
            })?;
        }
        Ok(())
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
    fn add_events(&mut self, events: Vec<Event>) -> Checked {
        let mut batch: Vec<Event> = Vec::new();
        for event in events {
            let expected = (self.contents.len() + 1) as i64;
            ensure(event.sequence == expected, || {
                format!("after the sequence {} comes {}", expected - 1, event.sequence)
            })?;
            check_place(&event, &batch)?;
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
    fn check_pruned(&mut self, source: &mut Source) -> Checked {
        let pruned = source.pruned_through()?;
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
        let passed = source.cursors_before(pruned)?;
        ensure(passed == 0, || {
            format!("the log is pruned beyond {passed} cursors")
        })?;
        self.pruned_through = pruned as usize;
        Ok(())
    }

    /// What an earlier look found, and was not pruned, is still there (L4).
    fn check_nothing_vanished(&self, source: &mut Source) -> Checked {
        let found = source.extent()?;
        let (after, through) = (self.pruned_through as i64, self.head() as i64);
        let events = through - after;
        let expected = match events {
            0 => (0, 0, 0),
            _ => (events, after, through),
        };
        let (events, after, through) = expected;
        let expected = Extent {
            events,
            after,
            through,
        };
        ensure(found == expected, || {
            format!("{found:?} are left, and {expected:?} were there and were not pruned")
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

/// An event stands where its appender put it.
fn check_place(event: &Event, batch: &[Event]) -> Checked {
    let place = (event.batch_index, event.batch_size);
    let is_next = event.batch_index == batch.len() as i64 && place == (event.index, event.size);
    let is_of_batch = batch
        .first()
        .is_none_or(|first| first.id == event.id && first.size == event.size);
    ensure(is_next && is_of_batch, || {
        let Event {
            sequence, id, index, ..
        } = event;
        format!("{sequence} stands at {place:?} in a batch, and was appended in {id} at {index}")
    })
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
