//! The formats of stored and sent states: which functions keep states of which form, by numbers of
//! ours. Owns the line that says of what form a view's states are, and what is read of earlier
//! lines.
//!
//! ```text
//!   2 <types of keys> <function> <number>(<argument types>)→[<state types>] …
//!   1 datafusion 55.2.0 <types of keys> <function>(<argument types>)→[<state types>] …
//! ```
//!
//! A number changes where the bytes of a function's states do, or what they mean; `goldens.txt`
//! holds those bytes. So an engine that makes the same states, under whatever version, leaves
//! stored states readable. For a function that the table does not list the engine's version stands
//! in for a number.
//!
//! Line 1 is that of version 0.1.0, which named the engine's version for all functions. States
//! under it differ from those of today in this: a sum had no carry, and the fields of an ordering
//! were called after their places in the topic.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::aggregate::Column;
use super::plan::Planned;
use super::states::convert;
use super::{AggregateSplit, Definition, View};
use crate::Result;
use crate::fit::{fit, same_shape};
use crate::table::storage_type;

/// The functions of which the form of states is known, with the number of that form. DISTINCT
/// makes another function of each.
const FORMATS: [(&str, u32); 49] = [
    ("approx_distinct", 1),
    ("approx_median", 1),
    ("approx_percentile_cont", 1),
    ("approx_percentile_cont_with_weight", 1),
    ("array_agg", 1),
    ("array_agg distinct", 1),
    ("avg", 1),
    ("avg distinct", 1),
    ("bit_and", 1),
    ("bit_or", 1),
    ("bit_xor", 1),
    ("bool_and", 1),
    ("bool_or", 1),
    ("corr", 1),
    ("count", 1),
    ("count distinct", 1),
    ("covar_pop", 1),
    ("covar_samp", 1),
    ("first_value", 1),
    ("histogram", 1),
    ("last_value", 1),
    ("max", 1),
    ("median", 1),
    ("median distinct", 1),
    ("min", 1),
    ("mode", 1),
    ("nth_value", 1),
    ("percentile_cont", 1),
    ("percentile_disc", 1),
    ("regr_avgx", 1),
    ("regr_avgy", 1),
    ("regr_count", 1),
    ("regr_intercept", 1),
    ("regr_r2", 1),
    ("regr_slope", 1),
    ("regr_sxx", 1),
    ("regr_sxy", 1),
    ("regr_syy", 1),
    ("session_count", 1),
    ("session_seconds", 1),
    ("sessions", 1),
    ("stddev", 1),
    ("stddev_pop", 1),
    ("string_agg", 1),
    ("string_agg distinct", 1),
    // 1 had no carry.
    ("sum", 2),
    ("sum distinct", 1),
    ("var", 1),
    ("var_pop", 1),
];

/// The engine under which version 0.1.0 wrote all its states.
const FORMER_ENGINE: &str = "55.2.0";

/// The lines of a view's states.
#[derive(Clone, Debug)]
pub(super) struct Formats {
    current: String,
    /// The line of version 0.1.0, where its states can be read.
    former: Option<String>,
    /// The states of version 0.1.0 in memory.
    former_schema: SchemaRef,
    /// Which columns of today's states those are.
    former_columns: Vec<usize>,
}

impl Formats {
    pub(super) fn of(planned: &Planned) -> Self {
        match &planned.aggregate {
            Some(split) => of_states(split),
            None => of_rows(&planned.leaf_schema),
        }
    }

    pub(super) fn current(&self) -> &str {
        &self.current
    }

    fn is_former(&self, line: &str) -> bool {
        let former = self.former.as_deref();
        former.is_some_and(|former| nameless(former) == nameless(line))
    }
}

fn of_rows(leaf: &SchemaRef) -> Formats {
    let rows = format!("rows({})", types(leaf.fields()));
    Formats {
        current: format!("2 {rows}"),
        former: Some(format!("1 datafusion {FORMER_ENGINE} {rows}")),
        former_schema: leaf.clone(),
        former_columns: (0..leaf.fields().len()).collect(),
    }
}

