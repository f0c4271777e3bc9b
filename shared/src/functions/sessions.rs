//! Sessions by a gap: facts of which each lies at most that far from the next are one session.
//!
//! The state is what a union of intervals is: islands on a line, each with its first and last instant,
//! the number of its facts, and what their values came to. Merging joins islands that a gap does not
//! part, so it is exact in any order, and a late fact can only join islands, never split one (the
//! connected components of a line; PostgreSQL's `range_agg` over `[ts, ts + gap]` is kin).
//!
//! A key whose facts lie in more than [`MOST_BUCKETS`] buckets of a gap each has too many sessions to be
//! kept: its value is NULL. That number is known from the islands and only grows, so it is the same
//! wherever the facts are cut.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, StructArray,
    new_empty_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    DataType, Field, FieldRef, Fields, Int64Type, IntervalUnit, TimeUnit, TimestampMicrosecondType,
};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Literal;

use super::value_counts::one_zero;
use crate::planted;

mod keys;

/// In so many buckets, each as wide as the gap, a key may have facts.
const MOST_BUCKETS: i64 = 100_000;

/// Digits of a sum of whole numbers and decimals: more than any number of facts comes to.
const SUM_DIGITS: u8 = 38;

/// All of them.
pub(super) fn all() -> [AggregateUDF; 3] {
    [Answer::Sessions, Answer::Count, Answer::Seconds].map(|answer| {
        AggregateUDF::from(Sessions {
            answer,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    /// Each with its times, facts and values.
    Sessions,
    /// How many there are.
    Count,
    /// From first to last fact, all together.
    Seconds,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sessions {
    answer: Answer,
    signature: Signature,
}

fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The type of a value's sum; none where it has none.
fn sum_type(value: &DataType) -> Option<DataType> {
    match value {
        DataType::Float32 | DataType::Float64 => Some(DataType::Float64),
        DataType::Decimal128(_, scale) => Some(DataType::Decimal128(SUM_DIGITS, *scale)),
        t if t.is_integer() => Some(DataType::Decimal128(SUM_DIGITS, 0)),
        _ => None,
    }
}

fn field(name: impl Into<String>, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, true))
}

/// The fields of a session.
fn session_fields(values: &[DataType]) -> Fields {
    let mut fields = vec![
        field("start", instant()),
        field("end", instant()),
        field("facts", DataType::Int64),
    ];
    for (nth, value) in values.iter().enumerate() {
        let name = format!("value_{}", nth + 1);
        fields.push(field(name, DataType::Struct(value_fields(value))));
    }
    fields.into()
}

/// What a session tells of a value.
fn value_fields(value: &DataType) -> Fields {
    let sum = sum_type(value).map(|t| field("sum", t));
    let others = ["min", "max", "first", "last"].map(|name| field(name, value.clone()));
    sum.into_iter().chain(others).collect()
}

/// The fields of an island.
fn island_fields(values: &[DataType]) -> Fields {
    let mut fields = ["start", "end", "facts"]
        .map(|name| field(name, DataType::Int64))
        .to_vec();
    for (nth, value) in values.iter().enumerate() {
        let name = |what: &str| format!("v{nth}_{what}");
        fields.push(field(
            name("sum"),
            sum_type(value).unwrap_or(DataType::Null),
        ));
        for what in ["min", "max", "first", "last"] {
            fields.push(field(name(what), value.clone()));
        }
        for what in ["first_at", "last_at"] {
            fields.push(field(name(what), DataType::Int64));
        }
    }
    // A column of nothing but NULL can't be stored.
    let storable = fields
        .into_iter()
        .filter(|f| *f.data_type() != DataType::Null);
    storable.collect()
}

fn list_of(fields: Fields) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(
        DataType::Struct(fields),
        true,
    )))
}

