//! Which type of PostgreSQL stands for which of ours, and the other way round. Owns the numbers by
//! which clients know types; they are PostgreSQL's own (`src/include/catalog/pg_type.dat`).

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};

/// The name of Arrow's canonical extension type of texts that are JSON.
pub(super) const JSON_TEXT: &str = "arrow.json";

/// The name by which columns of the catalogue say that their lists of numbers are vectors, which
/// PostgreSQL writes otherwise.
pub(super) const VECTOR: &str = "anabranch.vector";

/// A type of PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PgType {
    /// The number by which clients know it.
    pub(super) oid: u32,
    /// That of arrays of it.
    pub(super) array: u32,
    /// Bytes of a value, -1 where they differ.
    pub(super) size: i16,
    /// Its name in `pg_type`.
    pub(super) name: &'static str,
    /// Its name in SQL.
    pub(super) sql: &'static str,
    /// Its category: `N`umbers, `S`trings, `D`ates, `T`imespans, `B`oolean, `U`ser-defined.
    pub(super) category: char,
}

macro_rules! types {
    ($($name:ident = $oid:literal, $array:literal, $size:literal, $typname:literal, $sql:literal, $category:literal;)*) => {
        $(pub(super) const $name: PgType = PgType {
            oid: $oid, array: $array, size: $size, name: $typname, sql: $sql, category: $category,
        };)*
        /// All of them.
        pub(super) const ALL: &[PgType] = &[$($name),*];
    };
}

types! {
    BOOL = 16, 1000, 1, "bool", "boolean", 'B';
    BYTEA = 17, 1001, -1, "bytea", "bytea", 'U';
    CHAR = 18, 1002, 1, "char", "\"char\"", 'Z';
    NAME = 19, 1003, 64, "name", "name", 'S';
    INT8 = 20, 1016, 8, "int8", "bigint", 'N';
    INT2 = 21, 1005, 2, "int2", "smallint", 'N';
    INT2VECTOR = 22, 1006, -1, "int2vector", "int2vector", 'A';
    INT4 = 23, 1007, 4, "int4", "integer", 'N';
    REGPROC = 24, 1008, 4, "regproc", "regproc", 'N';
    TEXT = 25, 1009, -1, "text", "text", 'S';
    OID = 26, 1028, 4, "oid", "oid", 'N';
    OIDVECTOR = 30, 1013, -1, "oidvector", "oidvector", 'A';
    JSON = 114, 199, -1, "json", "json", 'U';
    FLOAT4 = 700, 1021, 4, "float4", "real", 'N';
    FLOAT8 = 701, 1022, 8, "float8", "double precision", 'N';
    UNKNOWN = 705, 0, -2, "unknown", "unknown", 'X';
    BPCHAR = 1042, 1014, -1, "bpchar", "character", 'S';
    VARCHAR = 1043, 1015, -1, "varchar", "character varying", 'S';
    DATE = 1082, 1182, 4, "date", "date", 'D';
    TIME = 1083, 1183, 8, "time", "time without time zone", 'D';
    TIMESTAMP = 1114, 1115, 8, "timestamp", "timestamp without time zone", 'D';
    TIMESTAMPTZ = 1184, 1185, 8, "timestamptz", "timestamp with time zone", 'D';
    INTERVAL = 1186, 1187, 16, "interval", "interval", 'T';
    NUMERIC = 1700, 1231, -1, "numeric", "numeric", 'N';
    REGCLASS = 2205, 2210, 4, "regclass", "regclass", 'N';
    REGTYPE = 2206, 2211, 4, "regtype", "regtype", 'N';
    UUID = 2950, 2951, 16, "uuid", "uuid", 'U';
    JSONB = 3802, 3807, -1, "jsonb", "jsonb", 'U';
}

/// A column as clients see it: a value of a type, or a list of such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ColumnType {
    pub(super) item: PgType,
    pub(super) is_list: bool,
}

impl ColumnType {
    pub(super) fn oid(self) -> u32 {
        match self.is_list {
            true => self.item.array,
            false => self.item.oid,
        }
    }

    pub(super) fn size(self) -> i16 {
        match self.is_list {
            true => -1,
            false => self.item.size,
        }
    }

    /// Its name in SQL.
    pub(super) fn sql(self) -> String {
        match self.is_list {
            true => format!("{}[]", self.item.sql),
            false => self.item.sql.to_owned(),
        }
    }
}

