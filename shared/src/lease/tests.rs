//! Leases: one holder at a time, whatever the clocks say, and what expires.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const EXPIRES: Duration = Duration::from_secs(30);

fn entry(holder: &str, released: bool) -> LeaseEntry {
    LeaseEntry {
        format: FORMAT,
        number: 1,
        holder: holder.into(),
        expires_ms: 30_000,
        released,
    }
}

#[test]
fn who_may_do_the_work() {
    let at = |newest: Option<&LeaseEntry>, s| decide_lease("a", newest, Duration::from_secs(s));
    let (own, other) = (entry("a", false), entry("b", false));
    assert_eq!(at(None, 0), LeaseDecision::Take);
    assert_eq!(at(Some(&entry("b", true)), 0), LeaseDecision::Take);
    assert_eq!(at(Some(&entry("a", true)), 0), LeaseDecision::Take);
    let seconds = Duration::from_secs;
    assert_eq!(at(Some(&own), 4), LeaseDecision::Keep(seconds(6)));
    assert_eq!(at(Some(&own), 10), LeaseDecision::Renew);
    assert_eq!(at(Some(&own), 29), LeaseDecision::Renew);
    assert_eq!(at(Some(&own), 30), LeaseDecision::Take);
    assert_eq!(at(Some(&other), 0), LeaseDecision::Leave(EXPIRES));
    assert_eq!(at(Some(&other), 29), LeaseDecision::Leave(seconds(1)));
    assert_eq!(at(Some(&other), 30), LeaseDecision::Take);
}

/// A clock that the test moves.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn clock(&self) -> Monotonic {
        let ms = self.0.clone();
        Monotonic::of(move || Duration::from_millis(ms.load(Ordering::Relaxed)))
    }

    fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

async fn lease(storage: &Storage, holder: &str, hand: &Hand) -> Lease {
    let opened = Lease::open(storage, "upkeep/t", holder.into(), EXPIRES, hand.clock());
    opened.await.unwrap()
}

fn storage() -> (tempfile::TempDir, Storage) {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::folder(dir.path()).unwrap();
    (dir, storage)
}

fn is_held(standing: Result<LeaseStanding>) -> bool {
    matches!(standing.unwrap(), LeaseStanding::Held(_))
}

#[tokio::test]
async fn a_lease_is_renewed_released_and_taken_over() {
    let (_dir, storage) = storage();
    // Each has a clock of its own, with another zero.
    let (hand_a, hand_b) = (Hand::default(), Hand::default());
    hand_b.pass(Duration::from_secs(1_000_000));
    let both = |time| {
        hand_a.pass(time);
        hand_b.pass(time);
    };
    let mut a = lease(&storage, "a", &hand_a).await;
    let mut b = lease(&storage, "b", &hand_b).await;
    assert!(is_held(a.step().await));
    assert!(!is_held(b.step().await));
    // Renewed, it does not expire, however long it is held.
    for _ in 0..30 {
        both(EXPIRES / 2);
        assert!(is_held(a.step().await));
        assert!(!is_held(b.step().await));
    }
    // The holder dies.
    both(EXPIRES - Duration::from_millis(1));
    assert!(!is_held(b.step().await));
    both(Duration::from_millis(1));
    assert!(is_held(b.step().await));
    assert!(!is_held(a.step().await), "it wakes and sees the new holder");
    b.release().await.unwrap();
    assert!(is_held(a.step().await), "a lease that was released is free");
    b.release().await.unwrap();
    assert!(
        is_held(a.step().await),
        "who does not hold it releases nothing"
    );
}

#[tokio::test]
async fn who_slept_through_many_entries_finds_the_newest() {
    let (dir, storage) = storage();
    let hand = Hand::default();
    let mut sleeper = lease(&storage, "a", &hand).await;
    assert!(is_held(sleeper.step().await));
    hand.pass(EXPIRES);
    let mut other = lease(&storage, "b", &hand).await;
    hand.pass(EXPIRES);
    for _ in 0..40 {
        assert!(is_held(other.step().await));
        hand.pass(EXPIRES / 2);
    }
    let left = std::fs::read_dir(dir.path().join("leases/upkeep/t")).unwrap();
    assert_eq!(left.count() as u64, KEPT, "old entries are removed");
    assert!(
        !is_held(sleeper.step().await),
        "past a gap it took the lease"
    );
    assert!(is_held(other.step().await));
}

/// Many at once: never more than one takes it, however they race.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_gets_it() {
    let (_dir, storage) = storage();
    for round in 0..20 {
        let hand = Hand::default();
        let racers = (0..6).map(|i| {
            let (storage, hand) = (storage.clone(), hand.clone());
            tokio::spawn(async move {
                let mut own = lease(&storage, &format!("{round}-{i}"), &hand).await;
                let held = is_held(own.step().await);
                (own, held)
            })
        });
        let mut holders = Vec::new();
        for racer in racers.collect::<Vec<_>>() {
            let (own, held) = racer.await.unwrap();
            holders.extend(held.then_some(own));
        }
        assert_eq!(holders.len(), 1, "round {round}");
        holders[0].release().await.unwrap();
    }
}

#[tokio::test]
async fn work_keeps_its_lease_and_learns_of_its_loss() {
    let (_dir, storage) = storage();
    let expires = Duration::from_millis(60);
    let open = |holder: &str| {
        let clock = Monotonic::default();
        let (storage, holder) = (storage.clone(), holder.to_owned());
        async move { Lease::open(&storage, "w", holder, expires, clock).await }
    };
    let mut a = open("a").await.unwrap();
    assert!(is_held(a.step().await));
    let lost = AtomicBool::new(false);
    // The work ends when the lease has been renewed several times.
    let watcher = open("watcher").await.unwrap();
    let renewed = async {
        while watcher.numbers().await.unwrap().pop() < Some(4) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    a.while_held(renewed, || lost.store(true, Ordering::Relaxed))
        .await;
    assert!(!lost.load(Ordering::Relaxed));
    // Somebody else has it: the work is told, and ends by that.
    let (told, mut tell) = tokio::sync::watch::channel(false);
    let mut number = a.number();
    let taken = LeaseEntry {
        number: {
            number += 1;
            number
        },
        expires_ms: 60_000,
        ..entry("b", false)
    };
    let body = serde_json::to_vec(&taken).unwrap();
    storage.create(&a.path(number), body).await.unwrap();
    let work = async { tell.wait_for(|t| *t).await.is_ok() };
    assert!(
        a.while_held(work, || {
            told.send_replace(true);
        })
        .await
    );
}

/// As version 0.1.0 writes it.
#[test]
fn an_entry_of_0_1_0_is_read() {
    let stored = r#"{"format":1,"number":7,"holder":"5e2a","expires_ms":30000,"released":false}"#;
    let read: LeaseEntry = serde_json::from_str(stored).unwrap();
    let expected = LeaseEntry {
        format: 1,
        number: 7,
        holder: "5e2a".into(),
        expires_ms: 30_000,
        released: false,
    };
    assert_eq!(read, expected);
    assert_eq!(serde_json::to_string(&expected).unwrap(), stored);
}
