//! Folding: facts into states, states into states. One piece of code for batch and speed layer.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array,
};
use arrow::compute::{SortColumn, concat, concat_batches, lexsort_to_indices, take};
use arrow::datatypes::Schema;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr_common::physical_expr::fmt_sql;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::View;
use super::aggregate::{AggregateSplit, Column};
use super::compact::{compact, compact_array};
use crate::fit::fit;
use crate::late_fields::fit_facts;
use crate::topic::{OFFSET, PARTITION};
use crate::{Error, ErrorKind, Offset, OffsetRange, PartitionId, Result};

/// Folds facts and states of one view into states.
///
/// Invariants: group ids are dense; every accumulator knows as many groups as `keys`.
pub struct Fold {
    view: Arc<View>,
    inner: Inner,
}

enum Inner {
    Aggregate(Box<Groups>),
    Rows(Vec<RecordBatch>),
}

struct Groups {
    split: Arc<AggregateSplit>,
    keys: Box<dyn GroupValues>,
    accumulators: Vec<Slot>,
    ids: Vec<usize>,
}

/// An accumulator, and the input that it must see in order and all at once.
struct Slot {
    accumulator: Box<dyn GroupsAccumulator>,
    waiting: Option<Waiting>,
}

/// Input of an aggregate that relies on sorted input.
#[derive(Default)]
struct Waiting {
    arguments: Vec<Vec<ArrayRef>>,
    ids: Vec<usize>,
    bytes: usize,
}

impl Fold {
    /// A fold of nothing.
    pub fn new(view: &Arc<View>) -> Result<Self> {
        let inner = match view.aggregate() {
            Some(split) => Inner::Aggregate(Box::new(Groups::new(split)?)),
            None => Inner::Rows(Vec::new()),
        };
        Ok(Self {
            view: view.clone(),
            inner,
        })
    }

    /// Folds a batch of facts, given as the columns of [`View::fact_schema`].
    pub fn facts(&mut self, facts: &RecordBatch) -> Result<()> {
        let batch = self.view.apply_lower(facts)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        match &mut self.inner {
            Inner::Aggregate(groups) => groups.update(&batch),
            Inner::Rows(rows) => {
                // What was filtered out of a batch keeps all of it in memory.
                rows.push(compact(batch)?);
                Ok(())
            }
        }
    }

    /// Merges a batch of states.
    pub fn states(&mut self, states: &RecordBatch) -> Result<()> {
        if states.num_rows() == 0 {
            return Ok(());
        }
        match &mut self.inner {
            Inner::Aggregate(groups) => groups.merge(states),
            Inner::Rows(rows) => {
                rows.push(states.clone());
                Ok(())
            }
        }
    }

    /// How many states there are.
    pub fn len(&self) -> usize {
        match &self.inner {
            Inner::Aggregate(groups) => groups.keys.len(),
            Inner::Rows(rows) => rows.iter().map(RecordBatch::num_rows).sum(),
        }
    }

    /// Whether nothing was folded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory in use.
    pub fn size_bytes(&self) -> usize {
        match &self.inner {
            Inner::Aggregate(groups) => groups.size_bytes(),
            Inner::Rows(rows) => rows.iter().map(RecordBatch::get_array_memory_size).sum(),
        }
    }

    /// The states, one row a key, in no order. They take no more memory than they need.
    pub fn into_states(self) -> Result<RecordBatch> {
        let states = match self.inner {
            Inner::Aggregate(groups) => groups.into_states(),
            Inner::Rows(rows) => Ok(concat_batches(self.view.state_schema(), &rows)?),
        };
        compact(states?)
    }
}

impl Groups {
    fn new(split: &Arc<AggregateSplit>) -> Result<Self> {
        let accumulators = split
            .columns()
            .iter()
            .map(Slot::new)
            .collect::<Result<_>>()?;
        let keys = new_group_values(split.key_schema(), &GroupOrdering::None)?;
        Ok(Self {
            split: split.clone(),
            keys,
            accumulators,
            ids: Vec::new(),
        })
    }

