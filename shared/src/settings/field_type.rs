//! The types a field of a topic can have, and the SQL spellings they are declared by.

use std::fmt;
use std::str::FromStr;

/// How deeply lists may nest; the limit keeps a hostile settings file off the stack's end.
const MAX_LIST_DEPTH: usize = 8;

/// The most digits a decimal can have (Arrow's 128-bit decimals).
const MAX_PRECISION: u8 = 38;

/// Type of a field. [`fmt::Display`] writes the SQL spelling, which [`FromStr`] reads back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// True or false.
    Boolean,
    /// Signed integer of 8 bits.
    TinyInt,
    /// Signed integer of 16 bits.
    SmallInt,
    /// Signed integer of 32 bits.
    Int,
    /// Signed integer of 64 bits.
    BigInt,
    /// Floating point of 32 bits.
    Real,
    /// Floating point of 64 bits.
    Double,
    /// Exact decimal number.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point, 0 to `precision`.
        scale: i8,
    },
    /// Text in UTF-8 of any length.
    Varchar,
    /// Bytes of any length.
    Binary,
    /// Day of the calendar.
    Date,
    /// Instant in UTC, in microseconds.
    Timestamp,
    /// List whose elements have one type and may be null.
    List(Box<FieldType>),
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("boolean"),
            Self::TinyInt => f.write_str("tinyint"),
            Self::SmallInt => f.write_str("smallint"),
            Self::Int => f.write_str("int"),
            Self::BigInt => f.write_str("bigint"),
            Self::Real => f.write_str("real"),
            Self::Double => f.write_str("double"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Varchar => f.write_str("varchar"),
            Self::Binary => f.write_str("binary"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(element) => write!(f, "{element}[]"),
        }
    }
}

/// Why a text names no [`FieldType`], and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct FieldTypeError {
    /// The whole explanation, in one line.
    pub reason: String,
}

impl FromStr for FieldType {
    type Err = FieldTypeError;

    /// Reads a type without `not null`, in any case and spacing.
    fn from_str(text: &str) -> Result<Self, FieldTypeError> {
        match parse_declaration(text)? {
            (data_type, Nullability::Unsaid) => Ok(data_type),
            (data_type, _) => Err(refused(format!(
                "a type alone is expected here; write `{data_type}`"
            ))),
        }
    }
}

/// What a field's declaration says about null after its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nullability {
    Unsaid,
    Null,
    NotNull,
}

/// Reads a field's declaration: a type, then perhaps `not null` or `null`.
pub(super) fn parse_declaration(text: &str) -> Result<(FieldType, Nullability), FieldTypeError> {
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Err(refused(
            "the type is empty; write a SQL type such as `varchar`".to_owned(),
        ));
    }
    let mut parser = Parser { tokens, at: 0 };
    let data_type = parser.data_type(0)?;
    let nullability = if parser.words(&["not", "null"]) {
        Nullability::NotNull
    } else if parser.words(&["null"]) {
        Nullability::Null
    } else {
        Nullability::Unsaid
    };
    match parser.peek() {
        None => Ok((data_type, nullability)),
        Some(token) => Err(refused(format!(
            "`{token}` is not understood after `{data_type}`; only `not null` may follow a type"
        ))),
    }
}

fn refused(reason: String) -> FieldTypeError {
    FieldTypeError { reason }
}

