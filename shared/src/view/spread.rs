//! Variance and standard deviation whose merge is right for large values: where one side is empty,
//! the other is the whole. The engine's own squares the distance between the two means first, and
//! that of a mean of 1e200 from nothing is no number.
//!
//! The update is Welford's (1962), the merge that of Chan, Golub and LeVeque (1979); state and
//! answers are the engine's.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Float64Array, PrimitiveArray, UInt64Array};
use arrow::datatypes::{DataType, FieldRef, Float64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_aggregate::stddev::{stddev_pop_udaf, stddev_udaf};
use datafusion::functions_aggregate::variance::{var_pop_udaf, var_samp_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator,
    Signature,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::accumulate::accumulate;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::nulls::apply_filter_as_nulls;

/// What is made of the moments in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Measure {
    /// Whether the values are a sample of others.
    of_sample: bool,
    /// Whether the root is taken.
    root: bool,
}

/// One of the four functions, over the engine's own.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Spread {
    engine: Arc<AggregateUDF>,
    measure: Measure,
}

impl Spread {
    /// All four.
    pub(super) fn udafs() -> [AggregateUDF; 4] {
        let of = |engine: Arc<AggregateUDF>, of_sample, root| {
            let measure = Measure { of_sample, root };
            AggregateUDF::from(Self { engine, measure })
        };
        [
            of(var_samp_udaf(), true, false),
            of(var_pop_udaf(), false, false),
            of(stddev_udaf(), true, true),
            of(stddev_pop_udaf(), false, true),
        ]
    }

    fn engine(&self) -> &dyn AggregateUDFImpl {
        self.engine.inner().as_ref()
    }
}

impl AggregateUDFImpl for Spread {
    fn name(&self) -> &str {
        self.engine().name()
    }

    fn aliases(&self) -> &[String] {
        self.engine().aliases()
    }

    fn signature(&self) -> &Signature {
        self.engine().signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.engine().return_type(arg_types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.engine().state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return self.engine().accumulator(args);
        }
        Ok(Box::new(OneSpread {
            measure: self.measure,
            moments: Moments::default(),
        }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(GroupSpreads {
            measure: self.measure,
            groups: Vec::new(),
        }))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.engine().documentation()
    }
}

/// How many values there are, their mean, and the sum of the squares of their distances from it.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: u64,
    mean: f64,
    m2: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.m2 += before * (value - self.mean);
    }

    fn remove(&mut self, value: f64) {
        if self.count <= 1 {
            *self = Self::default();
            return;
        }
        self.count -= 1;
        let before = self.mean - value;
        self.mean += before / self.count as f64;
        self.m2 -= before * (self.mean - value);
    }

    fn merge(&mut self, other: Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = other;
            return;
        }
        let count = self.count + other.count;
        let (ours, theirs, all) = (self.count as f64, other.count as f64, count as f64);
        let apart = self.mean - other.mean;
        self.mean = self.mean * ours / all + other.mean * theirs / all;
        self.m2 = self.m2 + other.m2 + apart * apart * ours * theirs / all;
        self.count = count;
    }

    fn measured(&self, measure: Measure) -> Option<f64> {
        let of = self.count.saturating_sub(u64::from(measure.of_sample));
        let variance = (of > 0).then(|| self.m2 / of as f64)?;
        Some(if measure.root {
            variance.sqrt()
        } else {
            variance
        })
    }

    /// The moments in a row of states.
    fn stored(states: &[ArrayRef]) -> impl Iterator<Item = Self> {
        let counts = states[0].as_primitive::<UInt64Type>().values().iter();
        let means = states[1].as_primitive::<Float64Type>().values().iter();
        let m2s = states[2].as_primitive::<Float64Type>().values().iter();
        let parts = counts.zip(means).zip(m2s);
        parts.map(|((&count, &mean), &m2)| Self { count, mean, m2 })
    }

    /// States as columns.
    fn columns(all: &[Self]) -> Vec<ArrayRef> {
        let counts = UInt64Array::from_iter_values(all.iter().map(|m| m.count));
        let means = Float64Array::from_iter_values(all.iter().map(|m| m.mean));
        let m2s = Float64Array::from_iter_values(all.iter().map(|m| m.m2));
        vec![Arc::new(counts), Arc::new(means), Arc::new(m2s)]
    }
}

/// The moments of one group.
#[derive(Debug)]
struct OneSpread {
    measure: Measure,
    moments: Moments,
}

fn numbers(values: &[ArrayRef]) -> &PrimitiveArray<Float64Type> {
    values[0].as_primitive()
}

impl Accumulator for OneSpread {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = numbers(values).iter().flatten();
        values.for_each(|value| self.moments.add(value));
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = numbers(values).iter().flatten();
        values.for_each(|value| self.moments.remove(value));
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        Moments::stored(states).for_each(|other| self.moments.merge(other));
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let Moments { count, mean, m2 } = self.moments;
        Ok(vec![count.into(), mean.into(), m2.into()])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.moments.measured(self.measure)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The moments of many groups.
#[derive(Debug)]
struct GroupSpreads {
    measure: Measure,
    groups: Vec<Moments>,
}

impl GroupsAccumulator for GroupSpreads {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize(total_num_groups, Moments::default());
        let values = numbers(values);
        accumulate(group_indices, values, opt_filter, |group, value| {
            self.groups[group].add(value);
        });
        Ok(())
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize(total_num_groups, Moments::default());
        for (group, other) in group_indices.iter().zip(Moments::stored(values)) {
            self.groups[*group].merge(other);
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = emit_to.take_needed(&mut self.groups);
        let values = groups.iter().map(|m| m.measured(self.measure));
        Ok(Arc::new(Float64Array::from_iter(values)))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(Moments::columns(&emit_to.take_needed(&mut self.groups)))
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = apply_filter_as_nulls(values[0].as_ref(), opt_filter)?;
        let of_one = |value: Option<f64>| match value {
            None => Moments::default(),
            Some(mean) => Moments {
                count: 1,
                mean,
                m2: 0.0,
            },
        };
        let values = values.as_primitive::<Float64Type>().iter();
        Ok(Moments::columns(&values.map(of_one).collect::<Vec<_>>()))
    }

    fn size(&self) -> usize {
        self.groups.capacity() * size_of::<Moments>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One value has no spread, however large it is, and however often nothing is merged with it.
    #[test]
    fn nothing_merged_with_a_large_value_leaves_it() {
        let mut moments = Moments::default();
        let mut one = Moments::default();
        one.add(1e200);
        for other in [Moments::default(), one, Moments::default(), one] {
            moments.merge(other);
        }
        let measured = |of_sample, root| moments.measured(Measure { of_sample, root });
        assert_eq!(measured(false, false), Some(0.0));
        assert_eq!(measured(true, true), Some(0.0));
        assert_eq!(moments.count, 2);
    }
}
