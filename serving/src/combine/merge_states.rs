//! The aggregate that runs in place of `combine`: its input is states, which it merges and finishes.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use anabranch_shared::view::groups_accumulator;
use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::{filter, is_not_null, prep_null_mask_filter};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use parking_lot::Mutex;

/// The aggregate that runs: merges states of one column of a view.
#[derive(Debug)]
struct MergeStates {
    inner: Arc<AggregateFunctionExpr>,
    none: OfNoRows,
    signature: Signature,
}

/// What an aggregation without GROUP BY gives over no rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum OfNoRows {
    /// What the aggregate itself gives over no facts: 0 for a count.
    StateOfNoFacts,
    /// NULL.
    Null,
}

/// The aggregate that merges the states of `inner`, which are of `parts` columns.
pub(super) fn merge_states(
    inner: Arc<AggregateFunctionExpr>,
    parts: usize,
    none: OfNoRows,
) -> AggregateUDF {
    AggregateUDF::from(MergeStates {
        inner,
        none,
        signature: Signature::any(parts, Volatility::Immutable),
    })
}

impl PartialEq for MergeStates {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner) && self.none == other.none
    }
}

impl Eq for MergeStates {}

impl Hash for MergeStates {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.name().hash(state);
    }
}

impl AggregateUDFImpl for MergeStates {
    fn name(&self) -> &str {
        // The engine takes aggregates of one name and the same arguments for one.
        match self.none {
            OfNoRows::StateOfNoFacts => "merge_states",
            OfNoRows::Null => "merge_states_or_null",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.inner.field().data_type().clone())
    }

    fn is_nullable(&self) -> bool {
        true
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(OneGroup {
            groups: Mutex::new(groups_accumulator(&self.inner)?),
            types: self.inner.state_fields()?,
            value: self.inner.field().data_type().clone(),
            none: self.none,
            any: false,
        }))
    }

    fn state_fields(&self, _: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let fields = self.inner.state_fields()?;
        // A part without rows has no state.
        let nullable = fields
            .iter()
            .map(|f| f.as_ref().clone().with_nullable(true));
        Ok(nullable.map(Arc::new).collect())
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(MergeGroups {
            groups: groups_accumulator(&self.inner)?,
            inner: self.inner.clone(),
        }))
    }
}

/// An accumulator over groups whose input is states already.
struct MergeGroups {
    groups: Box<dyn GroupsAccumulator>,
    inner: Arc<AggregateFunctionExpr>,
}

impl GroupsAccumulator for MergeGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        ids: &[usize],
        mask: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        let Some(mask) = mask else {
            return self.groups.merge_batch(values, ids, groups);
        };
        let keep = prep_null_mask_filter(mask);
        let values = values
            .iter()
            .map(|v| filter(v, &keep))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let ids: Vec<usize> = ids
            .iter()
            .enumerate()
            .filter(|(i, _)| keep.value(*i))
            .map(|(_, &id)| id)
            .collect();
        self.groups.merge_batch(&values, &ids, groups)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        self.groups.evaluate(emit)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        self.groups.state(emit)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], ids: &[usize], groups: usize) -> Result<()> {
        self.groups.merge_batch(values, ids, groups)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        mask: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        if mask.is_none() {
            return Ok(values.to_vec());
        }
        let rows = values.first().map_or(0, |v| v.len());
        let ids: Vec<usize> = (0..rows).collect();
        let mut each = Self {
            groups: groups_accumulator(&self.inner)?,
            inner: self.inner.clone(),
        };
        each.update_batch(values, &ids, mask, rows)?;
        each.groups.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.groups.size()
    }
}

/// One group of an accumulator over groups, for an aggregation without GROUP BY.
struct OneGroup {
    /// Behind a lock only because an `Accumulator` must be `Sync`; it is never contended.
    groups: Mutex<Box<dyn GroupsAccumulator>>,
    types: Vec<FieldRef>,
    value: DataType,
    none: OfNoRows,
    /// Whether something was merged.
    any: bool,
}

impl std::fmt::Debug for OneGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OneGroup").finish_non_exhaustive()
    }
}

impl OneGroup {
    fn merge(&mut self, values: &[ArrayRef]) -> Result<()> {
        let ids = vec![0; values.first().map_or(0, |v| v.len())];
        self.any = true;
        self.groups.get_mut().merge_batch(values, &ids, 1)
    }

    /// Where nothing was merged there is no group yet, and its state is that of no facts: 0 for a
    /// count, whose states are never NULL.
    fn ensure_group(&mut self) -> Result<()> {
        if !self.any {
            let none = self.groups.get_mut().state(EmitTo::All)?;
            self.merge(&none)?;
        }
        Ok(())
    }
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.merge(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        if self.none == OfNoRows::StateOfNoFacts {
            return self.merge(states);
        }
        // Parts without rows have sent NULL, which no state of a count is.
        let Some(first) = states.first().filter(|s| s.null_count() > 0) else {
            return self.merge(states);
        };
        let some = is_not_null(first)?;
        let states = states.iter().map(|s| filter(s, &some));
        let states = states.collect::<std::result::Result<Vec<_>, _>>()?;
        match states.first().is_some_and(|s| !s.is_empty()) {
            true => self.merge(&states),
            false => Ok(()),
        }
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        if !self.any && self.none == OfNoRows::Null {
            let nulls = self.types.iter();
            return nulls
                .map(|f| ScalarValue::try_from(f.data_type()))
                .collect();
        }
        self.ensure_group()?;
        let states = self.groups.get_mut().state(EmitTo::All)?;
        states
            .iter()
            .map(|s| match s.is_empty() {
                true => ScalarValue::try_from(s.data_type()),
                false => ScalarValue::try_from_array(s, 0),
            })
            .collect()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if !self.any && self.none == OfNoRows::Null {
            return ScalarValue::try_from(&self.value);
        }
        self.ensure_group()?;
        let value = self.groups.get_mut().evaluate(EmitTo::All)?;
        match value.is_empty() {
            true => ScalarValue::try_from(value.data_type()),
            false => ScalarValue::try_from_array(&value, 0),
        }
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.groups.lock().size()
    }
}
