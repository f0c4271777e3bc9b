//! Keys: what is remembered, for how long, and what of it is kept beside the WAL.

use super::*;

const WINDOW: i64 = 1_000;

fn requests(most: usize) -> Requests {
    Requests::new(RequestBounds {
        window_us: WINDOW,
        most,
    })
}

fn key(key: &str, body: &str) -> Result<RequestKey> {
    RequestKey::new(key.as_bytes(), &["ndjson", ""], body.as_bytes())
}

/// A request of ten records, of which one is a dead letter, from an offset on.
fn written(name: &str, start: i64, at_us: i64) -> Result<KeptRequest> {
    Ok(KeptRequest {
        request: key(name, name)?,
        at_us,
        answer: KeptAnswer {
            partition: PartitionId(0),
            start: Offset(start),
            end: Offset(start + 10),
            facts: 9,
            dead_letters: 1,
            duplicates: 0,
        },
    })
}

#[test]
fn a_key_is_visible_ascii_and_not_too_long() {
    let longest = "k".repeat(255);
    assert!(key(&longest, "").is_ok() && key("a-B_1~!", "").is_ok());
    let too_long = "k".repeat(256);
    for wrong in ["", "two words", "ümlaut", "tab\t", &too_long] {
        let error = key(wrong, "").map_err(|e| e.to_string());
        assert!(
            error.is_err_and(|e| e.contains("1 to 255 visible ASCII")),
            "{wrong}"
        );
    }
}

#[test]
fn a_request_is_known_by_all_that_makes_its_body_what_it_is() -> Result<()> {
    let one = RequestKey::new(b"k", &["a", "b"], b"c")?;
    for other in [
        RequestKey::new(b"k", &["a", "b"], b"d")?,
        RequestKey::new(b"k", &["a", ""], b"bc")?,
        RequestKey::new(b"k", &["ab", ""], b"c")?,
    ] {
        assert_ne!(one.body, other.body);
    }
    assert_eq!(one, RequestKey::new(b"k", &["a", "b"], b"c")?);
    Ok(())
}

#[test]
fn a_key_is_answered_as_before_for_the_window_and_new_after_it() -> Result<()> {
    let mut known = requests(10);
    known.note(written("a", 0, 5)?);
    let standing = |known: &Requests, body: &str, at| Ok(known.standing(&key("a", body)?, at));
    let last = 5 + WINDOW - 1;
    let again: Result<_> = standing(&known, "a", last);
    assert_eq!(again?, Standing::Repeated(written("a", 0, 5)?));
    let other: Result<_> = standing(&known, "other", last);
    assert_eq!(other?, Standing::OtherBody);
    let over: Result<_> = standing(&known, "other", last + 1);
    assert_eq!(over?, Standing::New);
    // The key is given anew; the first one's end does not take the second's place.
    known.note(written("a", 50, last + 1)?);
    known.check_room(1, last + 2)?;
    let again: Result<_> = standing(&known, "a", last + 2);
    assert_eq!(again?, Standing::Repeated(written("a", 50, last + 1)?));
    Ok(())
}

#[test]
fn more_keys_than_the_bound_are_refused_until_some_are_over() -> Result<()> {
    let mut known = requests(2);
    known.note(written("a", 0, 0)?);
    known.check_room(1, 1)?;
    known.note(written("b", 10, 500)?);
    let refused = known.check_room(1, 999).map_err(|e| e.to_string());
    assert!(refused.is_err_and(|e| e.contains("`idempotency_keys`")));
    known.check_room(1, WINDOW)?;
    assert!(known.check_room(2, WINDOW).is_err());
    Ok(())
}

#[test]
fn what_is_cut_is_kept_once_and_read_again_with_what_is_left() -> Result<()> {
    let mut known = requests(100);
    for n in 0..5 {
        known.note(written(&format!("k{n}"), n * 10, n)?);
    }
    let names = |keep: &ToKeep| -> Vec<String> {
        keep.requests
            .iter()
            .map(|r| r.request.key.clone())
            .collect()
    };
    let first = known.choose_to_keep(Offset(29), false, 10);
    assert_eq!(names(&first), ["k0", "k1"]);
    // Not written: it is asked for again.
    let first = known.choose_to_keep(Offset(30), false, 10);
    assert_eq!(names(&first), ["k0", "k1", "k2"]);
    known.are_kept(&first);
    let second = known.choose_to_keep(Offset(40), false, 10);
    assert_eq!(names(&second), ["k3"]);
    known.are_kept(&second);
    assert_eq!(
        names(&known.choose_to_keep(Offset(40), true, 10)),
        ["k0", "k1", "k2", "k3"]
    );
    // The first is over, and gone from what is written anew.
    let anew = known.choose_to_keep(Offset(50), true, WINDOW);
    assert_eq!(names(&anew), ["k1", "k2", "k3", "k4"]);
    let mut found = decode(&first.encode()?)?;
    found.extend(decode(&second.encode()?)?);
    // The records of two of them are there still.
    found.extend([written("k4", 40, 4)?, written("k3", 30, 3)?]);
    let mut read = requests(100);
    read.load(found, WINDOW);
    assert_eq!(
        names(&read.choose_to_keep(Offset(50), true, WINDOW)),
        names(&anew)
    );
    Ok(())
}
