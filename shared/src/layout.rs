//! Where everything lies in a storage. A path is written here and nowhere else.
//!
//! ```text
//! catalogue/00000000000000000001.json   its entries, one a change; the newest one counts
//! catalogue/_newest                     a hint which one that is
//! topics/{topic}/log/                   Delta table: the facts
//! topics/{topic}/dead_letters/          Delta table: what could not become a fact
//! topics/{topic}/retention              what retention has seen as old (below `upkeep/seen`)
//! views/{view}/g{generation}/           Delta table: a master view's states
//! views/{view}/export/                  Delta table: its answers, for other engines
//! history/{view}/{entry}.json           how generations of a view came to answer
//! jobs/                                 Delta table: the history of jobs
//! dead_letter_retries/                  Delta table: what was sent in again
//! daemons/{wal}.json                    the address of a running daemon
//! schedulers/{id}.json                  who runs the schedule
//! secrets/daemons                       by what daemons and commands of this storage know each other
//! asked/refresh.json                    refreshes that daemons ask for
//! leases/{name}/{number}.json           who does an upkeep that one does at a time
//! upkeep/clock-{id}                     an object that tells the storage's time, removed at once
//! upkeep/seen/{part}.json               what was seen as needless, and since when
//! _probe/{id}                           what opening a storage tries it with, removed at once
//! ```

use object_store::path::Path;

use crate::Generation;

/// The history of jobs, by its name in the storage and in queries.
pub const JOBS: &str = "jobs";

/// The table of dead letters that were retried, by its name in the storage and in queries.
pub const DEAD_LETTER_RETRIES: &str = "dead_letter_retries";

/// The addresses of daemons.
pub const DAEMONS: &str = "daemons";

/// By what daemons and commands of a storage know each other.
pub const DAEMONS_SECRET: &str = "secrets/daemons";

/// Who runs schedules.
pub const SCHEDULERS: &str = "schedulers";

/// The refreshes that daemons ask for.
pub const ASKED: &str = "asked/refresh.json";

/// The entries of the catalogue.
pub const CATALOGUE: &str = "catalogue";

/// The hint which entry of the catalogue is the newest.
pub const NEWEST_ENTRY: &str = "catalogue/_newest";

/// The master views and exports.
pub const VIEWS: &str = "views";

/// What opening a storage tries it with.
pub const PROBE: &str = "_probe";

/// An entry of the catalogue.
pub fn entry(number: u64) -> Path {
    Path::from(format!("{CATALOGUE}/{number:020}.json"))
}

/// A topic's log.
pub fn log(topic: &str) -> String {
    format!("topics/{topic}/log")
}

/// A topic's dead letters.
pub fn dead_letters(topic: &str) -> String {
    format!("topics/{topic}/dead_letters")
}

/// What retention notes of a topic, as a part of [`seen`].
pub fn retention(topic: &str) -> String {
    format!("topics/{topic}/retention")
}

/// What was seen of the parts that a view's generations play, as a part of [`seen`].
pub fn roles(view: &str) -> String {
    format!("roles/{view}")
}

/// All that belongs to a view.
pub fn view(view: &str) -> String {
    format!("{VIEWS}/{view}")
}

/// A generation of a view.
pub fn generation(view: &str, generation: Generation) -> Path {
    Path::from(format!("{VIEWS}/{view}/g{generation}"))
}

/// How generations of a view came to answer.
pub fn history(view: &str) -> Path {
    Path::from(format!("history/{view}"))
}

/// How one came to answer, by the catalogue's entry that did it.
pub fn succession(view: &str, entry: u64) -> Path {
    Path::from(format!("history/{view}/{entry:020}.json"))
}

/// A view's export.
pub fn export(view: &str) -> Path {
    Path::from(format!("{VIEWS}/{view}/export"))
}

/// What was seen as needless of a part of the storage.
pub fn seen(part: &str) -> Path {
    Path::from(format!("upkeep/seen/{part}.json"))
}

/// An object that tells the storage's time.
pub fn clock(id: &str) -> Path {
    Path::from(format!("upkeep/clock-{id}"))
}

/// The entries of a lease.
pub fn lease(name: &str) -> String {
    format!("leases/{name}")
}

/// An entry of a lease.
pub fn lease_entry(name: &str, number: u64) -> Path {
    Path::from(format!("leases/{name}/{number:020}.json"))
}
