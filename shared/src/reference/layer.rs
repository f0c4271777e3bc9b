//! The rows of a reference up to a vector of offsets, found by their keys: layers of rows, each with the
//! latest of what it was made of. A layer never changes; what comes later is a layer more, and layers of
//! like size are merged, so that few are looked at (a log-structured merge).

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StructArray, UInt32Array,
    new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{cast, concat_batches, interleave, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::HashTable;

use super::Reference;
use crate::topic::{INGESTED_AT, OFFSET, PARTITION};
use crate::{Error, Offsets, Result, planted};

/// The column that says of a row that its key is not there.
const GONE: &str = "_gone";

/// A layer is merged with the one before it where that has no more than so many times its rows.
const MERGED_BELOW: usize = 2;

/// The rows of a reference up to a vector of landed offsets of its topic.
#[derive(Debug)]
pub struct ReferenceRows {
    at: Offsets,
    shape: Arc<Shape>,
    layers: Vec<Arc<Layer>>,
}

/// How rows are compared.
#[derive(Debug)]
struct Shape {
    /// Rows as they are kept: what a fact is read as, and whether the key is gone.
    kept: SchemaRef,
    keys: usize,
    columns: usize,
    /// The columns by which the latest is known.
    order: Vec<usize>,
    /// Whether all rows of a key are kept, and not the latest alone.
    history: bool,
    hasher: RandomState,
}

#[derive(Debug)]
struct Layer {
    rows: RecordBatch,
    gone: BooleanArray,
    keys: Rows,
    orders: Rows,
    /// For each row the first one of its key: the rows of a key lie beside each other, from the oldest on.
    firsts: Vec<u32>,
    /// The latest row of each key.
    index: HashTable<u32>,
}

impl Shape {
    fn of(reference: &Reference, history: bool) -> Result<Self> {
        let read = reference.read();
        let mut fields: Vec<Field> = read.fields().iter().map(|f| Field::clone(f)).collect();
        fields.push(Field::new(GONE, DataType::Boolean, false));
        let order = [reference.latest_by.as_str(), INGESTED_AT, PARTITION, OFFSET];
        let order = order.iter().map(|name| read.index_of(name));
        Ok(Self {
            order: order.collect::<std::result::Result<_, _>>()?,
            keys: reference.key.len(),
            columns: reference.key.len() + reference.fields.len(),
            kept: Arc::new(Schema::new(fields)),
            history,
            hasher: RandomState::default(),
        })
    }

    fn converted(&self, columns: &[ArrayRef]) -> Result<Rows> {
        let types = columns
            .iter()
            .map(|c| SortField::new(c.data_type().clone()));
        Ok(RowConverter::new(types.collect())?.convert_columns(columns)?)
    }

    /// Whether a row has a whole key.
    fn is_whole(&self, rows: &RecordBatch, at: usize) -> bool {
        (0..self.keys).all(|key| rows.column(key).is_valid(at))
    }

    /// What is not below any order of a time, for each of some times.
    fn up_to(&self, times: &ArrayRef) -> Result<Rows> {
        let rows = times.len();
        let of_kind = |at: &usize| self.kept.field(*at).data_type().clone();
        let types: Vec<DataType> = self.order.iter().map(of_kind).collect();
        let latest: [ArrayRef; 3] = [
            Arc::new(Int64Array::from(vec![i64::MAX; rows])),
            Arc::new(Int32Array::from(vec![i32::MAX; rows])),
            Arc::new(Int64Array::from(vec![i64::MAX; rows])),
        ];
        let columns = std::iter::once(times).chain(&latest).zip(&types);
        let columns = columns.map(|(column, wanted)| Ok(cast(column, wanted)?));
        self.converted(&columns.collect::<Result<Vec<_>>>()?)
    }

    fn keys_of(&self, rows: &RecordBatch) -> Result<Rows> {
        self.converted(&rows.columns()[..self.keys])
    }

    fn orders_of(&self, rows: &RecordBatch) -> Result<Rows> {
        let columns = self.order.iter().map(|at| rows.column(*at).clone());
        self.converted(&columns.collect::<Vec<_>>())
    }
}

impl Layer {
    /// Of the rows of each key the latest, or, where what was before is asked for, all.
    fn of(shape: &Shape, rows: &RecordBatch) -> Result<Self> {
        let all = (shape.keys_of(rows)?, shape.orders_of(rows)?);
        let kept = match shape.history {
            true => Self::ordered(shape, rows, &all)?,
            false => Self::latest(shape, rows, &all)?,
        };
        // Often no key is there twice.
        let is_all = kept.len() == rows.num_rows() && kept.is_sorted();
        let (rows, (keys, orders)) = match is_all {
            true => (rows.clone(), all),
            false => {
                drop(all);
                let rows = take_record_batch(rows, &UInt32Array::from(kept))?;
                let of_rows = (shape.keys_of(&rows)?, shape.orders_of(&rows)?);
                (rows, of_rows)
            }
        };
        let mut index = HashTable::with_capacity(rows.num_rows());
        let hash = |at: &u32| shape.hasher.hash_one(keys.row(*at as usize).as_ref());
        let mut firsts: Vec<u32> = Vec::with_capacity(rows.num_rows());
        for at in 0..rows.num_rows() {
            let own = u32::try_from(at).map_err(|_| too_many())?;
            let goes_on = at > 0 && keys.row(at - 1) == keys.row(at);
            match goes_on {
                true => firsts.push(firsts[at - 1]),
                false => firsts.push(own),
            }
            // The last of a key's rows is the latest.
            if at + 1 == rows.num_rows() || keys.row(at + 1) != keys.row(at) {
                index.insert_unique(hash(&own), own, hash);
            }
        }
        let gone = rows.column(rows.num_columns() - 1);
        let gone = gone.as_any().downcast_ref::<BooleanArray>();
        let gone = gone
            .ok_or_else(|| Error::Internal("no booleans".into()))?
            .clone();
        Ok(Self {
            rows,
            gone,
            keys,
            orders,
            firsts,
            index,
        })
    }

    /// Where the latest row of each key is.
    fn latest(
        shape: &Shape,
        rows: &RecordBatch,
        (keys, orders): &(Rows, Rows),
    ) -> Result<Vec<u32>> {
        let mut latest: HashTable<u32> = HashTable::with_capacity(rows.num_rows());
        for at in (0..rows.num_rows()).filter(|at| shape.is_whole(rows, *at)) {
            let hash = shape.hasher.hash_one(keys.row(at).as_ref());
            let same = |other: &u32| keys.row(*other as usize) == keys.row(at);
            let own = u32::try_from(at).map_err(|_| too_many())?;
            match latest.find_mut(hash, same) {
                Some(_) if planted("planted-first-row-met") => {}
                Some(known) if orders.row(*known as usize) < orders.row(at) => *known = own,
                Some(_) => {}
                None => {
                    let again =
                        |other: &u32| shape.hasher.hash_one(keys.row(*other as usize).as_ref());
                    latest.insert_unique(hash, own, again);
                }
            }
        }
        let mut kept: Vec<u32> = latest.into_iter().collect();
        kept.sort_unstable();
        Ok(kept)
    }

    /// Where all rows are, by their keys and then from the oldest on.
    fn ordered(
        shape: &Shape,
        rows: &RecordBatch,
        (keys, orders): &(Rows, Rows),
    ) -> Result<Vec<u32>> {
        let all = 0..u32::try_from(rows.num_rows()).map_err(|_| too_many())?;
        let mut all: Vec<u32> = all
            .filter(|at| shape.is_whole(rows, *at as usize))
            .collect();
        let by = |at: &u32| (keys.row(*at as usize), orders.row(*at as usize));
        all.sort_unstable_by(|a, b| by(a).cmp(&by(b)));
        Ok(all)
    }

    /// The row of a key that was the latest up to some order; of those whose order is known.
    fn as_of(&self, last: usize, upto: &[u8], order: usize) -> Option<usize> {
        let first = self.firsts[last] as usize;
        let (mut low, mut high) = (first, last + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.orders.row(middle).as_ref() <= upto {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let found = low.checked_sub(1).filter(|at| *at >= first)?;
        self.rows.column(order).is_valid(found).then_some(found)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let same = |at: &u32| self.keys.row(*at as usize).as_ref() == key;
        self.index.find(hash, same).map(|at| *at as usize)
    }

    fn len(&self) -> usize {
        self.rows.num_rows()
    }

    fn size_bytes(&self) -> usize {
        let index = self.index.capacity() * (size_of::<u32>() + 1);
        let firsts = self.firsts.len() * size_of::<u32>();
        let rows = self.rows.get_array_memory_size() + self.keys.size() + self.orders.size();
        rows + firsts + index
    }
}

fn too_many() -> Error {
    Error::NoRoom("a reference can't have more than 4 billion rows".to_owned())
}

impl ReferenceRows {
    /// A reference without rows; with `history` all rows of a key are kept, not the latest alone.
    pub fn none(reference: &Reference, history: bool) -> Result<Self> {
        Ok(Self {
            at: Offsets::default(),
            shape: Arc::new(Shape::of(reference, history)?),
            layers: Vec::new(),
        })
    }

    /// Up to which offsets of the topic they are.
    pub fn at(&self) -> &Offsets {
        &self.at
    }

    /// Whether all rows of a key are kept, and not the latest alone.
    pub fn keeps_history(&self) -> bool {
        self.shape.history
    }

    /// How many rows there are, at most: those of keys that are gone count, and those of which there is a
    /// later one in another layer.
    pub fn rows(&self) -> usize {
        self.layers.iter().map(|l| l.len()).sum()
    }

    /// Bytes of memory.
    pub fn size_bytes(&self) -> usize {
        self.layers.iter().map(|l| l.size_bytes()).sum()
    }

    /// The same rows, up to other offsets.
    #[must_use]
    pub fn up_to(&self, at: Offsets) -> Self {
        Self {
            at,
            shape: self.shape.clone(),
            layers: self.layers.clone(),
        }
    }

    /// These rows, and what facts say, in the columns of [`Reference::read`]; `gone` says of which that
    /// their key is not there.
    pub(crate) fn with(&self, facts: &RecordBatch, gone: BooleanArray) -> Result<Self> {
        let mut columns = facts.columns().to_vec();
        columns.push(Arc::new(gone));
        let rows = RecordBatch::try_new(self.shape.kept.clone(), columns)?;
        let mut layer = Layer::of(&self.shape, &rows)?;
        let mut layers = self.layers.clone();
        while layers
            .last()
            .is_some_and(|before| before.len() <= layer.len() * MERGED_BELOW)
            && let Some(before) = layers.pop()
        {
            if planted("planted-layer-lost") {
                continue;
            }
            let both = concat_batches(&self.shape.kept, [&before.rows, &layer.rows])?;
            layer = Layer::of(&self.shape, &both)?;
        }
        if layer.len() > 0 {
            layers.push(Arc::new(layer));
        }
        Ok(Self {
            at: self.at.clone(),
            shape: self.shape.clone(),
            layers,
        })
    }

    /// For each key its latest row, or the one that was it at a time; NULL where there is none.
    pub(crate) fn find(
        &self,
        keys: &[ArrayRef],
        times: Option<&ArrayRef>,
        columns: &arrow::datatypes::Fields,
    ) -> Result<StructArray> {
        if times.is_some() && !self.shape.history {
            return Err(Error::Internal(
                "rows of before are asked for and were not kept".into(),
            ));
        }
        let rows = keys.first().map_or(0, Array::len);
        let none = (self.layers.len(), 0);
        let mut picks = Vec::with_capacity(rows);
        let wanted = self.shape.converted(keys)?;
        let upto = times.map(|times| self.shape.up_to(times)).transpose()?;
        for (nth, key) in wanted.iter().enumerate() {
            let key = key.as_ref();
            if times.is_some_and(|times| times.is_null(nth)) {
                picks.push(none);
                continue;
            }
            let hash = self.shape.hasher.hash_one(key);
            let mut latest: Option<(usize, usize)> = None;
            for (number, layer) in self.layers.iter().enumerate() {
                let last = layer.find(hash, key);
                let at = match &upto {
                    None => last,
                    Some(upto) => last.and_then(|last| {
                        layer.as_of(last, upto.row(nth).as_ref(), self.shape.order[0])
                    }),
                };
                let Some(at) = at else {
                    continue;
                };
                let is_later = latest.is_none_or(|(other, row)| {
                    let other: &Layer = &self.layers[other];
                    other.orders.row(row).as_ref() < layer.orders.row(at).as_ref()
                });
                if is_later {
                    latest = Some((number, at));
                }
            }
            let is_gone = |(number, at): &(usize, usize)| {
                self.layers[*number].gone.value(*at) && !planted("planted-gone-row-met")
            };
            let there = latest.filter(|found| !is_gone(found));
            picks.push(there.unwrap_or(none));
        }
        let is_there = picks.iter().map(|pick| *pick != none);
        let nulls = NullBuffer::from_iter(is_there);
        let arrays = columns
            .iter()
            .enumerate()
            .take(self.shape.columns)
            .map(|(at, field)| {
                let absent = new_null_array(field.data_type(), 1);
                let of_layers = self.layers.iter().map(|l| l.rows.column(at).as_ref());
                let all: Vec<&dyn Array> = of_layers.chain([absent.as_ref()]).collect();
                Ok(interleave(&all, &picks)?)
            });
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        Ok(StructArray::try_new(columns.clone(), arrays, Some(nulls))?)
    }
}
