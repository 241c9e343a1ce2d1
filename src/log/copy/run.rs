//! How a log is copied: events page by page, then what stands beside them, then a comparison, and only then it is a log.

use std::cmp;

use crate::error::{CopyError, ReadError};
use crate::log::copy::checksum::Checksum;
use crate::log::copy::standing::Standing;
use crate::log::copy::{Copied, CopyPhase, CopyProgress, CopySource, CopyTarget};
use crate::log::once::NamedKey;
use crate::log::page::{More, Page, PageBounds, Range};
use crate::log::{LogReader, Pace, Sync};

/// What one transaction of the target takes: a batch that is larger is taken alone.
const PAGE_BOUNDS: PageBounds = PageBounds {
    batches_max: 1024,
    bytes_max: 4 << 20,
};
/// How often something is read again from the source because pruning has overtaken it.
const ATTEMPTS_MAX: u32 = 16;

/// Both sides of a copy: the source, and the halves of the target.
pub(crate) struct Sides<'a> {
    pub(crate) source: &'a dyn LogReader,
    pub(crate) target: &'a mut dyn CopyTarget,
    pub(crate) target_reader: &'a dyn LogReader,
}

/// Whoever is told how far a copy is, and says whether it is still wanted.
pub(crate) type Tell<'a> = dyn FnMut(CopyProgress) -> More + 'a;

/// Copies what is missing, compares both sides, and makes the target a log.
pub(crate) fn run(sides: Sides<'_>, tell: &mut Tell<'_>) -> Result<Copied, CopyError> {
    let Sides {
        source,
        target,
        target_reader,
    } = sides;
    let tail = target.tail()?;
    let mut copy = Copy {
        source,
        target,
        tell,
        position: tail.head,
        target_head: tail.head,
        pruned_through: tail.pruned_through,
    };
    let resumed_after = (tail.head > 0).then_some(tail.head);
    let standing = copy.copy_all()?;
    copy.in_transaction(Sync::Ordered, |target| Ok(target.put_standing(&standing)?))?;
    copy.target_head = standing.head;
    let checksum = copy.verify(target_reader, &standing)?;
    copy.in_transaction(Sync::Durable, |target| Ok(target.end_copy()?))?;
    Ok(Copied {
        log_id: source.log_id().to_owned(),
        head: standing.head,
        pruned_through: standing.pruned_through,
        events: checksum.events,
        batches: checksum.batches,
        idempotency_keys: checksum.keys,
        streams: standing.streams.len() as u64,
        dead_letters: standing.dead_letters(),
        checksum: checksum.number(),
        resumed_after,
    })
}

struct Copy<'a, 't> {
    source: &'a dyn LogReader,
    target: &'a mut dyn CopyTarget,
    tell: &'a mut Tell<'t>,
    /// Everything up to here was looked at in the source.
    position: u64,
    /// Where the target ends, as far as this copy knows. Not the position: the last of what was looked at may be a hole.
    target_head: u64,
    /// How far the target is pruned.
    pruned_through: u64,
}

/// A stretch of the source, with whatever there is of it at one moment.
struct Stretch {
    page: Page,
    keys: Vec<NamedKey>,
    /// How far the source was pruned when all of it had been read.
    pruned_through: u64,
}

impl Copy<'_, '_> {
    /// Copies events until the target has all of them that the source had at one moment, and gives what stood beside them then.
    fn copy_all(&mut self) -> Result<Standing, CopyError> {
        // The long way is gone first, so that what is read at the end is of the end.
        let head = self.source.head()?;
        self.copy_through(head)?;
        for _ in 0..ATTEMPTS_MAX {
            let standing = source(self.source)?.standing()?.at_rest();
            self.copy_through(standing.head)?;
            // Otherwise events are missing that were there at that moment.
            if self.pruned_through <= standing.pruned_through {
                return Ok(standing);
            }
        }
        let attempts = ATTEMPTS_MAX;
        Err(CopyError::PrunedMeanwhile { attempts })
    }

    fn copy_through(&mut self, through: u64) -> Result<(), CopyError> {
        while self.position < through {
            let after = self.position;
            match read(self.source, Range { after, through }) {
                Ok(stretch) => self.take(&stretch)?,
                Err(CopyError::Read(ReadError::Pruned { pruned_through, .. })) => {
                    self.take(&Stretch {
                        page: Page {
                            batches: Vec::new(),
                            through: pruned_through,
                        },
                        keys: Vec::new(),
                        pruned_through,
                    })?;
                }
                Err(error) => return Err(error),
            }
            self.keep_up()?;
            let (phase, done) = (CopyPhase::Copying, self.position);
            self.tell(phase, done, through)?;
        }
        Ok(())
    }

