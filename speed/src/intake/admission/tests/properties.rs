//! Random records: the verdict on a line doesn't depend on its neighbours, and values arrive as they were sent.

use arrow::array::AsArray;
use arrow::datatypes::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use proptest::prelude::*;

use super::*;
use anabranch_shared::convert::{number, time};

/// A JSON value, in or out of any type's range.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|i| i.to_string()),
        (-300_i64..300).prop_map(|i| i.to_string()),
        any::<f64>()
            .prop_filter("JSON has finite numbers only", |f| f.is_finite())
            .prop_map(|f| format!("{f:e}")),
        "-?[0-9]{1,20}(\\.[0-9]{1,4})?(e[0-9])?",
        any::<String>().prop_map(|s| serde_json::Value::from(s).to_string()),
        "\"[12][0-9]{3}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{1,10})?(Z|[+-]0[0-9]:30)?)?\"",
        "\"[A-Za-z0-9+/]{0,8}={0,2}\"",
        "\\[(1|null|\"a\"|-7)(, ?(2|null|\"b\"|\\[3\\]))*\\]",
        "\\{\"a\": ?[0-9x]\\}",
    ]
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let names: Vec<String> = schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let name = prop_oneof![8 => proptest::sample::select(names), 1 => "[a-z_]{1,3}"];
    let object = proptest::collection::vec((name, value()), 0..6).prop_map(|fields| {
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("\"{name}\" : {value}"))
            .collect();
        format!(
            "{{\"ts\":\"2014-03-10T08:00:00Z\"{}{}}}",
            if fields.is_empty() { "" } else { "," },
            fields.join(",")
        )
        .into_bytes()
    });
    let object = object.boxed();
    let damaged = (object.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(mut line, at, byte)| {
            let at = at.index(line.len());
            line[at] = if matches!(byte, b'\n' | b'\r') {
                0
            } else {
                byte
            };
            line
        },
    );
    let cut = (object.clone(), any::<prop::sample::Index>()).prop_map(|(mut line, at)| {
        line.truncate(at.index(line.len()));
        line
    });
    prop_oneof![6 => object, 2 => damaged, 1 => cut, 1 => value().prop_map(String::into_bytes)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_chunk_is_its_lines_one_by_one(
        lines in proptest::collection::vec(line(), 0..30),
        keep in any::<bool>(),
        crlf in any::<bool>(),
        limit in prop_oneof![Just(1_000_000_usize), 30_usize..200],
    ) {
        let unknown = if keep { UnknownFields::Keep } else { UnknownFields::Reject };
        let admission = Admission::new(&schema(), "ts", unknown, limit).unwrap();
        let end = if crlf { "\r\n" } else { "\n" };
        let whole = admission.ndjson(&Bytes::from(lines.join(end.as_bytes()))).unwrap();
        check_accounts(&whole);
        let (mut facts, mut dead, mut records, mut count, mut unknown) = (Vec::new(), Vec::new(), Vec::new(), 0, 0);
        let mut lines_before = 0;
        for line in &lines {
            let mut one = admission.ndjson(&Bytes::copy_from_slice(line)).unwrap();
            one.dead.iter_mut().for_each(|dead| {
                dead.record += count;
                dead.line = dead.line.map(|line| line + lines_before);
            });
            lines_before += 1 + line.iter().filter(|b| **b == b'\n').count() as u64;
            records.extend(one.records.iter().map(|record| record + count));
            dead.append(&mut one.dead);
            facts.push(one.facts);
            count += one.record_count;
            unknown += one.unknown_fields;
        }
        prop_assert_eq!(whole.facts, arrow::compute::concat_batches(admission.schema(), &facts).unwrap());
        prop_assert_eq!(whole.dead, dead);
        prop_assert_eq!(whole.records, records);
        prop_assert_eq!((whole.record_count, whole.unknown_fields), (count, unknown));
    }

    #[test]
    fn values_arrive_as_they_were_sent(
        rows in proptest::collection::vec(
            (any::<i64>(), any::<f64>().prop_filter("", |f| f.is_finite()), any::<String>(),
             proptest::option::of(any::<Vec<u8>>()), -9_999_999_999_i64..=9_999_999_999,
             time::MIN_MICROS..=time::MAX_MICROS, proptest::collection::vec(proptest::option::of(any::<i64>()), 0..4)),
            1..20)
    ) {
        let mut lines = String::new();
        for (i64, f64, text, bytes, dec, at, ints) in &rows {
            use base64::Engine;
            let bytes = bytes.as_ref().map(|bytes| base64::engine::general_purpose::STANDARD.encode(bytes));
            let at = DateTime::<Utc>::from_timestamp_micros(*at).unwrap().to_rfc3339_opts(SecondsFormat::Micros, true);
            let dec = format!("{}{}.{:02}", if *dec < 0 { "-" } else { "" }, dec.abs() / 100, dec.abs() % 100);
            lines += &serde_json::json!({
                "ints": ints, "ts": at, "f64": f64, "i64": i64, "text": text, "bytes": bytes, "dec": dec,
            }).to_string();
            lines.push('\n');
        }
        let admitted = admit(lines);
        prop_assert!(admitted.dead.is_empty(), "{:?}", admitted.dead);
        let column = |name: &str| admitted.facts.column_by_name(name).unwrap().clone();
        for (row, (i64, f64, text, bytes, dec, at, ints)) in rows.iter().enumerate() {
            prop_assert_eq!(column("i64").as_primitive::<Int64Type>().value(row), *i64);
            prop_assert_eq!(column("f64").as_primitive::<Float64Type>().value(row).to_bits(), f64.to_bits());
            let found = column("text");
            prop_assert_eq!(found.as_string_view().value(row), text.as_str());
            let found = column("bytes");
            prop_assert_eq!(found.is_valid(row).then(|| found.as_binary_view().value(row).to_vec()), bytes.clone());
            prop_assert_eq!(column("dec").as_primitive::<Decimal128Type>().value(row), i128::from(*dec));
            prop_assert_eq!(column("ts").as_primitive::<TimestampMicrosecondType>().value(row), *at);
            let list = column("ints").as_list::<i32>().value(row);
            prop_assert_eq!(list.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), ints.clone());
        }
    }

    #[test]
    fn timestamps_read_as_another_parser_reads_them(
        text in "[0-9]{3}[0-9]-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-5][0-9])?"
    ) {
        let zoned = DateTime::parse_from_rfc3339(&text).map(|time| time.to_utc());
        let naive = || NaiveDateTime::parse_from_str(&text.replace('T', " "), "%Y-%m-%d %H:%M:%S%.f").map(|time| time.and_utc());
        let leap_second = text.as_bytes()[17] == b'6';
        let expected = zoned.or_else(|_| naive()).ok().filter(|_| !leap_second).map(|time| time.timestamp_micros());
        let expected = expected.filter(|micros| (time::MIN_MICROS..=time::MAX_MICROS).contains(micros));
        prop_assert_eq!(time::timestamp(text.as_bytes(), None).ok(), expected);
    }

    #[test]
    fn every_day_is_itself(days in time::MIN_DAYS..=time::MAX_DAYS) {
        let day = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap() + TimeDelta::days(i64::from(days));
        prop_assert_eq!(time::date(day.format("%Y-%m-%d").to_string().as_bytes()), Ok(days));
    }

    #[test]
    fn exact_numbers_are_exact(value in any::<i64>(), scale in 0_i8..9, zeros in 0_usize..30, exponent in -9_i32..9) {
        // `value × 10^-scale`, written with any exponent and any number of trailing zeros.
        let digits = format!("{:012}", value.unsigned_abs());
        let (whole, fraction) = digits.split_at(digits.len() - 9);
        let sign = if value < 0 { "-" } else { "" };
        let text = format!("{sign}{whole}.{fraction}{}e{exponent}", "0".repeat(zeros));
        let power = i32::from(scale) + exponent - 9;
        let expected = if power >= 0 {
            Some(i128::from(value) * 10_i128.pow(power.unsigned_abs()))
        } else {
            let divisor = 10_i128.pow(power.unsigned_abs());
            (i128::from(value) % divisor == 0).then(|| i128::from(value) / divisor)
        };
        prop_assert_eq!(number::exact(text.as_bytes(), scale).ok(), expected);
        prop_assert_eq!(number::integer(value.to_string().as_bytes()), Ok(i128::from(value)));
    }
}
