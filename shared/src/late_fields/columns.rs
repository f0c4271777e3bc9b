//! Columns of late fields: which objects there are in the `_extra` of a batch, and what each fact has
//! of them.

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray, UInt32Array, new_null_array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{HashMap, HashSet};

use super::field::{LateField, read_object};
use crate::topic::LateReads;
use crate::{Result, planted};

/// The columns of fields that facts lack which have this `_extra`, if they have one.
pub(super) fn late_columns(
    fields: &[FieldRef],
    reads: &LateReads,
    extra: Option<&ArrayRef>,
    rows: usize,
) -> Result<Vec<ArrayRef>> {
    let extra = extra.filter(|e| e.null_count() < rows && !planted("planted-extra-ignored"));
    let Some(extra) = extra.filter(|_| !fields.is_empty()) else {
        let absent = fields.iter().map(|f| new_null_array(f.data_type(), rows));
        return Ok(absent.collect());
    };
    let extra = match extra.data_type() {
        DataType::Utf8View => extra.clone(),
        _ => cast(extra, &DataType::Utf8View)?,
    };
    let extra = extra.as_string_view();
    let late = |rows| -> Result<Vec<LateField>> {
        let late = fields.iter();
        late.map(|field| LateField::new(field, reads.of(field.name()), rows))
            .collect()
    };
    if !repeats(extra) {
        let mut late = late(rows)?;
        for object in extra {
            match object {
                Some(object) => read_object(object, 1, &mut late),
                None => late.iter_mut().for_each(LateField::put_null),
            }
        }
        return late.into_iter().map(LateField::finish).collect();
    }
    let objects = Objects::of(extra);
    let mut late = late(objects.found.len())?;
    for (object, facts) in &objects.found {
        read_object(object, *facts, &mut late);
    }
    let read = late.into_iter().map(LateField::finish);
    read.map(|column| Ok(take(&column?, &objects.of_rows, None)?))
        .collect()
}

/// The first so many objects of a batch tell whether it is worth while to look for those that come
/// again: where every second does, or more.
const SAMPLED_OBJECTS: usize = 1024;

fn repeats(extra: &StringViewArray) -> bool {
    let mut sampled = 0;
    let mut sample = HashSet::with_capacity(SAMPLED_OBJECTS);
    for row in (0..extra.len()).filter(|row| extra.is_valid(*row)) {
        sample.insert(extra.views()[row]);
        sampled += 1;
        if sampled == SAMPLED_OBJECTS {
            break;
        }
    }
    sample.len() <= sampled / 2
}

/// The objects of a batch, each once: as a rule few fields that are not declared have few values, and
/// the file keeps a text once.
struct Objects<'a> {
    /// The objects, with the number of facts that have them.
    found: Vec<(&'a str, u64)>,
    /// For each fact which of them it has.
    of_rows: UInt32Array,
}

impl<'a> Objects<'a> {
    fn of(extra: &'a StringViewArray) -> Self {
        let mut found: Vec<(&'a str, u64)> = Vec::new();
        let mut places: HashMap<u128, u32> = HashMap::new();
        let mut of_rows = Vec::with_capacity(extra.len());
        for row in 0..extra.len() {
            if extra.is_null(row) {
                of_rows.push(None);
                continue;
            }
            let new = u32::try_from(found.len()).unwrap_or(u32::MAX);
            // Where two views are the same so are the texts.
            let place = *places.entry(extra.views()[row]).or_insert(new);
            match found.get_mut(place as usize) {
                Some((_, facts)) => *facts += 1,
                None => found.push((extra.value(row), 1)),
            }
            of_rows.push(Some(place));
        }
        let of_rows = UInt32Array::from(of_rows);
        Self { found, of_rows }
    }
}
