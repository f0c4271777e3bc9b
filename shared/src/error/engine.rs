//! What the engine says, in this project's words: without the names of its rules and of its types, and
//! without its wrapping.

use arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;

use super::types::in_sql;
use crate::CATALOG;
use crate::nearest;

/// The catalogues that the engine puts before every relation: that of queries, and its own.
const CATALOGUES: [&str; 2] = [CATALOG, "datafusion"];

/// A text without the catalogue and the schema before relations.
fn without_schema(text: &str) -> String {
    let mut text = text.to_owned();
    for catalogue in CATALOGUES {
        text = text.replace(&format!("{catalogue}.public."), "");
    }
    text
}

/// Columns that are named where there is none of a name.
const COLUMNS_NAMED: usize = 40;

/// An error of the engine as a message.
pub(super) fn message(e: &DataFusionError) -> String {
    match e {
        DataFusionError::Context(_, e) | DataFusionError::Diagnostic(_, e) => message(e),
        DataFusionError::Shared(e) => message(e),
        DataFusionError::Collection(all) => {
            let mut texts: Vec<String> = all.iter().map(message).collect();
            texts.dedup();
            texts.join("\n")
        }
        DataFusionError::SQL(e, _) => match e.as_ref() {
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => parser(text),
            ParserError::RecursionLimitExceeded => "the statement goes too deep".to_owned(),
        },
        DataFusionError::SchemaError(e, _) => of_schema(e),
        DataFusionError::Plan(text) => of_planner(without_backtrace(text)),
        DataFusionError::NotImplemented(text) => not_supported(without_backtrace(text)),
        DataFusionError::Execution(text) => of_execution(without_backtrace(text)),
        DataFusionError::ArrowError(e, _) => of_arrow(e),
        DataFusionError::External(e) => match e.downcast_ref::<DataFusionError>() {
            Some(e) => message(e),
            None => match e.downcast_ref::<ArrowError>() {
                Some(e) => of_arrow(e),
                None => e.to_string(),
            },
        },
        other => without_tracker(&other.strip_backtrace()).to_owned(),
    }
}

fn without_backtrace(text: &str) -> &str {
    let (text, _) = text
        .split_once(DataFusionError::BACK_TRACE_SEP)
        .unwrap_or((text, ""));
    text
}

/// The engine asks for reports to its own tracker; what fails here is ours to look into first.
fn without_tracker(text: &str) -> &str {
    let (text, _) = text
        .split_once("\nThis issue was likely caused by a bug in DataFusion")
        .unwrap_or((text, ""));
    text
}

/// What the parser says, as a sentence.
fn parser(text: &str) -> String {
    let Some((expected, found)) = text
        .strip_prefix("Expected: ")
        .and_then(|rest| rest.split_once(", found: "))
    else {
        return lowered(text);
    };
    let (found, place) = match found.split_once(" at Line: ") {
        Some((found, place)) => (found, format!(" at Line: {place}")),
        None => (found, String::new()),
    };
    match found {
        "EOF" => format!("expected {expected}, and the statement ends{place}"),
        found => format!("expected {expected}, found `{found}`{place}"),
    }
}

