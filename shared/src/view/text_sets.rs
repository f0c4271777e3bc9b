//! `count(DISTINCT text)` whose states take what their values take. The engine's own holds a set of
//! its own for each group, with room for hundreds of values from the first one on: 50 kB a group,
//! which it does not count. Here all groups share one set of values, and a group is numbers of these.
//!
//! ```text
//!   values   each text once, numbered in the order in which it was first seen
//!   seen     group · number of a value, 64 bits together
//!   counts   how many values each group has
//! ```
//!
//! States and answers are the engine's.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, UInt64Array, new_empty_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::{HashSet, Result, ScalarValue, exec_datafusion_err};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator,
    ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

/// `count`, over the engine's own.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Count {
    engine: Arc<AggregateUDF>,
}

impl Count {
    pub(super) fn udaf() -> AggregateUDF {
        AggregateUDF::from(Self {
            engine: count_udaf(),
        })
    }

    fn engine(&self) -> &dyn AggregateUDFImpl {
        self.engine.inner().as_ref()
    }
}

/// The type of the one argument, where it is a text or bytes of which distinct values are counted.
fn counted_texts(args: &AccumulatorArgs) -> Option<DataType> {
    let [field] = args.expr_fields else {
        return None;
    };
    let is_text = matches!(
        field.data_type(),
        DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
    );
    (args.is_distinct && is_text).then(|| field.data_type().clone())
}

impl AggregateUDFImpl for Count {
    fn name(&self) -> &str {
        self.engine().name()
    }

    fn signature(&self) -> &Signature {
        self.engine().signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.engine().return_type(arg_types)
    }

    fn is_nullable(&self) -> bool {
        self.engine().is_nullable()
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.engine().state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.engine().accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.engine().create_sliding_accumulator(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        counted_texts(&args).is_some() || self.engine().groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        match counted_texts(&args) {
            Some(kind) => Ok(Box::new(TextSets::new(kind)?)),
            None => self.engine().create_groups_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.engine().reverse_expr()
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.engine().default_value(data_type)
    }

    fn value_from_stats(&self, args: &StatisticsArgs) -> Option<ScalarValue> {
        self.engine().value_from_stats(args)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.engine().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.engine().documentation()
    }
}

/// A set of texts for each group.
///
/// Invariants: `counts[g]` numbers are in `seen` for the group `g`, each of one of `values`.
struct TextSets {
    kind: DataType,
    values: Box<dyn GroupValues>,
    seen: HashSet<u64>,
    counts: Vec<i64>,
    numbers: Vec<usize>,
}

/// What a group holds of a value, as one number; groups come in order, and values of one as they were
/// first seen.
fn pair(group: usize, value: usize) -> Result<u64> {
    match (u32::try_from(group), u32::try_from(value)) {
        (Ok(group), Ok(value)) => Ok((u64::from(group) << 32) | u64::from(value)),
        _ => Err(exec_datafusion_err!(
            "`count(DISTINCT …)` of text holds more than 2^32 groups or values at once"
        )),
    }
}

fn group_of(pair: u64) -> usize {
    usize::try_from(pair >> 32).unwrap_or(usize::MAX)
}

fn value_of(pair: u64) -> u64 {
    pair & u64::from(u32::MAX)
}

fn values_of(kind: &DataType) -> Result<Box<dyn GroupValues>> {
    let schema = Schema::new(vec![Field::new("value", kind.clone(), true)]);
    new_group_values(Arc::new(schema), &GroupOrdering::None)
}

impl TextSets {
    fn new(kind: DataType) -> Result<Self> {
        Ok(Self {
            values: values_of(&kind)?,
            kind,
            seen: HashSet::default(),
            counts: Vec::new(),
            numbers: Vec::new(),
        })
    }

    /// Adds values, none of which is NULL, each to its group.
    fn insert(&mut self, values: &ArrayRef, groups: impl Iterator<Item = usize>) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        self.values
            .intern(std::slice::from_ref(values), &mut self.numbers)?;
        for (group, number) in groups.zip(&self.numbers) {
            if self.seen.insert(pair(group, *number)?) {
                self.counts[group] += 1;
            }
        }
        Ok(())
    }

    /// Takes the first groups out, or all: how many values each has, and which, one after another.
    fn take_out(&mut self, emit: EmitTo) -> Result<(Vec<i64>, ArrayRef)> {
        let counts = emit.take_needed(&mut self.counts);
        let mut pairs: Vec<u64> = self.seen.drain().collect();
        pairs.sort_unstable();
        let all = match self.values.is_empty() {
            true => new_empty_array(&self.kind),
            false => self.values.emit(EmitTo::All)?.swap_remove(0),
        };
        let (out, left) = pairs.split_at(pairs.partition_point(|p| group_of(*p) < counts.len()));
        let texts = |pairs: &[u64]| {
            let numbers = UInt64Array::from_iter_values(pairs.iter().map(|p| value_of(*p)));
            take(&all, &numbers, None)
        };
        let out = texts(out)?;
        if self.counts.is_empty() {
            // All keep room for as many as they had.
            (self.seen, self.values) = (HashSet::default(), values_of(&self.kind)?);
            self.numbers = Vec::new();
        } else {
            let rest = texts(left)?;
            let groups = left.iter().map(|p| group_of(*p) - counts.len());
            self.counts.iter_mut().for_each(|count| *count = 0);
            self.insert(&rest, groups)?;
        }
        Ok((counts, out))
    }
}

/// Lists of so many of the values each.
fn lists(counts: &[i64], values: ArrayRef) -> Result<ArrayRef> {
    let lengths = counts.iter().map(|n| usize::try_from(*n).unwrap_or(0));
    let total = lengths.clone().fold(0_usize, usize::saturating_add);
    if i32::try_from(total).is_err() {
        return Err(exec_datafusion_err!(
            "the states of `count(DISTINCT …)` of text hold more than 2^31 values at once"
        ));
    }
    let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(item, offsets, values, None)?))
}

