//! `sum` of whole numbers and decimals that never wraps: partial sums in any order are right, and
//! what its type can't hold in the end is an error.
//!
//! ```text
//!   state    sum  the argument's sum type │ carry  Int64, NULL where it is 0
//!   value    sum + carry · unit;  a unit is 2^64 for integers, 10^precision for decimals
//! ```
//!
//! A carry is there for sums that have left their type alone, so hardly any group has one, and
//! memory is taken for carries only where there are some. Other sums are the engine's.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, BooleanArray, Int64Array,
    PrimitiveArray,
};
use arrow::datatypes::{
    ArrowNativeType, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DecimalType as _, Field, FieldRef, Int64Type, UInt64Type, i256,
};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator,
    ReversedUDAF, SetMonotonicity, Signature,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::accumulate::NullState;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::nulls::{
    filtered_null_mask, set_nulls,
};

use crate::{Error, planted};

/// `sum`, over the engine's own.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Sum {
    engine: Arc<AggregateUDF>,
}

impl Sum {
    pub(super) fn udaf() -> AggregateUDF {
        AggregateUDF::from(Self { engine: sum_udaf() })
    }

    fn engine(&self) -> &dyn AggregateUDFImpl {
        self.engine.inner().as_ref()
    }
}

/// Whether sums of a type are held here.
fn is_exact(data_type: &DataType) -> bool {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256, Int64, UInt64};
    matches!(
        data_type,
        Int64 | UInt64 | Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..)
    )
}

/// Makes something of the primitive type that a sum has.
macro_rules! of_type {
    ($data_type:expr, $make:ident, $($argument:expr),*) => {
        match $data_type {
            DataType::Int64 => $make::<Int64Type>($($argument),*),
            DataType::UInt64 => $make::<UInt64Type>($($argument),*),
            DataType::Decimal32(..) => $make::<Decimal32Type>($($argument),*),
            DataType::Decimal64(..) => $make::<Decimal64Type>($($argument),*),
            DataType::Decimal128(..) => $make::<Decimal128Type>($($argument),*),
            DataType::Decimal256(..) => $make::<Decimal256Type>($($argument),*),
            other => internal_err!("a sum of {other} is the engine's"),
        }
    };
}

fn one<T: Exact>(sum: SumType) -> Result<Box<dyn Accumulator>> {
    Ok(Box::new(OneSum::<T>::new(&sum)?))
}

fn groups<T: Exact>(sum: SumType) -> Result<Box<dyn GroupsAccumulator>> {
    Ok(Box::new(GroupSums::<T> {
        unit: T::unit(&sum.data_type)?,
        sum,
        lows: Vec::new(),
        carries: Vec::new(),
        seen: NullState::new(),
    }))
}

fn distinct<T: Exact>(sum: SumType, values: Box<dyn Accumulator>) -> Result<Box<dyn Accumulator>> {
    Ok(Box::new(DistinctSum::<T> {
        total: OneSum::new(&sum)?,
        values,
    }))
}

impl AggregateUDFImpl for Sum {
    fn name(&self) -> &str {
        self.engine().name()
    }

    fn signature(&self) -> &Signature {
        self.engine().signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.engine().return_type(arg_types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let exact = is_exact(args.return_type()) && !args.is_distinct;
        let name = format_state_name(args.name, "carry");
        let mut fields = self.engine().state_fields(args)?;
        if exact {
            fields.push(Arc::new(Field::new(name, DataType::Int64, true)));
        }
        Ok(fields)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if !is_exact(args.return_type()) {
            return self.engine().accumulator(args);
        }
        let sum = SumType::of(&args);
        let data_type = sum.data_type.clone();
        if !args.is_distinct {
            return of_type!(data_type, one, sum);
        }
        let values = self.engine().accumulator(args)?;
        of_type!(data_type, distinct, sum, values)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if !is_exact(args.return_type()) {
            return self.engine().create_sliding_accumulator(args);
        }
        let sum = SumType::of(&args);
        let data_type = sum.data_type.clone();
        if !args.is_distinct {
            return of_type!(data_type, one, sum);
        }
        let values = self.engine().create_sliding_accumulator(args)?;
        of_type!(data_type, distinct, sum, values)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.engine().groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        if !is_exact(args.return_type()) {
            return self.engine().create_groups_accumulator(args);
        }
        let sum = SumType::of(&args);
        of_type!(sum.data_type.clone(), groups, sum)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.engine().documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.engine().set_monotonicity(data_type)
    }
}

/// A sum's type, and its name in errors.
#[derive(Clone, Debug)]
struct SumType {
    name: String,
    data_type: DataType,
}

impl SumType {
    fn of(args: &AccumulatorArgs) -> Self {
        Self {
            name: args.name.to_owned(),
            data_type: args.return_type().clone(),
        }
    }

