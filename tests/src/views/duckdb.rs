//! The same random views in DuckDB's dialect, for a second opinion on their answers: what differs
//! between the engines by definition is written out, so that what is left must be equal.

use super::Picked;

/// A fact's place, by which ties are broken here.
const PLACE: &str = "_partition, _offset";

/// An aggregate, and how far its value may be from ours: nothing where it must be equal.
pub(super) fn aggregate(picked: &Picked) -> (String, Option<String>) {
    let only = |more: &str| {
        let by = picked.filtered.then_some("b").into_iter();
        let all: Vec<&str> = by.chain((!more.is_empty()).then_some(more)).collect();
        match all.is_empty() {
            true => String::new(),
            false => format!(" FILTER (WHERE {})", all.join(" AND ")),
        }
    };
    let filter = only("");
    let exact = |sql: String| (sql, None);
    // The law's bound on floating point: 1e-10 of the sum of the terms' sizes, or of what stands
    // for it in a derived statistic.
    let near = |sql: &str, size: String| {
        let sql = format!("{sql}{filter}");
        (sql, Some(format!("1e-10 * {size}")))
    };
    match picked.name {
        // In 128 bits there.
        "sum bigint" => exact(format!("CAST(sum(n){filter} AS BIGINT)")),
        "sum of large" => exact(format!("CAST({}{filter} AS BIGINT)", picked.sql)),
        "sum distinct bigint" => exact(format!("CAST(sum(DISTINCT n){filter} AS BIGINT)")),
        "sum double" => near("sum(f)", format!("sum(abs(f)){}", only("NOT isnan(f)"))),
        "avg double" => near("avg(f)", format!("avg(abs(f)){}", only("NOT isnan(f)"))),
        "avg int" => near("avg(i)", format!("avg(abs(i)){filter}")),
        "median" => near("median(i)", format!("max(abs(i)){filter}")),
        "stddev" => near("stddev_samp(i)", format!("max(abs(i)){filter}")),
        "var_pop" => near("var_pop(i)", format!("max(i * i){filter}")),
        // A decimal of four more digits here, a double there.
        "avg decimal" => near("avg(d)", format!("(1000 + avg(abs(d)){filter})")),
        // Three standard errors of the sketch, which counts so few values nearly exactly.
        "approx_distinct" => within_sketch("s", &filter),
        "approx_distinct bigint" => within_sketch("n", &filter),
        "min double" => exact(least("f", &only)),
        "min real" => exact(least("f32", &only)),
        "max double" => exact(greatest("f", &only)),
        "max real" => exact(greatest("f32", &only)),
        "first_value" => exact(format!("first(s ORDER BY ts, {PLACE}){filter}")),
        "last_value" => exact(format!("last(i ORDER BY {PLACE}){filter}")),
        "nth_value" => exact(format!("(list(i ORDER BY ts, {PLACE}){filter})[2]")),
        "max_by" => exact(format!(
            "first(s ORDER BY n DESC, {PLACE}){}",
            only("n IS NOT NULL")
        )),
        "count_if" => exact(format!("count(*){}", only("b"))),
        // Of values that come as often the least; DuckDB's own takes any.
        "mode" => exact(format!(
            "list_sort(list_transform(map_entries(histogram(s){filter}), lambda e: {{'c': -CAST(e.value AS BIGINT), 'v': e.key}}))[1].v"
        )),
        // Islands of a gap are not known there: the instants in order, and how far each is from the next.
        "session_count" => exact(format!(
            "coalesce(len(list_filter(range(1, len({at}) + 1), lambda n: n = 1 OR {at}[n] - {at}[n - 1] > 1200000000)), 0)",
            at = instants(&filter)
        )),
        "session_seconds" => exact(format!(
            "coalesce(CAST(list_sum(list_transform(list_filter(range(2, len({at}) + 1), lambda n: {at}[n] - {at}[n - 1] <= 2400000000), lambda n: {at}[n] - {at}[n - 1])) AS DOUBLE), 0) / 1e6",
            at = instants(&filter)
        )),
        "percentile_disc" => exact(format!("quantile_disc(n, 0.5){filter}")),
        "array_agg" => exact(format!(
            "array_agg(i ORDER BY n DESC NULLS FIRST, {PLACE}){filter}"
        )),
        "string_agg" => exact(format!("string_agg(s, ',' ORDER BY ts, {PLACE}){filter}")),
        _ => exact(format!("{}{filter}", picked.sql)),
    }
}

/// The instants of facts in order, in microseconds.
fn instants(filter: &str) -> String {
    format!("list_sort(list(epoch_us(ts)){filter})")
}

fn within_sketch(column: &str, filter: &str) -> (String, Option<String>) {
    let count = format!("count(DISTINCT {column}){filter}");
    let bound = format!("greatest(1, 0.025 * {count})");
    (count, Some(bound))
}

/// In total order -0.0 is less than 0.0; in DuckDB they are equal.
fn least(column: &str, only: &dyn Fn(&str) -> String) -> String {
    let zero = only(&format!("{column} = 0 AND signbit({column})"));
    format!(
        "CASE WHEN min({column}){} <> 0 THEN min({column}){} WHEN count(*){zero} > 0 THEN '-0'::DOUBLE WHEN count({column}){} > 0 THEN '0'::DOUBLE END",
        only(""),
        only(""),
        only("")
    )
}

fn greatest(column: &str, only: &dyn Fn(&str) -> String) -> String {
    let zero = only(&format!("{column} = 0 AND NOT signbit({column})"));
    format!(
        "CASE WHEN max({column}){} <> 0 THEN max({column}){} WHEN count(*){zero} > 0 THEN '0'::DOUBLE WHEN count({column}){} > 0 THEN '-0'::DOUBLE END",
        only(""),
        only(""),
        only("")
    )
}

/// A key. Zeroes of both signs are one group in either engine; here that group's key is 0.0, there
/// it is the sign of whichever fact came first.
pub(super) fn key(key: &str) -> &str {
    match key {
        "f" => "CASE WHEN f = 0 THEN '0'::DOUBLE ELSE f END",
        key => key,
    }
}
