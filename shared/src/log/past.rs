//! Where a topic stood at a time that has passed.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::common::ScalarValue;

use super::{FactsFile, Log, read_facts};
use crate::blocking::blocking;
use crate::table::AddFile;
use crate::topic::{INGESTED_AT, LateReads, OFFSET, PARTITION};
use crate::{Error, Offset, Offsets, PartitionId, Result};

/// By so much a file's statistics may be below the times in it, in microseconds.
const ROUNDED_US: i64 = 1_000;

impl Log {
    /// For each partition the place of the first fact that was admitted after a time (microseconds
    /// since 1970); where the log ends, where none was.
    ///
    /// # Errors
    /// `Invalid` where retention has removed facts which were there then, and the place with them.
    pub async fn admitted_by(&self, at_us: i64) -> Result<Offsets> {
        let head = self.head();
        let removed = self.removed_before_ms().unwrap_or(i64::MIN);
        if at_us < removed.saturating_mul(1_000) {
            return Err(Error::Invalid(format!(
                "topic `{}`: retention has removed what was there by then",
                self.name()
            )));
        }
        let (_, files) = self.kept_files(&head)?;
        let mut found = head;
        for file in &files {
            self.lower(&mut found, file, at_us).await?;
        }
        Ok(found)
    }

    /// Lowers the places to those of the first facts of a file that came later.
    async fn lower(&self, found: &mut Offsets, file: &FactsFile, at_us: i64) -> Result<()> {
        let may = file.wanted.iter().any(|(p, r)| r.start < found.get(*p));
        if !may || newest(&file.add, &self.schema()).is_some_and(|newest| newest <= at_us) {
            return Ok(());
        }
        let whole = self.schema();
        let columns = [PARTITION, OFFSET, INGESTED_AT].map(|name| whole.index_of(name));
        let columns = columns.into_iter().collect::<Result<Vec<_>, _>>()?;
        let schema = SchemaRef::new(whole.project(&columns)?);
        let (body, file) = (self.fetch_file(file).await?, file.clone());
        let later = blocking(move || {
            let mut later = Offsets::default();
            for batch in read_facts(body, &schema, &LateReads::default(), &file)? {
                for (partition, offset, admitted_us) in admissions(&batch?)? {
                    if admitted_us > at_us {
                        later.lower(partition, offset);
                    }
                }
            }
            Ok(later)
        });
        for (partition, offset) in later.await?.iter() {
            found.lower(partition, offset);
        }
        Ok(())
    }
}

/// Where each fact of a batch lies, and when it was admitted, in microseconds since 1970.
///
/// # Errors
/// `Internal` for a batch without these columns.
pub fn admissions(facts: &RecordBatch) -> Result<Vec<(PartitionId, Offset, i64)>> {
    let column = |name: &str| {
        let column = facts.column_by_name(name);
        column.ok_or_else(|| Error::Internal(format!("a batch of facts without `{name}`")))
    };
    let partitions = column(PARTITION)?.as_primitive::<Int32Type>();
    let offsets = column(OFFSET)?.as_primitive::<Int64Type>();
    let times = column(INGESTED_AT)?.as_primitive::<TimestampMicrosecondType>();
    let places = partitions.values().iter().zip(offsets.values());
    let admitted = places.zip(times.values());
    Ok(admitted
        .map(|((partition, offset), at)| (PartitionId(*partition), Offset(*offset), *at))
        .collect())
}

impl FactsFile {
    /// When its newest fact was admitted, in microseconds since 1970, by its statistics, which may be below
    /// that by a millisecond.
    pub(crate) fn newest_admitted(&self, schema: &Schema) -> Option<i64> {
        told_newest(&self.add, schema)
    }
}

/// No fact of a file was admitted later, by its statistics.
fn newest(add: &AddFile, schema: &Schema) -> Option<i64> {
    Some(told_newest(add, schema)?.saturating_add(ROUNDED_US))
}

/// The newest time of admission that a file's statistics tell.
fn told_newest(add: &AddFile, schema: &Schema) -> Option<i64> {
    let index = schema.index_of(INGESTED_AT).ok()?;
    let statistics = add.statistics(schema);
    let newest = &statistics.column_statistics.get(index)?.max_value;
    match newest.get_value()? {
        ScalarValue::TimestampMicrosecond(Some(at), _) => Some(*at),
        _ => None,
    }
}