    fn update(&mut self, batch: &RecordBatch) -> Result<()> {
        let keys = self
            .split
            .key_exprs()
            .map(|e| evaluate(e, batch))
            .collect::<Result<Vec<_>>>()?;
        self.keys.intern(&keys, &mut self.ids)?;
        let groups = self.keys.len();
        for (slot, column) in self.accumulators.iter_mut().zip(self.split.columns()) {
            slot.update(column, batch, &self.ids, groups)?;
        }
        Ok(())
    }

    fn merge(&mut self, states: &RecordBatch) -> Result<()> {
        let keys = &states.columns()[..self.split.keys().len()];
        self.keys.intern(keys, &mut self.ids)?;
        let groups = self.keys.len();
        for (slot, column) in self.accumulators.iter_mut().zip(self.split.columns()) {
            let values = &states.columns()[column.state_columns()];
            slot.accumulator.merge_batch(values, &self.ids, groups)?;
        }
        Ok(())
    }

    fn size_bytes(&self) -> usize {
        let slot = |s: &Slot| s.accumulator.size() + s.waiting.as_ref().map_or(0, |w| w.bytes);
        self.keys.size() + self.accumulators.iter().map(slot).sum::<usize>()
    }

    fn into_states(mut self) -> Result<RecordBatch> {
        let groups = self.keys.len();
        if groups == 0 {
            return Ok(RecordBatch::new_empty(self.split.state_schema().clone()));
        }
        let mut columns = self.keys.emit(EmitTo::All)?;
        for (slot, column) in self.accumulators.into_iter().zip(self.split.columns()) {
            columns.extend(slot.into_state(column, groups)?);
        }
        canonical(&self.split, columns)
    }
}

/// The states of no facts of an aggregation without GROUP BY: its answer is one row all the same.
/// `None` for other views, whose answer over no facts is empty.
pub fn identity_states(view: &Arc<View>) -> Result<Option<RecordBatch>> {
    let global = view.aggregate().filter(|s| s.is_global());
    global.map(states_of_nothing).transpose()
}

/// The states that no facts have, under one key: merged with others they change nothing.
pub(super) fn states_of_nothing(split: &Arc<AggregateSplit>) -> Result<RecordBatch> {
    let mut groups = Groups::new(split)?;
    let keys: Vec<ArrayRef> = match split.is_global() {
        true => vec![Arc::new(arrow::array::Int8Array::from(vec![0]))],
        false => {
            let schema = split.key_schema();
            let types = schema.fields().iter().map(|f| f.data_type().clone());
            types.map(|t| new_null_array(&t, 1)).collect()
        }
    };
    groups.keys.intern(&keys, &mut groups.ids)?;
    // A row that is filtered away, not no row: accumulators take a group without rows for one in
    // which every value was seen.
    let nothing = RecordBatch::new_empty(split.input_schema().clone());
    let away = BooleanArray::from(vec![false]);
    for (slot, column) in groups.accumulators.iter_mut().zip(split.columns()) {
        let arguments = arguments(column, &nothing)?
            .iter()
            .map(|a| new_null_array(a.data_type(), 1))
            .collect();
        slot.feed(arguments, &[0], Some(&away), 1)?;
    }
    groups.into_states()
}

/// Merged states as finished values of one column, row by row.
pub fn finish_column(column: &Column, states: &[ArrayRef]) -> Result<ArrayRef> {
    let rows = states.first().map_or(0, Array::len);
    let mut slot = Slot::new(column)?;
    let ids: Vec<usize> = (0..rows).collect();
    slot.accumulator.merge_batch(states, &ids, rows)?;
    Ok(slot.accumulator.evaluate(EmitTo::All)?)
}

/// An accumulator over groups for an aggregate, also for one that has none of its own.
pub fn groups_accumulator(
    aggregate: &Arc<AggregateFunctionExpr>,
) -> datafusion::common::Result<Box<dyn GroupsAccumulator>> {
    match aggregate.groups_accumulator_supported() {
        true => aggregate.create_groups_accumulator(),
        false => {
            let aggregate = aggregate.clone();
            Ok(Box::new(GroupsAccumulatorAdapter::new(move || {
                aggregate.create_accumulator()
            })))
        }
    }
}

