//! Random topics and random facts.

use std::sync::Arc;

use anabranch_shared::settings::{EpochUnit, FieldReads, FieldType};
use anabranch_shared::{Offset, PartitionId, Topic, TopicField};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array,
    Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, Int64Builder,
    ListBuilder, RecordBatch, StringBuilder, StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use arrow::temporal_conversions::timestamp_us_to_datetime;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

/// The types that random topics have, each under the name of its field.
pub const FIELDS: [(&str, &str); 10] = [
    ("b", "boolean"),
    ("i16", "smallint"),
    ("i", "int"),
    ("n", "bigint"),
    ("f", "double"),
    ("f32", "real"),
    ("d", "decimal(12,3)"),
    ("s", "varchar"),
    ("day", "date"),
    ("list", "bigint[]"),
];

/// Types that a topic may have besides.
pub const SPARE: [(&str, &str); 4] = [
    ("i8", "tinyint"),
    ("bin", "binary"),
    ("at", "timestamp"),
    ("words", "varchar[]"),
];

/// Fields that may be declared after some of their facts.
pub const LATE: [(&str, &str); 4] = [
    ("late_s", "varchar"),
    ("late_n", "bigint"),
    ("late_b", "boolean"),
    ("late_at", "timestamp"),
];

/// The time at which all facts come in, in microseconds since 1970.
pub const NOW_US: i64 = 1_700_000_000_000_000;

/// A topic with every supported type, its fields in some order and some of them left out that no
/// view is of.
pub fn random_topic(rng: &mut SmallRng) -> anyhow::Result<Topic> {
    let mut topic = topic()?;
    topic.fields[1..].shuffle(rng);
    let spare = |name: &str| SPARE.iter().any(|(spare, _)| *spare == name);
    topic
        .fields
        .retain(|f| !spare(&f.name) || rng.random_bool(0.5));
    Ok(topic)
}

/// A topic with every supported type.
pub fn topic() -> anyhow::Result<Topic> {
    let field = |name: &str, kind: &str, nullable| -> anyhow::Result<TopicField> {
        Ok(TopicField {
            name: name.into(),
            field_type: kind.parse::<FieldType>()?,
            nullable,
            reads: FieldReads::default(),
        })
    };
    let mut fields = vec![field("ts", "timestamp", false)?];
    for (name, kind) in FIELDS.into_iter().chain(SPARE) {
        fields.push(field(name, kind, true)?);
    }
    Ok(Topic {
        name: "facts".into(),
        event_time: "ts".into(),
        fields,
    })
}

/// A topic with the fields of [`LATE`] besides, at the end or between the others.
pub fn with_late_fields(rng: &mut SmallRng, mut topic: Topic) -> anyhow::Result<Topic> {
    for (name, kind) in LATE {
        let epoch = (kind == "timestamp").then_some(EpochUnit::Microseconds);
        let field = TopicField {
            name: name.into(),
            field_type: kind.parse::<FieldType>()?,
            nullable: true,
            reads: FieldReads {
                epoch,
                ..FieldReads::default()
            },
        };
        let at = match rng.random_bool(0.5) {
            true => topic.fields.len(),
            false => rng.random_range(1..topic.fields.len()),
        };
        topic.fields.insert(at, field);
    }
    Ok(topic)
}

