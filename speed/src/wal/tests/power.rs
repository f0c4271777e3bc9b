//! Power lost after every operation, with and without each reason to sync.

use super::*;
use anabranch_shared::files::testing::Survivors;

/// How the machine or the process ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    PowerLost(Survivors),
}

/// What the first life after that does before the power is lost once more.
#[derive(Clone, Copy, Debug)]
enum Then {
    Nothing,
    Append,
}

/// What a user of the WAL was told, to be held against what a later opening finds.
#[derive(Debug, Default)]
struct Ledger {
    /// Acknowledged, or returned by an opening.
    promised: Vec<Record>,
    /// Handed to an append, whatever came of it.
    attempted: Vec<Record>,
    /// Cut, or about to be.
    below: u64,
    next: u64,
    openings: u64,
}

impl Ledger {
    /// Opens the WAL and checks that every promise is kept.
    fn open(&mut self, files: &RecordingFiles) -> Result<Wal, String> {
        let (wal, found) = open(files, small()).map_err(|error| format!("{error:?}"))?;
        self.openings += 1;
        if wal.next() < self.next {
            return Err(format!(
                "the position fell from {} to {}",
                self.next,
                wal.next()
            ));
        }
        let mut next = wal.start();
        for record in &found {
            if record.first != next || !self.attempted.contains(record) {
                return Err(format!("{record:?} was never appended there"));
            }
            next = record.end;
        }
        if next != wal.next() {
            return Err(format!(
                "records end at {next}, the position is {}",
                wal.next()
            ));
        }
        for promised in self
            .promised
            .iter()
            .filter(|record| record.end > self.below)
        {
            if !found.contains(promised) {
                return Err(format!("{promised:?} is lost"));
            }
        }
        self.promised = found;
        self.next = wal.next();
        Ok(wal)
    }

    fn append(&mut self, wal: &mut Wal, count: u64) -> Result<(), String> {
        let mut group = records(wal.next(), count);
        // What an earlier life wrote at the same offsets must not pass for this one's.
        for record in &mut group {
            let payload = [&record.payload[..], &self.openings.to_le_bytes()[..]].concat();
            record.payload = payload.into();
        }
        self.attempted.extend(group.iter().cloned());
        wal.append(&group).map_err(|error| format!("{error:?}"))?;
        self.promised.extend(group);
        self.next = wal.next();
        Ok(())
    }

    fn cut(&mut self, wal: &mut Wal, below: u64) -> Result<(), String> {
        self.below = self.below.max(below);
        wal.cut(below).map_err(|error| format!("{error:?}"))
    }
}

/// A life that makes, fills, rolls, cuts and empties a WAL, with a clean stop in between.
fn live(files: &RecordingFiles, ledger: &mut Ledger) -> Result<(), String> {
    let mut wal = ledger.open(files)?;
    for count in [1, 2, 1, 3, 1, 1, 2] {
        ledger.append(&mut wal, count)?;
    }
    ledger.cut(&mut wal, 22)?;
    ledger.append(&mut wal, 2)?;
    let all = wal.next();
    ledger.cut(&mut wal, all)?;
    drop(wal);
    let mut wal = ledger.open(files)?;
    ledger.append(&mut wal, 2)?;
    ledger.append(&mut wal, 2)
}

/// Ends a life at operation `at`, then checks what a second one finds, and what is left of both
/// after the power is lost again.
fn die(at: usize, end: End, then: Then, skipped: Option<SyncPoint>) -> Result<(), String> {
    let files = RecordingFiles::new();
    if let Some(point) = skipped {
        files.skip(point);
    }
    files.fail_power_at(at);
    let mut ledger = Ledger::default();
    // Losing the power is why this fails; what that broke shows at the next opening.
    drop(live(&files, &mut ledger));
    match end {
        End::Killed => files.restart(),
        End::PowerLost(survivors) => files.lose_power(survivors),
    }
    let mut wal = ledger.open(&files)?;
    match then {
        // Appending would sync what opening should have synced.
        Then::Nothing => {}
        Then::Append => ledger.append(&mut wal, 1)?,
    }
    drop(wal);
    files.lose_power(Survivors::Synced);
    let mut wal = ledger.open(&files)?;
    ledger.append(&mut wal, 2)?;
    let all = wal.next();
    ledger.cut(&mut wal, all.saturating_sub(1))?;
    drop(wal);
    files.lose_power(Survivors::Some(at as u64));
    ledger.open(&files).map(drop)
}

fn operations() -> usize {
    let files = RecordingFiles::new();
    live(&files, &mut Ledger::default()).unwrap();
    files.operations().len()
}

/// Every way to end a life and go on.
fn deaths() -> Vec<(usize, End, Then)> {
    let some = (0..24).map(|seed| End::PowerLost(Survivors::Some(seed)));
    let ends = [End::Killed, End::PowerLost(Survivors::Synced)]
        .into_iter()
        .chain(some);
    let ways = ends
        .flat_map(|end| [(end, Then::Nothing), (end, Then::Append)])
        .collect::<Vec<_>>();
    let ways = &ways;
    (0..=operations())
        .flat_map(|at| ways.iter().map(move |(end, then)| (at, *end, *then)))
        .collect()
}

#[test]
fn no_promise_is_broken_wherever_the_power_fails() {
    assert!(
        operations() > 60,
        "the life has {} operations",
        operations()
    );
    for (at, end, then) in deaths() {
        if let Err(broken) = die(at, end, then, None) {
            panic!("{end:?} at operation {at}, then {then:?}: {broken}");
        }
    }
}

#[test]
fn without_any_one_reason_to_sync_a_promise_is_broken() {
    let deaths = deaths();
    // A rollback needs a full disk: the next test. Ids and keys have tests of their own.
    use SyncPoint::{Identity, IdentityEntry, Keys, KeysEntry, RollBack};
    for point in SyncPoint::OF_WAL
        .into_iter()
        .filter(|point| ![RollBack, Identity, IdentityEntry, Keys, KeysEntry].contains(point))
    {
        let broken = deaths
            .iter()
            .any(|(at, end, then)| die(*at, *end, *then, Some(point)).is_err());
        assert!(broken, "nothing shows that {point:?} is needed");
    }
}

#[test]
fn without_the_sync_of_a_rollback_a_refused_record_returns() {
    let returns = |skipped: Option<SyncPoint>| {
        (0..200).any(|seed| {
            let files = RecordingFiles::new();
            let (mut wal, _) = open(&files, small()).unwrap();
            wal.append(&records(0, 1)).unwrap();
            if let Some(point) = skipped {
                files.skip(point);
            }
            files.set_capacity(Some(wal.bytes() + 60));
            let refused = [record(3, 4, "a"), record(4, 5, "b")];
            assert!(matches!(wal.append(&refused), Err(WalError::Full { .. })));
            drop(wal);
            files.lose_power(Survivors::Some(seed));
            open(&files, small()).unwrap().1 != records(0, 1)
        })
    };
    assert!(!returns(None));
    assert!(returns(Some(SyncPoint::RollBack)));
}