    /// The error of a sum that its type does not hold.
    fn out_of_range(&self, value: String) -> Error {
        let (held, wider) = match &self.data_type {
            DataType::Int64 => ("bigint".to_owned(), "decimal(38, 0)"),
            DataType::UInt64 => ("bigint unsigned".to_owned(), "decimal(38, 0)"),
            DataType::Decimal32(p, s)
            | DataType::Decimal64(p, s)
            | DataType::Decimal128(p, s)
            | DataType::Decimal256(p, s) => (format!("decimal({p}, {s})"), "double"),
            other => (other.to_string(), "double"),
        };
        Error::OutOfRange {
            what: self.name.clone(),
            value,
            held,
            wider,
        }
    }
}

/// Numbers that are summed exactly, whatever the order: as a number of their own type, and how
/// many units are carried besides.
trait Exact: ArrowPrimitiveType<Native: ArrowNativeTypeOp> + Debug + Send + Sync {
    /// Whether a sum may leave its type before it leaves its number.
    const SETTLES: bool;

    /// How much one of a carry counts; for integers, whose unit is no number of their type, 0.
    fn unit(data_type: &DataType) -> Result<Self::Native>;

    /// Adds a value; gives how many units are carried.
    fn add(low: &mut Self::Native, value: Self::Native, unit: Self::Native) -> i64;

    /// Takes a value away again; gives how many units are carried.
    fn subtract(low: &mut Self::Native, value: Self::Native, unit: Self::Native) -> i64;

    /// Brings a sum into its type as far as it goes: a carry is left only where the value is out
    /// of range.
    fn settle(low: &mut Self::Native, carry: &mut i64, unit: Self::Native);

    /// The value in decimal digits.
    fn text(low: Self::Native, carry: i64, data_type: &DataType) -> String;
}

macro_rules! exact_integer {
    ($type:ty) => {
        impl Exact for $type {
            const SETTLES: bool = false;

            fn unit(_: &DataType) -> Result<Self::Native> {
                Ok(0)
            }

            #[inline]
            fn add(low: &mut Self::Native, value: Self::Native, _: Self::Native) -> i64 {
                let (sum, over) = low.overflowing_add(value);
                *low = sum;
                match over {
                    false => 0,
                    // What has left downwards came back from above.
                    true if ArrowNativeTypeOp::is_lt(value, 0) => -1,
                    true => 1,
                }
            }

            fn subtract(low: &mut Self::Native, value: Self::Native, _: Self::Native) -> i64 {
                let (rest, over) = low.overflowing_sub(value);
                *low = rest;
                match over {
                    false => 0,
                    true if ArrowNativeTypeOp::is_lt(value, 0) => 1,
                    true => -1,
                }
            }

            fn settle(_: &mut Self::Native, _: &mut i64, _: Self::Native) {}

            fn text(low: Self::Native, carry: i64, _: &DataType) -> String {
                let carried = i256::from_i128(i128::from(carry) << 32);
                let unit = i256::from_i128(1 << 32);
                let low = i256::from_i128(i128::from(low));
                carried.wrapping_mul(unit).wrapping_add(low).to_string()
            }
        }
    };
}

exact_integer!(Int64Type);
exact_integer!(UInt64Type);

macro_rules! exact_decimal {
    ($type:ty, $wide:expr) => {
        impl Exact for $type {
            const SETTLES: bool = true;

            fn unit(data_type: &DataType) -> Result<Self::Native> {
                Ok(ten::<Self>().pow_checked(digits(data_type).0)?)
            }

            #[inline]
            fn add(low: &mut Self::Native, value: Self::Native, unit: Self::Native) -> i64 {
                match low.add_checked(value) {
                    Ok(sum) => {
                        *low = sum;
                        0
                    }
                    Err(_) => add_apart::<Self>(low, value, unit),
                }
            }

            fn subtract(low: &mut Self::Native, value: Self::Native, unit: Self::Native) -> i64 {
                match low.sub_checked(value) {
                    Ok(rest) => {
                        *low = rest;
                        0
                    }
                    Err(_) => {
                        // Only the whole of its type can't be turned around.
                        let half = value.div_wrapping(Self::Native::usize_as(2));
                        let other = value.sub_wrapping(half);
                        add_apart::<Self>(low, half.neg_wrapping(), unit)
                            + add_apart::<Self>(low, other.neg_wrapping(), unit)
                    }
                }
            }

            fn settle(low: &mut Self::Native, carry: &mut i64, unit: Self::Native) {
                let none = Self::Native::default();
                if low.is_ge(unit) || low.is_le(unit.neg_wrapping()) {
                    *carry += split::<Self>(low, unit);
                }
                if *carry > 0 && low.is_lt(none) {
                    *low = low.add_wrapping(unit);
                    *carry -= 1;
                } else if *carry < 0 && low.is_gt(none) {
                    *low = low.sub_wrapping(unit);
                    *carry += 1;
                }
            }

            fn text(low: Self::Native, carry: i64, data_type: &DataType) -> String {
                let (precision, scale) = digits(data_type);
                let widen: fn(Self::Native) -> i256 = $wide;
                let carried = i256::from_i128(10)
                    .pow_checked(precision)
                    .and_then(|unit| unit.mul_checked(i256::from_i128(i128::from(carry))))
                    .and_then(|carried| carried.add_checked(widen(low)));
                match carried {
                    Ok(value) => Decimal256Type::format_decimal(value, 76, scale),
                    Err(_) => "a number of more than 76 digits".to_owned(),
                }
            }
        }
    };
}

exact_decimal!(Decimal32Type, |low| i256::from_i128(i128::from(low)));
exact_decimal!(Decimal64Type, |low| i256::from_i128(i128::from(low)));
exact_decimal!(Decimal128Type, i256::from_i128);
exact_decimal!(Decimal256Type, |low| low);

/// A decimal type's precision and scale.
fn digits(data_type: &DataType) -> (u32, i8) {
    match data_type {
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => (u32::from(*p), *s),
        _ => (0, 0),
    }
}

fn ten<T: Exact>() -> T::Native {
    T::Native::usize_as(10)
}

/// Takes whole units off a number; gives how many.
fn split<T: Exact>(low: &mut T::Native, unit: T::Native) -> i64 {
    let whole = low.div_wrapping(unit);
    *low = low.mod_wrapping(unit);
    // So many units that they can't be counted are out of range all the same.
    let most = match whole.is_lt(T::Native::default()) {
        true => i64::MIN / 4,
        false => i64::MAX / 4,
    };
    whole.to_i64().unwrap_or(most)
}

/// Adds two numbers whose sum is none of their type.
#[cold]
fn add_apart<T: Exact>(low: &mut T::Native, mut value: T::Native, unit: T::Native) -> i64 {
    let mut carry = split::<T>(low, unit) + split::<T>(&mut value, unit);
    // Both are smaller than a unit now; of opposite signs, so is their sum.
    if value.is_gt(T::Native::default()) {
        *low = low.sub_wrapping(unit);
        carry += 1;
    } else {
        *low = low.add_wrapping(unit);
        carry -= 1;
    }
    *low = low.add_wrapping(value);
    carry
}

/// Adds up one group.
#[derive(Debug)]
struct OneSum<T: Exact> {
    sum: SumType,
    unit: T::Native,
    low: T::Native,
    carry: i64,
    /// How many values there are.
    count: u64,
}

impl<T: Exact> OneSum<T> {
    fn new(sum: &SumType) -> Result<Self> {
        Ok(Self {
            unit: T::unit(&sum.data_type)?,
            sum: sum.clone(),
            low: T::Native::default(),
            carry: 0,
            count: 0,
        })
    }