impl GroupsAccumulator for TextSets {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        self.counts.resize(total_groups, 0);
        let values = &values[0];
        let counts = |row: usize| {
            values.is_valid(row) && filter.is_none_or(|f| f.is_valid(row) && f.value(row))
        };
        if filter.is_none() && values.null_count() == 0 {
            return self.insert(values, groups.iter().copied());
        }
        let rows: Vec<usize> = (0..values.len()).filter(|row| counts(*row)).collect();
        let indices = UInt64Array::from_iter_values(rows.iter().map(|row| *row as u64));
        let kept = take(values, &indices, None)?;
        self.insert(&kept, rows.iter().map(|row| groups[*row]))
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        groups: &[usize],
        total_groups: usize,
    ) -> Result<()> {
        self.counts.resize(total_groups, 0);
        let lists = states[0].as_list::<i32>();
        let (mut of_value, mut indices) = (Vec::new(), Vec::new());
        for (row, group) in groups
            .iter()
            .enumerate()
            .filter(|(r, _)| lists.is_valid(*r))
        {
            let (start, end) = (lists.value_offsets()[row], lists.value_offsets()[row + 1]);
            // States of version 0.1.0 may hold NULL, which does not count.
            let held = (start..end).filter(|i| lists.values().is_valid(*i as usize));
            for index in held {
                indices.push(index as u64);
                of_value.push(*group);
            }
        }
        let values = take(lists.values(), &UInt64Array::from(indices), None)?;
        self.insert(&values, of_value.into_iter())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let (counts, _) = self.take_out(emit)?;
        Ok(Arc::new(Int64Array::from(counts)))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let (counts, values) = self.take_out(emit)?;
        Ok(vec![lists(&counts, values)?])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = &values[0];
        let counts = |row: usize| {
            values.is_valid(row) && filter.is_none_or(|f| f.is_valid(row) && f.value(row))
        };
        let rows: Vec<bool> = (0..values.len()).map(counts).collect();
        let kept = arrow::compute::filter(values, &BooleanArray::from(rows.clone()))?;
        let lengths: Vec<i64> = rows.into_iter().map(i64::from).collect();
        Ok(vec![lists(&lengths, kept)?])
    }

    fn size(&self) -> usize {
        size_of::<Self>()
            + self.values.size()
            + self.seen.allocation_size()
            + self.counts.capacity() * size_of::<i64>()
            + self.numbers.capacity() * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow::array::StringViewArray;

    use super::*;

    /// Values of groups, with NULLs, more of some than of others.
    fn rows(from: usize, to: usize) -> (ArrayRef, Vec<usize>) {
        let text =
            |i: usize| (!i.is_multiple_of(7)).then(|| format!("a visitor of this site {}", i % 31));
        let values = StringViewArray::from_iter((from..to).map(text));
        (Arc::new(values), (from..to).map(|i| i * i % 11).collect())
    }

    fn expected(to: usize, keep: impl Fn(usize) -> bool) -> Vec<BTreeSet<String>> {
        let (values, groups) = rows(0, to);
        let mut sets = vec![BTreeSet::new(); 11];
        for (row, group) in groups.into_iter().enumerate() {
            if values.is_valid(row) && keep(row) {
                sets[group].insert(values.as_string_view().value(row).to_owned());
            }
        }
        sets
    }

    fn held(states: &ArrayRef) -> Vec<BTreeSet<String>> {
        let lists = states.as_list::<i32>();
        let set = |list: Option<ArrayRef>| {
            let list = list.unwrap_or_else(|| new_empty_array(&DataType::Utf8View));
            let texts = list.as_string_view().iter().flatten();
            let set: BTreeSet<String> = texts.map(str::to_owned).collect();
            assert_eq!(set.len(), list.len(), "a value is there twice");
            set
        };
        lists.iter().map(set).collect()
    }

    fn filled(from: usize, to: usize) -> Result<TextSets> {
        let mut sets = TextSets::new(DataType::Utf8View)?;
        let (values, groups) = rows(from, to);
        sets.update_batch(&[values], &groups, None, 11)?;
        Ok(sets)
    }

    #[test]
    fn states_hold_each_value_once_and_merge() -> Result<()> {
        let wanted = expected(500, |_| true);
        assert_eq!(held(&filled(0, 500)?.state(EmitTo::All)?[0]), wanted);
        let mut merged = TextSets::new(DataType::Utf8View)?;
        let groups: Vec<usize> = (0..11).collect();
        for (from, to) in [(0, 200), (100, 350), (350, 500)] {
            merged.merge_batch(&filled(from, to)?.state(EmitTo::All)?, &groups, 11)?;
        }
        let counts = merged.evaluate(EmitTo::All)?;
        let wanted: Vec<i64> = wanted.iter().map(|set| set.len() as i64).collect();
        assert_eq!(
            counts
                .as_primitive::<arrow::datatypes::Int64Type>()
                .values(),
            &wanted[..]
        );
        Ok(())
    }

    /// The first groups go, the others become the first, and go on.
    #[test]
    fn groups_are_taken_out_in_parts() -> Result<()> {
        let mut sets = filled(0, 300)?;
        let mut found = held(&sets.state(EmitTo::First(4))?[0]);
        let (values, groups) = rows(300, 500);
        let later: BooleanArray = groups.iter().map(|g| Some(*g >= 4)).collect();
        let groups: Vec<usize> = groups.iter().map(|g| g.saturating_sub(4)).collect();
        sets.update_batch(&[values], &groups, Some(&later), 7)?;
        found.extend(held(&sets.state(EmitTo::First(3))?[0]));
        found.extend(held(&sets.state(EmitTo::All)?[0]));
        let of_row = |row: usize| row * row % 11;
        assert_eq!(found, expected(500, |row| row < 300 || of_row(row) >= 4));
        assert!(sets.counts.is_empty() && sets.seen.is_empty());
        Ok(())
    }

    #[test]
    fn rows_become_states_one_by_one() -> Result<()> {
        let (values, groups) = rows(0, 500);
        let filter: BooleanArray = (0..500).map(|row| Some(row % 3 != 0)).collect();
        let mut merged = TextSets::new(DataType::Utf8View)?;
        let states = merged.convert_to_state(&[values], Some(&filter))?;
        merged.merge_batch(&states, &groups, 11)?;
        let found = held(&merged.state(EmitTo::All)?[0]);
        assert_eq!(found, expected(500, |row| row % 3 != 0));
        Ok(())
    }

    /// The engine's own takes 50 kB a group, and counts 20 bytes of them.
    #[test]
    fn many_small_groups_take_little_and_it_is_counted() -> Result<()> {
        let groups = 20_000;
        let mut sets = TextSets::new(DataType::Utf8View)?;
        for part in 0..3 {
            let text = |i: usize| format!("a visitor of this site {}", (i * 3 + part) % 5_000);
            let values: ArrayRef =
                Arc::new(StringViewArray::from_iter_values((0..groups).map(text)));
            let ids: Vec<usize> = (0..groups).collect();
            sets.update_batch(&[values], &ids, None, groups)?;
        }
        let counted = sets.size() / groups;
        assert!((8 * 3..200).contains(&counted), "{counted} bytes a group");
        let states = sets.state(EmitTo::All)?;
        assert_eq!(states[0].as_list::<i32>().values().len(), 3 * groups);
        // An empty set of values has some room already.
        assert!(sets.size() < 150_000, "{} bytes are kept", sets.size());
        Ok(())
    }
}