impl AggregateUDFImpl for Sessions {
    fn name(&self) -> &str {
        match self.answer {
            Answer::Sessions => "sessions",
            Answer::Count => "session_count",
            Answer::Seconds => "session_seconds",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        let (ts, gap, values) = match arg_types {
            [ts, gap, values @ ..] => (ts, gap, values),
            _ => return plan_err!("write `{name}(ts, INTERVAL '30 minutes')`"),
        };
        if !matches!(
            ts,
            DataType::Timestamp(..) | DataType::Date32 | DataType::Null
        ) {
            return plan_err!("`{name}` takes a time first, not a `{ts}`");
        }
        if !matches!(gap, DataType::Interval(_)) {
            return plan_err!(
                "`{name}` takes the gap second, as an interval such as `INTERVAL '30 minutes'`, not a `{gap}`"
            );
        }
        if self.answer != Answer::Sessions && !values.is_empty() {
            return plan_err!("`{name}` takes a time and a gap; `sessions` takes values too");
        }
        let mut types = vec![instant(), DataType::Interval(IntervalUnit::MonthDayNano)];
        for value in values {
            types.push(match value {
                DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
                DataType::Utf8View
                | DataType::Boolean
                | DataType::Date32
                | DataType::Timestamp(..)
                | DataType::Decimal128(..) => value.clone(),
                t if t.is_integer() || t.is_floating() => value.clone(),
                other => return plan_err!("`{name}` takes no value of type `{other}`; cast it"),
            });
        }
        Ok(types)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.answer {
            Answer::Sessions => list_of(session_fields(arg_types.get(2..).unwrap_or_default())),
            Answer::Count => DataType::Int64,
            Answer::Seconds => DataType::Float64,
        })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let values = args
            .input_fields
            .iter()
            .skip(2)
            .map(|f| f.data_type().clone());
        let values: Vec<DataType> = values.collect();
        Ok(vec![
            field("islands", list_of(island_fields(&values))),
            field("too_many", DataType::Boolean),
        ])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Islands::of(&self.shape(&args)?)))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(keys::Keys::of(self.shape(&args)?)))
    }
}

impl Sessions {
    fn shape(&self, args: &AccumulatorArgs) -> Result<Arc<Shape>> {
        let name = self.name();
        if args.is_distinct {
            return plan_err!("`{name}` takes no DISTINCT");
        }
        let gap = args.exprs.get(1).and_then(|e| e.downcast_ref::<Literal>());
        let values = args
            .expr_fields
            .iter()
            .skip(2)
            .map(|f| f.data_type().clone());
        Ok(Arc::new(Shape {
            answer: self.answer,
            gap: match gap.map(|literal| literal.value()) {
                Some(value) => micros(name, value)?,
                None => {
                    return plan_err!(
                        "`{name}` takes a constant gap, such as `INTERVAL '30 minutes'`"
                    );
                }
            },
            values: values.collect(),
        }))
    }
}

/// A gap in microseconds.
fn micros(name: &str, gap: &ScalarValue) -> Result<i64> {
    let ScalarValue::IntervalMonthDayNano(Some(gap)) = gap else {
        return plan_err!("`{name}` takes a gap that is not NULL");
    };
    let nanos = i128::from(gap.days) * 86_400_000_000_000 + i128::from(gap.nanoseconds);
    match i64::try_from(nanos / 1_000) {
        Ok(micros) if gap.months == 0 && micros > 0 && nanos % 1_000 == 0 => Ok(micros),
        _ => plan_err!(
            "`{name}` takes a gap above 0 in days, hours, minutes, seconds or microseconds: months differ in length"
        ),
    }
}

/// What the values of an island came to.
#[derive(Clone, Debug)]
struct Tally {
    sum: Option<Sum>,
    min: ScalarValue,
    max: ScalarValue,
    /// The value of the first instant that has one, of several there the least.
    first: (i64, ScalarValue),
    /// The value of the last instant that has one, of several there the greatest.
    last: (i64, ScalarValue),
}

#[derive(Clone, Copy, Debug)]
enum Sum {
    Whole(i128),
    Float(f64),
}

#[derive(Clone, Debug)]
struct Island {
    start: i64,
    end: i64,
    facts: i64,
    /// None where no fact has had the value yet.
    values: Vec<Option<Tally>>,
}

