//! What the newsroom's facts promise: repeatable, ids that tell copies, metadata that comes late and is
//! corrected, visits of several pages.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::*;

fn options(facts: u64) -> GeneratorOptions {
    let mut options = GeneratorOptions::new(facts, 7, "2025-06-23T12:00:00Z".parse().unwrap());
    options.span = std::time::Duration::from_secs(10 * 24 * 3600);
    options.duplicates = 0.01;
    options
}

fn made(options: &GeneratorOptions, at_once: usize) -> (Vec<u8>, Vec<u8>) {
    let mut newsroom = Newsroom::new(options).unwrap();
    let (mut events, mut crawls) = (Vec::new(), Vec::new());
    while newsroom.next_ndjson(&mut events, &mut crawls, at_once) != Made::default() {}
    (events, crawls)
}

fn parsed(lines: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(lines).unwrap().lines();
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn text<'a>(fact: &'a Value, field: &str) -> &'a str {
    fact[field].as_str().unwrap()
}

#[test]
fn the_same_seed_gives_the_same_facts_however_many_are_taken_at_once() {
    let options = options(20_000);
    let all = made(&options, usize::MAX);
    assert_eq!(all.0.iter().filter(|b| **b == b'\n').count(), 20_000);
    for at_once in [1, 777] {
        let again = made(&options, at_once);
        assert!(all == again, "{at_once} at once");
    }
    let mut other = options;
    other.seed += 1;
    let other = made(&other, usize::MAX);
    assert!(all.1 != other.1);
    let ids = |lines: &[u8]| -> HashSet<String> {
        let facts = parsed(lines);
        facts
            .iter()
            .map(|f| text(f, "event_id").to_owned())
            .collect()
    };
    assert!(ids(&all.0).is_disjoint(&ids(&other.0)));
}

#[test]
fn an_id_comes_twice_with_its_copy_alone() {
    let (events, _) = made(&options(50_000), 1_000);
    let mut by_id: HashMap<String, Value> = HashMap::new();
    let mut copies = 0;
    for fact in parsed(&events) {
        let host = text(&fact, "url").split('/').nth(2).unwrap().to_owned();
        assert_eq!(host, text(&fact, "site"));
        if let Some(before) = by_id.insert(text(&fact, "event_id").to_owned(), fact.clone()) {
            assert_eq!(before, fact);
            copies += 1;
        }
    }
    assert!((400..600).contains(&copies), "{copies}");
    let none = GeneratorOptions {
        duplicates: 0.0,
        ..options(50_000)
    };
    let facts = parsed(&made(&none, 1_000).0);
    let ids: HashSet<&str> = facts.iter().map(|f| text(f, "event_id")).collect();
    assert_eq!(ids.len(), 50_000);
}

#[test]
fn metadata_comes_late_and_is_corrected() {
    let options = options(200_000);
    let (events, crawls) = made(&options, 1_000);
    let mut first_view: BTreeMap<String, String> = BTreeMap::new();
    for fact in parsed(&events) {
        let (url, ts) = (text(&fact, "url").to_owned(), text(&fact, "ts").to_owned());
        let first = first_view.entry(url).or_insert_with(|| ts.clone());
        *first = ts.min(first.clone());
    }
    let (start, end) = ("2025-06-13T12:00:00.000000Z", "2025-06-23T12:00:00.000000Z");
    let mut versions: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let (mut latest, mut failed, mut gone) = (String::new(), 0, 0);
    for fetch in parsed(&crawls) {
        let at = text(&fetch, "fetched_at").to_owned();
        assert!(at.as_str() >= start && at.as_str() < end, "{at}");
        assert!(at >= latest, "they come in their order");
        latest = at;
        match fetch["status"].as_i64().unwrap() {
            503 => failed += 1,
            410 => gone += 1,
            _ => versions
                .entry(text(&fetch, "url").to_owned())
                .or_default()
                .push(fetch),
        }
    }
    assert!(failed > 5 && gone > 5, "{failed} failed, {gone} gone");
    // Nothing is crawled that nobody read, but what was crawled before.
    let late = versions.iter().filter(|(url, fetches)| {
        let at = text(&fetches[0], "fetched_at");
        at > start && first_view.get(*url).is_some_and(|v| v.as_str() < at)
    });
    let (late, all) = (late.count(), versions.len());
    assert!(late * 3 > all, "{late} of {all} came late");
    let before = versions
        .values()
        .filter(|f| text(&f[0], "fetched_at") == start);
    assert!(before.count() * 3 > all);
    let mut corrected: BTreeSet<&str> = BTreeSet::new();
    for fetches in versions.values().filter(|f| f.len() > 1) {
        let said: Vec<Value> = fetches
            .iter()
            .map(|f| serde_json::from_str(text(f, "page")).unwrap())
            .collect();
        assert!(said[1]["author"]["name"].is_string());
        let differs = |what: &str| said[0][what] != said[1][what];
        corrected.extend(
            ["headline", "author", "articleSection"]
                .into_iter()
                .filter(|w| differs(w)),
        );
    }
    assert_eq!(corrected.len(), 3, "{corrected:?}");
    let some = versions.values().filter(|f| f.len() > 1).count();
    assert!(some * 10 > all && some * 3 < all, "{some} of {all}");
    let mute = versions
        .values()
        .filter(|f| text(&f[0], "page").starts_with('<'));
    assert!(mute.count() > 0);
}

#[test]
fn visitors_go_on_within_a_site() {
    let (events, _) = made(&options(50_000), 1_000);
    let mut pages: HashMap<(String, String), HashSet<String>> = HashMap::new();
    let mut internal = 0;
    let mut views = 0;
    for fact in parsed(&events).iter().filter(|f| f["action"] == "pageview") {
        let of = |field: &str| text(fact, field).to_owned();
        pages
            .entry((of("site"), of("visitor")))
            .or_default()
            .insert(of("url"));
        views += 1;
        let from = fact["referrer"].as_str().unwrap_or_default();
        internal += u32::from(from.rsplit('/').next().is_some_and(|l| l.len() > 12));
    }
    assert!(internal * 10 > views * 4, "{internal} of {views}");
    let several = pages.values().filter(|p| p.len() > 1).count();
    assert!(several * 5 > pages.len(), "{several} of {}", pages.len());
}

#[test]
fn a_headline_is_the_words_of_the_address() {
    let url = "https://gazette.example/politics/after-bank-bill-10002";
    assert_eq!(headline(url), "After bank bill");
    assert_eq!(headline("x"), "X");
}