fn of_schema(e: &SchemaError) -> String {
    match e {
        SchemaError::FieldNotFound {
            field,
            valid_fields,
        } => {
            let mut names: Vec<&str> = Vec::new();
            let mut relations: Vec<String> = Vec::new();
            for known in valid_fields {
                if !names.contains(&known.name.as_str()) {
                    names.push(&known.name);
                }
                let relation = known.relation.as_ref().map(|r| r.table().to_owned());
                relations.extend(relation.filter(|r| !relations.contains(r)));
            }
            let name = &field.name;
            if let Some(relation) = &field.relation
                && !relations.is_empty()
                && !relations.iter().any(|r| r == relation.table())
            {
                let relation = relation.table();
                return format!(
                    "no relation `{relation}` stands in FROM; there {}: {}",
                    if relations.len() == 1 { "is" } else { "are" },
                    relations.join(", ")
                );
            }
            let of = field.relation.as_ref();
            let of = of.map_or_else(String::new, |r| format!(" in `{}`", r.table()));
            if names.is_empty() {
                return format!(
                    "no column `{name}`{of}: nothing is read here; write `FROM` with a topic or view"
                );
            }
            let near = nearest(name, names.iter().copied());
            let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let more = match names.len().saturating_sub(COLUMNS_NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            names.truncate(COLUMNS_NAMED);
            format!(
                "no column `{name}`{of}{near} (the columns are: {}{more})",
                names.join(", ")
            )
        }
        SchemaError::AmbiguousReference { field } => format!(
            "column `{}` is in several of the relations; write which is meant, as in `t.{}`",
            field.name, field.name
        ),
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => format!(
            "two columns are named `{}`; compute one of them in a sub-query, as in `SELECT … FROM (SELECT …::date AS day FROM …)`, and name each with AS",
            in_sql(name)
        ),
    }
}

/// The text between two others.
fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    let (found, _) = rest.split_once(after)?;
    Some(found)
}

fn of_planner(text: &str) -> String {
    if let Some(name) = between(text, "table '", "' not found") {
        let known = CATALOGUES.iter();
        let mut known = known.filter_map(|c| name.strip_prefix(c)?.strip_prefix('.'));
        let name = known.next().unwrap_or(name);
        return match name.strip_prefix("public.") {
            Some(name) => format!("no topic, view or table `{name}`"),
            // In another schema than that of topics and views.
            None => format!("no relation `{name}`"),
        };
    }
    if let Some(name) = between(text, "table function '", "'") {
        return format!(
            "no table function `{name}`; queries read topics, views, `dead_letters` and `jobs`, never files"
        );
    }
    if let Some(name) = between(text, "Invalid function '", "'") {
        return format!("no function `{name}`");
    }
    if let Some(column) = between(text, "column \"", "\" must appear in the GROUP BY clause") {
        let column = in_sql(column);
        let name = column.rsplit('.').next().unwrap_or(&column);
        return format!(
            "`{column}` stands neither in GROUP BY nor in an aggregate; add it to GROUP BY, or write for example `max({name})`"
        );
    }
    if let Some(call) = between(text, "the given name and argument types '", "'") {
        let call = in_sql(call);
        let (name, arguments) = call.split_once('(').unwrap_or((&call, ")"));
        return match arguments.trim_end_matches(')') {
            "" => format!("`{name}()` needs arguments"),
            given => format!(
                "`{name}` does not take ({given}); cast what it is given, for example `CAST(… AS double)`, or see what it takes in the list of functions"
            ),
        };
    }
    if let Some(operation) = between(
        text,
        "Cannot coerce arithmetic expression ",
        " to valid types",
    ) {
        return format!(
            "`{}` has no meaning; cast one side to another type",
            in_sql(operation)
        );
    }
    if let Some(operation) = text
        .split_once("Cannot infer common argument type for comparison operation ")
        .map(|(_, operation)| operation)
    {
        return format!(
            "`{}`: these can't be compared; cast one side to the type of the other",
            in_sql(operation)
        );
    }
    if let Some(names) = between(text, "could not parse compound identifier from [", "]") {
        let names: Vec<&str> = names
            .split(", ")
            .map(|name| name.trim_matches('"'))
            .collect();
        return format!(
            "no column `{}`; a value in a structure or in JSON is read as `get_field({}, …)` or `{}->>'…'`",
            names.join("."),
            names[0],
            names[0]
        );
    }
    if let Some(name) = between(text, "but the expression \"", "\" at position") {
        return format!(
            "two columns of one SELECT are named `{}`; give one another name with AS",
            in_sql(name)
        );
    }
    if text.starts_with("Substring without for/from") {
        return "`substr` needs a start, as in `substr(x, 1, 3)`".to_owned();
    }
    lowered(&in_sql(&without_schema(text)))
}

/// A message without the capital that the engine begins it with; names and abbreviations keep theirs.
fn lowered(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second))
            if first.is_ascii_uppercase() && second.is_ascii_lowercase() =>
        {
            format!("{}{}", first.to_ascii_lowercase(), &text[1..])
        }
        _ => text.to_owned(),
    }
}

