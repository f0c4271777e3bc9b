//! How values of a field are read where their producer's form leaves more than one reading.

use chrono::{DateTime, NaiveDateTime, TimeZone as _};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::FieldType;
use super::choice::choose;
use super::field_type::{Nullability, parse_declaration};
use super::reader::{Entry, Reader, Table};
use super::table::{EPOCH, FIELD_TIMEZONE, FIELD_TYPE, FROM_TEXT, Section};
use super::topics::FieldSettings;
use super::value::{Found, Mismatch, SettingValue, quoted};

/// How values of a field are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FieldReads {
    /// What a number counts from 1970 on, in a timestamp; `None` where numbers are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<EpochUnit>,
    /// The zone of times that name none; UTC where `None`.
    #[serde(rename = "timezone", skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// Whether a text of a number is the number.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub from_text: bool,
}

impl FieldReads {
    /// Whether values are read as where nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a number of a timestamp counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EpochUnit {
    /// Seconds since 1970, perhaps with a fraction.
    Seconds,
    /// Milliseconds since 1970, perhaps with a fraction.
    Milliseconds,
    /// Microseconds since 1970, perhaps with a fraction.
    Microseconds,
    /// Nanoseconds since 1970.
    Nanoseconds,
}

impl EpochUnit {
    /// How many digits nanoseconds have more.
    pub fn nano_digits(self) -> i8 {
        match self {
            Self::Seconds => 9,
            Self::Milliseconds => 6,
            Self::Microseconds => 3,
            Self::Nanoseconds => 0,
        }
    }
}

impl SettingValue for EpochUnit {
    const TYPE: &'static str = "unit of time";
    const EXPECTED: &'static str =
        "`\"seconds\"`, `\"milliseconds\"`, `\"microseconds\"` or `\"nanoseconds\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        choose(
            found,
            [
                Self::Seconds,
                Self::Milliseconds,
                Self::Microseconds,
                Self::Nanoseconds,
            ],
        )
    }

    fn write(&self) -> String {
        quoted(match self {
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
            Self::Microseconds => "microseconds",
            Self::Nanoseconds => "nanoseconds",
        })
    }
}

/// A time zone of the IANA database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone(chrono_tz::Tz);

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map(Self).map_err(D::Error::custom)
    }
}

impl Zone {
    /// The instant at which clocks in the zone show a time, both in microseconds since 1970. Of two
    /// instants, as when clocks go back, the first; none where clocks have passed over the time, or
    /// it is out of the calendar.
    pub fn instant(self, local_micros: i64) -> Option<i64> {
        let local: NaiveDateTime = DateTime::from_timestamp_micros(local_micros)?.naive_utc();
        let instant = self.0.from_local_datetime(&local).earliest()?;
        Some(instant.timestamp_micros())
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.0.name()
    }
}

/// Reads a field that is declared by a table; `None` where a problem is on record.
pub(super) fn read(
    reader: &mut Reader<'_>,
    path: &str,
    entry: &Entry<'_>,
) -> Option<FieldSettings> {
    let path = format!("{path}.{}", entry.key);
    let table = reader.table(Section::Field, &path, entry.value)?;
    let declared = reader.required(&table, &FIELD_TYPE);
    let epoch = reader.optional(&table, &EPOCH);
    let zone = reader.value(&table, &FIELD_TIMEZONE).0;
    let from_text = reader.value(&table, &FROM_TEXT);
    let declared = declared?.0;
    let (field_type, nullability) = match parse_declaration(&declared) {
        Ok(parsed) => parsed,
        Err(error) => {
            let span = table.get(FIELD_TYPE.key).map_or(0..0, |value| value.span());
            let name = entry.key.escape_debug();
            reader.report(&span, format!("field `{name}`: {}", error.reason));
            return None;
        }
    };
    let scalar = scalar(&field_type);
    let is_time = *scalar == FieldType::Timestamp;
    check(reader, &table, EPOCH.key, is_time, "timestamps");
    check(reader, &table, FIELD_TIMEZONE.key, is_time, "timestamps");
    let is_number = matches!(
        scalar,
        FieldType::TinyInt
            | FieldType::SmallInt
            | FieldType::Int
            | FieldType::BigInt
            | FieldType::Real
            | FieldType::Double
            | FieldType::Decimal { .. }
    );
    check(reader, &table, FROM_TEXT.key, is_number, "numbers");
    let zone = zone.parse().ok().filter(|zone| *zone != chrono_tz::Tz::UTC);
    Some(FieldSettings {
        name: entry.key.to_owned(),
        field_type,
        not_null: nullability == Nullability::NotNull,
        reads: FieldReads {
            epoch,
            zone: zone.map(Zone),
            from_text,
        },
    })
}

/// What a list of lists comes down to.
fn scalar(field_type: &FieldType) -> &FieldType {
    match field_type {
        FieldType::List(item) => scalar(item),
        other => other,
    }
}

/// Refuses a setting that is written and does not concern the field's type.
fn check(reader: &mut Reader<'_>, table: &Table<'_>, key: &str, applies: bool, to: &str) {
    if let Some(value) = table.get(key).filter(|_| !applies) {
        let message = format!(
            "`{key}` in `{}` is for {to}, and the field is none; leave it out",
            table.header
        );
        reader.report(&value.span(), message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_zone_are_instants_also_where_clocks_are_set() -> Result<(), String> {
        let berlin = Zone("Europe/Berlin".parse().map_err(|_| "no such zone")?);
        let micros = |text: &str| {
            let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S");
            time.map(|t| t.and_utc().timestamp_micros())
                .map_err(|e| e.to_string())
        };
        for (local, instant) in [
            ("2026-01-01 12:00:00", Some("2026-01-01 11:00:00")),
            ("2026-07-01 12:00:00", Some("2026-07-01 10:00:00")),
            // At 03:00 clocks go back to 02:00: the first of two instants.
            ("2026-10-25 02:30:00", Some("2026-10-25 00:30:00")),
            // At 02:00 clocks go on to 03:00.
            ("2026-03-29 02:30:00", None),
        ] {
            let expected = instant.map(micros).transpose()?;
            assert_eq!(berlin.instant(micros(local)?), expected, "{local}");
        }
        assert_eq!(berlin.instant(i64::MAX), None);
        Ok(())
    }
}
