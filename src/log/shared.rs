//! How streams on their way through the log read its pages together: each page is read and decoded once.
//!
//! `shelf` decides, this does it: runs on threads of their own, and wake-ups of those who wait for a page. A run is finished
//! whether it succeeds, fails, panics or never begins, and those who wait for it look again then; so nobody depends on
//! another one's read.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::{ReadError, StorageError};
use crate::event::query::EventQuery;
use crate::fault::{FaultPoint, Faults};
use crate::log::LogReader;
use crate::log::handle::{LogHandle, outcome};
use crate::log::page::{More, Page, PageBounds, Range};
use crate::log::shelf::{Found, Run, Shelf};
use crate::sync::Mutex;

/// The shelf, and those who wait for what is being put there.
pub(crate) struct SharedPages {
    state: Mutex<State>,
    faults: Faults,
}

struct State {
    shelf: Shelf,
    /// All who wait for any page: they look again whenever something changes.
    waiting: Vec<Waker>,
}

/// What one who looks has to do.
pub(crate) enum Turn {
    Take(Arc<Page>),
    Read(RunTicket),
}

/// The duty to read a stretch. Dropped, it is done, or will not be done.
pub(crate) struct RunTicket {
    pages: Arc<SharedPages>,
    run: Run,
}

impl SharedPages {
    pub(crate) fn new(bytes_max: usize, faults: Faults) -> Self {
        Self {
            faults,
            state: Mutex::new(State {
                shelf: Shelf::new(bytes_max),
                waiting: Vec::new(),
            }),
        }
    }

    /// The page that follows `after`, if it is there.
    pub(crate) fn page(&self, after: u64) -> Option<Arc<Page>> {
        self.state.lock().shelf.page(after)
    }

    /// The page that follows `range.after`, or the duty to read it; meanwhile, who waits for another one's run is woken.
    pub(crate) fn poll_turn(self: &Arc<Self>, range: Range, context: &Context<'_>) -> Poll<Turn> {
        let mut state = self.state.lock();
        match state.shelf.find(range) {
            Found::Page(page) => Poll::Ready(Turn::Take(page)),
            Found::Missing(run) => Poll::Ready(Turn::Read(self.ticket(run))),
            Found::Underway => {
                let waker = context.waker();
                if !state.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
                    state.waiting.push(waker.clone());
                }
                Poll::Pending
            }
        }
    }

    /// The duty to read ahead of one who is at `range.after`, if there is any.
    pub(crate) fn ahead(self: &Arc<Self>, range: Range) -> Option<RunTicket> {
        let run = self.state.lock().shelf.ahead(range)?;
        Some(self.ticket(run))
    }

    fn ticket(self: &Arc<Self>, run: Run) -> RunTicket {
        RunTicket {
            pages: Arc::clone(self),
            run,
        }
    }

    /// Changes the shelf, and lets those look again who wait.
    fn change<T>(&self, change: impl FnOnce(&mut Shelf) -> T) -> T {
        let mut state = self.state.lock();
        let changed = change(&mut state.shelf);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        changed
    }
}

impl RunTicket {
    /// Puts the next page of the stretch on the shelf.
    pub(crate) fn shelve(&self, page: &Arc<Page>) -> More {
        let mut evicted = Vec::new();
        self.pages
            .change(|shelf| shelf.shelve(self.run.id, page, &mut evicted))
    }

    /// Reads the stretch. The first page, or why there is none, also goes straight to the one who asked for it, so that
    /// they get on however soon it is evicted again.
    fn read(
        &self,
        reader: &dyn LogReader,
        bounds: PageBounds,
        mut first: Option<oneshot::Sender<Result<Arc<Page>, ReadError>>>,
    ) {
        let outcome = self.stretch(reader).and_then(|range| {
            reader.pages(&EventQuery::all(), range, bounds, &mut |page| {
                let page = Arc::new(page);
                let more = self.shelve(&page);
                if let Some(first) = first.take() {
                    // Whoever asked may have gone.
                    let _ = first.send(Ok(page));
                }
                more
            })
        });
        if let (Err(error), Some(first)) = (outcome, first) {
            let _ = first.send(Err(error));
        }
    }