fn not_supported(text: &str) -> String {
    if text.contains("only supports a single SQL statement") {
        return "several statements where one is expected; send them one by one".to_owned();
    }
    format!("not supported: {}", lowered(&in_sql(text)))
}

fn of_execution(text: &str) -> String {
    match text {
        "Divide by zero" => DIVISION.to_owned(),
        text => lowered(&in_sql(text)),
    }
}

const DIVISION: &str = "division by zero; write `nullif(…, 0)` for the divisor";

fn of_arrow(e: &ArrowError) -> String {
    match e {
        ArrowError::DivideByZero => DIVISION.to_owned(),
        ArrowError::CastError(text) => {
            let text = lowered(&in_sql(text));
            match text.contains("try_cast") {
                true => text,
                false => format!("{text}; `try_cast` gives NULL instead"),
            }
        }
        ArrowError::ArithmeticOverflow(text) => {
            format!(
                "{}; cast to a wider type, for example `CAST(… AS decimal(38,0))`",
                lowered(&in_sql(text))
            )
        }
        ArrowError::ParseError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::InvalidArgumentError(text)
        | ArrowError::NotYetImplemented(text) => lowered(&in_sql(text)),
        ArrowError::ExternalError(e) => match e.downcast_ref::<DataFusionError>() {
            Some(e) => message(e),
            None => e.to_string(),
        },
        other => in_sql(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::Column;

    use super::*;

    #[test]
    fn no_rule_and_no_type_of_the_engine_is_named() {
        let cast = ArrowError::CastError("Cannot cast string 'x' to value of Int64 type".into());
        let deep = DataFusionError::from(cast)
            .context("Optimizer rule 'simplify_expressions' failed")
            .context("type_coercion");
        assert_eq!(
            message(&deep),
            "cannot cast string 'x' to value of bigint type; `try_cast` gives NULL instead"
        );
        let cases = [
            (
                "table 'datafusion.public.content' not found",
                "no topic, view or table `content`",
            ),
            (
                "table 'anabranch.public.content' not found",
                "no topic, view or table `content`",
            ),
            (
                "table 'datafusion.information_schema.nothing' not found",
                "no relation `information_schema.nothing`",
            ),
            (
                "Invalid function 'cuont'.\nDid you mean 'cot'?",
                "no function `cuont`",
            ),
            (
                "Cannot coerce arithmetic expression Timestamp(µs, \"UTC\") + Int64 to valid types",
                "`timestamp + bigint` has no meaning; cast one side to another type",
            ),
            (
                "Execution error: Function 'sum' failed to match any signature, errors: … No function matches the given name and argument types 'sum(Utf8View)'. You might need to add explicit type casts.\n\tCandidate functions:\n\tsum(Coercion(Exact))",
                "`sum` does not take (varchar); cast what it is given, for example `CAST(… AS double)`, or see what it takes in the list of functions",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(message(&DataFusionError::Plan(text.into())), expected);
        }
    }

    #[test]
    fn columns_are_named_once_and_the_near_one_first() {
        let column = |relation: Option<&str>, name: &str| Column::new(relation, name);
        let missing = |field, valid_fields| {
            let e = SchemaError::FieldNotFound {
                field: Box::new(field),
                valid_fields,
            };
            message(&DataFusionError::SchemaError(Box::new(e), Box::new(None)))
        };
        let of_t = || {
            vec![
                column(Some("t"), "visitor"),
                column(Some("t"), "url"),
                column(None, "url"),
            ]
        };
        assert_eq!(
            missing(column(None, "vistor"), of_t()),
            "no column `vistor`; did you mean `visitor`? (the columns are: visitor, url)"
        );
        assert_eq!(
            missing(column(Some("o"), "url"), of_t()),
            "no relation `o` stands in FROM; there is: t"
        );
        assert_eq!(
            missing(column(None, "x"), Vec::new()),
            "no column `x`: nothing is read here; write `FROM` with a topic or view"
        );
    }
}
