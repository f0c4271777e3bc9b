//! The aggregates that run over a view's states: they merge them, and give the finished value or the
//! merged state itself.
//!
//! A row whose states are all NULL holds nothing: it comes from an outer join, or from a part of the
//! rows of which none counted. It is left out, so a group of nothing gives what the view's aggregate
//! gives over no facts, however its accumulator takes groups that have no rows.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use anabranch_shared::planted;
use anabranch_shared::view::groups_accumulator;
use arrow::array::{Array, ArrayRef, BooleanArray, StructArray, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast, filter};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::Literal;
use parking_lot::Mutex;

/// What a merge of states gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Gives {
    /// The finished value; over nothing what the aggregate gives over no facts: 0 for a count.
    Value,
    /// The finished value; over nothing NULL, as a sum of counts does.
    ValueOrNull,
    /// The merged state, its parts as fields of one column.
    State,
}

/// An aggregate over the states of one column of a view.
#[derive(Debug)]
struct MergeStates {
    inner: Arc<AggregateFunctionExpr>,
    /// Its state's parts, each of which has a name of its own and may be NULL.
    parts: Fields,
    gives: Gives,
    signature: Signature,
}

/// The aggregate that merges the states of `inner`.
pub(crate) fn merge_states(
    inner: &Arc<AggregateFunctionExpr>,
    gives: Gives,
) -> Result<AggregateUDF> {
    let parts = inner.state_fields()?;
    let parts = parts.iter().enumerate().map(|(i, part)| {
        let name = format!("{}[{i}]", inner.name());
        Field::new(name, part.data_type().clone(), true)
    });
    let parts: Fields = parts.collect();
    Ok(AggregateUDF::from(MergeStates {
        inner: inner.clone(),
        signature: Signature::any(parts.len(), Volatility::Immutable),
        parts,
        gives,
    }))
}

/// The same as the last step of a plan whose input is states, for [`Gives::State`].
pub(crate) fn keep_state(inner: &Arc<AggregateFunctionExpr>) -> Result<Arc<AggregateFunctionExpr>> {
    let function = merge_states(inner, Gives::State)?;
    // The last step reads states by their places, never these.
    let nothing: Arc<dyn datafusion::physical_expr::PhysicalExpr> =
        Arc::new(Literal::new(ScalarValue::Null));
    let parts = inner.state_fields()?.len();
    let built = AggregateExprBuilder::new(Arc::new(function), vec![nothing; parts])
        .schema(Arc::new(Schema::empty()))
        .alias(format!("state of {}", inner.name()))
        .build()?;
    Ok(Arc::new(built))
}

impl MergeStates {
    /// The value of no states.
    fn of_nothing(&self) -> Result<ScalarValue> {
        match self.gives {
            Gives::Value => self.inner.create_accumulator()?.evaluate(),
            Gives::ValueOrNull | Gives::State => ScalarValue::try_from(&self.value_type()),
        }
    }

    fn value_type(&self) -> DataType {
        match self.gives {
            Gives::Value | Gives::ValueOrNull => self.inner.field().data_type().clone(),
            Gives::State => DataType::Struct(self.parts.clone()),
        }
    }

    fn groups(&self) -> Result<MergeGroups> {
        Ok(MergeGroups {
            merged: groups_accumulator(&self.inner)?,
            parts: self.parts.clone(),
            gives: self.gives,
            of_nothing: self.of_nothing()?,
            holds: Vec::new(),
            any: false,
        })
    }
}

impl PartialEq for MergeStates {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner) && self.gives == other.gives
    }
}

impl Eq for MergeStates {}

impl Hash for MergeStates {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.name().hash(state);
        self.gives.hash(state);
    }
}

impl AggregateUDFImpl for MergeStates {
    fn name(&self) -> &str {
        // The engine takes aggregates of one name and the same arguments for one.
        match self.gives {
            Gives::Value => "merge_states",
            Gives::ValueOrNull => "merge_states_or_null",
            Gives::State => "merge_states_to_state",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.value_type())
    }

    fn is_nullable(&self) -> bool {
        true
    }

    /// What the engine puts in the place of a correlated sub-query's empty groups.
    fn default_value(&self, _: &DataType) -> Result<ScalarValue> {
        self.of_nothing()
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(OneGroup(Mutex::new(self.groups()?))))
    }

    fn state_fields(&self, _: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(self.parts.iter().cloned().collect())
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(self.groups()?))
    }
}

/// An accumulator over groups whose input is states.
///
/// Invariants: `holds` knows every group; `merged` knows as many once `any` is set, and none before.
struct MergeGroups {
    merged: Box<dyn GroupsAccumulator>,
    parts: Fields,
    gives: Gives,
    of_nothing: ScalarValue,
    /// For each group whether a state was merged into it.
    holds: Vec<bool>,
    /// Whether a state was merged into any group.
    any: bool,
}

impl MergeGroups {
    fn merge(
        &mut self,
        states: &[ArrayRef],
        ids: &[usize],
        mask: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.grow(groups);
        let mask = mask.filter(|_| !planted("planted-combine-filter-ignored"));
        let Some(kept) = kept(states, mask) else {
            return self.merge_all(states, ids, groups);
        };
        let states = states
            .iter()
            .map(|part| filter(part, &kept))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let ids = ids.iter().zip(kept.values()).filter(|(_, kept)| *kept);
        let ids: Vec<usize> = ids.map(|(id, _)| *id).collect();
        match ids.is_empty() && !self.any {
            true => Ok(()),
            false => self.merge_all(&states, &ids, groups),
        }
    }

