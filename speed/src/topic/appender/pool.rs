//! The threads that serve the appenders of a daemon: a few for all topics. Owns which appender is
//! served when, and how many of them keep their files open meanwhile. An appender is with one
//! thread at a time, group by group, so that a topic which gets much lets the others through.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anabranch_shared::{Error, Result};
use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc;

use super::{Appender, WriteRequest};
use crate::failure::Failure;

/// Threads that append at most: they wait for the disk, and it syncs what comes together at once.
const MOST_THREADS: usize = 16;

/// So many topics keep the files of their WAL open between two groups; the others open them anew.
const MOST_OPEN: usize = 8;

/// The threads of a daemon that append. They end when the last clone of this is gone and what waited
/// is done.
#[derive(Clone, Debug)]
pub(crate) struct Appenders {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.queue.lock().is_closed = true;
        self.shared.work.notify_all();
    }
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// How many appenders keep their files open.
    open: Arc<AtomicUsize>,
    failure: Failure,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The appenders for which something waits.
#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Arc<Slot>>,
    /// Threads that wait for one.
    idle: usize,
    threads: usize,
    is_closed: bool,
}

/// One appender.
struct Slot {
    /// `None` once it can't go on.
    appender: Mutex<Option<Appender>>,
    /// Whether it is in the queue or with a thread. Who puts a request looks at it after that, and
    /// who is done with the requests looks for more after he has cleared it: so none is left.
    is_scheduled: AtomicBool,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("is_scheduled", &self.is_scheduled)
            .finish_non_exhaustive()
    }
}

/// That an appender's files are open; counted as long as it is there.
pub(crate) struct OpenFiles {
    count: Arc<AtomicUsize>,
}

impl OpenFiles {
    /// One more, where it is not one too many.
    fn one_more(count: &Arc<AtomicUsize>) -> Option<Self> {
        // Made before it is looked at: dropping it takes it back.
        let open = Self {
            count: count.clone(),
        };
        (count.fetch_add(1, Ordering::AcqRel) < MOST_OPEN).then_some(open)
    }
}

impl Drop for OpenFiles {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Where requests for one topic's appender go.
#[derive(Debug)]
pub(crate) struct AppenderHandle {
    requests: mpsc::Sender<WriteRequest>,
    slot: Arc<Slot>,
    appenders: Appenders,
}

impl AppenderHandle {
    /// Gives a request to the appender, waiting for room.
    ///
    /// # Errors
    /// `Unavailable` where it can't go on.
    pub(crate) async fn send(&self, request: WriteRequest) -> Result<()> {
        let sent = self.requests.send(request).await;
        sent.map_err(|_| Error::Unavailable("the daemon is stopping".into()))?;
        self.wake();
        Ok(())
    }

    /// Gives a request to the appender where there is room.
    pub(crate) fn try_send(&self, request: WriteRequest) {
        if self.requests.try_send(request).is_ok() {
            self.wake();
        }
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        self.requests.max_capacity() - self.requests.capacity()
    }

    fn wake(&self) {
        if !self.slot.is_scheduled.swap(true, Ordering::AcqRel) {
            self.appenders.owner.shared.push(self.slot.clone());
        }
    }
}

impl Appenders {
    /// The threads of a daemon, to which `failure` is told what can't go on.
    ///
    /// # Errors
    /// `Unavailable` where no thread can be started.
    pub(crate) fn start(failure: &Failure) -> Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            open: Arc::default(),
            failure: failure.clone(),
            threads: Mutex::default(),
        });
        // One there must be; more come when they are wanted.
        shared.queue.lock().threads = 1;
        let first = start_thread(&shared, 1);
        first.map_err(|e| Error::Unavailable(format!("can't start a thread: {e}")))?;
        let owner = Arc::new(Owner { shared });
        Ok(Self { owner })
    }

    /// Adds a topic's appender, which takes its requests from `requests`.
    pub(crate) fn add(
        &self,
        appender: Appender,
        requests: mpsc::Sender<WriteRequest>,
    ) -> AppenderHandle {
        AppenderHandle {
            requests,
            slot: Arc::new(Slot {
                appender: Mutex::new(Some(appender)),
                is_scheduled: AtomicBool::new(false),
            }),
            appenders: self.clone(),
        }
    }

    /// The threads that there are.
    pub(crate) fn take_threads(&self) -> Vec<JoinHandle<()>> {
        // So that none is started that is not among them.
        self.owner.shared.queue.lock().threads = MOST_THREADS;
        std::mem::take(&mut self.owner.shared.threads.lock())
    }
}

