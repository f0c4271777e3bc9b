//! Scans of Delta tables' files as plain Parquet scans, pruned by the statistics in the tables'
//! logs; and stored states as plans. Columns are bound by name: [`crate::late_fields`] says what a
//! column is that a file lacks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, SchemaRef};
use chrono::DateTime;
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::source::ParquetSource;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::{collect_columns, conjunction_opt, split_conjunction};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use self::checked::CheckedFiles;
pub use self::checked::FileSource;
use crate::fit::{ByPlace, FitExpr};
use crate::late_fields::{LateFields, is_declared};
use crate::spill::SpilledStates;
use crate::storage::Storage;
use crate::table::AddFile;
use crate::topic::LateReads;
use crate::view::StateCodec;
use crate::{Error, Result, planted};

mod checked;

/// Bytes at a file's end that are read at once, in the hope that its whole footer is in them: a
/// request to a bucket costs more than they do.
const FOOTER_BYTES: usize = 64 << 10;

/// Scans some files of the table at `root` of the engine's store: the columns of `projection`, leaving out what
/// `predicate` can't match by the statistics of files, row groups and pages. Rows that don't match
/// may still be among the others. Fields that a file lacks are read from its `_extra` as `reads` says.
pub fn scan_files(
    source: &FileSource,
    root: &Path,
    files: &[Arc<AddFile>],
    (schema, reads): (&SchemaRef, &LateReads),
    projection: &[usize],
    predicate: Option<Arc<dyn PhysicalExpr>>,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    fail::fail_point!("plan-scan");
    let locate = |file: &AddFile, size| PartitionedFile::new(format!("{root}/{}", file.path), size);
    let place = (Storage::engine_url()?, source, &locate as &Locate<'_>);
    scan_at(
        place,
        files,
        (schema, reads),
        projection,
        predicate,
        partitions,
    )
}

/// How a file is found, given its entry and its size.
type Locate<'a> = dyn Fn(&AddFile, u64) -> PartitionedFile + 'a;

/// As [`scan_files`], of a view's spilled states, in the types of states at rest. Whoever executes
/// the plan must hold the files until its streams have ended.
pub fn scan_spilled(
    files: &[Arc<SpilledStates>],
    codec: &StateCodec,
    projection: &[usize],
    predicate: Option<Arc<dyn PhysicalExpr>>,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = codec.storage_schema();
    let mut paths = HashMap::new();
    for file in files {
        let path = Path::from_absolute_path(file.path()).map_err(object_store::Error::from)?;
        paths.insert(file.add().path.as_str(), path);
    }
    let locate = |file: &AddFile, size| {
        let location = paths.get(file.path.as_str()).cloned().unwrap_or_default();
        PartitionedFile::from(ObjectMeta {
            location,
            last_modified: DateTime::UNIX_EPOCH,
            size,
            e_tag: None,
            version: None,
        })
    };
    let adds: Vec<Arc<AddFile>> = files.iter().map(|f| f.add().clone()).collect();
    let source = FileSource::new(Arc::new(LocalFileSystem::new()));
    let url = ObjectStoreUrl::local_filesystem();
    let place = (url, &source, &locate as &Locate<'_>);
    let columns = (schema, &LateReads::default());
    scan_at(place, &adds, columns, projection, predicate, partitions)
}

fn scan_at(
    (url, source, locate): (ObjectStoreUrl, &FileSource, &Locate<'_>),
    files: &[Arc<AddFile>],
    (schema, reads): (&SchemaRef, &LateReads),
    projection: &[usize],
    predicate: Option<Arc<dyn PhysicalExpr>>,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let predicate = predicate.and_then(|p| prunable(&p, schema));
    let files = prune(files, schema, predicate.as_ref())?;
    if files.is_empty() {
        return Ok(Arc::new(EmptyExec::new(Arc::new(
            schema.project(projection)?,
        ))));
    }
    let mut checked = CheckedFiles::new(source.clone());
    if predicate.is_some() {
        checked = checked.with_page_index();
    }
    let mut parquet = parquet_source(checked, schema);
    if let Some(predicate) = predicate {
        parquet = parquet.with_predicate(predicate);
    }
    let config = FileScanConfigBuilder::new(url, Arc::new(parquet))
        .with_file_groups(groups(locate, &files, schema, partitions))
        .with_expr_adapter(Some(Arc::new(LateFields(reads.clone()))))
        .with_projection_indices(Some(projection.to_vec()))
        .map_err(Error::from)?
        .build();
    Ok(DataSourceExec::from_data_source(config))
}

/// Reads files of a schema, checked.
fn parquet_source(files: CheckedFiles, schema: &SchemaRef) -> ParquetSource {
    ParquetSource::new(schema.clone())
        .with_metadata_size_hint(FOOTER_BYTES)
        .with_parquet_file_reader_factory(Arc::new(files))
}

/// Whether the statistics of a column say what it holds: those of floating point say nothing of NaN.
pub fn statistics_tell(data_type: &DataType) -> bool {
    !data_type.is_floating() && !data_type.is_nested()
}

/// The part of a predicate by which files may be left out.
fn prunable(
    predicate: &Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
) -> Option<Arc<dyn PhysicalExpr>> {
    if planted("planted-nan-pruned") {
        return Some(predicate.clone());
    }
    let tell = |part: &&Arc<dyn PhysicalExpr>| {
        let columns = collect_columns(part);
        let types = columns.iter().map(|c| schema.field(c.index()).data_type());
        types.into_iter().all(statistics_tell)
    };
    let parts = split_conjunction(predicate).into_iter();
    conjunction_opt(parts.filter(tell).cloned())
}

/// How many files a scan reads, after those were left out that its predicate can't match.
pub fn count_files(scan: &Arc<dyn ExecutionPlan>) -> usize {
    let Some(source) = scan.downcast_ref::<DataSourceExec>() else {
        return 0;
    };
    let config = source.data_source().downcast_ref::<FileScanConfig>();
    config.map_or(0, |c| c.file_groups.iter().map(FileGroup::len).sum())
}

/// Divides files over partitions so that each has about as many bytes.
fn groups(
    locate: &Locate<'_>,
    files: &[Arc<AddFile>],
    schema: &SchemaRef,
    partitions: usize,
) -> Vec<FileGroup> {
    let mut groups = vec![(0_u64, Vec::new()); partitions.clamp(1, files.len())];
    for file in files {
        let size = u64::try_from(file.size).unwrap_or(0);
        let partitioned = locate(file, size)
            .with_statistics(file.statistics(schema))
            .with_extension(file.clone());
        if let Some(least) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            least.0 += size;
            least.1.push(partitioned);
        }
    }
    groups
        .into_iter()
        .map(|(_, files)| FileGroup::new(files))
        .collect()
}

/// Files with bounds of the same columns: their places, and their statistics.
type FilesOfBounds = (Vec<usize>, Vec<Arc<Statistics>>);

fn prune(
    files: &[Arc<AddFile>],
    schema: &SchemaRef,
    predicate: Option<&Arc<dyn PhysicalExpr>>,
) -> Result<Vec<Arc<AddFile>>> {
    let Some(predicate) = predicate.filter(|_| !files.is_empty()) else {
        return Ok(files.to_vec());
    };
    let builder = PruningPredicateBuilder::new().with_file_schema(schema.clone());
    let Some(pruning) = builder.build(predicate.clone()) else {
        return Ok(files.to_vec());
    };
    let columns: Vec<Column> = collect_columns(predicate).into_iter().collect();
    // The engine leaves nothing out where one of the files asked about lacks a column's bounds.
    let mut alike: BTreeMap<Vec<bool>, FilesOfBounds> = BTreeMap::new();
    for (at, file) in files.iter().enumerate() {
        let statistics = bounds(&file.statistics(schema), schema);
        let known = |c: &Column| {
            let column = statistics.column_statistics.get(c.index());
            column.is_some_and(|c| c.min_value != Precision::Absent)
        };
        let (places, of_files) = alike
            .entry(columns.iter().map(known).collect())
            .or_default();
        places.push(at);
        of_files.push(statistics);
    }
    let mut kept = vec![true; files.len()];
    for (places, of_files) in alike.into_values() {
        let keep = pruning.prune(&PrunableStatistics::new(of_files, schema.clone()))?;
        for (at, keep) in places.into_iter().zip(keep) {
            kept[at] = keep;
        }
    }
    let kept = files.iter().zip(kept).filter(|(_, kept)| *kept);
    Ok(kept.map(|(file, _)| file.clone()).collect())
}

/// The statistics for pruning, which looks only at exact values. Least and greatest values are not
/// exact, because long strings are cut, and still are bounds: all that pruning needs.
fn bounds(statistics: &Statistics, schema: &SchemaRef) -> Arc<Statistics> {
    let exact = |bound: &Precision<ScalarValue>| match bound.get_value() {
        Some(value) => Precision::Exact(value.clone()),
        None => Precision::Absent,
    };
    let columns = statistics
        .column_statistics
        .iter()
        .zip(schema.fields())
        .map(|(c, field)| ColumnStatistics {
            min_value: exact(&c.min_value),
            max_value: exact(&c.max_value),
            null_count: match c.null_count {
                Precision::Absent
                    if is_declared(field.name()) && planted("planted-late-field-pruned") =>
                {
                    statistics.num_rows
                }
                nulls => nulls,
            },
            ..c.clone()
        });
    Arc::new(Statistics {
        column_statistics: columns.collect(),
        ..statistics.clone()
    })
}

/// Scans files of stored states that are sorted by the view's keys, merged into one stream that is
/// sorted by them. `files` must not be empty, and the view must have keys.
pub fn scan_sorted_states(
    store: &Arc<dyn ObjectStore>,
    root: &Path,
    files: &[Arc<AddFile>],
    codec: &StateCodec,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = codec.storage_schema();
    let keys = schema.fields().iter().take(codec.keys()).enumerate();
    // The order in which `SortedStates` gives them.
    let options = SortOptions {
        descending: false,
        nulls_first: true,
    };
    let keys = keys.map(|(i, f)| PhysicalSortExpr {
        expr: Arc::new(Column::new(f.name(), i)),
        options,
    });
    let order = LexOrdering::new(keys)
        .ok_or_else(|| Error::Internal("states without keys have no order".into()))?;
    let files_of_store = CheckedFiles::new(FileSource::new(store.clone()));
    let source = Arc::new(parquet_source(files_of_store, schema));
    let locate = |file: &AddFile, size| PartitionedFile::new(format!("{root}/{}", file.path), size);
    // One file a group: files overlap, only each by itself is sorted.
    let config = FileScanConfigBuilder::new(Storage::engine_url()?, source)
        .with_file_groups(groups(&locate, files, schema, files.len()))
        .with_expr_adapter(Some(Arc::new(ByPlace)))
        .with_output_ordering(vec![order.clone()])
        .build();
    let scan = DataSourceExec::from_data_source(config);
    Ok(Arc::new(SortPreservingMergeExec::new(order, scan)))
}

/// Stored states, of which `stored` has these columns, in the types that they have in memory.
pub fn decode_states(
    stored: Arc<dyn ExecutionPlan>,
    codec: &StateCodec,
    columns: &[usize],
) -> Result<Arc<dyn ExecutionPlan>> {
    let (memory, rest) = (codec.state_schema(), codec.storage_schema());
    let is_alike =
        |&c: &usize| memory.field(c).data_type() == rest.field(c).data_type() && !codec.is_set(c);
    if columns.iter().all(is_alike) {
        return Ok(stored);
    }
    let exprs = columns.iter().enumerate().map(|(i, c)| {
        let field = memory.field(*c);
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), i));
        let expr = match is_alike(c) {
            true => column,
            false => {
                let fitted = FitExpr::new(column, field.data_type().clone());
                Arc::new(fitted.of_set(codec.is_set(*c)))
            }
        };
        (expr, field.name().clone())
    });
    let exprs: Vec<_> = exprs.collect();
    Ok(Arc::new(ProjectionExec::try_new(exprs, stored)?))
}