/// How a column of ours looks to clients. Structures, maps and lists of lists are JSON.
pub(super) fn column_type(data_type: &DataType) -> ColumnType {
    let plain = |item| ColumnType {
        item,
        is_list: false,
    };
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            match scalar(item.data_type()) {
                Some(item) => ColumnType {
                    item,
                    is_list: true,
                },
                None => plain(JSON),
            }
        }
        DataType::Dictionary(_, value) => column_type(value),
        other => plain(scalar(other).unwrap_or(JSON)),
    }
}

/// As [`column_type`], of a column whose texts may be said to be JSON.
pub(super) fn column_type_of(field: &Field) -> ColumnType {
    match field.extension_type_name() {
        Some(JSON_TEXT) => ColumnType {
            item: JSON,
            is_list: false,
        },
        Some(VECTOR) => ColumnType {
            item: match column_type(field.data_type()).item {
                INT2 => INT2VECTOR,
                _ => OIDVECTOR,
            },
            is_list: false,
        },
        _ => column_type(field.data_type()),
    }
}

/// Whether times of a zone are shown as they are kept.
pub(super) fn is_utc(zone: &str) -> bool {
    ["UTC", "+00:00", "Z", "Etc/UTC"].contains(&zone)
}

/// The type of a value that is no structure and no list.
fn scalar(data_type: &DataType) -> Option<PgType> {
    Some(match data_type {
        DataType::Null => TEXT,
        DataType::Boolean => BOOL,
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => INT2,
        DataType::UInt16 | DataType::Int32 => INT4,
        // The catalogue's numbers have this type.
        DataType::UInt32 => OID,
        DataType::Int64 => INT8,
        DataType::UInt64
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => NUMERIC,
        DataType::Float16 | DataType::Float32 => FLOAT4,
        DataType::Float64 => FLOAT8,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => TEXT,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => BYTEA,
        DataType::Date32 | DataType::Date64 => DATE,
        DataType::Time32(_) | DataType::Time64(_) => TIME,
        DataType::Timestamp(_, None) => TIMESTAMP,
        DataType::Timestamp(_, Some(zone)) => match is_utc(zone) {
            true => TIMESTAMPTZ,
            // What `AT TIME ZONE` makes of a time is how clocks show it there.
            false => TIMESTAMP,
        },
        DataType::Interval(_) | DataType::Duration(_) => INTERVAL,
        _ => return None,
    })
}

/// The type that a client means by a number: of a value, or of a list of such. None where there is
/// nothing of ours for it.
pub(super) fn by_oid(oid: u32) -> Option<ColumnType> {
    ALL.iter()
        .find_map(|t| match oid {
            oid if oid == t.oid => Some((*t, false)),
            oid if oid == t.array && oid != 0 => Some((*t, true)),
            _ => None,
        })
        .map(|(item, is_list)| ColumnType { item, is_list })
}

/// The type that a name stands for: PostgreSQL's own, or the standard's, with `[]` for lists. What says
/// how long or exact it is is passed over. None for names of what there is not.
pub(super) fn by_name(name: &str) -> Option<ColumnType> {
    let name = name.trim().to_lowercase();
    let (name, is_list) = match name.strip_suffix("[]") {
        Some(item) => (item.trim(), true),
        None => (name.as_str(), false),
    };
    let (begin, end) = (name.find('('), name.rfind(')'));
    let name = match (begin, end) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}{}", name[..begin].trim(), &name[end + 1..])
        }
        _ => name.to_owned(),
    };
    let name = match name.as_str() {
        "int" => "int4",
        "decimal" | "dec" => "numeric",
        "float" => "float8",
        "string" => "text",
        "char" => "bpchar",
        name => name,
    };
    let item = *ALL.iter().find(|t| t.name == name || t.sql == name)?;
    Some(ColumnType { item, is_list })
}

/// Our type of a parameter that a client states the type of. None for types that say nothing.
pub(super) fn arrow_type(stated: PgType) -> Option<DataType> {
    Some(match stated {
        BOOL => DataType::Boolean,
        BYTEA => DataType::Binary,
        INT8 | OID | REGCLASS | REGTYPE | REGPROC => DataType::Int64,
        INT2 => DataType::Int16,
        INT4 => DataType::Int32,
        FLOAT4 => DataType::Float32,
        FLOAT8 => DataType::Float64,
        DATE => DataType::Date32,
        TIME => DataType::Time64(TimeUnit::Microsecond),
        TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        INTERVAL => DataType::Interval(IntervalUnit::MonthDayNano),
        NUMERIC => DataType::Decimal128(38, 10),
        UNKNOWN => return None,
        _ => DataType::Utf8,
    })
}