    fn add_all(&mut self, values: &PrimitiveArray<T>) {
        let mut add = |value| self.carry += T::add(&mut self.low, value, self.unit);
        match values.null_count() {
            0 => values.values().iter().for_each(|value| add(*value)),
            _ => values.iter().flatten().for_each(add),
        }
        self.count += (values.len() - values.null_count()) as u64;
    }
}

impl<T: Exact> Accumulator for OneSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add_all(values[0].as_primitive());
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)?;
        let carries = states[1].as_primitive::<Int64Type>().iter().flatten();
        self.carry += carries.sum::<i64>();
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = values[0].as_primitive::<T>();
        for value in values.iter().flatten() {
            self.carry += T::subtract(&mut self.low, value, self.unit);
            self.count -= 1;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        T::settle(&mut self.low, &mut self.carry, self.unit);
        let low = (self.count > 0).then_some(self.low);
        let carry = (self.carry != 0).then_some(self.carry);
        Ok(vec![
            ScalarValue::new_primitive::<T>(low, &self.sum.data_type)?,
            ScalarValue::Int64(carry),
        ])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        T::settle(&mut self.low, &mut self.carry, self.unit);
        if self.carry != 0 {
            let value = T::text(self.low, self.carry, &self.sum.data_type);
            return Err(self.sum.out_of_range(value).into());
        }
        let low = (self.count > 0).then_some(self.low);
        ScalarValue::new_primitive::<T>(low, &self.sum.data_type)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.sum.name.capacity()
    }
}

/// Adds up each value once: the engine keeps the values.
#[derive(Debug)]
struct DistinctSum<T: Exact> {
    total: OneSum<T>,
    values: Box<dyn Accumulator>,
}

impl<T: Exact> Accumulator for DistinctSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.values.supports_retract_batch()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.values.state()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut total = OneSum::<T>::new(&self.total.sum)?;
        for state in self.values.state()? {
            let ScalarValue::List(list) = state else {
                return internal_err!("distinct values are kept as a list");
            };
            total.add_all(list.values().as_primitive());
        }
        total.evaluate()
    }

    fn size(&self) -> usize {
        self.total.size() + self.values.size()
    }
}