fn of_states(split: &AggregateSplit) -> Formats {
    let schema = split.state_schema();
    let keys = split.keys().len();
    let key_types = schema.fields().iter().take(keys);
    let key_types: Vec<String> = key_types.map(|f| f.data_type().to_string()).collect();
    let mut current = [&["2".to_owned()], key_types.as_slice()].concat();
    let engine = format!("1 datafusion {FORMER_ENGINE}");
    let mut former = [&[engine], key_types.as_slice()].concat();
    let mut former_columns: Vec<usize> = (0..keys).collect();
    let mut former_fields: Vec<FieldRef> = schema.fields().iter().take(keys).cloned().collect();
    let mut readable = true;
    for column in split.columns() {
        let listed = number_of(column);
        let (name, arguments) = (column.aggregate().fun().name(), arguments(split, column));
        let number = listed.map_or_else(
            || format!("datafusion {}", datafusion::DATAFUSION_VERSION),
            |number| number.to_string(),
        );
        let states = types(column.state_fields());
        current.push(format!("{name} {number}({arguments})→[{states}]"));
        let parts = former_parts(column);
        let engine_fields = &column.engine_fields()[..parts];
        former.push(format!("{name}({arguments})→[{}]", types(engine_fields)));
        readable &= listed.is_some() || datafusion::DATAFUSION_VERSION == FORMER_ENGINE;
        // Its states under a key were of all values, not of the distinct ones.
        readable &= name != "bit_xor" || !column.aggregate().is_distinct();
        for (place, field) in column.state_columns().zip(engine_fields) {
            former_columns.push(place);
            let named = Field::new(schema.field(place).name(), field.data_type().clone(), true);
            former_fields.push(Arc::new(named));
        }
    }
    Formats {
        current: current.join(" "),
        former: readable.then(|| former.join(" ")),
        former_schema: Arc::new(Schema::new(former_fields)),
        former_columns,
    }
}

fn number_of(column: &Column) -> Option<u32> {
    let (name, distinct) = (
        column.aggregate().fun().name(),
        column.aggregate().is_distinct(),
    );
    let is_it = |listed: &str| match listed.strip_suffix(" distinct") {
        Some(plain) => distinct && plain == name,
        None => !distinct && listed == name,
    };
    let found = FORMATS.iter().find(|(listed, _)| is_it(listed));
    found.map(|(_, number)| *number)
}

/// How many columns the state had under version 0.1.0.
fn former_parts(column: &Column) -> usize {
    let aggregate = column.aggregate();
    match aggregate.fun().name() == "sum" && !aggregate.is_distinct() {
        true => 1,
        false => column.state_fields().len(),
    }
}

fn arguments(split: &AggregateSplit, column: &Column) -> String {
    let arguments = column.aggregate().expressions();
    let arguments = arguments
        .iter()
        .filter_map(|e| e.data_type(split.input_schema()).ok())
        .map(|t| t.to_string())
        .collect::<Vec<_>>()
        .join(",");
    match column.aggregate().is_distinct() {
        true => format!("distinct {arguments}"),
        false => arguments,
    }
}

fn types<'a>(fields: impl IntoIterator<Item = &'a FieldRef>) -> String {
    let types = fields.into_iter().map(|f| f.data_type().to_string());
    types.collect::<Vec<_>>().join(",")
}

/// A line without the names of fields in its types.
fn nameless(line: &str) -> String {
    let (mut kept, mut rest) = (String::with_capacity(line.len()), line);
    while let Some((before, quoted)) = rest.split_once('"') {
        kept.push_str(before);
        let mut escaped = false;
        let end = quoted.char_indices().find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let Some((end, _)) = end else {
            kept.push_str(quoted);
            return kept;
        };
        let (text, after) = (&quoted[..end], &quoted[end + 1..]);
        // A quoted text that no colon follows is a time zone.
        if !after.starts_with(':') {
            kept.push_str(text);
        }
        kept.push('"');
        rest = after;
    }
    kept.push_str(rest);
    kept
}

