//! Sessions beside a sort and a scan, over random facts that are cut and merged in random ways.
#![expect(clippy::unwrap_used, reason = "tests")]

use arrow::array::{Int64Array, StringViewArray, TimestampMicrosecondArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::logical_expr::EmitTo;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::*;

/// A fact: its instant, a number and a word.
type Fact = (i64, Option<i64>, Option<&'static str>);

fn islands(answer: Answer, gap: i64) -> Islands {
    Islands::of(&shape(answer, gap))
}

fn shape(answer: Answer, gap: i64) -> Arc<Shape> {
    Arc::new(Shape {
        answer,
        gap,
        values: match answer {
            Answer::Sessions => vec![DataType::Int64, DataType::Utf8View],
            Answer::Count | Answer::Seconds => Vec::new(),
        },
    })
}

fn update(islands: &mut Islands, facts: &[Fact]) {
    let columns = columns(&islands.shape, facts);
    islands.update_batch(&columns).unwrap();
}

fn columns(shape: &Shape, facts: &[Fact]) -> Vec<ArrayRef> {
    let at = facts.iter().map(|f| f.0);
    let ts = TimestampMicrosecondArray::from_iter_values(at).with_timezone("UTC");
    let mut columns: Vec<ArrayRef> = vec![Arc::new(ts.clone()), Arc::new(ts)];
    if !shape.values.is_empty() {
        columns.push(Arc::new(facts.iter().map(|f| f.1).collect::<Int64Array>()));
        columns.push(Arc::new(
            facts.iter().map(|f| f.2).collect::<StringViewArray>(),
        ));
    }
    columns
}

fn merge(into: &mut Islands, other: &mut Islands) {
    let state = other.state().unwrap();
    let columns: Vec<ArrayRef> = state.iter().map(|s| s.to_array().unwrap()).collect();
    into.merge_batch(&columns).unwrap();
}

fn shown(islands: &mut Islands) -> String {
    let value = islands.evaluate().unwrap().to_array().unwrap();
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(&value, &options).unwrap();
    formatter.value(0).to_string()
}

/// The sessions of facts by sorting and scanning them.
fn scanned(facts: &[Fact], gap: i64) -> Vec<Vec<Fact>> {
    let mut sorted = facts.to_vec();
    sorted.sort_unstable();
    let mut sessions: Vec<Vec<Fact>> = Vec::new();
    for fact in sorted {
        match sessions.last_mut() {
            Some(session) if fact.0 - session[session.len() - 1].0 <= gap => session.push(fact),
            _ => sessions.push(vec![fact]),
        }
    }
    sessions
}

/// What a session tells of a value, as it is shown.
fn told<T: Ord + Copy + ToString>(facts: &[(i64, T)]) -> [String; 4] {
    let text = |value: Option<T>| value.map_or("NULL".to_owned(), |v| v.to_string());
    let values = || facts.iter().map(|(_, v)| *v);
    let at = |at: Option<i64>| facts.iter().filter(move |f| Some(f.0) == at).map(|f| f.1);
    [
        text(values().min()),
        text(values().max()),
        text(at(facts.iter().map(|f| f.0).min()).min()),
        text(at(facts.iter().map(|f| f.0).max()).max()),
    ]
}

fn expected(facts: &[Fact], gap: i64) -> String {
    let time = |at: i64| {
        let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![at]).with_timezone("UTC"));
        let options = FormatOptions::default();
        let formatter = ArrayFormatter::try_new(&at, &options).unwrap();
        formatter.value(0).to_string()
    };
    let sessions = scanned(facts, gap).into_iter().map(|session| {
        let numbers: Vec<(i64, i64)> = session.iter().filter_map(|f| Some((f.0, f.1?))).collect();
        let words: Vec<(i64, &str)> = session.iter().filter_map(|f| Some((f.0, f.2?))).collect();
        let sum: Option<i64> = (!numbers.is_empty()).then(|| numbers.iter().map(|n| n.1).sum());
        let sum = sum.map_or("NULL".to_owned(), |sum| sum.to_string());
        let [min, max, first, last] = told(&numbers);
        let [least, greatest, first_word, last_word] = told(&words);
        format!(
            "{{start: {}, end: {}, facts: {}, value_1: {{sum: {sum}, min: {min}, max: {max}, first: {first}, last: {last}}}, value_2: {{min: {least}, max: {greatest}, first: {first_word}, last: {last_word}}}}}",
            time(session[0].0),
            time(session[session.len() - 1].0),
            session.len()
        )
    });
    format!("[{}]", sessions.collect::<Vec<_>>().join(", "))
}

