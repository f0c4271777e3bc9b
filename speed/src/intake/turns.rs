//! Turns of the processors: large requests are admitted one for each processor at once.

use std::num::NonZero;
use std::sync::LazyLock;
use std::time::Duration;

use anabranch_shared::{Result, blocking};
use tokio::sync::Semaphore;

/// As many requests are admitted at once as there are processors.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    Semaphore::new(processors)
});

/// How long a request waits for its turn: it does not stand behind a few that take long.
const LONGEST_WAIT: Duration = Duration::from_millis(25);

/// A request of no more bytes is admitted by the thread that has read it: that takes less time than
/// to hand it to another one and back.
const SMALL_BYTES: usize = 64 << 10;

/// Does the work of admitting a request of so many bytes: at once where they are few, otherwise in
/// turn. Were all of them worked on at once, all would be ready at the same time, and processors
/// idle while the WAL's disk works, and the other way round.
pub(crate) async fn in_turn<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if bytes <= SMALL_BYTES {
        return work();
    }
    // Held until the work is done, also where nobody waits for it any more.
    let turn = tokio::time::timeout(LONGEST_WAIT, TURNS.acquire()).await;
    blocking(move || {
        let done = work();
        drop(turn);
        done
    })
    .await
}
