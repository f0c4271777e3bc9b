//! What the values of a column take, row by row.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, FixedSizeListArray, GenericListArray,
    GenericStringArray, OffsetSizeTrait, StringViewArray, StructArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

/// A number for each row, or the same one for all.
#[derive(Clone, Debug)]
pub(super) enum Rows {
    Same(u64),
    Each(Vec<u64>),
}

impl Rows {
    pub(super) fn at(&self, row: usize) -> u64 {
        match self {
            Self::Same(n) => *n,
            Self::Each(all) => all.get(row).copied().unwrap_or(0),
        }
    }

    /// The sum over all rows.
    pub(super) fn sum(&self, rows: usize) -> u64 {
        match self {
            Self::Same(n) => n.saturating_mul(rows as u64),
            Self::Each(all) => all.iter().fold(0_u64, |sum, n| sum.saturating_add(*n)),
        }
    }

    fn of(value: &ColumnarValue, numbers: impl Fn(&dyn Array) -> Result<Vec<u64>>) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Array(array) => Self::Each(numbers(array)?),
            ColumnarValue::Scalar(scalar) => {
                let one = scalar.to_array()?;
                Self::Same(numbers(&one)?.first().copied().unwrap_or(0))
            }
        })
    }

    /// Bytes of each value.
    pub(super) fn bytes(value: &ColumnarValue) -> Result<Self> {
        Self::of(value, |array| Ok(bytes(array)))
    }

    /// Elements of each list.
    pub(super) fn elements(value: &ColumnarValue) -> Result<Self> {
        Self::of(value, |array| Ok(elements(array)))
    }

    /// Counts; those that are negative or NULL are none.
    pub(super) fn counts(value: &ColumnarValue) -> Result<Self> {
        Self::of(value, |array| {
            let numbers = integers(array)?;
            let count = |n: Option<i64>| u64::try_from(n.unwrap_or(0)).unwrap_or(0);
            Ok(numbers.into_iter().map(count).collect())
        })
    }
}

/// Whole numbers, of integers, dates and times as they are stored.
pub(super) fn integers(array: &dyn Array) -> Result<Vec<Option<i64>>> {
    let array = cast(array, &DataType::Int64)?;
    Ok(array.as_primitive::<Int64Type>().iter().collect())
}

fn bytes(array: &dyn Array) -> Vec<u64> {
    match array.data_type() {
        DataType::Utf8 => texts(array.as_string::<i32>()),
        DataType::LargeUtf8 => texts(array.as_string::<i64>()),
        DataType::Utf8View => views(array.as_any().downcast_ref::<StringViewArray>()),
        DataType::BinaryView => {
            let array = array.as_any().downcast_ref::<BinaryViewArray>();
            array.map_or_else(Vec::new, |a| a.lengths().map(u64::from).collect())
        }
        DataType::List(_) => lists(array.as_list::<i32>()),
        DataType::LargeList(_) => lists(array.as_list::<i64>()),
        DataType::FixedSizeList(..) => fixed_lists(array.as_fixed_size_list()),
        DataType::Struct(_) => structs(array.as_struct()),
        _ => {
            // Of others the mean.
            let all = array.to_data().get_slice_memory_size().unwrap_or(0);
            let each = (all / array.len().max(1)).max(1) as u64;
            vec![each; array.len()]
        }
    }
}

fn texts<O: OffsetSizeTrait>(array: &GenericStringArray<O>) -> Vec<u64> {
    let lengths = array.offsets().lengths();
    lengths.map(|n| n as u64).collect()
}

fn views(array: Option<&StringViewArray>) -> Vec<u64> {
    array.map_or_else(Vec::new, |a| a.lengths().map(u64::from).collect())
}

/// Sums of bytes of the elements before each.
fn summed(values: &ArrayRef) -> Vec<u64> {
    let mut sums = vec![0_u64];
    let mut sum = 0_u64;
    for n in bytes(values) {
        // What an element takes besides its bytes.
        sum = sum.saturating_add(n + 8);
        sums.push(sum);
    }
    sums
}

fn lists<O: OffsetSizeTrait>(array: &GenericListArray<O>) -> Vec<u64> {
    let sums = summed(array.values());
    let at = |offset: O| sums.get(offset.as_usize()).copied().unwrap_or(0);
    let offsets = array.offsets().windows(2);
    offsets.map(|w| at(w[1]) - at(w[0])).collect()
}

fn fixed_lists(array: &FixedSizeListArray) -> Vec<u64> {
    let sums = summed(array.values());
    let each = usize::try_from(array.value_length()).unwrap_or(0);
    let at = |row: usize| sums.get(row * each).copied().unwrap_or(0);
    (0..array.len()).map(|row| at(row + 1) - at(row)).collect()
}

fn structs(array: &StructArray) -> Vec<u64> {
    let mut sum = vec![0_u64; array.len()];
    for column in array.columns() {
        for (sum, n) in sum.iter_mut().zip(bytes(column)) {
            *sum = sum.saturating_add(n);
        }
    }
    sum
}

fn elements(array: &dyn Array) -> Vec<u64> {
    match array.data_type() {
        DataType::List(_) => {
            let lengths = array.as_list::<i32>().offsets().lengths();
            lengths.map(|n| n as u64).collect()
        }
        DataType::LargeList(_) => {
            let lengths = array.as_list::<i64>().offsets().lengths();
            lengths.map(|n| n as u64).collect()
        }
        DataType::FixedSizeList(_, n) => vec![u64::try_from(*n).unwrap_or(0); array.len()],
        _ => vec![1; array.len()],
    }
}