/// Facts as whoever knows only the fields of `declared` stores them: the others lie in `_extra`.
pub fn stored(facts: &RecordBatch, declared: &Topic) -> anyhow::Result<RecordBatch> {
    let schema = declared.schema();
    let is_extra =
        |name: &str| LATE.iter().any(|(late, _)| *late == name) && schema.index_of(name).is_err();
    let mut objects = vec![Vec::new(); facts.num_rows()];
    for (field, column) in facts.schema().fields().iter().zip(facts.columns()) {
        if !is_extra(field.name()) {
            continue;
        }
        for (row, object) in objects
            .iter_mut()
            .enumerate()
            .filter(|(row, _)| column.is_valid(*row))
        {
            let value = match column.data_type() {
                DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
                DataType::Boolean => column.as_boolean().value(row).to_string(),
                DataType::Timestamp(..) => {
                    let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
                    let at = timestamp_us_to_datetime(micros);
                    let at = at.ok_or_else(|| anyhow::anyhow!("no time: {micros}"))?;
                    // As text, or as a number, which the field's `epoch` lets be a time.
                    match micros % 2 {
                        0 => format!("\"{at:?}Z\""),
                        _ => micros.to_string(),
                    }
                }
                _ => serde_json::Value::from(column.as_string_view().value(row)).to_string(),
            };
            object.push(format!("\"{}\": {value}", field.name()));
        }
    }
    let objects = objects
        .iter()
        .map(|o| (!o.is_empty()).then(|| format!("{{{}}}", o.join(", "))));
    let extra: ArrayRef = Arc::new(StringViewArray::from_iter(objects));
    let columns = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "_extra" => Ok(extra.clone()),
            name => facts
                .column_by_name(name)
                .cloned()
                .ok_or_else(|| anyhow::anyhow!("no `{name}`")),
        });
    let columns = columns.collect::<anyhow::Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

fn maybe<T>(rng: &mut SmallRng, value: impl FnOnce(&mut SmallRng) -> T) -> Option<T> {
    (!rng.random_bool(0.15)).then(|| value(rng))
}

fn float(rng: &mut SmallRng) -> f64 {
    match rng.random_range(0..12) {
        0 => f64::NAN,
        1 => -0.0,
        2 => 0.0,
        _ => f64::from(rng.random_range(-1_000_i32..1_000)) / 8.0,
    }
}

/// Whole numbers near the limits among small ones: partial sums go beyond them, and some sums end
/// there.
fn integer(rng: &mut SmallRng) -> i64 {
    match rng.random_range(0..40) {
        0 => i64::MAX,
        1 => i64::MIN,
        2 | 3 => i64::MAX / 2 + 3,
        4 | 5 => i64::MIN / 2 - 3,
        _ => rng.random_range(-5..20),
    }
}

fn text(rng: &mut SmallRng) -> &'static str {
    let texts = [
        "",
        "a",
        "b",
        "Ünïcode",
        "日本語のとても長い文字列です",
        "a\nb",
        "z\u{0}",
        "🦆",
        "null",
    ];
    texts[rng.random_range(0..texts.len())]
}