/// Splits a declaration into lower-case words, numbers and single punctuation characters.
fn tokens(text: &str) -> Result<Vec<String>, FieldTypeError> {
    let mut tokens: Vec<String> = Vec::new();
    let mut in_word = false;
    for c in text.chars() {
        if c.is_whitespace() {
            in_word = false;
        } else if c.is_ascii_alphanumeric() || c == '_' || c == '-' {
            // `-` stays inside a word, so that `decimal(10,-2)` is refused for its scale.
            match tokens.last_mut() {
                Some(word) if in_word => word.push(c.to_ascii_lowercase()),
                _ => tokens.push(c.to_ascii_lowercase().to_string()),
            }
            in_word = true;
        } else if "(),<>[]".contains(c) {
            tokens.push(c.to_string());
            in_word = false;
        } else {
            return Err(refused(format!(
                "`{}` has no place in a type; write a SQL type such as `varchar` or `decimal(10,2)`",
                c.escape_debug()
            )));
        }
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<String>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(String::as_str)
    }

    /// Takes the tokens `wanted` if they are what follows.
    fn words(&mut self, wanted: &[&str]) -> bool {
        let follows = self.tokens.get(self.at..).is_some_and(|rest| {
            rest.len() >= wanted.len() && rest.iter().zip(wanted).all(|(a, b)| a == b)
        });
        if follows {
            self.at += wanted.len();
        }
        follows
    }

    /// A type with its suffixes; `depth` counts the `array<` around it.
    fn data_type(&mut self, depth: usize) -> Result<FieldType, FieldTypeError> {
        let mut data_type = if self.words(&["array", "<"]) {
            if depth >= MAX_LIST_DEPTH {
                return Err(too_deep());
            }
            let element = self.data_type(depth + 1)?;
            if self.peek() == Some("not") {
                return Err(refused(format!(
                    "the elements of a list may always be null; write `{element}[]`"
                )));
            }
            if !self.words(&[">"]) {
                return Err(refused(format!(
                    "`array<{element}` lacks its `>`; write `{element}[]`"
                )));
            }
            list_of(element)?
        } else {
            self.scalar()?
        };
        while self.words(&["["]) {
            if !self.words(&["]"]) {
                return Err(refused(format!(
                    "a list has no fixed length; write `{data_type}[]`"
                )));
            }
            data_type = list_of(data_type)?;
        }
        Ok(data_type)
    }

    fn scalar(&mut self) -> Result<FieldType, FieldTypeError> {
        let Some(word) = self.peek().map(str::to_owned) else {
            return Err(refused(
                "a type is missing; write a SQL type such as `varchar`".to_owned(),
            ));
        };
        self.at += 1;
        let data_type = match word.as_str() {
            "boolean" | "bool" => FieldType::Boolean,
            "tinyint" => FieldType::TinyInt,
            "smallint" => FieldType::SmallInt,
            "int" | "integer" => FieldType::Int,
            "bigint" => FieldType::BigInt,
            "real" => FieldType::Real,
            // SQL's FLOAT without a precision is the wider one, as in PostgreSQL.
            "float" => FieldType::Double,
            "double" => {
                self.words(&["precision"]);
                FieldType::Double
            }
            "decimal" | "numeric" => return self.decimal(&word),
            "varchar" | "text" | "string" => FieldType::Varchar,
            "character" | "char" if self.words(&["varying"]) => FieldType::Varchar,
            "bytea" | "binary" | "varbinary" => FieldType::Binary,
            "date" => FieldType::Date,
            "timestamptz" => FieldType::Timestamp,
            "timestamp" => return self.timestamp(),
            other => return Err(refused(unsupported(other))),
        };
        if self.words(&["unsigned"]) {
            return Err(refused(unsigned(&word)));
        }
        if self.peek() == Some("(") {
            return Err(refused(format!(
                "`{word}` takes no length or precision here; write `{data_type}`"
            )));
        }
        Ok(data_type)
    }

    /// `timestamp` is an instant with every suffix that SQL has for one.
    fn timestamp(&mut self) -> Result<FieldType, FieldTypeError> {
        if self.peek() == Some("(") {
            return Err(refused(
                "a timestamp always has microseconds; write `timestamp`".to_owned(),
            ));
        }
        if self.words(&["without", "time", "zone"]) {
            return Err(refused(
                "a timestamp is always an instant in UTC; write `timestamp`".to_owned(),
            ));
        }
        self.words(&["with", "time", "zone"]);
        Ok(FieldType::Timestamp)
    }

    fn decimal(&mut self, word: &str) -> Result<FieldType, FieldTypeError> {
        let example = || {
            refused(format!(
                "`{word}` needs its digits in all and after the point; write for example `{word}(18,2)`"
            ))
        };
        if !self.words(&["("]) {
            return Err(example());
        }
        let precision = self.number().ok_or_else(example)?;
        let scale = if self.words(&[","]) {
            self.number().ok_or_else(example)?
        } else {
            0
        };
        if !self.words(&[")"]) {
            return Err(example());
        }
        let bounded = u8::try_from(precision)
            .ok()
            .filter(|digits| (1..=MAX_PRECISION).contains(digits))
            .ok_or_else(|| {
                refused(format!(
                    "a decimal has 1 to {MAX_PRECISION} digits, not {precision}; write for example `{word}(18,2)`"
                ))
            })?;
        let scale = i8::try_from(scale)
            .ok()
            .filter(|after_point| (0..=i64::from(bounded)).contains(&i64::from(*after_point)))
            .ok_or_else(|| {
                refused(format!(
                    "a decimal of {bounded} digits has 0 to {bounded} after the point, not {scale}; \
                     write for example `{word}(18,2)`"
                ))
            })?;
        Ok(FieldType::Decimal {
            precision: bounded,
            scale,
        })
    }

    fn number(&mut self) -> Option<i64> {
        let number = self.peek()?.parse().ok()?;
        self.at += 1;
        Some(number)
    }
}