/// The state columns in the exact types of the state schema.
fn canonical(split: &AggregateSplit, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    let schema = split.state_schema();
    let rows = columns.first().map_or(0, Array::len);
    let columns = columns
        .into_iter()
        .zip(schema.fields())
        .map(|(c, f)| fit(&c, f.data_type()))
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        schema.clone(),
        columns,
        &options,
    )?)
}

/// The values of an expression; an error names it.
pub(super) fn evaluate(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef> {
    expr.evaluate(batch)
        .and_then(|values| values.into_array(batch.num_rows()))
        .map_err(|e| named(fmt_sql(expr.as_ref()), e.into()))
}

/// An error with the expression that it comes from.
fn named(expression: impl std::fmt::Display, e: Error) -> Error {
    match (e.kind(), &e) {
        (ErrorKind::Invalid, Error::Query(_)) => {
            Error::Invalid(format!("`{expression}` failed: {e}"))
        }
        _ => e,
    }
}

/// The values of an aggregate's arguments, and then of its ORDER BY.
fn arguments(column: &Column, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let aggregate = column.aggregate();
    aggregate
        .expressions()
        .into_iter()
        .chain(aggregate.order_bys().iter().map(|o| o.expr.clone()))
        .map(|e| evaluate(&e, batch))
        .collect()
}

impl Slot {
    fn new(column: &Column) -> Result<Self> {
        let aggregate = column.aggregate();
        let accumulator = groups_accumulator(aggregate)?;
        let sorted = aggregate.order_sensitivity() == AggregateOrderSensitivity::HardRequirement;
        Ok(Self {
            accumulator,
            waiting: sorted.then(Waiting::default),
        })
    }

    fn update(
        &mut self,
        column: &Column,
        batch: &RecordBatch,
        ids: &[usize],
        groups: usize,
    ) -> Result<()> {
        let filter = column.filter().map(|f| evaluate(f, batch)).transpose()?;
        let filter = filter.as_ref().map(|f| f.as_boolean());
        self.feed(arguments(column, batch)?, ids, filter, groups)
            .map_err(|e| named(column.aggregate().name(), e))
    }

    fn feed(
        &mut self,
        arguments: Vec<ArrayRef>,
        ids: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        match &mut self.waiting {
            None => Ok(self
                .accumulator
                .update_batch(&arguments, ids, filter, groups)?),
            Some(waiting) => waiting.push(arguments, ids, filter),
        }
    }

    fn into_state(mut self, column: &Column, groups: usize) -> Result<Vec<ArrayRef>> {
        if let Some(waiting) = self.waiting.take() {
            waiting.feed(column, self.accumulator.as_mut(), groups)?;
        }
        Ok(self.accumulator.state(EmitTo::All)?)
    }
}

impl Waiting {
    fn push(
        &mut self,
        arguments: Vec<ArrayRef>,
        ids: &[usize],
        filter: Option<&BooleanArray>,
    ) -> Result<()> {
        let kept = |row: usize| filter.is_none_or(|f| f.is_valid(row) && f.value(row));
        let rows: Vec<usize> = (0..ids.len()).filter(|&r| kept(r)).collect();
        let indices = arrow::array::UInt64Array::from_iter_values(rows.iter().map(|&r| r as u64));
        let arguments = arguments
            .iter()
            .map(|a| compact_array(take(a, &indices, None)?))
            .collect::<Result<Vec<_>>>()?;
        self.bytes += arguments
            .iter()
            .map(|a| a.get_array_memory_size())
            .sum::<usize>();
        self.bytes += rows.len() * size_of::<usize>();
        self.ids.extend(rows.iter().map(|&r| ids[r]));
        self.arguments.push(arguments);
        Ok(())
    }

    /// Gives the accumulator all its input at once, sorted as its ORDER BY says.
    fn feed(
        self,
        column: &Column,
        accumulator: &mut dyn GroupsAccumulator,
        groups: usize,
    ) -> Result<()> {
        let Some(first) = self.arguments.first() else {
            return Ok(());
        };
        let arguments = (0..first.len())
            .map(|i| {
                let parts: Vec<&dyn Array> = self.arguments.iter().map(|a| a[i].as_ref()).collect();
                concat(&parts)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let orders = column.aggregate().order_bys();
        let first_order = arguments.len() - orders.len();
        let sort: Vec<SortColumn> = orders
            .iter()
            .zip(&arguments[first_order..])
            .map(|(o, values)| SortColumn {
                values: values.clone(),
                options: Some(o.options),
            })
            .collect();
        let indices = lexsort_to_indices(&sort, None)?;
        let sorted = arguments
            .iter()
            .map(|a| take(a, &indices, None))
            .collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<usize> = indices
            .values()
            .iter()
            .map(|&i| self.ids[i as usize])
            .collect();
        Ok(accumulator.update_batch(&sorted, &ids, None, groups)?)
    }
}

/// Folds facts of one range into states, and says which fact it was where an expression failed.
///
/// `facts` have the columns of the topic's schema, as it is declared or was.
pub fn fold_facts(view: &Arc<View>, facts: &[RecordBatch]) -> Result<RecordBatch> {
    let mut fold = Fold::new(view)?;
    for run in runs(facts) {
        let read = run.iter().map(|batch| view.facts_read(batch));
        let joined = joined(&read.collect::<Result<Vec<_>>>()?)?;
        fold.facts(&joined).map_err(|e| match whole(view, run) {
            Ok(batch) => locate(view, &batch, e),
            Err(_) => e,
        })?;
    }
    fold.into_states()
}

/// Facts of small requests are folded some at a time: each batch takes as long as some hundred facts.
const RUN_ROWS: usize = 8_192;

/// Consecutive batches that have no more than [`RUN_ROWS`] together, or one that has more.
fn runs(batches: &[RecordBatch]) -> impl Iterator<Item = &[RecordBatch]> {
    let mut left = batches;
    std::iter::from_fn(move || {
        let mut rows = 0;
        let fits = left.iter().take_while(|batch| {
            rows += batch.num_rows();
            rows <= RUN_ROWS
        });
        let (run, rest) = left.split_at(fits.count().max(1).min(left.len()));
        left = rest;
        (!run.is_empty()).then_some(run)
    })
}

/// Batches of one schema as one.
fn joined(batches: &[RecordBatch]) -> Result<RecordBatch> {
    match batches {
        [] => Err(Error::Internal("no batches to join".into())),
        [one] => Ok(one.clone()),
        [first, ..] => Ok(concat_batches(&first.schema(), batches)?),
    }
}

/// Batches of facts as one, in all columns of the view's topic.
fn whole(view: &View, facts: &[RecordBatch]) -> Result<RecordBatch> {
    // Whether a field may be null is decided at admission.
    let schema = view.topic().schema();
    let nullable = schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(true));
    let schema = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    let fitted = facts
        .iter()
        .map(|batch| fit_facts(&schema, view.late_reads(), batch));
    joined(&fitted.collect::<Result<Vec<_>>>()?)
}

/// The error with the place of the first fact that causes it.
fn locate(view: &Arc<View>, batch: &RecordBatch, error: Error) -> Error {
    let fails = |part: &RecordBatch| {
        let read = view.facts_read(part);
        read.and_then(|p| Fold::new(view)?.facts(&p)).err()
    };
    let (mut start, mut rows, mut last) = (0, batch.num_rows(), error);
    while rows > 1 {
        let half = rows / 2;
        if let Some(e) = fails(&batch.slice(start, half)) {
            (rows, last) = (half, e);
        } else if let Some(e) = fails(&batch.slice(start + half, rows - half)) {
            (start, rows, last) = (start + half, rows - half, e);
        } else {
            break;
        }
    }
    let place = |name: &str| batch.column_by_name(name).cloned();
    let (Some(partitions), Some(offsets)) = (place(PARTITION), place(OFFSET)) else {
        return last;
    };
    let partitions = partitions.as_primitive::<arrow::datatypes::Int32Type>();
    let offsets = offsets.as_primitive::<arrow::datatypes::Int64Type>();
    let partition = partitions.value(start);
    // Where they fail only together they may be of several partitions: the first is named.
    let of_it = (start..start + rows).take_while(|&row| partitions.value(row) == partition);
    let end = of_it.last().unwrap_or(start);
    Error::Expression {
        view: view.name().to_owned(),
        partition: PartitionId(partition),
        range: OffsetRange::new(Offset(offsets.value(start)), Offset(offsets.value(end) + 1)),
        reason: last.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, Int64Array, new_null_array};

    use super::*;
    use crate::settings::{FieldReads, FieldType};
    use crate::{Topic, TopicField};

    fn topic() -> Topic {
        let field = |name: &str, field_type| TopicField {
            name: name.into(),
            field_type,
            nullable: true,
            reads: FieldReads::default(),
        };
        Topic {
            name: "facts".into(),
            event_time: "ts".into(),
            fields: vec![
                field("ts", FieldType::Timestamp),
                field("n", FieldType::BigInt),
            ],
        }
    }

    /// Facts of one partition from an offset on.
    fn facts(partition: i32, first: i64, numbers: &[i64]) -> Result<RecordBatch> {
        let (schema, rows) = (topic().schema(), numbers.len());
        let columns = schema.fields().iter().map(|f| -> ArrayRef {
            match f.name().as_str() {
                "n" => Arc::new(Int64Array::from(numbers.to_vec())),
                PARTITION => Arc::new(Int32Array::from(vec![partition; rows])),
                OFFSET => Arc::new(Int64Array::from_iter_values((first..).take(rows))),
                _ => new_null_array(f.data_type(), rows),
            }
        });
        let columns = columns.collect();
        let nullable = schema
            .fields()
            .iter()
            .map(|f| f.as_ref().clone().with_nullable(true));
        let schema = arrow::datatypes::Schema::new(nullable.collect::<Vec<_>>());
        Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
    }

    /// Small batches are folded together, and still the fact that fails is named.
    #[test]
    fn a_fact_that_fails_among_small_batches_is_named() -> Result<()> {
        let sql = "SELECT 10 / n AS q, count(*) AS facts FROM facts GROUP BY 1";
        let view = Arc::new(View::compile("v", sql, &topic())?);
        let good = [facts(0, 0, &[1, 2, 3])?, facts(1, 100, &[2])?];
        assert_eq!(fold_facts(&view, &good)?.num_rows(), 3);
        let bad = [&good[..], &[facts(1, 101, &[5, 0, 7])?]].concat();
        let failed = fold_facts(&view, &bad).err();
        let place = failed.as_ref().and_then(|e| match e {
            Error::Expression {
                partition, range, ..
            } => Some((*partition, *range)),
            _ => None,
        });
        let expected = OffsetRange::new(Offset(102), Offset(103));
        assert_eq!(place, Some((PartitionId(1), expected)), "{failed:?}");
        Ok(())
    }

    #[test]
    fn runs_are_of_all_batches_in_order_and_small() -> Result<()> {
        let sizes = [1, 0, RUN_ROWS - 1, 1, RUN_ROWS + 1, RUN_ROWS, 7, 0];
        let batches = sizes.map(|rows| facts(0, 0, &vec![1; rows]));
        let batches = batches.into_iter().collect::<Result<Vec<_>>>()?;
        let rows = |run: &[RecordBatch]| run.iter().map(RecordBatch::num_rows).collect::<Vec<_>>();
        let all: Vec<_> = runs(&batches).map(rows).collect();
        let expected = [
            vec![1, 0, RUN_ROWS - 1],
            vec![1],
            vec![RUN_ROWS + 1],
            vec![RUN_ROWS],
            vec![7, 0],
        ];
        assert_eq!(all, expected);
        assert_eq!(runs(&[]).count(), 0);
        Ok(())
    }
}