impl Tally {
    fn of(at: i64, value: ScalarValue) -> Self {
        let sum = match &value {
            ScalarValue::Float32(Some(v)) => Some(Sum::Float(f64::from(*v))),
            ScalarValue::Float64(Some(v)) => Some(Sum::Float(*v)),
            ScalarValue::Decimal128(Some(v), ..) => Some(Sum::Whole(*v)),
            ScalarValue::UInt64(Some(v)) => Some(Sum::Whole(i128::from(*v))),
            other if other.data_type().is_integer() => match other.cast_to(&DataType::Int64) {
                Ok(ScalarValue::Int64(Some(v))) => Some(Sum::Whole(i128::from(v))),
                _ => None,
            },
            _ => None,
        };
        Self {
            sum,
            min: value.clone(),
            max: value.clone(),
            first: (at, value.clone()),
            last: (at, value),
        }
    }

    fn join(&mut self, other: Self) {
        self.sum = match (self.sum, other.sum) {
            (Some(Sum::Whole(a)), Some(Sum::Whole(b))) => Some(Sum::Whole(a.saturating_add(b))),
            (Some(Sum::Float(a)), Some(Sum::Float(b))) => Some(Sum::Float(a + b)),
            _ => None,
        };
        if is_less(&other.min, &self.min) {
            self.min = other.min;
        }
        if is_less(&self.max, &other.max) {
            self.max = other.max;
        }
        if other.first.0 < self.first.0
            || (other.first.0 == self.first.0 && is_less(&other.first.1, &self.first.1))
        {
            self.first = other.first;
        }
        if other.last.0 > self.last.0
            || (other.last.0 == self.last.0 && is_less(&self.last.1, &other.last.1))
        {
            self.last = other.last;
        }
    }
}

fn is_less(a: &ScalarValue, b: &ScalarValue) -> bool {
    a.partial_cmp(b) == Some(Ordering::Less)
}

impl Island {
    fn join(&mut self, other: Self) {
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
        self.facts += other.facts;
        for (own, other) in self.values.iter_mut().zip(other.values) {
            match (own.as_mut(), other) {
                (Some(own), Some(other)) => own.join(other),
                (None, other) => *own = other,
                (Some(_), None) => {}
            }
        }
    }
}

/// What all keys have in common.
#[derive(Debug)]
struct Shape {
    answer: Answer,
    /// In microseconds; above 0.
    gap: i64,
    /// The types of the values.
    values: Vec<DataType>,
}

/// The islands of one key, by where they start.
///
/// Invariant: more than the gap lies between one and the next.
#[derive(Debug)]
struct Islands {
    shape: Arc<Shape>,
    islands: BTreeMap<i64, Island>,
    /// How many buckets of a gap each they cover.
    buckets: i64,
    too_many: bool,
}

impl Islands {
    fn of(shape: &Arc<Shape>) -> Self {
        Self {
            shape: shape.clone(),
            islands: BTreeMap::new(),
            buckets: 0,
            too_many: false,
        }
    }

    fn buckets_of(&self, island: &Island) -> i64 {
        let bucket = |at: i64| at.div_euclid(self.shape.gap);
        let apart = bucket(island.end).saturating_sub(bucket(island.start));
        apart.saturating_add(1)
    }

    /// Takes an island away again.
    fn without(&mut self, start: i64) -> Option<Island> {
        let island = self.islands.remove(&start)?;
        self.buckets -= self.buckets_of(&island);
        Some(island)
    }

    fn add(&mut self, mut island: Island) {
        if self.too_many {
            return;
        }
        let reach = |end: i64| end.saturating_add(self.shape.gap);
        let before = self.islands.range(..=island.start).next_back();
        let before = before.filter(|(_, i)| reach(i.end) >= island.start);
        if let Some(before) = before
            .map(|(start, _)| *start)
            .and_then(|s| self.without(s))
        {
            island.join(before);
        }
        loop {
            let reach = island.end.saturating_add(self.shape.gap);
            let next = self.islands.range(island.start..=reach).next();
            let Some(next) = next.map(|(start, _)| *start).and_then(|s| self.without(s)) else {
                break;
            };
            if planted("planted-island-split") {
                // What a late fact bridges stays apart.
                self.buckets += self.buckets_of(&next);
                self.islands.insert(next.start, next);
                break;
            }
            island.join(next);
        }
        self.buckets = self.buckets.saturating_add(self.buckets_of(&island));
        self.islands.insert(island.start, island);
        if self.buckets > MOST_BUCKETS {
            self.overflow();
        }
    }

