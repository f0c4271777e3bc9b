//! Spellings of field types: what is accepted, and what each refusal says to write instead.

use super::super::field_type::{FieldType, Nullability, parse_declaration};

fn list(element: FieldType) -> FieldType {
    FieldType::List(Box::new(element))
}

fn refusal(text: &str) -> String {
    match text.parse::<FieldType>() {
        Ok(accepted) => panic!("`{text}` was accepted as `{accepted}`"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn usual_spellings_are_accepted() {
    let decimal = |precision, scale| FieldType::Decimal { precision, scale };
    let cases: &[(&[&str], FieldType)] = &[
        (&["boolean", "bool", "BOOL"], FieldType::Boolean),
        (&["tinyint"], FieldType::TinyInt),
        (&["smallint"], FieldType::SmallInt),
        (&["int", "integer", " Integer "], FieldType::Int),
        (&["bigint"], FieldType::BigInt),
        (&["real"], FieldType::Real),
        (
            &["double", "double precision", "DOUBLE\tPRECISION", "float"],
            FieldType::Double,
        ),
        (
            &[
                "varchar",
                "text",
                "string",
                "character varying",
                "char varying",
            ],
            FieldType::Varchar,
        ),
        (&["binary", "varbinary", "bytea"], FieldType::Binary),
        (&["date"], FieldType::Date),
        (
            &["timestamp", "timestamptz", "timestamp with time zone"],
            FieldType::Timestamp,
        ),
        (
            &["decimal(10,2)", "numeric( 10 , 2 )", "DECIMAL (10,2)"],
            decimal(10, 2),
        ),
        (&["decimal(38,38)"], decimal(38, 38)),
        (&["numeric(5)", "decimal(5,0)"], decimal(5, 0)),
        (
            &["varchar[]", "array<text>", "ARRAY < string >", "text [ ]"],
            list(FieldType::Varchar),
        ),
        (
            &[
                "int[][]",
                "array<int[]>",
                "array<array<int>>",
                "array<int>[]",
            ],
            list(list(FieldType::Int)),
        ),
        (&["decimal(4,1)[]"], list(decimal(4, 1))),
    ];
    for (spellings, expected) in cases {
        for text in *spellings {
            assert_eq!(text.parse().as_ref(), Ok(expected), "{text}");
        }
        assert_eq!(
            expected.to_string().parse().as_ref(),
            Ok(expected),
            "its own spelling"
        );
    }
}

#[test]
fn null_and_not_null_follow_the_type() {
    for (text, expected) in [
        ("varchar", Nullability::Unsaid),
        ("varchar null", Nullability::Null),
        ("varchar NOT\n NULL", Nullability::NotNull),
        ("array<varchar> not null", Nullability::NotNull),
        ("double precision not null", Nullability::NotNull),
        ("timestamp with time zone not null", Nullability::NotNull),
        ("decimal(3,1)not null", Nullability::NotNull),
    ] {
        assert_eq!(
            parse_declaration(text).map(|declared| declared.1),
            Ok(expected),
            "{text}"
        );
    }
    assert_eq!(
        refusal("varchar not null"),
        "a type alone is expected here; write `varchar`"
    );
    assert_eq!(
        refusal("int not null primary key"),
        "`primary` is not understood after `int`; only `not null` may follow a type"
    );
    assert_eq!(
        refusal("int not"),
        "`not` is not understood after `int`; only `not null` may follow a type"
    );
    assert_eq!(
        refusal("array<int not null>"),
        "the elements of a list may always be null; write `int[]`"
    );
}

#[test]
fn refusals_say_what_to_write() {
    for (text, expected) in [
        ("", "the type is empty; write a SQL type such as `varchar`"),
        (
            "varchar(20)",
            "`varchar` takes no length or precision here; write `varchar`",
        ),
        (
            "float(24)",
            "`float` takes no length or precision here; write `double`",
        ),
        (
            "character varying(9)",
            "`character` takes no length or precision here; write `varchar`",
        ),
        ("char(2)", "type `char` is not supported; write `varchar`"),
        (
            "int unsigned",
            "unsigned types are not kept; write `bigint`, which holds every `int unsigned`",
        ),
        (
            "bigint unsigned",
            "unsigned types are not kept; write `decimal(20,0)`, which holds every `bigint unsigned`",
        ),
        (
            "uint32",
            "type `uint32` is not supported; write `bigint`, which holds all of its values",
        ),
        (
            "json",
            "type `json` is not supported; write `varchar` and send it as text, or declare the fields that you need",
        ),
        (
            "time",
            "type `time` is not supported; write `varchar`, or `bigint` with a count of microseconds",
        ),
        (
            "interval",
            "type `interval` is not supported; write `bigint` with a count of a unit named in the field's name",
        ),
        (
            "uuid",
            "type `uuid` is not supported; write `varchar` and send it as text",
        ),
        (
            "datetime",
            "type `datetime` is not supported; write `timestamp`, an instant in UTC",
        ),
        (
            "timestamp(6)",
            "a timestamp always has microseconds; write `timestamp`",
        ),
        (
            "timestamp without time zone",
            "a timestamp is always an instant in UTC; write `timestamp`",
        ),
        (
            "decimal",
            "`decimal` needs its digits in all and after the point; write for example `decimal(18,2)`",
        ),
        (
            "numeric(10,",
            "`numeric` needs its digits in all and after the point; write for example `numeric(18,2)`",
        ),
        (
            "decimal(39,2)",
            "a decimal has 1 to 38 digits, not 39; write for example `decimal(18,2)`",
        ),
        (
            "decimal(0,0)",
            "a decimal has 1 to 38 digits, not 0; write for example `decimal(18,2)`",
        ),
        (
            "decimal(4,5)",
            "a decimal of 4 digits has 0 to 4 after the point, not 5; write for example `decimal(18,2)`",
        ),
        (
            "decimal(4,-1)",
            "a decimal of 4 digits has 0 to 4 after the point, not -1; write for example `decimal(18,2)`",
        ),
        ("int[3]", "a list has no fixed length; write `int[]`"),
        ("array<int", "`array<int` lacks its `>`; write `int[]`"),
        (
            "array<",
            "a type is missing; write a SQL type such as `varchar`",
        ),
        (
            "array",
            "type `array` is not supported; write `varchar[]`, with the type of the elements for `varchar`",
        ),
        ("bigintt", "unknown type `bigintt`; did you mean `bigint`?"),
        (
            "geography",
            "unknown type `geography`; write one of boolean, tinyint, smallint, int, bigint, real, double, \
                       decimal(p,s), varchar, binary, date, timestamp, or one of these with `[]` for a list",
        ),
        (
            "int;",
            "`;` has no place in a type; write a SQL type such as `varchar` or `decimal(10,2)`",
        ),
    ] {
        assert_eq!(refusal(text), expected, "{text}");
    }
}

#[test]
fn what_a_refusal_advises_is_accepted() {
    let refused = [
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "int2",
        "int4",
        "int64",
        "int8",
        "int128",
        "float4",
        "float8",
        "money",
        "char",
        "uuid",
        "json",
        "time",
        "interval",
        "datetime",
        "blob",
        "array",
        "tinyint unsigned",
        "smallint unsigned",
        "bigint unsigned",
        "unsigned",
        "double(3)",
        "timestamp(3)",
        "decimal",
        "int[1]",
        "text(3)",
    ];
    for text in refused {
        let refusal = refusal(text);
        let advice = refusal.split("write ").nth(1).unwrap();
        let advised = advice.split('`').nth(1).unwrap();
        assert!(advised.parse::<FieldType>().is_ok(), "`{text}`: {refusal}");
    }
}

#[test]
fn nesting_is_bounded_however_it_is_written() {
    let too_deep = "lists nest at most 8 deep; declare a flatter field";
    assert!(
        format!("int{}", "[]".repeat(8))
            .parse::<FieldType>()
            .is_ok()
    );
    assert_eq!(refusal(&format!("int{}", "[]".repeat(9))), too_deep);
    assert_eq!(refusal(&format!("array<int{}>", "[]".repeat(8))), too_deep);
    assert_eq!(refusal(&"array<".repeat(100_000)), too_deep);
    assert_eq!(refusal(&format!("int{}", "[]".repeat(100_000))), too_deep);
}