    /// Writes a stretch in one transaction. What the source has pruned meanwhile leaves first, because its keys may be in use again.
    fn take(&mut self, stretch: &Stretch) -> Result<(), CopyError> {
        let pruned_through = stretch.pruned_through;
        let is_left = |first_sequence: u64| first_sequence > pruned_through;
        let prunes = pruned_through > self.pruned_through;
        let head = self.in_transaction(Sync::Ordered, |target| {
            if prunes {
                target.remove_through(pruned_through)?;
            }
            for batch in stretch
                .page
                .batches
                .iter()
                .filter(|batch| is_left(batch.first_sequence))
            {
                target.append(batch)?;
            }
            for key in stretch
                .keys
                .iter()
                .filter(|key| is_left(key.stored.first_sequence))
            {
                target.put_idempotency_key(&key.key, &key.stored)?;
            }
            Ok(stretch.page.batches.last().map_or(0, |batch| batch.last_sequence))
        })?;
        self.target_head = self.target_head.max(head).max(pruned_through);
        self.pruned_through = self.pruned_through.max(pruned_through);
        self.position = self.position.max(stretch.page.through).max(pruned_through);
        Ok(())
    }

    /// Does something in a transaction of the target, if that is still this copy, and is where it was left.
    fn in_transaction<T>(
        &mut self,
        sync: Sync,
        work: impl FnOnce(&mut dyn CopyTarget) -> Result<T, CopyError>,
    ) -> Result<T, CopyError> {
        let (expected, source_id) = (self.target_head, self.source.log_id());
        let target = &mut *self.target;
        let found = target.begin(sync)?.head;
        let outcome = match target.copy_of()? {
            Some(log_id) if log_id == source_id && found == expected => work(target),
            _ => Err(CopyError::TargetInUse { expected, found }),
        };
        let outcome = outcome.and_then(|done| Ok(target.commit().map(|()| done)?));
        if outcome.is_err() {
            target.rollback();
        }
        outcome
    }

    /// Lets the target keep itself in order, as the committer of a store does.
    fn keep_up(&mut self) -> Result<(), CopyError> {
        while self.target.has_chore(Pace::Busy) {
            self.in_transaction(Sync::Ordered, |target| Ok(target.do_chore()?))?;
        }
        self.target.tidy();
        Ok(())
    }

    /// Reads both sides, and compares them. A source that is pruned meanwhile is compared from there on.
    fn verify(&mut self, target: &dyn LogReader, standing: &Standing) -> Result<Checksum, CopyError> {
        if let Some(difference) = source(target)?.standing()?.difference(standing) {
            return Err(CopyError::Differs { difference });
        }
        let mut after = standing.pruned_through;
        for _ in 0..ATTEMPTS_MAX {
            let through = standing.head;
            let half = through - after.min(through);
            let range = Range { after, through };
            let of_source = match self.sum(self.source, range, [0, 2 * half]) {
                Err(CopyError::Read(ReadError::Pruned { pruned_through, .. })) => {
                    after = pruned_through;
                    continue;
                }
                of_source => of_source?,
            };
            let of_target = self.sum(target, range, [half, 2 * half])?;
            if let Some(difference) = of_target.difference(&of_source) {
                return Err(CopyError::Differs { difference });
            }
            if after == standing.pruned_through {
                return Ok(of_target);
            }
            // What was pruned from the source while it was compared is whole in the target all the same, and counted.
            let whole = Range {
                after: standing.pruned_through,
                through,
            };
            return self.sum(target, whole, [half, 2 * half]);
        }
        let attempts = ATTEMPTS_MAX;
        Err(CopyError::PrunedMeanwhile { attempts })
    }

    /// The checksum over a stretch of a log, told as progress from one number on, out of another.
    fn sum(&mut self, log: &dyn LogReader, range: Range, told: [u64; 2]) -> Result<Checksum, CopyError> {
        let mut sum = Checksum::new();
        let Range { mut after, through } = range;
        while after < through {
            let stretch = read(log, Range { after, through })?;
            if stretch.pruned_through > after {
                let pruned_through = stretch.pruned_through;
                return Err(ReadError::Pruned {
                    after,
                    pruned_through,
                }
                .into());
            }
            stretch.page.batches.iter().for_each(|batch| sum.batch(batch));
            stretch.keys.iter().for_each(|key| sum.key(key));
            after = stretch.page.through;
            self.tell(CopyPhase::Verifying, told[0] + after - range.after, told[1])?;
        }
        Ok(sum)
    }

    fn tell(&mut self, phase: CopyPhase, done: u64, total: u64) -> Result<(), CopyError> {
        let progress = CopyProgress {
            phase,
            done_sequences: cmp::min(done, total),
            total_sequences: total,
        };
        match (self.tell)(progress) {
            More::Yes => Ok(()),
            More::No => Err(CopyError::Closed),
        }
    }
}

/// The log as a copy is made from it.
fn source(log: &dyn LogReader) -> Result<&dyn CopySource, CopyError> {
    log.copy_source().ok_or(CopyError::NotCopyable)
}

/// Reads a page with its keys. What was pruned in between is asked last: of what lies behind that, nothing is missing.
fn read(log: &dyn LogReader, range: Range) -> Result<Stretch, CopyError> {
    let log_read = source(log)?;
    let page = log_read.stored_page(range, PAGE_BOUNDS)?;
    let through = page.through;
    let after = range.after;
    let keys = log_read.idempotency_keys(Range { after, through })?;
    let pruned_through = log.extent()?.pruned_through;
    Ok(Stretch {
        page,
        keys,
        pruned_through,
    })
}
