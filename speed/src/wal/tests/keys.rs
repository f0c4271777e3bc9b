//! Kept entries: whatever was kept is found again, wherever the power fails and whatever fails.

use super::*;
use crate::wal::KeyLog;
use crate::wal::files::ensure_dir;
use anabranch_shared::files::testing::Survivors;

fn open_keys(files: &RecordingFiles) -> Result<(KeyLog, Vec<Bytes>), WalError> {
    ensure_dir(files, &Path::new(ROOT).join(TOPIC))?;
    let mut found = Vec::new();
    let keys = KeyLog::open(
        Path::new(ROOT),
        TOPIC,
        Arc::new(files.clone()),
        &mut |payload| found.push(payload),
    )?;
    Ok((keys, found))
}

/// What its user was told to be kept.
#[derive(Default)]
struct Kept {
    promised: Vec<Bytes>,
    written: Vec<Bytes>,
}

impl Kept {
    fn payload(&mut self) -> Bytes {
        let payload = Bytes::from(format!(
            "entry number {} of some length",
            self.written.len()
        ));
        self.written.push(payload.clone());
        payload
    }

    fn open(&self, files: &RecordingFiles) -> Result<KeyLog, String> {
        let (keys, found) = open_keys(files).map_err(|e| format!("{e:?}"))?;
        let found: Vec<u8> = found.concat();
        let holds = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|w| w == part);
        for promised in &self.promised {
            if !holds(&found, promised) {
                return Err(format!("{promised:?} is lost"));
            }
        }
        Ok(keys)
    }

    /// Keeps one more, as the appender does: besides the others, or with all of them anew.
    fn keep(&mut self, keys: &mut KeyLog, anew: bool) -> Result<(), String> {
        let payload = self.payload();
        let all = [self.promised.concat(), payload.to_vec()].concat();
        match anew || keys.bytes().is_none() {
            true => keys.replace(&all),
            false => keys.append(&payload),
        }
        .map_err(|e| format!("{e:?}"))?;
        self.promised.push(payload);
        Ok(())
    }
}

fn live(files: &RecordingFiles, kept: &mut Kept) -> Result<(), String> {
    let mut keys = kept.open(files)?;
    for anew in [false, false, false, true, false] {
        kept.keep(&mut keys, anew)?;
    }
    drop(keys);
    let mut keys = kept.open(files)?;
    kept.keep(&mut keys, false)?;
    kept.keep(&mut keys, false)
}

fn die(at: usize, survivors: Option<Survivors>, skipped: Option<SyncPoint>) -> Result<(), String> {
    let files = RecordingFiles::new();
    if let Some(point) = skipped {
        files.skip(point);
    }
    files.fail_power_at(at);
    let mut kept = Kept::default();
    drop(live(&files, &mut kept));
    match survivors {
        None => files.restart(),
        Some(survivors) => files.lose_power(survivors),
    }
    let mut keys = kept.open(&files)?;
    kept.keep(&mut keys, false)?;
    drop(keys);
    files.lose_power(Survivors::Synced);
    kept.open(&files).map(drop)
}

fn deaths() -> Vec<(usize, Option<Survivors>)> {
    let files = RecordingFiles::new();
    live(&files, &mut Kept::default()).unwrap();
    let ends = (0..24).map(|seed| Some(Survivors::Some(seed)));
    let ends: Vec<_> = ends.chain([None, Some(Survivors::Synced)]).collect();
    let operations = files.operations().len();
    assert!(operations > 20, "{operations}");
    (0..=operations)
        .flat_map(|at| ends.iter().map(move |end| (at, *end)))
        .collect()
}

#[test]
fn what_was_kept_is_found_wherever_the_power_fails() {
    for (at, survivors) in deaths() {
        if let Err(broken) = die(at, survivors, None) {
            panic!("{survivors:?} at operation {at}: {broken}");
        }
    }
}

#[test]
fn without_the_syncs_of_keys_some_are_lost() {
    for point in [SyncPoint::Keys, SyncPoint::KeysEntry] {
        let broken = deaths()
            .iter()
            .any(|(at, survivors)| die(*at, *survivors, Some(point)).is_err());
        assert!(broken, "nothing shows that {point:?} is needed");
    }
}

#[test]
fn a_write_that_fails_leaves_what_was_kept_and_the_next_goes_well() {
    use anabranch_shared::files::testing::Fault;
    for fault in [
        Fault::Write,
        Fault::Sync(SyncPoint::Keys),
        Fault::Sync(SyncPoint::KeysEntry),
    ] {
        for before in 0..3 {
            let files = RecordingFiles::new();
            let mut kept = Kept::default();
            let mut keys = kept.open(&files).unwrap();
            for _ in 0..before {
                kept.keep(&mut keys, false).unwrap();
            }
            files.fail_next(fault);
            let anew = fault == Fault::Sync(SyncPoint::KeysEntry);
            assert!(kept.keep(&mut keys, anew).is_err(), "{fault:?} is not told");
            kept.keep(&mut keys, false).unwrap();
            kept.keep(&mut keys, false).unwrap();
            drop(keys);
            files.lose_power(Survivors::Synced);
            kept.open(&files).unwrap();
        }
    }
}

#[test]
fn damage_before_the_end_is_told() {
    let files = RecordingFiles::new();
    let mut kept = Kept::default();
    let mut keys = kept.open(&files).unwrap();
    kept.keep(&mut keys, false).unwrap();
    kept.keep(&mut keys, false).unwrap();
    let path = Path::new(ROOT)
        .join(TOPIC)
        .join("00000000000000000000.keys");
    files.damage(&path, |bytes| bytes[25] ^= 1).unwrap();
    let error = open_keys(&files).unwrap_err();
    assert!(matches!(error, WalError::Corrupt { .. }), "{error:?}");
}

/// Made from the drawing in the module's documentation by another program.
#[test]
fn format_1_of_keys_stays_as_it_is() {
    let stored = "414b45590100000003000000e9b2942ae2ae7fa86f6e65\
                  414b4559010000000000000000000000d6df144e";
    let files = RecordingFiles::new();
    let (mut keys, _) = open_keys(&files).unwrap();
    keys.replace(b"one").unwrap();
    keys.append(b"").unwrap();
    drop(keys);
    let path = Path::new(ROOT).join(TOPIC).join(format!("{:020}.keys", 0));
    assert_eq!(hex::encode(files.read(&path).unwrap()), stored);
    let (_, found) = open_keys(&files).unwrap();
    assert_eq!(found, [&b"one"[..], b""]);
}