fn start_thread(shared: &Arc<Shared>, number: usize) -> std::io::Result<()> {
    let worker = shared.clone();
    let thread = std::thread::Builder::new()
        .name(format!("wal-{number}"))
        .spawn(move || worker.work())?;
    shared.threads.lock().push(thread);
    Ok(())
}

impl Shared {
    /// Puts an appender into the queue, and starts one more thread where all have something to do.
    fn push(self: &Arc<Self>, slot: Arc<Slot>) {
        let mut queue = self.queue.lock();
        queue.ready.push_back(slot);
        if queue.idle >= queue.ready.len() || queue.threads >= MOST_THREADS {
            drop(queue);
            self.work.notify_one();
            return;
        }
        queue.threads += 1;
        let number = queue.threads;
        drop(queue);
        if let Err(e) = start_thread(self, number) {
            tracing::warn!(error = %e, "can't start one more thread that appends; those that there are go on");
            self.queue.lock().threads -= 1;
        }
        self.work.notify_one();
    }

    /// The next appender to serve; `None` once none will come.
    fn next(&self) -> Option<Arc<Slot>> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(slot) = queue.ready.pop_front() {
                return Some(slot);
            }
            if queue.is_closed {
                return None;
            }
            queue.idle += 1;
            self.work.wait(&mut queue);
            queue.idle -= 1;
        }
    }

    fn work(self: &Arc<Self>) {
        while let Some(slot) = self.next() {
            let mut held = slot.appender.lock();
            let Some(appender) = held.as_mut() else {
                continue;
            };
            if let Err(reason) = appender.serve() {
                // Its requests go with it, so that their senders learn of it.
                *held = None;
                self.failure.report(reason);
                continue;
            }
            self.close_where_many(appender);
            slot.is_scheduled.swap(false, Ordering::AcqRel);
            let more = appender.has_requests();
            drop(held);
            if more && !slot.is_scheduled.swap(true, Ordering::AcqRel) {
                self.push(slot);
            }
        }
    }

    fn close_where_many(&self, appender: &mut Appender) {
        if appender.open.is_none() && appender.has_open_files() {
            appender.open = OpenFiles::one_more(&self.open);
            if appender.open.is_none() {
                appender.close_files();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_counted_and_bounded() {
        let count = Arc::new(AtomicUsize::new(0));
        let mut open: Vec<_> = (0..MOST_OPEN * 2)
            .map(|_| OpenFiles::one_more(&count))
            .collect();
        assert_eq!(open.iter().flatten().count(), MOST_OPEN);
        assert_eq!(count.load(Ordering::Acquire), MOST_OPEN);
        open.clear();
        assert_eq!(count.load(Ordering::Acquire), 0);
        assert!(OpenFiles::one_more(&count).is_some());
    }

    #[test]
    fn the_threads_end_with_the_last_clone() -> Result<()> {
        let appenders = Appenders::start(&Failure::default())?;
        let threads = appenders.take_threads();
        assert_eq!(threads.len(), 1);
        let clone = appenders.clone();
        drop(appenders);
        assert!(!threads.iter().any(JoinHandle::is_finished));
        drop(clone);
        for thread in threads {
            assert!(thread.join().is_ok());
        }
        Ok(())
    }
}