    /// What is to be read: the stretch, up to the end of the batch in which it ends.
    fn stretch(&self, reader: &dyn LogReader) -> Result<Range, ReadError> {
        if self.pages.faults.hit(FaultPoint::BeforeRead) {
            let problem = std::io::Error::other("a fault was injected");
            return Err(StorageError::new("read a page", problem).busy().into());
        }
        let Range { after, through } = self.run.left;
        let through = reader.batch_end(through)?;
        self.pages.change(|shelf| shelf.align(self.run.id, through));
        Ok(Range { after, through })
    }
}

impl Drop for RunTicket {
    fn drop(&mut self) {
        self.pages.change(|shelf| shelf.finish(self.run.id));
    }
}

impl LogHandle {
    /// The page that follows `range.after`, with all its events. It may begin before that, and reach beyond the range.
    ///
    /// Cancel safe: a run that was begun goes on without the one who began it.
    pub(crate) async fn shared_page(
        &self,
        runtime: &Handle,
        range: Range,
        bounds: PageBounds,
    ) -> Result<Arc<Page>, ReadError> {
        let turn = std::future::poll_fn(|context| self.shared.poll_turn(range, context)).await;
        let ticket = match turn {
            Turn::Take(page) => {
                self.read_ahead(runtime, page.through, range, bounds);
                return Ok(page);
            }
            Turn::Read(ticket) => ticket,
        };
        let slot = Arc::clone(&self.read_slots)
            .acquire_owned()
            .await
            .map_err(|_| ReadError::Closed)?;
        let (give, first) = oneshot::channel();
        let reader = Arc::clone(&self.reader);
        let task = runtime.spawn_blocking(move || {
            ticket.read(&*reader, bounds, Some(give));
            drop(slot);
            Ok(())
        });
        let page = match first.await {
            Ok(page) => page?,
            Err(_) => return outcome(task).await.and(Err(ReadError::Closed)),
        };
        self.read_ahead(runtime, page.through, range, bounds);
        Ok(page)
    }

    /// Begins to read what comes after a page, unless all readers are at work.
    fn read_ahead(&self, runtime: &Handle, after: u64, range: Range, bounds: PageBounds) {
        let through = range.through;
        if after >= through {
            return;
        }
        let Ok(slot) = Arc::clone(&self.read_slots).try_acquire_owned() else {
            return;
        };
        if let Some(ticket) = self.shared.ahead(Range { after, through }) {
            let reader = Arc::clone(&self.reader);
            runtime.spawn_blocking(move || {
                ticket.read(&*reader, bounds, None);
                drop(slot);
            });
        }
    }
}

#[cfg(all(test, millstream_loom))]
mod models {
    use super::*;
    use loom::future::block_on;
    use loom::thread;

    const RANGE: Range = Range { after: 0, through: 4 };

    fn empty_page() -> Arc<Page> {
        let batches = Vec::new();
        Arc::new(Page { batches, through: 4 })
    }

    async fn turn(pages: &Arc<SharedPages>) -> Turn {
        std::future::poll_fn(|context| pages.poll_turn(RANGE, context)).await
    }

    /// One who wants the page, and reads it if nobody else does; `true`, if it was read here.
    fn stream(pages: &Arc<SharedPages>) -> bool {
        match block_on(turn(pages)) {
            Turn::Take(page) => {
                assert_eq!(page.through, 4);
                false
            }
            Turn::Read(ticket) => {
                ticket.shelve(&empty_page());
                true
            }
        }
    }

    #[test]
    fn of_two_who_want_a_page_one_reads_and_the_other_is_woken() {
        loom::model(|| {
            let pages = Arc::new(SharedPages::new(1 << 20, Faults::default()));
            let other = Arc::clone(&pages);
            let other = thread::spawn(move || stream(&other));
            let here = stream(&pages);
            assert!(here ^ other.join().unwrap(), "exactly one reads");
        });
    }

    #[test]
    fn one_who_gives_up_leaves_nobody_hanging() {
        loom::model(|| {
            let pages = Arc::new(SharedPages::new(1 << 20, Faults::default()));
            let other = Arc::clone(&pages);
            let other = thread::spawn(move || drop(block_on(turn(&other))));
            stream(&pages);
            other.join().unwrap();
        });
    }
}
