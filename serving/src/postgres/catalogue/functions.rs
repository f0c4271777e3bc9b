//! The functions that PostgreSQL's clients call to find out what there is. They are asked for a few
//! rows at a time and computed row by row.

use std::sync::Arc;

use anabranch_shared::convert::sql_type;
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;

use super::{Catalogue, There};
use crate::parameters::list_of;
use crate::postgres::settings::SERVER;
use crate::postgres::types::by_oid;

/// Functions that need to know which relations there are, besides those that read relations.
const OF_RELATIONS: [&str; 8] = [
    "pg_get_viewdef",
    "pg_oid_of",
    "pg_name_of",
    "to_regclass",
    "obj_description",
    "col_description",
    "pg_get_constraintdef",
    "pg_get_indexdef",
];

/// Whether a statement calls one of those.
pub(super) fn ask_relations(statement: &Statement) -> bool {
    let text = statement.to_string().to_lowercase();
    OF_RELATIONS.iter().any(|name| text.contains(name))
}

type Call = Arc<dyn Fn(&[ScalarValue]) -> Result<ScalarValue> + Send + Sync>;

/// A function of a row's values.
#[derive(Clone)]
struct Function {
    name: &'static str,
    signature: Signature,
    returns: DataType,
    call: Call,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Function").field(&self.name).finish()
    }
}

// Of one name there is one in a session.
impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl std::hash::Hash for Function {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let of_row = |row: usize| -> Result<ScalarValue> {
            let value = |value: &ColumnarValue| match value {
                ColumnarValue::Scalar(value) => Ok(value.clone()),
                ColumnarValue::Array(values) => ScalarValue::try_from_array(values, row),
            };
            let values: Vec<ScalarValue> = args.args.iter().map(value).collect::<Result<_>>()?;
            (self.call)(&values)?.cast_to(&self.returns)
        };
        let is_one = |value: &ColumnarValue| matches!(value, ColumnarValue::Scalar(_));
        if args.args.iter().all(is_one) {
            return Ok(ColumnarValue::Scalar(of_row(0)?));
        }
        let rows: Vec<ScalarValue> = (0..args.number_rows).map(of_row).collect::<Result<_>>()?;
        match rows.is_empty() {
            true => Ok(ColumnarValue::Array(arrow::array::new_empty_array(
                &self.returns,
            ))),
            false => Ok(ColumnarValue::Array(ScalarValue::iter_to_array(rows)?)),
        }
    }
}

fn whole(value: Option<&ScalarValue>) -> Option<i64> {
    match value?.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(number)) => number,
        _ => None,
    }
}

fn text(value: Option<&ScalarValue>) -> Option<String> {
    match value?.cast_to(&DataType::Utf8) {
        Ok(ScalarValue::Utf8(text)) => text,
        _ => None,
    }
}

/// The name of a type in SQL, by its number.
fn type_name(oid: i64, modifier: Option<i64>) -> String {
    let found = u32::try_from(oid).ok().and_then(by_oid);
    match (found, modifier) {
        (Some(t), Some(m)) if t.sql() == "numeric" && m > 4 => {
            format!("numeric({},{})", (m - 4) >> 16, (m - 4) & 0xffff)
        }
        (Some(t), _) => t.sql(),
        (None, _) if oid == 0 => "-".to_owned(),
        (None, _) => "???".to_owned(),
    }
}

fn type_number(name: &str) -> Option<i64> {
    let name = name.trim().to_lowercase();
    let name = name
        .strip_prefix("pg_catalog.")
        .unwrap_or(&name)
        .trim_matches('"');
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let (name, is_list) = match name.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (name, false),
    };
    crate::postgres::types::ALL
        .iter()
        .find(|t| t.name == name || t.sql == name)
        .map(|t| match is_list {
            true => i64::from(t.array),
            false => i64::from(t.oid),
        })
}

/// `information_schema._pg_expandarray`: each item with its place, as a list of pairs.
fn pairs_type() -> DataType {
    use arrow::datatypes::Field;
    let pair = DataType::Struct(
        vec![
            Field::new("x", DataType::Int32, true),
            Field::new("n", DataType::Int32, true),
        ]
        .into(),
    );
    list_of(&pair)
}