    fn overflow(&mut self) {
        self.too_many = true;
        self.islands.clear();
        self.buckets = 0;
    }

    /// Adds a fact: its instant, and the row of its values.
    fn fact(&mut self, at: i64, values: &[ArrayRef], row: usize) -> Result<()> {
        let tallies = values.iter().map(|column| match column.is_valid(row) {
            true => ScalarValue::try_from_array(column, row).map(|v| Some(Tally::of(at, v))),
            false => Ok(None),
        });
        self.add(Island {
            start: at,
            end: at,
            facts: 1,
            values: tallies.collect::<Result<_>>()?,
        });
        Ok(())
    }

    /// Adds a state: a row of the two columns that it is.
    fn stored(&mut self, islands: &ListArray, too_many: &BooleanArray, row: usize) -> Result<()> {
        if too_many.is_valid(row) && too_many.value(row) {
            self.overflow();
        }
        if islands.is_null(row) || self.too_many {
            return Ok(());
        }
        for island in read(islands.value(row).as_struct(), &self.shape.values)? {
            self.add(island);
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        // Of texts only those of one island are looked at: many islands have alike ones.
        let value = |tally: &Tally| {
            tally.min.size() + tally.max.size() + tally.first.1.size() + tally.last.1.size()
        };
        let one = self.islands.values().next();
        let values = one.map_or(0, |i| i.values.iter().flatten().map(value).sum());
        let tallies = self.shape.values.len() * size_of::<Option<Tally>>();
        let island = size_of::<(i64, Island)>() + tallies;
        size_of_val(self) + self.islands.len() * (2 * island + values)
    }
}

/// The two columns of a state.
fn stored(states: &[ArrayRef]) -> Result<(&ListArray, &BooleanArray)> {
    match states {
        [islands, too_many] => Ok((islands.as_list::<i32>(), too_many.as_boolean())),
        _ => exec_err!("a state of sessions has two columns"),
    }
}

/// The instants and the values of facts.
fn facts(columns: &[ArrayRef]) -> Result<(Vec<Option<i64>>, Vec<ArrayRef>)> {
    let [ts, _, values @ ..] = columns else {
        return exec_err!("sessions are of times");
    };
    let ts = ts.as_primitive::<TimestampMicrosecondType>();
    Ok((ts.iter().collect(), values.iter().map(one_zero).collect()))
}

/// A column of a struct, of a type, from a value of each island.
fn column(
    islands: &[&Island],
    data_type: &DataType,
    of: impl Fn(&Island) -> ScalarValue,
) -> Result<ArrayRef> {
    if islands.is_empty() {
        return Ok(new_empty_array(data_type));
    }
    let column = ScalarValue::iter_to_array(islands.iter().map(|i| of(i)))?;
    // The builder of texts takes 8 kB and more, however few there are.
    Ok(match column.as_string_view_opt() {
        Some(texts) => Arc::new(texts.gc()),
        None => column,
    })
}

impl Shape {
    /// A value's part of each island, in the place that a field says.
    fn of_value(&self, islands: &[&Island], nth: usize, what: &str) -> Result<ArrayRef> {
        let value = &self.values[nth];
        let none = ScalarValue::try_from(value)?;
        fn tally(island: &Island, nth: usize) -> Option<&Tally> {
            island.values.get(nth).and_then(Option::as_ref)
        }
        let chosen = |choose: fn(&Tally) -> &ScalarValue| {
            let none = none.clone();
            move |island: &Island| tally(island, nth).map_or(&none, choose).clone()
        };
        let at = |choose: fn(&Tally) -> i64| {
            move |island: &Island| ScalarValue::Int64(tally(island, nth).map(choose))
        };
        match what {
            "sum" => {
                let sum = sum_type(value).unwrap_or(DataType::Null);
                let of = sum.clone();
                column(islands, &sum, move |island| {
                    match (tally(island, nth).and_then(|t| t.sum), &of) {
                        (Some(Sum::Whole(v)), DataType::Decimal128(digits, scale)) => {
                            ScalarValue::Decimal128(Some(v), *digits, *scale)
                        }
                        (None, DataType::Decimal128(digits, scale)) => {
                            ScalarValue::Decimal128(None, *digits, *scale)
                        }
                        (Some(Sum::Float(v)), _) => ScalarValue::Float64(Some(v)),
                        _ => ScalarValue::Float64(None),
                    }
                })
            }
            "min" => column(islands, value, chosen(|t| &t.min)),
            "max" => column(islands, value, chosen(|t| &t.max)),
            "first" => column(islands, value, chosen(|t| &t.first.1)),
            "last" => column(islands, value, chosen(|t| &t.last.1)),
            "first_at" => column(islands, &DataType::Int64, at(|t| t.first.0)),
            _ => column(islands, &DataType::Int64, at(|t| t.last.0)),
        }
    }

