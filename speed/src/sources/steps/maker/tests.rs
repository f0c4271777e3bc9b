//! Which fact is found to be at fault, and when the step itself is.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::Int64Array;

use super::*;

/// Fails over some facts, alone or among others, and counts how often it was begun.
struct Failing {
    over: Vec<i64>,
    calls: Arc<AtomicUsize>,
}

impl Maker for Failing {
    fn make(&mut self, facts: &RecordBatch) -> Result<Made, Fault> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let of = offsets(facts);
        match of.iter().find(|o| self.over.contains(o)) {
            Some(at) => Err(Fault::Facts(format!("not {at}"))),
            None => Ok(Made {
                of: of.into_iter().map(|o| (o, 0)).collect(),
                ..Made::default()
            }),
        }
    }
}

fn facts(from: i64, rows: i64) -> RecordBatch {
    let of: Int64Array = (from..from + rows).map(Some).collect();
    RecordBatch::try_from_iter([(OFFSET, Arc::new(of) as _)]).unwrap()
}

fn failing(over: &[i64]) -> (Tried, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let maker = Failing {
        over: over.to_vec(),
        calls: calls.clone(),
    };
    (Tried::new(Box::new(maker)), calls)
}

#[test]
fn the_fact_at_fault_is_found_and_the_others_are_made() {
    let (mut tried, calls) = failing(&[105]);
    let made = tried.make(&facts(100, 64)).unwrap();
    assert_eq!(made.refused, [(105, "not 105".to_owned())]);
    let of: Vec<i64> = made.of.iter().map(|(o, _)| *o).collect();
    let wanted: Vec<i64> = (100..164).filter(|o| *o != 105).collect();
    assert_eq!(of, wanted);
    assert!(
        calls.load(Ordering::Relaxed) <= 15,
        "halving takes few tries"
    );
}

#[test]
fn a_step_that_fails_over_everything_refuses_nothing() {
    let all: Vec<i64> = (0..1_000).collect();
    let (mut tried, calls) = failing(&all);
    let fault = tried.make(&facts(0, 1_000)).unwrap_err();
    assert!(
        matches!(&fault, Fault::Begin(why) if why.contains("in a row: not 8")),
        "{fault:?}"
    );
    assert!(calls.load(Ordering::Relaxed) < 60);
    // Nor a single one after that.
    assert!(tried.make(&facts(1, 1)).is_err());
    // Something that it makes shows that it works.
    tried.make(&facts(2_000, 1)).unwrap();
    assert_eq!(tried.make(&facts(1, 1)).unwrap().refused.len(), 1);
}

#[test]
fn many_bad_facts_in_a_row_are_refused_where_others_are_made() {
    let bad: Vec<i64> = (10..40).collect();
    let (mut tried, _) = failing(&bad);
    let made = tried.make(&facts(0, 100)).unwrap();
    assert_eq!(made.refused.len(), 30);
    assert_eq!(made.of.len(), 70);
}
