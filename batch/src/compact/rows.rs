//! The rows of files, taken over into one in order of partition and offset: none left out, none
//! added, no column dropped.

use anabranch_shared::{
    EncodedFile, Error, FileBytes, FileEncoder, LateReads, OFFSET, Offset, OffsetRange, PARTITION,
    PartitionId, Result, keep_ranges, parquet_footer, planted, read_parquet,
};
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{concat_batches, sort_to_indices, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};

/// Writes rows as they are taken, and checks that they come in order and are all there.
pub(super) struct RowsInOrder {
    encoder: FileEncoder,
    schema: SchemaRef,
    reads: LateReads,
    /// How many rows the files hold.
    expected: u64,
    /// The place of the last row.
    last: Option<(i32, i64)>,
}

impl RowsInOrder {
    pub(super) fn new(encoder: FileEncoder, schema: SchemaRef, reads: LateReads) -> Self {
        Self {
            encoder,
            schema,
            reads,
            expected: 0,
            last: None,
        }
    }

    /// Notes that all rows of a file have to be there at the end.
    ///
    /// # Errors
    /// `Conflict` for a file with a column that would be lost.
    pub(super) fn announce(&mut self, bytes: &FileBytes) -> Result<()> {
        let (columns, rows) = parquet_footer(bytes)?;
        let known = |name: &String| self.schema.column_with_name(name).is_some();
        if let Some(unknown) = columns.iter().find(|name| !known(name)) {
            return Err(Error::Conflict(format!(
                "a file has a column `{unknown}` that this process does not know: the topic was declared with more fields since it started; start it again"
            )));
        }
        self.expected += rows;
        Ok(())
    }

    /// Takes the rows of a file, or those of one partition of it.
    pub(super) fn take(&mut self, bytes: FileBytes, only: Option<PartitionId>) -> Result<()> {
        let place = [PARTITION, OFFSET].map(|name| self.schema.index_of(name));
        let [partition, offset] = place;
        let place = self.schema.project(&[partition?, offset?])?;
        let place = of_partition(
            read_parquet(bytes.clone(), &place.into(), &self.reads)?,
            only,
        );
        let mut ordered = true;
        let mut last = None;
        for batch in place {
            ordered &= in_order(&batch?, &mut last)?;
        }
        let rows = of_partition(read_parquet(bytes, &self.schema, &self.reads)?, only);
        if ordered {
            for batch in rows {
                self.write(&batch?)?;
            }
            return Ok(());
        }
        let batches = rows.collect::<Result<Vec<_>>>()?;
        let all = concat_batches(&self.schema, &batches)?;
        let offsets = all
            .column_by_name(OFFSET)
            .ok_or_else(|| Error::Internal("facts without offsets".into()))?;
        let order = sort_to_indices(offsets, None, None)?;
        self.write(&take_record_batch(&all, &order)?)
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if !in_order(batch, &mut self.last)? {
            return Err(Error::Corrupt(
                "files hold the same offsets, or offsets outside of their ranges".into(),
            ));
        }
        let rows = batch.num_rows();
        if planted("planted-compaction-drops-an-edge") && rows > 0 {
            self.expected -= 1;
            return self.encoder.write(&batch.slice(0, rows - 1));
        }
        self.encoder.write(batch)
    }

    /// The file.
    ///
    /// # Errors
    /// `Corrupt` where it does not hold as many rows as the files that it is made of.
    pub(super) fn finish(self) -> Result<EncodedFile> {
        let (written, expected) = (self.encoder.rows() as u64, self.expected);
        if written != expected {
            return Err(Error::Corrupt(format!(
                "files with {expected} rows hold {written} in the partitions that they are said to be of"
            )));
        }
        self.encoder.finish()
    }
}

/// The rows of one partition, where only that is wanted.
fn of_partition(
    batches: impl Iterator<Item = Result<RecordBatch>>,
    only: Option<PartitionId>,
) -> impl Iterator<Item = Result<RecordBatch>> {
    let all = OffsetRange::new(Offset(i64::MIN), Offset(i64::MAX));
    let wanted = only.map(|p| [(p, all)]);
    batches.map(move |batch| match &wanted {
        None => batch,
        Some(wanted) => keep_ranges(&batch?, wanted),
    })
}

/// Whether the rows come after `last` and in order, which becomes the last of them. One offset has
/// one row.
fn in_order(batch: &RecordBatch, last: &mut Option<(i32, i64)>) -> Result<bool> {
    let column = |name: &str| {
        let found = batch.column_by_name(name);
        found.ok_or_else(|| Error::Internal(format!("a batch of facts without `{name}`")))
    };
    let partitions = column(PARTITION)?.as_primitive::<Int32Type>().values();
    let offsets = column(OFFSET)?.as_primitive::<Int64Type>().values();
    for (partition, offset) in partitions.iter().zip(offsets) {
        let place = Some((*partition, *offset));
        if place <= *last {
            return Ok(false);
        }
        *last = place;
    }
    Ok(true)
}
