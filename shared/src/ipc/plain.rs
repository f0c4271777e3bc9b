//! What Arrow data come to without dictionaries, run ends and shared texts: a few bytes may stand for
//! many rows. Owns the count, which is made before anything is built.

use std::ops::Range;

use arrow::array::{
    Array, AsArray, BinaryArray, GenericByteViewArray, LargeBinaryArray, LargeStringArray,
    RecordBatch, RunArray, StringArray, UnionArray,
};
use arrow::datatypes::{
    ArrowNativeType, ByteViewType, DataType, Field, Int16Type, Int32Type, Int64Type,
    RunEndIndexType, UnionMode,
};

/// Bytes of a name that count as part of the values. Longer ones, which rows as JSON repeat, are
/// counted for each row.
const NAME_BYTES: usize = 64;

/// Bytes that a batch takes as plain arrays; `None` where they are more than `most`. What is plain
/// already counts as it is stored.
pub fn plain_bytes(batch: &RecordBatch, most: u64) -> Option<u64> {
    let mut count = Count { bytes: 0, most };
    let rows = batch.num_rows();
    let schema = batch.schema_ref();
    let names = schema.fields().iter().map(|f| long_name(f)).sum::<u64>();
    count.add(names.saturating_mul(rows as u64))?;
    for column in batch.columns() {
        count.array(column.as_ref(), 0..rows)?;
    }
    Some(count.bytes)
}

/// Bytes of the names of a field and of those in it, as far as they are long.
fn long_name(field: &Field) -> u64 {
    let own = field.name().len().saturating_sub(NAME_BYTES) as u64;
    let inner = match field.data_type() {
        DataType::Struct(fields) => fields.iter().map(|f| long_name(f)).sum(),
        DataType::Union(fields, _) => fields.iter().map(|(_, f)| long_name(f)).sum(),
        DataType::List(f)
        | DataType::LargeList(f)
        | DataType::ListView(f)
        | DataType::LargeListView(f)
        | DataType::FixedSizeList(f, _)
        | DataType::Map(f, _)
        | DataType::RunEndEncoded(_, f) => long_name(f),
        _ => 0,
    };
    own.saturating_add(inner)
}

struct Count {
    bytes: u64,
    most: u64,
}