#[test]
fn sessions_are_those_of_a_sort_and_a_scan_however_facts_are_cut() {
    let mut rng = SmallRng::seed_from_u64(7);
    for case in 0..20_000 {
        let gap = rng.random_range(1..30);
        let reach = rng.random_range(1..400);
        let words = [
            None,
            Some("a"),
            Some("b"),
            Some("a word that is not inlined"),
        ];
        let facts = (0..rng.random_range(0..40)).map(|_| {
            let number = rng.random_bool(0.8).then(|| rng.random_range(-3..4));
            let at = rng.random_range(-reach..reach) * if case % 50 == 0 { 1 << 40 } else { 1 };
            (at, number, words[rng.random_range(0..words.len())])
        });
        let mut facts: Vec<Fact> = facts.collect();
        let (wanted, sessions) = (expected(&facts, gap), scanned(&facts, gap));
        facts.shuffle(&mut rng);
        let mut parts: Vec<Islands> = Vec::new();
        let mut rest = facts.as_slice();
        loop {
            let (own, others) = rest.split_at(rng.random_range(0..=rest.len()));
            let mut part = islands(Answer::Sessions, gap);
            own.chunks(7).for_each(|some| update(&mut part, some));
            parts.push(part);
            rest = others;
            if rest.is_empty() {
                break;
            }
        }
        while parts.len() > 1 {
            let mut other = parts.swap_remove(rng.random_range(0..parts.len()));
            let into = rng.random_range(0..parts.len());
            merge(&mut parts[into], &mut other);
        }
        assert_eq!(
            shown(&mut parts[0]),
            wanted,
            "case {case}: gap {gap}, {facts:?}"
        );
        let mut count = islands(Answer::Count, gap);
        update(&mut count, &facts);
        assert_eq!(shown(&mut count), sessions.len().to_string());
        let spans = sessions.iter().map(|s| s[s.len() - 1].0 - s[0].0);
        let mut seconds = islands(Answer::Seconds, gap);
        update(&mut seconds, &facts);
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let wanted = spans.sum::<i64>() as f64 / 1e6;
        assert_eq!(
            seconds.evaluate().unwrap(),
            ScalarValue::Float64(Some(wanted))
        );
    }
}

/// Too many is too many at every cut, and for good.
#[test]
fn too_many_is_the_same_at_every_cut() {
    let most = usize::try_from(MOST_BUCKETS).unwrap();
    let facts = |from: usize, to: usize| -> Vec<Fact> {
        let at = |n: usize| i64::try_from(n).unwrap() * 25;
        (from..to).map(|n| (at(n), None, None)).collect()
    };
    let (some, more) = (facts(0, most), facts(most, most + 1));
    let mut whole = islands(Answer::Count, 10);
    update(&mut whole, &some);
    assert_eq!(shown(&mut whole), MOST_BUCKETS.to_string());
    let mut late = islands(Answer::Count, 10);
    update(&mut late, &more);
    merge(&mut late, &mut whole);
    assert_eq!(shown(&mut late), "NULL");
    update(&mut whole, &more);
    assert_eq!(shown(&mut whole), "NULL");
    let mut fresh = islands(Answer::Count, 10);
    update(&mut fresh, &facts(0, 3));
    merge(&mut fresh, &mut whole);
    assert_eq!(shown(&mut fresh), "NULL");
    // One long session covers as many buckets as it is long.
    let mut long = islands(Answer::Count, 10);
    let at = |n: i64| (n * 10, None, None);
    let steps: Vec<Fact> = (0..=MOST_BUCKETS).map(at).collect();
    update(&mut long, &steps[..most]);
    assert_eq!(shown(&mut long), "1");
    update(&mut long, &steps[most..]);
    assert_eq!(shown(&mut long), "NULL");
    // The whole of time is no trouble.
    let mut wide = islands(Answer::Count, 1);
    update(
        &mut wide,
        &[
            (i64::MIN, None, None),
            (i64::MAX, None, None),
            (0, None, None),
        ],
    );
    assert_eq!(shown(&mut wide), "3");
}

