//! Owns Ctrl-C: from the signal to whoever must stop.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Ctrl-C since it was last cleared.
#[derive(Debug, Default)]
pub(super) struct Interrupt {
    is_set: AtomicBool,
    /// Another program has the terminal, and what is pressed there is for it.
    is_deaf: AtomicBool,
    notify: Notify,
}

impl Interrupt {
    fn set(&self) {
        if !self.is_deaf.load(Ordering::SeqCst) {
            self.is_set.store(true, Ordering::SeqCst);
            self.notify.notify_one();
        }
    }

    pub(super) fn clear(&self) {
        self.is_set.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }

    /// Ends once Ctrl-C was pressed since the last `clear`.
    pub(super) async fn wait(&self) {
        while !self.is_set() {
            self.notify.notified().await;
        }
    }

    /// Leaves Ctrl-C to another program, until what is returned is dropped.
    pub(super) fn deafened(self: &Arc<Self>) -> Deafened {
        self.is_deaf.store(true, Ordering::SeqCst);
        Deafened(self.clone())
    }
}

/// Ctrl-C is for another program.
#[derive(Debug)]
pub(super) struct Deafened(Arc<Interrupt>);

impl Drop for Deafened {
    fn drop(&mut self) {
        self.0.is_deaf.store(false, Ordering::SeqCst);
    }
}

/// Notices each Ctrl-C, for ever.
pub(super) async fn watch(interrupt: Arc<Interrupt>) {
    while tokio::signal::ctrl_c().await.is_ok() {
        interrupt.set();
    }
}

/// What was begun has been stopped.
pub(super) fn stopped() -> io::Error {
    io::Error::other("stopped by Ctrl-C")
}

/// An output that fails once Ctrl-C was pressed: formatting a long answer never waits, so nothing else
/// could stop it.
pub(super) struct Stoppable<W> {
    pub(super) inner: W,
    pub(super) interrupt: Arc<Interrupt>,
}

impl<W: Write> Write for Stoppable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.interrupt.is_set() {
            Err(stopped())
        } else {
            self.inner.write(bytes)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
