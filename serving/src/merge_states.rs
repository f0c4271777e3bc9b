//! The aggregates that run over a view's states: they merge them, and give the finished value or the
//! merged state itself.
//!
//! A row whose states are all NULL holds nothing: it comes from an outer join, or from a part of the
//! rows of which none counted. It is left out, and a group that has no other is unknown to the view's
//! accumulator, which would take it for one in which every value was seen. So such a group gives what
//! the aggregate gives over no facts.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use anabranch_shared::planted;
use anabranch_shared::view::{groups_accumulator, state_fields};
use arrow::array::{Array, ArrayRef, BooleanArray, StructArray, UInt64Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast, filter, take_arrays};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::Literal;
use parking_lot::Mutex;

use self::places::{Out, Places};

mod places;

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
    let parts = state_fields(inner)?;
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
        let nothing = self
            .parts
            .iter()
            .map(|f| ScalarValue::try_from(f.data_type()));
        Ok(MergeGroups {
            inner: self.inner.clone(),
            merged: groups_accumulator(&self.inner)?,
            parts: self.parts.clone(),
            gives: self.gives,
            value_of_nothing: self.of_nothing()?,
            state_of_nothing: nothing.collect::<Result<_>>()?,
            places: Places::default(),
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
/// Invariant: `merged` knows just the groups into which a state was merged.
struct MergeGroups {
    inner: Arc<AggregateFunctionExpr>,
    merged: Box<dyn GroupsAccumulator>,
    parts: Fields,
    gives: Gives,
    value_of_nothing: ScalarValue,
    /// NULL for each part.
    state_of_nothing: Vec<ScalarValue>,
    places: Places,
}

/// How a step takes what it gives out of an accumulator.
type Finish = fn(&mut dyn GroupsAccumulator, EmitTo) -> Result<Vec<ArrayRef>>;

impl MergeGroups {
    fn merge(
        &mut self,
        states: &[ArrayRef],
        ids: &[usize],
        mask: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        let mask = mask.filter(|_| !planted("planted-combine-filter-ignored"));
        let kept = match kept(states, mask) {
            // A group is new only where it has a row.
            None if self.places.are_groups() => {
                if !ids.is_empty() {
                    self.places.add_groups(groups);
                    self.merged.merge_batch(states, ids, groups)?;
                }
                return Ok(());
            }
            None => BooleanArray::new(BooleanBuffer::new_set(ids.len()), None),
            Some(kept) => kept,
        };
        let ids = ids.iter().zip(kept.values()).filter(|(_, kept)| *kept);
        let places = self.places.of(ids.map(|(id, _)| *id), groups);
        if places.is_empty() {
            return Ok(());
        }
        let states = states.iter().map(|part| filter(part, &kept));
        let states = states.collect::<std::result::Result<Vec<_>, _>>()?;
        self.merged.merge_batch(&states, &places, self.places.taken)
    }

    /// Takes groups out: what `finish` makes of them, and `nothing` for those that hold nothing.
    fn take_out(
        &mut self,
        emit: EmitTo,
        finish: Finish,
        nothing: &[ScalarValue],
    ) -> Result<Vec<ArrayRef>> {
        let out = self.places.take_out(emit);
        let given = match out.first {
            0 => Vec::new(),
            first if out.are_first() => {
                let emit = match emit {
                    EmitTo::All => EmitTo::All,
                    EmitTo::First(_) => EmitTo::First(first),
                };
                finish(self.merged.as_mut(), emit)?
            }
            _ => return self.take_among(&out, finish, nothing),
        };
        out.spread(given, nothing)
    }

    /// The same where groups that stay lie between those that are taken out.
    fn take_among(
        &mut self,
        out: &Out,
        finish: Finish,
        nothing: &[ScalarValue],
    ) -> Result<Vec<ArrayRef>> {
        let all = self.merged.state(EmitTo::All)?;
        let rows = all.first().map_or(0, |part| part.len());
        let wanted: Vec<usize> = out.places.iter().copied().flatten().collect();
        let mut stays = vec![true; rows];
        wanted.iter().for_each(|&place| stays[place] = false);
        let staying: Vec<usize> = (0..rows).filter(|&place| stays[place]).collect();
        let taken = take_rows(&all, &staying)?;
        let ids: Vec<usize> = (0..staying.len()).collect();
        if !ids.is_empty() {
            self.merged.merge_batch(&taken, &ids, ids.len())?;
        }
        self.places.renumber(&staying);
        let mut others = groups_accumulator(&self.inner)?;
        let ids: Vec<usize> = (0..wanted.len()).collect();
        others.merge_batch(&take_rows(&all, &wanted)?, &ids, ids.len())?;
        let given = finish(others.as_mut(), EmitTo::All)?;
        let mut next = 0_usize..;
        let places = out.places.iter().map(|place| match place {
            Some(_) => next.next(),
            None => None,
        });
        let out = Out {
            places: places.collect(),
            first: wanted.len(),
        };
        out.spread(given, nothing)
    }

    fn take_states(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let nothing = self.state_of_nothing.clone();
        let parts = self.take_out(emit, |groups, emit| groups.state(emit), &nothing)?;
        let typed = parts.into_iter().zip(self.parts.iter());
        let typed = typed.map(
            |(part, field)| match part.data_type() == field.data_type() {
                true => Ok(part),
                false => Ok(cast(&part, field.data_type())?),
            },
        );
        typed.collect()
    }
}

fn take_rows(parts: &[ArrayRef], rows: &[usize]) -> Result<Vec<ArrayRef>> {
    let rows = UInt64Array::from_iter_values(rows.iter().map(|&row| row as u64));
    Ok(take_arrays(parts, &rows, None)?)
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
        if self.gives == Gives::State {
            let parts = self.take_states(emit)?;
            let state = StructArray::try_new(self.parts.clone(), parts, None)?;
            return Ok(Arc::new(state));
        }
        let nothing = [self.value_of_nothing.clone()];
        let value: Finish = |groups, emit| Ok(vec![groups.evaluate(emit)?]);
        let mut values = self.take_out(emit, value, &nothing)?;
        match (values.pop(), values.is_empty()) {
            (Some(value), true) => Ok(value),
            _ => internal_err!("an aggregate has one value"),
        }
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        self.take_states(emit)
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
            Ok(zip(&counts, part, &nothing.to_scalar()?)?)
        });
        masked.collect()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.merged.size() + self.places.size_bytes()
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
        groups.places.know(1);
        let parts = groups.state(EmitTo::All)?;
        let parts = parts
            .iter()
            .map(|part| ScalarValue::try_from_array(part, 0));
        parts.collect()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let groups = self.0.get_mut();
        groups.places.know(1);
        ScalarValue::try_from_array(&groups.evaluate(EmitTo::All)?, 0)
    }

    fn size(&self) -> usize {
        self.0.lock().size()
    }
}