/// Many keys at once are what each would be alone, in states and answers, however they are emitted, and
/// with a filter.
#[test]
fn keys_together_are_what_each_is_alone() {
    let mut rng = SmallRng::seed_from_u64(11);
    for case in 0..300 {
        let answer = [Answer::Sessions, Answer::Count, Answer::Seconds][case % 3];
        let shape = shape(answer, 10);
        let total = rng.random_range(1..9);
        let mut alone: Vec<Islands> = (0..total).map(|_| Islands::of(&shape)).collect();
        let (mut first, mut second) =
            (keys::Keys::of(shape.clone()), keys::Keys::of(shape.clone()));
        for together in [&mut first, &mut second] {
            let count = rng.random_range(0..60);
            let fact = |rng: &mut SmallRng| -> Fact {
                let word = [None, Some("a word that is not inlined"), Some("b")];
                (
                    rng.random_range(0..300),
                    rng.random_bool(0.7).then(|| rng.random_range(-3..4)),
                    word[rng.random_range(0..3)],
                )
            };
            let facts: Vec<Fact> = (0..count).map(|_| fact(&mut rng)).collect();
            let groups: Vec<usize> = (0..count).map(|_| rng.random_range(0..total)).collect();
            let counts: Vec<Option<bool>> = (0..count)
                .map(|_| [Some(true), Some(true), Some(false), None][rng.random_range(0..4)])
                .collect();
            let filter = BooleanArray::from(counts.clone());
            let columns = columns(&shape, &facts);
            // As they are, or as the states of each.
            if rng.random_bool(0.5) {
                let filter = Some(&filter);
                together
                    .update_batch(&columns, &groups, filter, total)
                    .unwrap();
            } else {
                let states = together.convert_to_state(&columns, Some(&filter)).unwrap();
                together.merge_batch(&states, &groups, total).unwrap();
            }
            for ((fact, group), counts) in facts.into_iter().zip(groups).zip(counts) {
                if counts == Some(true) {
                    update(&mut alone[group], &[fact]);
                }
            }
        }
        // The second one's states, in two parts, into the first.
        let before = rng.random_range(0..=total);
        for (from, emit) in [(0, EmitTo::First(before)), (before, EmitTo::All)] {
            let states = second.state(emit).unwrap();
            let groups: Vec<usize> = (from..from + states[0].len()).collect();
            first.merge_batch(&states, &groups, total).unwrap();
        }
        assert_eq!(second.size(), keys::Keys::of(shape).size());
        let before = rng.random_range(0..=total);
        let mut found = Vec::new();
        for emit in [EmitTo::First(before), EmitTo::All] {
            let answers = first.evaluate(emit).unwrap();
            found.extend(
                (0..answers.len()).map(|i| ScalarValue::try_from_array(&answers, i).unwrap()),
            );
        }
        let wanted = alone.iter_mut().map(|key| key.evaluate().unwrap());
        assert_eq!(found, wanted.collect::<Vec<_>>(), "case {case}");
    }
}

/// What is made of keys of few sessions takes about what their texts take.
#[test]
fn texts_of_few_sessions_take_little() {
    let shape = shape(Answer::Sessions, 10);
    let mut keys = keys::Keys::of(shape.clone());
    let text = "https://gazette.example/politics/after-bank-bill-10002";
    let facts: Vec<Fact> = (0..1_000).map(|_| (0, None, Some(text))).collect();
    let groups: Vec<usize> = (0..1_000).collect();
    let columns = columns(&shape, &facts);
    keys.update_batch(&columns, &groups, None, 1_000).unwrap();
    let mut alone = islands(Answer::Sessions, 10);
    update(&mut alone, &facts[..1]);
    let one = alone.state().unwrap()[0].to_array().unwrap();
    assert!(one.get_array_memory_size() < 8_000, "of one key");
    let states = keys.state(EmitTo::All).unwrap();
    let bytes = states[0].get_array_memory_size();
    assert!(bytes < 1_000 * 1_000, "{bytes} bytes of 1,000 keys");
}