    /// A list of each key's islands, as rows of columns.
    fn lists(
        keys: &[Islands],
        fields: Fields,
        columns: Vec<ArrayRef>,
        nulls: Option<NullBuffer>,
    ) -> Result<ListArray> {
        let rows = StructArray::try_new(fields.clone(), columns, None)?;
        if i32::try_from(rows.len()).is_err() {
            return exec_err!("there are more than 2^31 sessions at once");
        }
        let item = Arc::new(Field::new_list_field(DataType::Struct(fields), true));
        let offsets = OffsetBuffer::from_lengths(keys.iter().map(|k| k.islands.len()));
        Ok(ListArray::try_new(item, offsets, Arc::new(rows), nulls)?)
    }

    fn sessions(&self, keys: &[Islands]) -> Result<ListArray> {
        let islands: Vec<&Island> = keys.iter().flat_map(|k| k.islands.values()).collect();
        let time = |at: i64| ScalarValue::TimestampMicrosecond(Some(at), Some("UTC".into()));
        let mut columns = vec![
            column(&islands, &instant(), |i| time(i.start))?,
            column(&islands, &instant(), |i| time(i.end))?,
            column(&islands, &DataType::Int64, |i| {
                ScalarValue::Int64(Some(i.facts))
            })?,
        ];
        for (nth, value) in self.values.iter().enumerate() {
            let fields = value_fields(value);
            let told = fields
                .iter()
                .map(|f| self.of_value(&islands, nth, f.name()));
            let told = told.collect::<Result<Vec<_>>>()?;
            columns.push(Arc::new(StructArray::try_new(fields, told, None)?));
        }
        let told = keys.iter().map(|k| !k.too_many).collect::<Vec<bool>>();
        let nulls = Some(NullBuffer::from(told)).filter(|n| n.null_count() > 0);
        Self::lists(keys, session_fields(&self.values), columns, nulls)
    }

    /// The states of keys.
    fn states(&self, keys: &[Islands]) -> Result<(ListArray, BooleanArray)> {
        let islands: Vec<&Island> = keys.iter().flat_map(|k| k.islands.values()).collect();
        let fields = island_fields(&self.values);
        let whole = |of: fn(&Island) -> i64| {
            column(&islands, &DataType::Int64, move |i| {
                ScalarValue::Int64(Some(of(i)))
            })
        };
        let mut columns = vec![whole(|i| i.start)?, whole(|i| i.end)?, whole(|i| i.facts)?];
        for field in fields.iter().skip(3) {
            let (nth, what) = value_of(field.name())?;
            columns.push(self.of_value(&islands, nth, what)?);
        }
        let too_many = keys.iter().map(|k| Some(k.too_many)).collect();
        Ok((Self::lists(keys, fields, columns, None)?, too_many))
    }

