//! Aggregates whose state is how often each value came: `mode`, `percentile_disc`, `histogram`.
//!
//! The state is two lists, the values in order and their counts, so merging adds counts and the
//! order of facts does not matter. Values are ordered and told apart as Arrow's row format does it:
//! floating point in total order, with `-0.0` counted as `0.0`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, MapArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::unary;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float32Type, Float64Type, Int64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Literal;

/// All of them.
pub(super) fn all() -> [AggregateUDF; 3] {
    [Answer::Mode, Answer::PercentileDisc, Answer::Histogram].map(|answer| {
        AggregateUDF::from(ValueCounts {
            answer,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Mode,
    PercentileDisc,
    Histogram,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ValueCounts {
    answer: Answer,
    signature: Signature,
}

impl AggregateUDFImpl for ValueCounts {
    fn name(&self) -> &str {
        match self.answer {
            Answer::Mode => "mode",
            Answer::PercentileDisc => "percentile_disc",
            Answer::Histogram => "histogram",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let value = |value: &DataType| match RowConverter::supports_fields(&[SortField::new(
            value.clone(),
        )]) {
            true => Ok(value.clone()),
            false => plan_err!("`{}` takes no `{value}`", self.name()),
        };
        match (self.answer, arg_types) {
            (Answer::PercentileDisc, [of, share]) if share.is_numeric() => {
                Ok(vec![value(of)?, DataType::Float64])
            }
            (Answer::PercentileDisc, _) => plan_err!(
                "write `percentile_disc(0.5) WITHIN GROUP (ORDER BY x)`, with a share from 0 to 1"
            ),
            (_, [of]) => Ok(vec![value(of)?]),
            _ => plan_err!("`{}` takes one argument", self.name()),
        }
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let value = arg_types.first().cloned().unwrap_or(DataType::Null);
        Ok(match self.answer {
            Answer::Mode | Answer::PercentileDisc => value,
            Answer::Histogram => DataType::Map(entries_field(&value), false),
        })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let value = args.input_fields.first().map(|f| f.data_type().clone());
        let value = value.unwrap_or(DataType::Null);
        let list = |name: &str, of| {
            let item = Field::new_list_field(of, true);
            Arc::new(Field::new(name, DataType::List(Arc::new(item)), true))
        };
        Ok(vec![list("values", value), list("counts", DataType::Int64)])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let Some(field) = args.expr_fields.first() else {
            return plan_err!("`{}` takes an argument", self.name());
        };
        let share = match self.answer {
            Answer::PercentileDisc => share(&args)?,
            Answer::Mode | Answer::Histogram => 0.0,
        };
        Ok(Box::new(Counting {
            answer: self.answer,
            share,
            distinct: args.is_distinct,
            data_type: field.data_type().clone(),
            rows: RowConverter::new(vec![SortField::new(field.data_type().clone())])?,
            counts: BTreeMap::new(),
            bytes: 0,
        }))
    }

    fn supports_within_group_clause(&self) -> bool {
        self.answer != Answer::Histogram
    }
}

/// The share of `percentile_disc`, counted from the least value on.
fn share(args: &AccumulatorArgs) -> Result<f64> {
    let literal = args.exprs.get(1).and_then(|e| e.downcast_ref::<Literal>());
    let share = literal
        .map(|l| l.value().cast_to(&DataType::Float64))
        .transpose()?;
    match share {
        Some(ScalarValue::Float64(Some(share))) if (0.0..=1.0).contains(&share) => {
            let descending = args.order_bys.first().is_some_and(|o| o.options.descending);
            // Of n values in falling order the k-th is the (n - k + 1)-th in rising order.
            Ok(if descending { -share } else { share })
        }
        _ => exec_err!("`percentile_disc` takes a constant share from 0 to 1"),
    }
}

fn entries_field(value: &DataType) -> FieldRef {
    Arc::new(Field::new(
        "entries",
        DataType::Struct(entry_fields(value)),
        false,
    ))
}

fn entry_fields(value: &DataType) -> Fields {
    Fields::from(vec![
        Field::new("key", value.clone(), false),
        Field::new("value", DataType::Int64, true),
    ])
}

/// Counts values. The keys of `counts` are values in Arrow's row format, whose order is theirs.
#[derive(Debug)]
struct Counting {
    answer: Answer,
    share: f64,
    distinct: bool,
    data_type: DataType,
    rows: RowConverter,
    counts: BTreeMap<Box<[u8]>, i64>,
    bytes: usize,
}

impl Counting {
    fn add(&mut self, values: &ArrayRef, counts: Option<&Int64Array>) -> Result<()> {
        let rows = self.rows.convert_columns(&[one_zero(values)])?;
        for row in (0..values.len()).filter(|&row| values.is_valid(row)) {
            let key = rows.row(row);
            let more = counts.map_or(1, |counts| counts.value(row));
            let count = match self.counts.get_mut(key.as_ref()) {
                Some(count) => count,
                None => {
                    self.bytes += key.as_ref().len();
                    self.counts.entry(key.as_ref().into()).or_default()
                }
            };
            *count = if self.distinct { 1 } else { *count + more };
        }
        Ok(())
    }

    fn values<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Result<ArrayRef> {
        let parser = self.rows.parser();
        let columns = self.rows.convert_rows(keys.map(|key| parser.parse(key)))?;
        match columns.into_iter().next() {
            Some(values) => Ok(values),
            None => exec_err!("no column came out of rows"),
        }
    }

    fn one(&self, key: Option<&[u8]>) -> Result<ScalarValue> {
        match key {
            Some(key) => ScalarValue::try_from_array(&self.values([key].into_iter())?, 0),
            None => ScalarValue::try_from(&self.data_type),
        }
    }

    fn most_frequent(&self) -> Option<&[u8]> {
        let rising = self.counts.iter();
        let most = rising.reduce(|best, next| if next.1 > best.1 { next } else { best });
        most.map(|(key, _)| key.as_ref())
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a count of values that lie in memory"
    )]
    fn at_share(&self) -> Option<&[u8]> {
        let all: i64 = self.counts.values().sum();
        let nth = ((self.share.abs() * all as f64).ceil() as i64).clamp(1, all.max(1));
        let nth = match self.share.is_sign_negative() {
            true => all - nth + 1,
            false => nth,
        };
        let mut passed = 0;
        let found = self.counts.iter().find(|(_, count)| {
            passed += **count;
            passed >= nth
        });
        found.map(|(key, _)| key.as_ref())
    }

    fn map(&self) -> Result<ScalarValue> {
        if self.counts.is_empty() {
            return ScalarValue::try_from(DataType::Map(entries_field(&self.data_type), false));
        }
        let counts: Int64Array = self.counts.values().copied().collect();
        let entries = StructArray::try_new(
            entry_fields(&self.data_type),
            vec![
                self.values(self.counts.keys().map(AsRef::as_ref))?,
                Arc::new(counts),
            ],
            None,
        )?;
        let offsets = OffsetBuffer::from_lengths([entries.len()]);
        let field = entries_field(&self.data_type);
        let map = MapArray::try_new(field, offsets, entries, None, false)?;
        Ok(ScalarValue::Map(Arc::new(map)))
    }
}

impl Accumulator for Counting {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        match values.first() {
            Some(values) => self.add(values, None),
            None => Ok(()),
        }
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [values, counts] = states else {
            return exec_err!("a state of counted values has two columns");
        };
        let (values, counts) = (values.as_list::<i32>(), counts.as_list::<i32>());
        for (values, counts) in values.iter().zip(counts.iter()) {
            if let (Some(values), Some(counts)) = (values, counts) {
                self.add(&values, Some(counts.as_primitive::<Int64Type>()))?;
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values = self.values(self.counts.keys().map(AsRef::as_ref))?;
        let counts: Int64Array = self.counts.values().copied().collect();
        let list = |values: ArrayRef| -> Result<ScalarValue> {
            let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
            let offsets = OffsetBuffer::from_lengths([values.len()]);
            let list = ListArray::try_new(item, offsets, values, None)?;
            Ok(ScalarValue::List(Arc::new(list)))
        };
        Ok(vec![list(values)?, list(Arc::new(counts))?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        match self.answer {
            Answer::Mode => self.one(self.most_frequent()),
            Answer::PercentileDisc => self.one(self.at_share()),
            Answer::Histogram => self.map(),
        }
    }

    fn size(&self) -> usize {
        // A node of the tree holds a pointer, a length and a count for each entry.
        size_of_val(self) + self.bytes + self.counts.len() * 2 * size_of::<(Box<[u8]>, i64)>()
    }
}

/// The values, with negative zero as zero.
pub(super) fn one_zero(values: &ArrayRef) -> ArrayRef {
    match values.data_type() {
        DataType::Float32 => Arc::new(unary::<_, _, Float32Type>(
            values.as_primitive::<Float32Type>(),
            |v| v + 0.0,
        )),
        DataType::Float64 => Arc::new(unary::<_, _, Float64Type>(
            values.as_primitive::<Float64Type>(),
            |v| v + 0.0,
        )),
        _ => values.clone(),
    }
}
