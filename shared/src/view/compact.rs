//! States that stay in memory for long take no more of it than they need. Builders leave up to as
//! much again unused behind what they have built, and a row that was filtered out of a batch keeps
//! the batch's buffers alive.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, GenericByteViewArray, ListArray, RecordBatch, RecordBatchOptions,
};
use arrow::compute::concat;
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, StringViewType};

use crate::Result;

/// Unused bytes of an array that are not worth a copy.
const SLACK_BYTES: usize = 4_096;

/// The same rows in buffers of the sizes that they need.
///
/// # Errors
/// Those of the engine for a batch that is none.
pub fn compact(states: RecordBatch) -> Result<RecordBatch> {
    let rows = RecordBatchOptions::new().with_row_count(Some(states.num_rows()));
    let (schema, columns, _) = states.into_parts();
    let columns = columns.into_iter().map(compact_array);
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new_with_options(schema, columns, &rows)?)
}

/// The same values in buffers of the sizes that they need.
pub(super) fn compact_array(mut array: ArrayRef) -> Result<ArrayRef> {
    array.shrink_to_fit();
    match array.data_type() {
        DataType::Utf8View => Ok(compact_view::<StringViewType>(array)),
        DataType::BinaryView => Ok(compact_view::<BinaryViewType>(array)),
        DataType::List(_) => {
            let (field, offsets, values, nulls) = array.as_list::<i32>().clone().into_parts();
            let values = compact_array(values)?;
            Ok(Arc::new(ListArray::try_new(field, offsets, values, nulls)?))
        }
        _ => {
            let needed = array.to_data().get_slice_memory_size()?;
            match is_wasteful(array.as_ref(), needed) {
                // With one array to join, the engine hands on that array.
                true => Ok(concat(&[array.as_ref(), array.slice(0, 0).as_ref()])?),
                false => Ok(array),
            }
        }
    }
}

fn compact_view<T: ByteViewType>(array: ArrayRef) -> ArrayRef {
    let views = array.as_byte_view::<T>();
    let needed = views.len() * size_of::<u128>() + views.total_buffer_bytes_used();
    match is_wasteful(views, needed) {
        true => Arc::<GenericByteViewArray<T>>::new(views.gc()),
        false => array,
    }
}

fn is_wasteful(array: &dyn Array, needed: usize) -> bool {
    array.get_buffer_memory_size() > needed + needed / 2 + SLACK_BYTES
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryBuilder, Int64Array, Int64Builder, StringViewArray};

    use super::*;

    fn text(i: i64) -> String {
        format!("https://tribune.example/a/text/that/is/not/inlined/{i}")
    }

    /// What builders leave unused, and what a slice keeps alive, is given back; values stay.
    #[test]
    fn states_take_what_they_need() -> Result<()> {
        // One more than a power of two: the worst case of buffers that double.
        let rows = (1 << 16) + 1;
        let (mut counts, mut sketches) = (Int64Builder::new(), BinaryBuilder::new());
        for i in 0..rows {
            counts.append_value(i);
            sketches.append_value(i.to_le_bytes());
        }
        let every = 10 * rows as usize;
        let texts = StringViewArray::from_iter_values((0..every as i64).map(text));
        let numbers = Int64Array::from_iter_values(0..every as i64);
        let columns: [ArrayRef; 4] = [
            Arc::new(texts.slice(0, rows as usize)),
            Arc::new(numbers.slice(7, rows as usize)),
            Arc::new(counts.finish()),
            Arc::new(sketches.finish()),
        ];
        drop((texts, numbers));
        let needed = [16 + text(0).len() + 5, 8, 8, 8 + 4];
        let names = ["texts", "numbers", "counts", "sketches"];
        let before = RecordBatch::try_from_iter(names.into_iter().zip(columns.clone()))?;
        drop(columns);
        let expected = before.slice(0, before.num_rows());
        let first: Vec<String> = (0..4).map(|c| value(&expected, c)).collect();
        drop(expected);
        let wasted = before.columns().iter().zip(needed);
        for (column, needed) in wasted {
            let held = column.get_buffer_memory_size() / rows as usize;
            assert!(
                held > needed + needed / 4,
                "{held} bytes a row: nothing to give back"
            );
        }
        let after = compact(before)?;
        for ((column, needed), name) in after.columns().iter().zip(needed).zip(names) {
            let held = column.get_buffer_memory_size() / rows as usize;
            assert!(
                held <= needed,
                "{name}: {held} bytes a row, {needed} are needed"
            );
        }
        let kept: Vec<String> = (0..4).map(|c| value(&after, c)).collect();
        assert_eq!(kept, first);
        assert_eq!(after.num_rows(), rows as usize);
        Ok(())
    }

    /// A value in the middle, as text.
    fn value(batch: &RecordBatch, column: usize) -> String {
        arrow::util::display::array_value_to_string(batch.column(column), 40_000)
            .unwrap_or_default()
    }
}