/// Adds up many groups.
///
/// Invariant: a group beyond the end of `carries` has none.
#[derive(Debug)]
struct GroupSums<T: Exact> {
    sum: SumType,
    unit: T::Native,
    lows: Vec<T::Native>,
    carries: Vec<i64>,
    seen: NullState,
}

/// Groups that are given away: their sums, and the carries that are not 0 at their places, where
/// there are any.
struct Emitted<T: Exact> {
    sums: PrimitiveArray<T>,
    carries: Vec<i64>,
}

fn carry_over(carries: &mut Vec<i64>, group: usize, units: i64) {
    if carries.len() <= group {
        carries.resize(group + 1, 0);
    }
    carries[group] += units;
}

impl<T: Exact> GroupSums<T> {
    fn add(
        &mut self,
        values: &ArrayRef,
        ids: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) {
        let (lows, carries, unit) = (&mut self.lows, &mut self.carries, self.unit);
        lows.resize(groups, T::Native::default());
        let values = values.as_primitive::<T>();
        self.seen
            .accumulate(ids, values, filter, groups, |group, value| {
                let units = T::add(&mut lows[group], value, unit);
                if units != 0 {
                    carry_over(carries, group, units);
                }
            });
    }

    fn emit(&mut self, emit_to: EmitTo) -> Emitted<T> {
        let mut lows = emit_to.take_needed(&mut self.lows);
        let mut carries = Vec::new();
        if !self.carries.is_empty() {
            self.carries.resize(self.carries.len().max(lows.len()), 0);
            carries = emit_to.take_needed(&mut self.carries);
        }
        if T::SETTLES {
            for (group, low) in lows.iter_mut().enumerate() {
                let before = carries.get(group).copied().unwrap_or_default();
                let mut carry = before;
                T::settle(low, &mut carry, self.unit);
                if carry != before {
                    carry_over(&mut carries, group, carry - before);
                }
            }
        }
        let sums = PrimitiveArray::new(lows.into(), self.seen.build(emit_to));
        Emitted {
            sums: sums.with_data_type(self.sum.data_type.clone()),
            carries,
        }
    }
}

/// The carries of so many groups as a column.
fn carry_column(carries: &[i64], groups: usize) -> ArrayRef {
    if carries.iter().all(|carry| *carry == 0) {
        return Arc::new(Int64Array::new_null(groups));
    }
    let carries = carries.iter().map(|carry| (*carry != 0).then_some(*carry));
    let rest = std::iter::repeat(None);
    Arc::new(Int64Array::from_iter(carries.chain(rest).take(groups)))
}

impl<T: Exact> GroupsAccumulator for GroupSums<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.add(&values[0], group_indices, opt_filter, total_num_groups);
        Ok(())
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.add(&values[0], group_indices, None, total_num_groups);
        let carries = values[1].as_primitive::<Int64Type>();
        if carries.null_count() < carries.len() && !planted("planted-carry-lost") {
            for (units, group) in carries.iter().zip(group_indices) {
                if let Some(units) = units {
                    carry_over(&mut self.carries, *group, units);
                }
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let Emitted { sums, carries } = self.emit(emit_to);
        match carries.iter().position(|carry| *carry != 0) {
            None => Ok(Arc::new(sums)),
            Some(group) => {
                let value = T::text(sums.value(group), carries[group], &self.sum.data_type);
                Err(self.sum.out_of_range(value).into())
            }
        }
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let Emitted { sums, carries } = self.emit(emit_to);
        let carries = carry_column(&carries, sums.len());
        Ok(vec![Arc::new(sums), carries])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = values[0].as_primitive::<T>();
        let nulls = filtered_null_mask(opt_filter, values);
        let values = set_nulls(values.clone(), nulls);
        let mut carries = Vec::new();
        let mut settled = |(group, value): (usize, Option<T::Native>)| {
            let (mut low, mut carry) = (value?, 0);
            T::settle(&mut low, &mut carry, self.unit);
            if carry != 0 {
                carry_over(&mut carries, group, carry);
            }
            Some(low)
        };
        let sums: PrimitiveArray<T> = match T::SETTLES {
            true => values.iter().enumerate().map(&mut settled).collect(),
            false => values,
        };
        let sums = sums.with_data_type(self.sum.data_type.clone());
        let carries = carry_column(&carries, sums.len());
        Ok(vec![Arc::new(sums), carries])
    }

    fn size(&self) -> usize {
        self.lows.capacity() * size_of::<T::Native>()
            + self.carries.capacity() * size_of::<i64>()
            + self.seen.size()
    }
}

#[cfg(test)]
mod tests;