/// The declared fields of random facts, with `_extra`; event times in no order, across two days, so
/// that minutes, hours and days collide.
pub fn fields(rng: &mut SmallRng, topic: &Topic, rows: usize) -> anyhow::Result<RecordBatch> {
    let times: Vec<i64> = (0..rows)
        .map(|_| NOW_US + rng.random_range(0..2_880) * 60_000_000)
        .collect();
    let mut lists = ListBuilder::new(Int64Builder::new());
    for _ in 0..rows {
        match maybe(rng, |r| r.random_range(0..3)) {
            None => lists.append_null(),
            Some(n) => {
                (0..n).for_each(|_| lists.values().append_option(maybe(rng, integer)));
                lists.append(true);
            }
        }
    }
    macro_rules! column {
        ($array:ty, $value:expr) => {{
            let values: Vec<_> = (0..rows).map(|_| maybe(rng, $value)).collect();
            Arc::new(<$array>::from_iter(values)) as ArrayRef
        }};
    }
    let decimals: Vec<Option<i128>> = (0..rows)
        .map(|_| maybe(rng, |r| i128::from(r.random_range(-99_999_i64..99_999))))
        .collect();
    let mut words = ListBuilder::new(StringBuilder::new());
    for _ in 0..rows {
        let some = maybe(rng, |r| {
            (0..r.random_range(0..3))
                .map(|_| maybe(r, text))
                .collect::<Vec<_>>()
        });
        words.append_option(some);
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "ts",
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        ),
        (
            "b",
            column!(BooleanArray, |r: &mut SmallRng| r.random_bool(0.5)),
        ),
        (
            "i16",
            column!(Int16Array, |r: &mut SmallRng| r.random_range(-3..3_i16)),
        ),
        (
            "i",
            column!(Int32Array, |r: &mut SmallRng| r.random_range(-100..100_i32)),
        ),
        ("n", column!(Int64Array, integer)),
        ("f", column!(Float64Array, float)),
        (
            "f32",
            column!(Float32Array, |r: &mut SmallRng| float(r) as f32),
        ),
        (
            "d",
            Arc::new(Decimal128Array::from(decimals).with_precision_and_scale(12, 3)?),
        ),
        ("s", column!(StringViewArray, text)),
        (
            "day",
            column!(Date32Array, |r: &mut SmallRng| r.random_range(-3..3_i32)),
        ),
        ("list", Arc::new(lists.finish())),
        (
            "i8",
            column!(Int8Array, |r: &mut SmallRng| r.random_range(-128..=127_i8)),
        ),
        (
            "bin",
            column!(BinaryViewArray, |r: &mut SmallRng| text(r).as_bytes()),
        ),
        (
            "at",
            column!(TimestampMicrosecondArray, |r: &mut SmallRng| {
                r.random_range(-1_000_000_000_000_000..4_000_000_000_000_000_i64)
            }),
        ),
        ("words", Arc::new(words.finish())),
        ("late_s", column!(StringViewArray, text)),
        ("late_n", column!(Int64Array, integer)),
        (
            "late_b",
            column!(BooleanArray, |r: &mut SmallRng| r.random_bool(0.5)),
        ),
        (
            "late_at",
            column!(TimestampMicrosecondArray, |r: &mut SmallRng| {
                r.random_range(-1_000_000_000_000_000..4_000_000_000_000_000_i64)
            }),
        ),
        (
            "_extra",
            Arc::new(StringViewArray::from_iter((0..rows).map(|_| None::<&str>))),
        ),
    ];
    let schema = topic.schema();
    let named = |name: &String| columns.iter().find(|(n, _)| n == name);
    let places: Vec<usize> = (0..schema.fields().len())
        .filter(|i| named(schema.field(*i).name()).is_some())
        .collect();
    let schema = Arc::new(schema.project(&places)?);
    let columns = schema.fields().iter().filter_map(|f| {
        let (_, column) = named(f.name())?;
        Some(arrow::compute::cast(column, f.data_type()))
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// Facts at their place: `fields` with a partition and an offset each.
pub fn placed(
    fields: &RecordBatch,
    topic: &Topic,
    partition: PartitionId,
    offsets: Vec<i64>,
) -> anyhow::Result<RecordBatch> {
    let rows = fields.num_rows();
    let mut columns = fields.columns().to_vec();
    columns.push(Arc::new(Int32Array::from(vec![partition.0; rows])));
    columns.push(Arc::new(Int64Array::from(offsets)));
    columns.push(Arc::new(
        TimestampMicrosecondArray::from(vec![NOW_US; rows]).with_timezone("UTC"),
    ));
    Ok(RecordBatch::try_new(topic.schema(), columns)?)
}

/// Random facts from an offset on; some offsets are left unused.
pub fn facts(
    rng: &mut SmallRng,
    topic: &Topic,
    partition: PartitionId,
    first: Offset,
    rows: usize,
) -> anyhow::Result<(RecordBatch, Offset)> {
    let mut offset = first.0;
    let offsets: Vec<i64> = (0..rows)
        .map(|_| {
            offset += i64::from(rng.random_bool(0.1));
            offset += 1;
            offset - 1
        })
        .collect();
    let end = Offset(offset + i64::from(rng.random_bool(0.1)));
    let fields = fields(rng, topic, rows)?;
    Ok((placed(&fields, topic, partition, offsets)?, end))
}