fn list_of(element: FieldType) -> Result<FieldType, FieldTypeError> {
    let mut depth = 1;
    let mut inner = &element;
    while let FieldType::List(next) = inner {
        depth += 1;
        inner = next;
    }
    if depth > MAX_LIST_DEPTH {
        return Err(too_deep());
    }
    Ok(FieldType::List(Box::new(element)))
}

fn too_deep() -> FieldTypeError {
    refused(format!(
        "lists nest at most {MAX_LIST_DEPTH} deep; declare a flatter field"
    ))
}

/// The smallest signed type that holds every value of an unsigned one.
fn unsigned(word: &str) -> String {
    let instead = match word {
        "tinyint" => "smallint",
        "smallint" => "int",
        "int" | "integer" => "bigint",
        _ => "decimal(20,0)",
    };
    format!("unsigned types are not kept; write `{instead}`, which holds every `{word} unsigned`")
}

/// What to write instead of a type that is not supported.
fn unsupported(word: &str) -> String {
    let instead = match word {
        "unsigned" => "a signed type, such as `bigint`, or `decimal(20,0)` for 64 bits",
        "utinyint" | "uint8" => "`smallint`, which holds all of its values",
        "usmallint" | "uint16" => "`int`, which holds all of its values",
        "uint" | "uinteger" | "uint32" => "`bigint`, which holds all of its values",
        "ubigint" | "uint64" => "`decimal(20,0)`, which holds all of its values",
        "int1" => "`tinyint` (8 bits)",
        "int2" | "int16" | "short" => "`smallint` (16 bits)",
        "int4" | "int32" => "`int` (32 bits)",
        "int64" | "long" | "serial" | "bigserial" => "`bigint` (64 bits)",
        "int8" => "`bigint` (64 bits) or `tinyint` (8 bits)",
        "hugeint" | "int128" => "`decimal(38,0)`",
        "float4" | "float32" => "`real` (32 bits)",
        "float8" | "float64" => "`double` (64 bits)",
        "dec" | "money" | "number" => "`decimal(18,2)` or the digits you need",
        "char" | "character" | "nchar" | "nvarchar" | "varchar2" | "clob" | "str" | "utf8" => {
            "`varchar`"
        }
        "uuid" | "enum" => "`varchar` and send it as text",
        "json" | "jsonb" | "variant" | "object" | "struct" | "row" | "map" => {
            "`varchar` and send it as text, or declare the fields that you need"
        }
        "time" | "timetz" => "`varchar`, or `bigint` with a count of microseconds",
        "interval" | "duration" => "`bigint` with a count of a unit named in the field's name",
        "datetime" | "timestampntz" | "timestamp_ntz" | "timestamp_ltz" => {
            "`timestamp`, an instant in UTC"
        }
        "blob" | "bytes" => "`binary`",
        "list" | "array" => "`varchar[]`, with the type of the elements for `varchar`",
        _ => return unknown(word),
    };
    format!("type `{word}` is not supported; write {instead}")
}

fn unknown(word: &str) -> String {
    const KNOWN: [&str; 18] = [
        "boolean",
        "tinyint",
        "smallint",
        "int",
        "integer",
        "bigint",
        "real",
        "float",
        "double",
        "decimal",
        "numeric",
        "varchar",
        "text",
        "string",
        "binary",
        "date",
        "timestamp",
        "timestamptz",
    ];
    match crate::nearest(word, KNOWN) {
        Some(near) => format!("unknown type `{word}`; did you mean `{near}`?"),
        None => format!(
            "unknown type `{word}`; write one of boolean, tinyint, smallint, int, bigint, real, double, \
             decimal(p,s), varchar, binary, date, timestamp, or one of these with `[]` for a list"
        ),
    }
}