    fn merge_all(&mut self, states: &[ArrayRef], ids: &[usize], groups: usize) -> Result<()> {
        self.any = true;
        ids.iter().for_each(|&id| self.holds[id] = true);
        self.merged.merge_batch(states, ids, groups)
    }

    fn grow(&mut self, groups: usize) {
        if self.holds.len() < groups {
            self.holds.resize(groups, false);
        }
    }

    /// Takes groups out: which of them hold something, and whether `merged` knows them.
    fn take(&mut self, emit: EmitTo) -> (BooleanArray, bool) {
        let holds = BooleanArray::from(emit.take_needed(&mut self.holds));
        let known = self.any;
        if matches!(emit, EmitTo::All) {
            self.any = false;
        }
        (holds, known)
    }

    /// The states of groups that were taken out.
    fn parts(&mut self, emit: EmitTo, holds: &BooleanArray, known: bool) -> Result<Vec<ArrayRef>> {
        let types = self.parts.iter().map(|f| f.data_type().clone());
        let types: Vec<DataType> = types.collect();
        if !known {
            let nothing = types.iter().map(|t| new_null_array(t, holds.len()));
            return Ok(nothing.collect());
        }
        let parts = self.merged.state(emit)?;
        let parts = parts.into_iter().zip(&types).map(|(part, data_type)| {
            let part = match part.data_type() == data_type {
                true => part,
                false => cast(&part, data_type)?,
            };
            or_else(holds, part, &ScalarValue::try_from(data_type)?)
        });
        parts.collect()
    }
}

/// The rows whose states count: those that the mask lets through and that hold something; `None`
/// where that is all of them.
fn kept(states: &[ArrayRef], mask: Option<&BooleanArray>) -> Option<BooleanArray> {
    let mut some: Option<BooleanBuffer> = None;
    let full = states.iter().any(|part| part.logical_null_count() == 0);
    for part in states.iter().filter(|_| !full) {
        let valid = part.logical_nulls()?.into_inner();
        some = Some(match some {
            Some(some) => &some | &valid,
            None => valid,
        });
    }
    let kept = match (some, mask.map(let_through)) {
        (Some(some), Some(mask)) => &some & &mask,
        (Some(kept), None) | (None, Some(kept)) => kept,
        (None, None) => return None,
    };
    (kept.count_set_bits() < kept.len()).then(|| BooleanArray::new(kept, None))
}

/// The rows that a FILTER lets through: those for which it is true.
fn let_through(mask: &BooleanArray) -> BooleanBuffer {
    match mask.nulls() {
        Some(valid) => mask.values() & valid.inner(),
        None => mask.values().clone(),
    }
}

/// The values of groups that hold something, and another one for those that hold nothing.
fn or_else(holds: &BooleanArray, values: ArrayRef, nothing: &ScalarValue) -> Result<ArrayRef> {
    match holds.false_count() {
        0 => Ok(values),
        _ if planted("planted-combine-of-nothing") => Ok(values),
        _ => Ok(zip(holds, &values, &nothing.to_scalar()?)?),
    }
}

impl GroupsAccumulator for MergeGroups {
    fn update_batch(
        &mut self,
        states: &[ArrayRef],
        ids: &[usize],
        mask: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.merge(states, ids, mask, groups)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], ids: &[usize], groups: usize) -> Result<()> {
        self.merge(states, ids, None, groups)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let (holds, known) = self.take(emit);
        if self.gives == Gives::State {
            let parts = self.parts(emit, &holds, known)?;
            return Ok(Arc::new(StructArray::try_new(
                self.parts.clone(),
                parts,
                None,
            )?));
        }
        if !known {
            return self.of_nothing.to_array_of_size(holds.len());
        }
        let values = self.merged.evaluate(emit)?;
        or_else(&holds, values, &self.of_nothing)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let (holds, known) = self.take(emit);
        self.parts(emit, &holds, known)
    }

    /// Rows are states already; one that is masked holds nothing.
    fn convert_to_state(
        &self,
        states: &[ArrayRef],
        mask: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let Some(mask) = mask else {
            return Ok(states.to_vec());
        };
        let counts = BooleanArray::new(let_through(mask), None);
        let masked = states.iter().map(|part| {
            let nothing = ScalarValue::try_from(part.data_type())?;
            or_else(&counts, part.clone(), &nothing)
        });
        masked.collect()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.merged.size() + self.holds.capacity()
    }
}

/// One group, for an aggregation without GROUP BY. Behind a lock only because an `Accumulator` must
/// be `Sync`; it is never contended.
struct OneGroup(Mutex<MergeGroups>);

impl std::fmt::Debug for OneGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OneGroup").finish_non_exhaustive()
    }
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let ids = vec![0; states.first().map_or(0, |part| part.len())];
        self.0.get_mut().merge(states, &ids, None, 1)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let groups = self.0.get_mut();
        groups.grow(1);
        let parts = groups.state(EmitTo::All)?;
        let parts = parts
            .iter()
            .map(|part| ScalarValue::try_from_array(part, 0));
        parts.collect()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let groups = self.0.get_mut();
        groups.grow(1);
        ScalarValue::try_from_array(&groups.evaluate(EmitTo::All)?, 0)
    }

    fn size(&self) -> usize {
        self.0.lock().size()
    }
}