impl Count {
    /// Counts more; `None` once they are too many.
    fn add(&mut self, bytes: u64) -> Option<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        (self.bytes <= self.most).then_some(())
    }

    fn rows(&mut self, rows: usize, width: u64) -> Option<()> {
        self.add((rows as u64).saturating_mul(width))
    }

    /// Counts some rows of an array.
    fn array(&mut self, array: &dyn Array, rows: Range<usize>) -> Option<()> {
        let count = rows.len();
        match array.data_type() {
            DataType::Null => self.rows(count, 1),
            DataType::Boolean => self.add((count as u64).div_ceil(8)),
            DataType::Utf8 => {
                let texts: &StringArray = array.as_string();
                self.texts(texts.value_offsets(), rows)
            }
            DataType::LargeUtf8 => {
                let texts: &LargeStringArray = array.as_string();
                self.texts(texts.value_offsets(), rows)
            }
            DataType::Binary => {
                let texts: &BinaryArray = array.as_binary();
                self.texts(texts.value_offsets(), rows)
            }
            DataType::LargeBinary => {
                let texts: &LargeBinaryArray = array.as_binary();
                self.texts(texts.value_offsets(), rows)
            }
            DataType::Utf8View => self.views(array.as_string_view(), rows),
            DataType::BinaryView => self.views(array.as_binary_view(), rows),
            DataType::FixedSizeBinary(width) => self.rows(count, (*width).max(1) as u64),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                self.rows(count, 4)?;
                self.array(list.values(), between(list.value_offsets(), &rows))
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                self.rows(count, 8)?;
                self.array(list.values(), between(list.value_offsets(), &rows))
            }
            DataType::Map(_, _) => {
                let map = array.as_map();
                self.rows(count, 4)?;
                self.array(map.entries(), between(map.value_offsets(), &rows))
            }
            DataType::ListView(_) => {
                let list = array.as_list_view::<i32>();
                self.rows(count, 8)?;
                for row in rows {
                    let (from, size) = (list.value_offset(row), list.value_size(row));
                    self.array(list.values(), span(from.into(), size.into()))?;
                }
                Some(())
            }
            DataType::LargeListView(_) => {
                let list = array.as_list_view::<i64>();
                self.rows(count, 16)?;
                for row in rows {
                    let (from, size) = (list.value_offset(row), list.value_size(row));
                    self.array(list.values(), span(from, size))?;
                }
                Some(())
            }
            DataType::FixedSizeList(_, _) => {
                let list = array.as_fixed_size_list();
                self.add((count as u64).div_ceil(8))?;
                let size = usize::try_from(list.value_length()).unwrap_or(0);
                let first = usize::try_from(list.value_offset(rows.start)).unwrap_or(0);
                self.array(list.values(), first..first + count.saturating_mul(size))
            }
            DataType::Struct(_) => {
                self.add((count as u64).div_ceil(8))?;
                let columns = array.as_struct().columns();
                columns.iter().try_for_each(|c| self.array(c, rows.clone()))
            }
            DataType::Dictionary(_, _) => self.dictionary(array, rows),
            DataType::RunEndEncoded(ends, _) => match ends.data_type() {
                DataType::Int16 => {
                    self.runs(array.as_any().downcast_ref::<RunArray<Int16Type>>()?, rows)
                }
                DataType::Int32 => {
                    self.runs(array.as_any().downcast_ref::<RunArray<Int32Type>>()?, rows)
                }
                _ => self.runs(array.as_any().downcast_ref::<RunArray<Int64Type>>()?, rows),
            },
            DataType::Union(fields, mode) => {
                self.rows(count, 5)?;
                let union = array.as_any().downcast_ref::<UnionArray>()?;
                if *mode == UnionMode::Sparse {
                    let mut children = fields.iter().map(|(id, _)| union.child(id));
                    return children.try_for_each(|child| self.array(child, rows.clone()));
                }
                for row in rows {
                    let at = union.value_offset(row);
                    self.array(union.child(union.type_id(row)), at..at + 1)?;
                }
                Some(())
            }
            plain => self.rows(count, width(plain)),
        }
    }

    fn texts<O: Copy + Into<i64>>(&mut self, offsets: &[O], rows: Range<usize>) -> Option<()> {
        self.rows(rows.len(), size_of::<O>() as u64)?;
        let (start, end) = (offsets.get(rows.start)?, offsets.get(rows.end)?);
        let (start, end): (i64, i64) = ((*start).into(), (*end).into());
        self.add(end.saturating_sub(start).max(0) as u64)
    }

    /// Texts that are shared, or lie on each other, count each.
    fn views<T: ByteViewType>(
        &mut self,
        texts: &GenericByteViewArray<T>,
        rows: Range<usize>,
    ) -> Option<()> {
        self.rows(rows.len(), 16)?;
        for view in texts.views().get(rows)? {
            // The lower half of a view begins with the text's length; short ones lie in their view.
            let length = u64::from(*view as u32);
            if length > 12 {
                self.add(length)?;
            }
        }
        Some(())
    }

    fn dictionary(&mut self, array: &dyn Array, rows: Range<usize>) -> Option<()> {
        // No more keys are looked at than there are rows: a value may be a dictionary too.
        let rows = array.slice(rows.start, rows.len());
        let dictionary = rows.as_any_dictionary_opt()?;
        let values = dictionary.values().as_ref();
        let absent = width(values.data_type());
        if values.is_empty() || values.data_type().primitive_width().is_some() {
            return self.rows(rows.len(), absent);
        }
        let nulls = dictionary.nulls();
        for (row, key) in dictionary.normalized_keys().into_iter().enumerate() {
            match nulls.is_some_and(|n| n.is_null(row)) {
                true => self.add(absent)?,
                false => self.array(values, key..key + 1)?,
            }
        }
        Some(())
    }

    fn runs<R: RunEndIndexType>(&mut self, runs: &RunArray<R>, rows: Range<usize>) -> Option<()> {
        let (first, last) = (runs.offset() + rows.start, runs.offset() + rows.end);
        let ends = runs.run_ends().values();
        let begin = ends.partition_point(|end| end.as_usize() <= first);
        let mut from = first;
        for (run, end) in ends.iter().enumerate().skip(begin) {
            let within = end.as_usize().min(last).saturating_sub(from);
            if within > 0 {
                let mut one = Self {
                    bytes: 0,
                    most: self.most,
                };
                one.array(runs.values(), run..run + 1)?;
                self.rows(within, one.bytes)?;
                from += within;
            }
            if from >= last {
                break;
            }
        }
        Some(())
    }
}

fn between<O: Copy + Into<i64>>(offsets: &[O], rows: &Range<usize>) -> Range<usize> {
    let at = |row: usize| {
        let at: i64 = offsets.get(row).map_or(0, |o| (*o).into());
        usize::try_from(at).unwrap_or(0)
    };
    at(rows.start)..at(rows.end).max(at(rows.start))
}

fn span(from: i64, size: i64) -> Range<usize> {
    let from = usize::try_from(from).unwrap_or(0);
    from..from + usize::try_from(size).unwrap_or(0)
}

/// Bytes that a value of a type takes, also where it is NULL.
fn width(data_type: &DataType) -> u64 {
    match data_type {
        DataType::FixedSizeBinary(width) => (*width).max(1) as u64,
        DataType::FixedSizeList(item, size) => {
            let size = u64::try_from(*size).unwrap_or(0);
            size.saturating_mul(width(item.data_type())).max(1)
        }
        DataType::Struct(fields) => fields
            .iter()
            .map(|f| width(f.data_type()))
            .fold(1, u64::saturating_add),
        DataType::Null | DataType::Boolean => 1,
        DataType::Utf8 | DataType::Binary | DataType::List(_) | DataType::Map(_, _) => 4,
        DataType::Utf8View | DataType::BinaryView => 16,
        DataType::RunEndEncoded(_, values) => width(values.data_type()),
        DataType::Dictionary(_, values) => width(values),
        other => other.primitive_width().map_or(8, |w| w as u64),
    }
}
