//! What the generated facts promise: repeatable, in two forms the same, and of the stated shape.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{HashMap, HashSet};
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit, TimestampMicrosecondType};
use arrow::json::ReaderBuilder;
use chrono::{DateTime, Utc};

use super::pace::MINUTE_US;
use super::*;

/// How far event times may lag behind those already seen without being late.
const ON_TIME_US: u64 = 60 * SECOND_US;

fn options(facts: u64) -> GeneratorOptions {
    GeneratorOptions::new(facts, 7, "2025-06-23T12:00:00Z".parse().unwrap())
}

fn facts(options: &GeneratorOptions) -> (Generator, Vec<Fact>) {
    let mut generator = Generator::new(options).unwrap();
    let facts = std::iter::from_fn(|| generator.next_fact()).collect();
    (generator, facts)
}

fn lines(options: &GeneratorOptions, at_once: usize) -> Vec<u8> {
    let mut generator = Generator::new(options).unwrap();
    let mut lines = Vec::new();
    while generator.next_ndjson(&mut lines, at_once) > 0 {}
    lines
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[test]
fn the_first_lines_are_the_same_everywhere() {
    let mut generator = Generator::new(&options(1_000_000)).unwrap();
    let mut lines = Vec::new();
    assert_eq!(generator.next_ndjson(&mut lines, 10_000), 10_000);
    assert_eq!(lines.iter().filter(|&&byte| byte == b'\n').count(), 10_000);
    assert_eq!(
        hash(&lines),
        GOLDEN,
        "{}",
        String::from_utf8_lossy(&lines[..1000])
    );
}

const GOLDEN: u64 = 14_345_718_642_453_291_242;

#[test]
fn facts_do_not_depend_on_how_many_are_taken_at_once() {
    let mut options = options(5_000);
    options.duplicates = 0.05;
    let all = lines(&options, usize::MAX);
    assert_eq!(all, lines(&options, 1));
    assert_eq!(all, lines(&options, 777));
    options.seed += 1;
    assert_ne!(all, lines(&options, usize::MAX));
}

#[test]
fn lines_and_batches_hold_the_same_facts() {
    let mut options = options(20_000);
    options.duplicates = 0.05;
    let mut generator = Generator::new(&options).unwrap();
    let batches: Vec<_> = std::iter::from_fn(|| generator.next_batch(3_000)).collect();
    assert_eq!(batches.len(), 7);
    let batch = concat_batches(&schema(), &batches).unwrap();

    // Arrow's JSON reader knows no zone names without `chrono-tz`; the instants are the same.
    let mut fields: Vec<Field> = schema()
        .fields()
        .iter()
        .map(|field| field.as_ref().clone())
        .collect();
    fields[0] = Field::new(
        "ts",
        DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        false,
    );
    let reader = ReaderBuilder::new(Arc::new(Schema::new(fields)))
        .with_strict_mode(true)
        .with_batch_size(options.facts as usize)
        .build(Cursor::new(lines(&options, 999)))
        .unwrap();
    let read: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(read.len(), 1);
    let read = &read[0];

    assert_eq!(batch.num_rows(), 20_000);
    assert_eq!(
        batch
            .column(0)
            .as_primitive::<TimestampMicrosecondType>()
            .values(),
        read.column(0)
            .as_primitive::<TimestampMicrosecondType>()
            .values(),
    );
    assert_eq!(&batch.columns()[1..], &read.columns()[1..]);
    let visitors = batch.column(5).as_string_view();
    assert!(visitors.iter().flatten().all(|visitor| {
        visitor.len() == 16
            && visitor
                .bytes()
                .all(|digit| b"0123456789abcdef".contains(&digit))
    }));
}

#[test]
fn the_declared_fields_are_those_of_the_batches() {
    let schema = schema();
    assert_eq!(schema.fields().len(), FIELDS.len());
    for (field, &(name, sql)) in schema.fields().iter().zip(FIELDS) {
        assert_eq!(field.name(), name);
        assert_eq!(!field.is_nullable(), sql.ends_with(" not null"), "{name}");
        let expected = match sql.trim_end_matches(" not null") {
            "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            "bigint" => DataType::Int64,
            _ => DataType::Utf8View,
        };
        assert_eq!(field.data_type(), &expected, "{name}");
    }
}

#[test]
fn times_are_written_as_rfc_3339_with_microseconds() {
    let (generator, facts) = facts(&options(1));
    let mut writer = LineWriter::new();
    for text in [
        "1970-01-01T00:00:00.000000Z",
        "2024-02-29T23:59:59.999999Z",
        "2024-03-01T00:00:00.000001Z",
        "2024-02-29T07:08:09.012345Z",
        "1999-12-31T10:20:30.405060Z",
        "2261-12-31T23:59:59.999999Z",
    ] {
        let ts_us = text.parse::<DateTime<Utc>>().unwrap().timestamp_micros() as u64;
        let mut line = Vec::new();
        let fact = Fact { ts_us, ..facts[0] };
        writer.write(&fact, &generator.posts, &generator.referrers, &mut line);
        let expected = format!("{{\"ts\":\"{text}\",\"url\":\"https://");
        assert!(
            line.starts_with(expected.as_bytes()),
            "{}",
            String::from_utf8_lossy(&line)
        );
    }
}

#[test]
fn lines_are_about_240_bytes() {
    let mean = lines(&options(100_000), 1_000).len() as f64 / 100_000.0;
    assert!((230.0..250.0).contains(&mean), "{mean}");
}

#[test]
fn actions_have_their_shares_and_heartbeats_their_times() {
    let (_, facts) = facts(&options(200_000));
    let count =
        |wanted: fn(&Action) -> bool| facts.iter().filter(|fact| wanted(&fact.action)).count();
    let page_views = share(
        count(|action| matches!(action, Action::PageView)),
        facts.len(),
    );
    let shares = share(count(|action| matches!(action, Action::Share)), facts.len());
    assert!((0.49..0.51).contains(&page_views), "{page_views}");
    assert!((0.045..0.055).contains(&shares), "{shares}");
    let engaged: Vec<u32> = facts
        .iter()
        .filter_map(|fact| match fact.action {
            Action::Heartbeat { engaged_ms } => Some(engaged_ms),
            _ => None,
        })
        .collect();
    assert!(
        engaged
            .iter()
            .all(|engaged_ms| (1_000..=15_000).contains(engaged_ms))
    );
    assert!(engaged.iter().any(|&engaged_ms| engaged_ms < 1_100));
    assert!(engaged.iter().any(|&engaged_ms| engaged_ms > 14_900));
}

/// The shares of facts that are out of order at all, and that are late.
fn order(options: &GeneratorOptions) -> (f64, f64) {
    let (_, facts) = facts(options);
    assert_eq!(facts.len() as u64, options.facts);
    let end_us = options.end.timestamp_micros() as u64;
    let start_us = end_us - options.span.as_micros() as u64;
    assert!(
        facts
            .iter()
            .all(|fact| (start_us..end_us).contains(&fact.ts_us))
    );
    let (mut latest_us, mut behind, mut late) = (0, 0, 0);
    for fact in &facts {
        behind += usize::from(fact.ts_us < latest_us);
        late += usize::from(fact.ts_us + ON_TIME_US < latest_us);
        latest_us = latest_us.max(fact.ts_us);
    }
    // The first facts are near the start of the span, the last ones near its end.
    assert!(facts[0].ts_us - start_us < 2 * ON_TIME_US);
    assert!(end_us - latest_us < ON_TIME_US);
    (share(behind, facts.len()), share(late, facts.len()))
}

#[test]
fn facts_are_out_of_order_by_seconds_and_some_of_them_late() {
    let mut options = options(300_000);
    let (behind, late) = order(&options);
    assert!((0.2..0.9).contains(&behind), "{behind}");
    assert!((0.018..0.022).contains(&late), "{late}");
    options.late = 0.0;
    let (behind, late) = order(&options);
    assert!((0.2..0.9).contains(&behind), "{behind}");
    assert!(late == 0.0, "{late}");
}

#[test]
fn duplicates_are_exact_copies_and_only_made_on_request() {
    let mut options = options(100_000);
    for (duplicates, expected) in [(0.0, 0.0..=0.0), (0.1, 0.095..=0.105)] {
        options.duplicates = duplicates;
        let lines = lines(&options, 1_000);
        let mut seen = HashSet::new();
        let repeated = lines
            .split_inclusive(|&byte| byte == b'\n')
            .filter(|line| !seen.insert(*line))
            .count();
        assert_eq!(repeated + seen.len(), 100_000);
        let repeated = share(repeated, 100_000);
        assert!(expected.contains(&repeated), "{repeated}");
    }
}

fn groups(facts: &[Fact]) -> f64 {
    let groups: HashSet<(u64, u32)> = facts
        .iter()
        .map(|fact| (fact.ts_us / MINUTE_US, fact.post))
        .collect();
    share(groups.len(), facts.len())
}

#[test]
fn a_third_as_many_minutes_of_posts_as_facts_are_distinct() {
    for count in [200_000, 1_000_000] {
        let (_, facts) = facts(&options(count));
        let groups = groups(&facts);
        assert!((0.30..0.39).contains(&groups), "{count}: {groups}");
    }
}

#[test]
fn no_fact_is_older_than_its_post() {
    let mut options = options(200_000);
    options.late = 0.3;
    let (generator, facts) = facts(&options);
    let mut random = Random::new(0);
    let mut fresh = 0;
    for fact in &facts {
        assert_eq!(
            generator
                .posts
                .published_at(fact.post, fact.ts_us, &mut random),
            fact.post
        );
        fresh += usize::from(generator.posts.published_at(fact.post, 0, &mut random) != fact.post);
    }
    // Most posts that are read are live, so the check above had something to find.
    assert!(share(fresh, facts.len()) > 0.5);
}

#[test]
fn urls_tell_posts_apart() {
    let (generator, _) = facts(&options(1_000_000));
    let urls: HashSet<&str> = (0..800).map(|post| generator.posts.url(post)).collect();
    assert_eq!(urls.len(), 800);
}

#[test]
fn bursts_bring_readers_to_few_posts() {
    let (generator, facts) = facts(&options(500_000));
    let mut minutes: HashMap<u64, HashMap<u32, usize>> = HashMap::new();
    for fact in &facts {
        *minutes
            .entry(fact.ts_us / (10 * MINUTE_US))
            .or_default()
            .entry(fact.post)
            .or_default() += 1;
    }
    let top_posts = |at_us: u64| {
        let mut posts: Vec<usize> = minutes[&(at_us / (10 * MINUTE_US))]
            .values()
            .copied()
            .collect();
        posts.sort_unstable_by(|one, other| other.cmp(one));
        share(posts.iter().take(3).sum(), posts.iter().sum())
    };
    let bursts = generator.pace.bursts();
    assert_eq!(bursts.len(), 6);
    let within: f64 = bursts
        .iter()
        .map(|burst| top_posts(burst.start_us + 15 * MINUTE_US))
        .sum();
    let before: f64 = bursts
        .iter()
        .map(|burst| {
            top_posts(
                burst
                    .start_us
                    .saturating_sub(15 * MINUTE_US)
                    .max(generator.start_us),
            )
        })
        .sum();
    assert!(within > 1.5 * before, "{within} {before}");
}

#[test]
fn traffic_follows_the_time_of_day() {
    let (_, facts) = facts(&options(200_000));
    let mut hours = [0_usize; 24];
    for fact in &facts {
        hours[(fact.ts_us / (60 * MINUTE_US) % 24) as usize] += 1;
    }
    assert!(
        hours[3] * 2 < hours[12] && hours[3] * 2 < hours[19],
        "{hours:?}"
    );
}

#[test]
fn authors_with_the_most_facebook_traffic_are_not_those_with_the_most_traffic() {
    let (generator, facts) = facts(&options(1_000_000));
    let mut authors: HashMap<&str, (usize, usize)> = HashMap::new();
    for fact in facts.iter().filter(|fact| fact.action == Action::PageView) {
        let (page_views, facebook) = authors
            .entry(generator.posts.author(fact.post))
            .or_default();
        *page_views += 1;
        *facebook += usize::from(match fact.referrer {
            Referrer::Listed(index) => generator.referrers.get(index).contains("facebook.com/"),
            _ => false,
        });
    }
    let known: Vec<f64> = authors
        .values()
        .filter(|(page_views, _)| *page_views > 1_000)
        .map(|&(page_views, facebook)| share(facebook, page_views))
        .collect();
    assert!(known.iter().any(|&facebook| facebook < 0.06), "{known:?}");
    assert!(known.iter().any(|&facebook| facebook > 0.3), "{known:?}");
    let mut by_traffic: Vec<_> = authors.iter().collect();
    by_traffic.sort_by_key(|(_, (page_views, _))| std::cmp::Reverse(*page_views));
    let mut by_facebook = by_traffic.clone();
    by_facebook.sort_by_key(|(_, (_, facebook))| std::cmp::Reverse(*facebook));
    let names = |authors: &[(&&str, &(usize, usize))]| -> HashSet<String> {
        authors[..10]
            .iter()
            .map(|(name, _)| name.to_string())
            .collect()
    };
    let both = names(&by_traffic)
        .intersection(&names(&by_facebook))
        .count();
    assert!((1..9).contains(&both), "{both}");
}

#[test]
fn what_is_read_thoroughly_is_shared_more() {
    let (generator, facts) = facts(&options(500_000));
    // Of shallow and deep posts: page views, shares, engaged time.
    let mut read = [[0.0; 3]; 2];
    for fact in &facts {
        let deep = &mut read[usize::from(generator.posts.depth(fact.post) >= 128)];
        match fact.action {
            Action::PageView => deep[0] += 1.0,
            Action::Share => deep[1] += 1.0,
            Action::Heartbeat { engaged_ms } => deep[2] += f64::from(engaged_ms),
        }
    }
    let [shallow, deep] =
        read.map(|[page_views, shares, engaged]| (shares / page_views, engaged / page_views));
    assert!(deep.0 > 1.2 * shallow.0, "{deep:?} {shallow:?}");
    assert!(deep.1 > 1.5 * shallow.1, "{deep:?} {shallow:?}");
}

#[test]
fn few_visitors_come_often() {
    let mut options = options(400_000);
    options.visitors = Some(50_000);
    let (_, facts) = facts(&options);
    let mut visits: HashMap<u64, usize> = HashMap::new();
    for fact in &facts {
        *visits.entry(fact.visitor).or_default() += 1;
    }
    assert!(
        (20_000..=50_000).contains(&visits.len()),
        "{}",
        visits.len()
    );
    let mut visits: Vec<usize> = visits.into_values().collect();
    visits.sort_unstable_by(|one, other| other.cmp(one));
    let top = share(visits.iter().take(500).sum(), facts.len());
    assert!((0.05..0.25).contains(&top), "{top}");
}

#[test]
fn the_smallest_options_work() {
    let mut options = options(0);
    assert!(Generator::new(&options).unwrap().next_batch(10).is_none());
    assert!(lines(&options, 10).is_empty());
    options.facts = 1;
    assert_eq!(facts(&options).1.len(), 1);
    options.facts = 1_000;
    options.posts = Some(1);
    options.visitors = Some(1);
    options.duplicates = 0.999;
    options.late = 1.0;
    for span in [
        Duration::from_micros(1),
        Duration::from_millis(900),
        Duration::from_secs(61),
    ] {
        options.span = span;
        let (generator, facts) = facts(&options);
        assert_eq!((facts.len(), generator.remaining()), (1_000, 0));
        let end_us = options.end.timestamp_micros() as u64;
        assert!(
            facts
                .iter()
                .all(|fact| fact.ts_us < end_us && fact.ts_us + span.as_micros() as u64 >= end_us)
        );
    }
    options.end = DateTime::from_timestamp_micros(61_000_000).unwrap();
    assert_eq!(facts(&options).1.len(), 1_000);
}

#[test]
fn options_outside_their_range_are_refused() {
    let refused = |change: fn(&mut GeneratorOptions)| {
        let mut options = options(1);
        change(&mut options);
        Generator::new(&options).unwrap_err().to_string()
    };
    assert!(refused(|options| options.span = Duration::ZERO).contains("`span`"));
    assert!(refused(|options| options.span = Duration::MAX).contains("`span`"));
    assert!(refused(|options| options.end = DateTime::UNIX_EPOCH).contains("`end`"));
    assert!(refused(|options| options.end = DateTime::<Utc>::MAX_UTC).contains("`end`"));
    assert!(refused(|options| options.late = 1.1).contains("`late`"));
    assert!(refused(|options| options.late = f64::NAN).contains("`late`"));
    assert!(refused(|options| options.duplicates = 1.0).contains("`duplicates`"));
    assert!(refused(|options| options.posts = Some(0)).contains("`posts`"));
    assert!(refused(|options| options.visitors = Some(0)).contains("`visitors`"));
}
