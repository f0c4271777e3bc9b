//! Functions that queries and views have besides the engine's: what people know from other systems.
//! Owns no meaning of its own where the engine has the function under another name: it is rewritten
//! to that one, so that its states and its speed are the engine's.
//!
//! | function | is |
//! |---|---|
//! | `max_by(x, y)`, `arg_max`, `min_by(x, y)`, `arg_min` | the `x` of the row with the greatest or least `y`, rows without `y` left out |
//! | `count_if(c)` | how many rows meet `c` |
//! | `every(c)`, `listagg(x, sep)`, `group_concat(x, sep)` | `bool_and`, `string_agg` |
//! | `mode(x)`, `mode() WITHIN GROUP (ORDER BY x)` | the most frequent value, the least of those that tie |
//! | `percentile_disc(p) WITHIN GROUP (ORDER BY x)` | the first value at or above the share `p` of all |
//! | `histogram(x)` | a map from each value to how often it came |
//! | `sessions(ts, gap [, value …])`, `session_count(ts, gap)`, `session_seconds(ts, gap)` | runs of facts that no gap parts |
//! | `time_bucket(interval, ts [, origin])` | the start of the bucket of `ts`, aligned as TimescaleDB does |
//! | `date_trunc(unit, ts, zone)` | the start of the unit in a time zone, as PostgreSQL does |
//! | `json_get_str(text, key …)`, `text ->> key`, … | values out of JSON text, by `datafusion-functions-json` |

use std::sync::Arc;

use datafusion::execution::FunctionRegistry;
use datafusion::functions_aggregate::bool_and_or::bool_and_udaf;
use datafusion::functions_aggregate::string_agg::string_agg_udaf;
use datafusion::logical_expr::AggregateUDF;

use crate::Result;

pub use bounded::{FunctionBounds, bound_expression};

mod bounded;
mod rewritten;
mod sessions;
mod time;
mod value_counts;

/// Makes the functions known to a session.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    datafusion_functions_json::register_all(registry)?;
    registry.register_udf(Arc::new(time::time_bucket()))?;
    registry.register_udf(Arc::new(time::date_trunc()))?;
    let named = |udaf: Arc<AggregateUDF>, names: &[&'static str]| {
        AggregateUDF::clone(&udaf).with_aliases(names.iter().copied())
    };
    registry.register_udaf(Arc::new(named(bool_and_udaf(), &["every"])))?;
    let texts = named(string_agg_udaf(), &["listagg", "group_concat"]);
    registry.register_udaf(Arc::new(texts))?;
    bound(registry, &FunctionBounds::default())?;
    let ours = rewritten::all().into_iter().chain(value_counts::all());
    for udaf in ours.chain(sessions::all()) {
        registry.register_udaf(Arc::new(udaf))?;
    }
    Ok(())
}

/// Puts bounds on a session's functions that may take much, in place of those that they have.
///
/// # Errors
/// Those of the registry.
pub fn bound(registry: &mut dyn FunctionRegistry, bounds: &FunctionBounds) -> Result<()> {
    for name in bounded::NAMES {
        if let Ok(function) = registry.udf(name)
            && let Some(bounded) = bounded::with_bounds(&function, bounds)
        {
            registry.register_udf(bounded)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