    /// The answers of keys.
    fn answers(&self, keys: &[Islands]) -> Result<ArrayRef> {
        let seconds = |key: &Islands| {
            let spans = key.islands.values();
            let spans = spans.map(|i| i128::from(i.end) - i128::from(i.start));
            #[expect(clippy::cast_precision_loss, reason = "seconds of sessions")]
            let seconds = spans.sum::<i128>() as f64 / 1e6;
            seconds
        };
        Ok(match self.answer {
            Answer::Sessions => Arc::new(self.sessions(keys)?),
            Answer::Count => {
                let count = |key: &Islands| i64::try_from(key.islands.len()).ok();
                let counts = keys
                    .iter()
                    .map(|k| (!k.too_many).then(|| count(k)).flatten());
                Arc::new(counts.collect::<Int64Array>())
            }
            Answer::Seconds => {
                let all = keys.iter().map(|k| (!k.too_many).then(|| seconds(k)));
                Arc::new(all.collect::<Float64Array>())
            }
        })
    }
}

impl Accumulator for Islands {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (times, values) = facts(columns)?;
        for (row, at) in times.into_iter().enumerate() {
            if let Some(at) = at {
                self.fact(at, &values, row)?;
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (islands, too_many) = stored(states)?;
        (0..islands.len()).try_for_each(|row| self.stored(islands, too_many, row))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let (islands, too_many) = self.shape.states(std::slice::from_ref(self))?;
        Ok(vec![
            ScalarValue::List(Arc::new(islands)),
            ScalarValue::try_from_array(&too_many, 0)?,
        ])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let answer = self.shape.answers(std::slice::from_ref(self))?;
        ScalarValue::try_from_array(&answer, 0)
    }

    fn size(&self) -> usize {
        self.bytes()
    }
}

/// The value and the part of it that a field of an island is.
fn value_of(name: &str) -> Result<(usize, &str)> {
    let parts = name.strip_prefix('v').and_then(|rest| rest.split_once('_'));
    let parsed = parts.and_then(|(nth, what)| Some((nth.parse().ok()?, what)));
    match parsed {
        Some(found) => Ok(found),
        None => exec_err!("an island has no `{name}`"),
    }
}

/// The islands of a stored list.
fn read(rows: &StructArray, values: &[DataType]) -> Result<Vec<Island>> {
    let column = |name: &str| match rows.column_by_name(name) {
        Some(column) => Ok(column),
        None => exec_err!("an island has no `{name}`"),
    };
    let whole =
        |name: &str| -> Result<&Int64Array> { Ok(column(name)?.as_primitive::<Int64Type>()) };
    let (start, end, facts) = (whole("start")?, whole("end")?, whole("facts")?);
    let mut islands = Vec::with_capacity(rows.len());
    for row in 0..rows.len() {
        let mut tallies = Vec::with_capacity(values.len());
        for (nth, value) in values.iter().enumerate() {
            let name = |what: &str| format!("v{nth}_{what}");
            let first_at = whole(&name("first_at"))?;
            if first_at.is_null(row) {
                tallies.push(None);
                continue;
            }
            let part = |what: &str| ScalarValue::try_from_array(column(&name(what))?, row);
            let sum = match sum_type(value) {
                None => None,
                Some(_) => match part("sum")? {
                    ScalarValue::Decimal128(Some(v), ..) => Some(Sum::Whole(v)),
                    ScalarValue::Float64(Some(v)) => Some(Sum::Float(v)),
                    _ => None,
                },
            };
            tallies.push(Some(Tally {
                sum,
                min: part("min")?,
                max: part("max")?,
                first: (first_at.value(row), part("first")?),
                last: (whole(&name("last_at"))?.value(row), part("last")?),
            }));
        }
        islands.push(Island {
            start: start.value(row),
            end: end.value(row),
            facts: facts.value(row),
            values: tallies,
        });
    }
    Ok(islands)
}

#[cfg(test)]
mod tests;