fn pairs(list: Option<&ScalarValue>) -> Result<ScalarValue> {
    use arrow::array::{Array, ArrayRef, AsArray, Int32Array, StructArray};
    use arrow::datatypes::Int32Type;
    let items: Vec<Option<i32>> = match list {
        Some(ScalarValue::List(list)) if !list.is_null(0) => {
            let items = arrow::compute::cast(&list.value(0), &DataType::Int32)?;
            items.as_primitive::<Int32Type>().iter().collect()
        }
        _ => vec![],
    };
    let places: Vec<i32> = (1..).take(items.len()).collect();
    let DataType::List(item) = pairs_type() else {
        return exec_err!("pairs are a list");
    };
    let DataType::Struct(fields) = item.data_type().clone() else {
        return exec_err!("pairs are structures");
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(items)),
        Arc::new(Int32Array::from(places)),
    ];
    let structs = StructArray::try_new(fields, columns, None)?;
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([structs.len()]);
    let list = arrow::array::ListArray::try_new(item, offsets, Arc::new(structs), None)?;
    Ok(ScalarValue::List(Arc::new(list)))
}

/// Makes all of them known to a query's session.
pub(super) fn register(context: &SessionContext, catalogue: &Catalogue, there: &Arc<There>) {
    let add = |name: &'static str, returns: DataType, call: Call| {
        let any = vec![TypeSignature::Nullary, TypeSignature::VariadicAny];
        context.register_udf(ScalarUDF::from(Function {
            name,
            signature: Signature::one_of(any, Volatility::Stable),
            returns,
            call,
        }));
    };
    let same = |name, value: ScalarValue| {
        add(
            name,
            value.data_type(),
            Arc::new(move |_| Ok(value.clone())),
        );
    };
    let of_text = |text: &str| ScalarValue::Utf8(Some(text.to_owned()));
    let no_text = || ScalarValue::Utf8(None);

    same("version", of_text(SERVER));
    for name in ["current_user", "session_user", "user", "current_role"] {
        same(name, of_text(&catalogue.user));
    }
    for name in ["current_database", "current_catalog"] {
        same(name, of_text(&catalogue.database));
    }
    let schemas: Vec<String> = catalogue
        .search_path
        .split(',')
        .map(|word| word.trim().trim_matches(['"', '\'']).to_owned())
        .collect();
    let first = schemas.first().cloned().unwrap_or_default();
    same("current_schema", of_text(&first));
    let list = |schemas: Vec<String>| {
        let all: Vec<ScalarValue> = schemas.iter().map(|s| of_text(s)).collect();
        ScalarValue::List(ScalarValue::new_list_nullable(&all, &DataType::Utf8))
    };
    let (own, with_own) = (list(schemas.clone()), {
        let mut all = vec![super::PG_CATALOG.to_owned()];
        all.extend(schemas);
        list(all)
    });
    add(
        "current_schemas",
        list_of(&DataType::Utf8),
        Arc::new(move |args| {
            let implicit = matches!(args.first(), Some(ScalarValue::Boolean(Some(true))));
            Ok(match implicit {
                true => with_own.clone(),
                false => own.clone(),
            })
        }),
    );
    let settings = catalogue.settings.clone();
    add(
        "current_setting",
        DataType::Utf8,
        Arc::new(move |args| {
            let name = text(args.first()).unwrap_or_default().to_lowercase();
            let found = settings.iter().find(|(known, _)| *known == name);
            let may_miss = matches!(args.get(1), Some(ScalarValue::Boolean(Some(true))));
            match found {
                Some((_, value)) => Ok(ScalarValue::Utf8(Some(value.clone()))),
                None if may_miss => Ok(ScalarValue::Utf8(None)),
                None => exec_err!("there is no setting `{name}`"),
            }
        }),
    );
    let settings = catalogue.settings.clone();
    add(
        "set_config",
        DataType::Utf8,
        Arc::new(move |args| {
            let name = text(args.first()).unwrap_or_default().to_lowercase();
            // What these are set to means nothing; the others change by SET alone.
            let is_idle = matches!(name.as_str(), "jit" | "lock_timeout" | "work_mem");
            let same = settings.iter().find(|(known, _)| *known == name);
            let wanted = text(args.get(1));
            match same {
                Some(_) if is_idle => Ok(ScalarValue::Utf8(wanted)),
                Some((_, value)) if Some(value) == wanted.as_ref() => Ok(ScalarValue::Utf8(wanted)),
                Some(_) => exec_err!("`{name}` is set by `SET {name} = …`"),
                None => exec_err!("there is no setting `{name}`"),
            }
        }),
    );

    add(
        "format_type",
        DataType::Utf8,
        Arc::new(|args| {
            let name = whole(args.first()).map(|oid| type_name(oid, whole(args.get(1))));
            Ok(ScalarValue::Utf8(name))
        }),
    );
    add(
        "to_regtype",
        DataType::UInt32,
        Arc::new(|args| {
            let found = text(args.first()).and_then(|name| type_number(&name));
            Ok(ScalarValue::Int64(found))
        }),
    );
    let known = there.clone();
    add(
        "pg_oid_of",
        DataType::UInt32,
        Arc::new(move |args| {
            let Some(name) = text(args.first()) else {
                return Ok(ScalarValue::Int32(None));
            };
            if let Ok(number) = name.parse::<i32>() {
                return Ok(ScalarValue::Int32(Some(number)));
            }
            match known.oid(&name) {
                Some(oid) => Ok(ScalarValue::Int32(Some(oid))),
                None => exec_err!("there is no relation `{name}`"),
            }
        }),
    );
    let known = there.clone();
    add(
        "to_regclass",
        DataType::UInt32,
        Arc::new(move |args| {
            let found = text(args.first()).and_then(|name| known.oid(&name));
            Ok(ScalarValue::Int32(found))
        }),
    );
    let known = there.clone();
    add(
        "pg_name_of",
        DataType::Utf8,
        Arc::new(move |args| {
            let name = whole(args.first()).map(|oid| match known.by_oid(oid) {
                Some(relation) if relation.schema == "public" => relation.name.clone(),
                Some(relation) => format!("{}.{}", relation.schema, relation.name),
                None => oid.to_string(),
            });
            Ok(ScalarValue::Utf8(name))
        }),
    );
    let known = there.clone();
    add(
        "pg_get_viewdef",
        DataType::Utf8,
        Arc::new(move |args| {
            let by_name = || known.by_name(&text(args.first())?);
            let found = whole(args.first()).and_then(|oid| known.by_oid(oid));
            let sql = found.or_else(by_name).and_then(|r| r.info.sql.clone());
            Ok(ScalarValue::Utf8(sql))
        }),
    );
    let known = there.clone();
    add(
        "pg_get_constraintdef",
        DataType::Utf8,
        Arc::new(move |args| {
            let found = whole(args.first()).and_then(|oid| {
                known
                    .relations
                    .iter()
                    .find(|r| i64::from(r.key_oid()) == oid)
            });
            let text = found.map(|r| format!("PRIMARY KEY ({})", r.key_columns()));
            Ok(ScalarValue::Utf8(text))
        }),
    );
    let known = there.clone();
    add(
        "pg_get_indexdef",
        DataType::Utf8,
        Arc::new(move |args| {
            let found = whole(args.first()).and_then(|oid| {
                known
                    .relations
                    .iter()
                    .find(|r| i64::from(r.key_oid()) == oid)
            });
            let nth = whole(args.get(1)).and_then(|nth| usize::try_from(nth).ok());
            let text = found.map(|r| match nth {
                Some(nth) if nth > 0 => {
                    let columns = r.key_columns();
                    columns
                        .split(", ")
                        .nth(nth - 1)
                        .unwrap_or_default()
                        .to_owned()
                }
                _ => format!(
                    "CREATE UNIQUE INDEX {} ON {}.{} USING btree ({})",
                    r.key_name(),
                    r.schema,
                    r.name,
                    r.key_columns()
                ),
            });
            Ok(ScalarValue::Utf8(text))
        }),
    );
    let known = there.clone();
    add(
        "obj_description",
        DataType::Utf8,
        Arc::new(move |args| {
            let found = whole(args.first()).and_then(|oid| known.by_oid(oid));
            Ok(ScalarValue::Utf8(found.map(|r| r.description())))
        }),
    );
    let known = there.clone();
    add(
        "col_description",
        DataType::Utf8,
        Arc::new(move |args| {
            let found = whole(args.first()).and_then(|oid| known.by_oid(oid));
            let nth = whole(args.get(1)).unwrap_or_default();
            Ok(ScalarValue::Utf8(
                found.and_then(|r| r.column_description(nth)),
            ))
        }),
    );
    // A relation of another schema than the first is seen by its full name alone.
    let known = there.clone();
    add(
        "pg_table_is_visible",
        DataType::Boolean,
        Arc::new(move |args| {
            let hidden = whole(args.first())
                .and_then(|oid| known.by_oid(oid))
                .is_some_and(|r| r.schema != "public");
            Ok(ScalarValue::Boolean(Some(!hidden)))
        }),
    );
    for name in [
        "pg_type_is_visible",
        "pg_function_is_visible",
        "pg_collation_is_visible",
        "pg_opclass_is_visible",
        "has_table_privilege",
        "has_schema_privilege",
        "has_database_privilege",
        "has_column_privilege",
        "has_any_column_privilege",
        "has_function_privilege",
    ] {
        same(name, ScalarValue::Boolean(Some(true)));
    }
    for name in [
        "pg_is_in_recovery",
        "pg_relation_is_publishable",
        "pg_is_other_temp_schema",
        "has_sequence_privilege",
        "pg_relation_is_updatable",
    ] {
        same(name, ScalarValue::Boolean(Some(false)));
    }
    for name in [
        "pg_get_expr",
        "pg_get_ruledef",
        "pg_get_triggerdef",
        "pg_get_functiondef",
        "pg_get_function_arguments",
        "pg_get_function_identity_arguments",
        "pg_get_function_result",
        "pg_get_partkeydef",
        "pg_get_statisticsobjdef_columns",
        "pg_get_serial_sequence",
        "pg_advisory_unlock_all",
        "shobj_description",
        "pg_size_pretty",
        "pg_tablespace_location",
        "inet_server_addr",
        "inet_client_addr",
    ] {
        same(name, no_text());
    }
    for name in [
        "pg_table_size",
        "pg_relation_size",
        "pg_total_relation_size",
        "pg_indexes_size",
        "pg_database_size",
    ] {
        same(name, ScalarValue::Int64(None));
    }
    same("pg_my_temp_schema", ScalarValue::UInt32(Some(0)));
    same(
        "pg_backend_pid",
        ScalarValue::Int32(Some(catalogue.process)),
    );
    same("pg_encoding_to_char", of_text("UTF8"));
    same("pg_get_userbyid", of_text(&catalogue.user));
    add(
        "pg_expand_pairs",
        pairs_type(),
        Arc::new(|args| pairs(args.first())),
    );
    add(
        "quote_ident",
        DataType::Utf8,
        Arc::new(|args| {
            let quoted = text(args.first()).map(|name| {
                let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
                match is_plain {
                    true => name,
                    false => format!("\"{}\"", name.replace('"', "\"\"")),
                }
            });
            Ok(ScalarValue::Utf8(quoted))
        }),
    );
    // A value's type, in SQL.
    add(
        "pg_typeof",
        DataType::Utf8,
        Arc::new(|args| {
            let data_type = args.first().map(|value| sql_type(&value.data_type()));
            Ok(ScalarValue::Utf8(data_type))
        }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_names_and_numbers() {
        assert_eq!(type_name(20, None), "bigint");
        assert_eq!(type_name(1016, Some(-1)), "bigint[]");
        assert_eq!(type_name(1700, Some((10 << 16) + 2 + 4)), "numeric(10,2)");
        assert_eq!(type_number("int8"), Some(20));
        assert_eq!(type_number("pg_catalog.text[]"), Some(1009));
        assert_eq!(type_number("nothing"), None);
    }
}