impl View {
    /// Whether states of a format can be merged with those that this version makes.
    pub fn reads_format(&self, line: &str) -> bool {
        self.formats.current == line || self.formats.is_former(line)
    }

    /// The format of states that this version makes.
    pub fn makes_format(&self) -> &str {
        self.formats.current()
    }

    /// The view, its states said to be of the format that a definition names, where they can be
    /// read: a generation keeps its format, and other versions with it.
    pub fn in_format_of(mut self, definition: &Definition) -> Self {
        if self.reads_format(&definition.state_format) {
            self.definition.state_format = definition.state_format.clone();
        }
        self
    }

    /// The columns that states have at rest under a format. Those of a former one keep the names
    /// that they had, and have others besides, which versions that wrote it don't look for.
    pub fn stored_schema(&self, line: &str) -> Result<SchemaRef> {
        let stored = self.codec.storage_schema();
        if !self.formats.is_former(line) {
            return Ok(stored.clone());
        }
        let mut fields: Vec<FieldRef> = stored.fields().to_vec();
        let former = self.formats.former_schema.fields();
        for (place, field) in self.formats.former_columns.iter().zip(former) {
            let data_type = storage_type(field.data_type())?;
            fields[*place] = Arc::new(fields[*place].as_ref().clone().with_data_type(data_type));
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// States as they are sent to others under the view's format: as its former version read them,
    /// wherever they can be said so.
    pub fn to_send(&self, states: &[RecordBatch]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let formats = &self.formats;
        let is_new = |place: &usize| !formats.former_columns.contains(place);
        let new: Vec<usize> = (0..self.state_schema().fields().len())
            .filter(is_new)
            .collect();
        let is_empty = |batch: &RecordBatch| {
            let mut columns = new.iter().map(|&place| batch.column(place));
            columns.all(|column| column.null_count() == column.len())
        };
        let former = formats.is_former(&self.definition.state_format);
        if !former || !states.iter().all(is_empty) {
            return Ok((self.state_schema().clone(), states.to_vec()));
        }
        let schema = &formats.former_schema;
        let sent = states.iter().map(|batch| {
            let kept = batch.project(&formats.former_columns)?;
            convert(&kept, schema)
        });
        Ok((schema.clone(), sent.collect::<Result<_>>()?))
    }

    /// States that were sent under a format; `None` where it can't be read.
    pub fn received(&self, line: &str, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
        if !self.reads_format(line) {
            return Ok(None);
        }
        let schema = self.state_schema();
        let columns = match batch.num_columns() == schema.fields().len() {
            true => batch.columns().to_vec(),
            false => self.widened(batch),
        };
        let found = columns.iter().map(|c| c.data_type());
        let mut pairs = found.zip(schema.fields());
        let fits = |(found, wanted): (&DataType, &FieldRef)| same_shape(found, wanted.data_type());
        if columns.len() != schema.fields().len() || !pairs.all(fits) {
            return Ok(None);
        }
        let columns = columns.iter().zip(schema.fields());
        let columns = columns.map(|(c, f)| fit(c, f.data_type()));
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = columns.collect::<Result<_>>()?;
        let states = RecordBatch::try_new_with_options(schema.clone(), columns, &rows)?;
        Ok(Some(states))
    }

    /// The columns of former states, with what is new as NULL.
    fn widened(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        let schema = self.state_schema();
        let former = &self.formats.former_columns;
        if batch.num_columns() != former.len() {
            return Vec::new();
        }
        let column = |(place, field): (usize, &FieldRef)| match former.binary_search(&place) {
            Ok(at) => batch.column(at).clone(),
            Err(_) => new_null_array(field.data_type(), batch.num_rows()),
        };
        schema.fields().iter().enumerate().map(column).collect()
    }
}

#[cfg(test)]
mod tests;
