//! The leaf of a merged view: keys and finished columns from the states of the master view and the
//! delta. Filters on keys go down to the files and the pieces; nothing else does.

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_shared::view::{AggregateSplit, StateCodec, finish_column, identity_states};
use anabranch_shared::{
    DeltaPart, Result, Storage, ViewPin, count_files, decode_states, scan_files, scan_spilled,
    split_parts,
};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{ColumnarValue, Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateMode;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;

use crate::layer::LayerExec;

/// What the leaf gives besides keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gives {
    /// Finished columns.
    Finished,
    /// Finished columns, and the merged states of some of them.
    FinishedAndStates(Vec<usize>),
    /// States of some columns that are not merged yet, several rows a key.
    States(Vec<usize>),
}

/// A view's leaf, pinned.
#[derive(Clone, Debug)]
pub(crate) struct MergedLeaf {
    pin: Arc<ViewPin>,
    gives: Gives,
    schema: SchemaRef,
}

/// The name of a state column in the leaf.
pub(crate) fn state_name(column: usize, part: usize) -> String {
    format!("s{column}_{part}")
}

impl MergedLeaf {
    pub(crate) fn new(pin: Arc<ViewPin>) -> Self {
        let schema = pin.view.leaf_schema().clone();
        Self {
            pin,
            gives: Gives::Finished,
            schema,
        }
    }

    /// The same leaf with states. Columns that it gave before keep their places.
    pub(crate) fn with_states(&self, gives: Gives) -> Self {
        let mut fields: Vec<Field> = self
            .pin
            .view
            .leaf_schema()
            .fields()
            .iter()
            .map(|f| f.as_ref().clone())
            .collect();
        let (Gives::FinishedAndStates(columns) | Gives::States(columns)) = &gives else {
            return Self::new(self.pin.clone());
        };
        if let Some(split) = self.pin.view.aggregate() {
            for &column in columns {
                for (part, field) in split.columns()[column].state_fields().iter().enumerate() {
                    let name = state_name(column, part);
                    fields.push(Field::new(name, field.data_type().clone(), true));
                }
            }
        }
        Self {
            pin: self.pin.clone(),
            gives,
            schema: Arc::new(Schema::new(fields)),
        }
    }

    pub(crate) fn pin(&self) -> &ViewPin {
        &self.pin
    }

    /// How many of the leaf's columns are keys.
    pub(crate) fn key_count(&self) -> usize {
        self.pin.view.key_count()
    }

    fn is_key_filter(&self, filter: &Expr) -> bool {
        let schema = self.pin.view.leaf_schema();
        !filter.is_volatile()
            && filter.column_refs().iter().all(|c| {
                schema
                    .index_of(c.name())
                    .is_ok_and(|index| index < self.key_count())
            })
    }

    /// The filters on the columns of a row of states.
    fn physical_filter(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let states = self.pin.view.state_schema();
        let leaf = self.pin.view.leaf_schema();
        let renamed = filters.iter().map(|f| {
            let on_states = f.clone().transform(|e| match e {
                Expr::Column(c) => {
                    let name = states.field(leaf.index_of(&c.name)?).name();
                    Ok(Transformed::yes(Expr::Column(name.as_str().into())))
                }
                e => Ok(Transformed::no(e)),
            })?;
            Ok(on_states.data)
        });
        let Some(filter) = conjunction(renamed.collect::<Result<Vec<_>>>()?) else {
            return Ok(None);
        };
        let schema = DFSchema::try_from(states.as_ref().clone())?;
        Ok(Some(state.create_physical_expr(filter, &schema)?))
    }

    /// The states of both layers: the columns `projection` of a row of states.
    fn states(
        &self,
        state: &dyn Session,
        projection: &[usize],
        filter: Option<&Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let pin = &self.pin;
        let partitions = state.config().target_partitions();
        let codec = pin.view.codec();
        let filtered = filter.map(collect_columns).unwrap_or_default();
        let filtered = filtered.iter().map(|c| c.index());
        let read: BTreeSet<usize> = projection.iter().copied().chain(filtered).collect();
        let read: Vec<usize> = read.into_iter().collect();
        let stored = filter.filter(|f| stored_alike(f, codec)).cloned();
        let store = Storage::engine_store(state.runtime_env())?;
        let master = scan_files(
            &store,
            &pin.root,
            &pin.files,
            codec.storage_schema(),
            &read,
            stored,
            partitions,
        )?;
        let label = format!(
            "MasterView: view={} generation={} offsets=below boundary [{}] files={} of {}",
            pin.view.name(),
            pin.generation,
            pin.boundary,
            count_files(&master),
            pin.files.len()
        );
        let master = LayerExec::wrap(label, decode_states(master, codec, &read)?);
        let delta = self.delta(&read, filter, partitions)?;
        let place = |column: &usize| read.partition_point(|r| r < column);
        let places: Vec<usize> = projection.iter().map(place).collect();
        let narrowed = [master, delta]
            .into_iter()
            .map(|layer| {
                let kept = match filter {
                    Some(f) => {
                        let f = reassign_expr_columns(f.clone(), &layer.schema())?;
                        Arc::new(FilterExec::try_new(f, layer)?) as _
                    }
                    None => layer,
                };
                project(kept, &places)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(UnionExec::try_new(narrowed)?)
    }

    /// The columns `read` of the states of the delta: those in memory, and a scan of those on disk.
    fn delta(
        &self,
        read: &[usize],
        filter: Option<&Arc<dyn PhysicalExpr>>,
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let pin = &self.pin;
        let codec = pin.view.codec();
        let (mut in_memory, spilled) = split_parts(&pin.delta);
        in_memory.extend(identity_states(&pin.view)?);
        let rows: usize = in_memory.iter().map(RecordBatch::num_rows).sum();
        let mut label = format!(
            "Delta: view={} offsets=from boundary [{}] up to head [{}] states={rows}",
            pin.view.name(),
            pin.boundary,
            pin.head
        );
        let in_memory = in_memory.iter().map(|states| states.project(read));
        let schema = Arc::new(codec.state_schema().project(read)?);
        let in_memory = memory(in_memory.collect::<Result<_, _>>()?, &schema, partitions)?;
        if spilled.is_empty() {
            return Ok(LayerExec::wrap(label, in_memory));
        }
        let stored = filter.filter(|f| stored_alike(f, codec)).cloned();
        let scan = scan_spilled(&spilled, codec, read, stored, partitions)?;
        let files = count_files(&scan);
        let rows: u64 = pin.delta.iter().map(DeltaPart::rows).sum();
        label += &format!(" of {rows} spilled files={files} of {}", spilled.len());
        let both = UnionExec::try_new(vec![in_memory, decode_states(scan, codec, read)?])?;
        Ok(LayerExec::wrap_holding(label, both, spilled))
    }

    fn finished(
        &self,
        state: &dyn Session,
        split: &Arc<AggregateSplit>,
        wanted: &[usize],
        filter: Option<&Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = self.key_count();
        let hidden = split.keys().len() - keys;
        let columns: Vec<usize> = wanted
            .iter()
            .filter(|&&w| w >= keys)
            .map(|w| w - keys)
            .collect();
        let columns: Vec<usize> = columns
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let states = self.states(state, &split.state_projection(&columns), filter)?;
        let merged = split.merge_exec(final_mode(state), &columns, states)?;
        let place = |w: usize| match w < keys {
            true => w,
            false => {
                hidden
                    + keys
                    + columns
                        .iter()
                        .position(|&c| c + keys == w)
                        .unwrap_or_default()
            }
        };
        self.renamed(merged, wanted, &place)
    }

    /// The wanted columns of the leaf, from a plan that has them at other places.
    fn renamed(
        &self,
        input: Arc<dyn ExecutionPlan>,
        wanted: &[usize],
        place: &dyn Fn(usize) -> usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = input.schema();
        let exprs = wanted.iter().map(|&w| {
            let at = place(w);
            let column = Column::new(schema.field(at).name(), at);
            (
                Arc::new(column) as Arc<dyn PhysicalExpr>,
                self.schema.field(w).name().clone(),
            )
        });
        Ok(Arc::new(ProjectionExec::try_new(
            exprs.collect::<Vec<_>>(),
            input,
        )?))
    }
}

fn final_mode(state: &dyn Session) -> AggregateMode {
    match state.config().target_partitions() {
        1 => AggregateMode::Final,
        _ => AggregateMode::FinalPartitioned,
    }
}

/// Whether a filter's columns are stored in the types that they have in memory.
fn stored_alike(filter: &Arc<dyn PhysicalExpr>, codec: &StateCodec) -> bool {
    collect_columns(filter).iter().all(|c| {
        let memory = codec.state_schema().field(c.index()).data_type();
        memory == codec.storage_schema().field(c.index()).data_type()
    })
}

/// So many rows in a row are of one partition.
const SPREAD_ROWS: usize = 8_192;

/// Batches in memory, of which each partition gets about as many rows. Were the engine to spread
/// them, it would take each part of a batch to be as large as all of it, and spill.
pub(crate) fn memory(
    batches: Vec<RecordBatch>,
    schema: &SchemaRef,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows == 0 {
        return Ok(Arc::new(EmptyExec::new(schema.clone())));
    }
    let mut spread = vec![Vec::new(); partitions.clamp(1, rows.div_ceil(SPREAD_ROWS))];
    let (lanes, mut spread_rows) = (spread.len(), 0);
    for batch in batches {
        let mut start = 0;
        while start < batch.num_rows() {
            let fits = SPREAD_ROWS - spread_rows % SPREAD_ROWS;
            let rows = fits.min(batch.num_rows() - start);
            spread[spread_rows / SPREAD_ROWS % lanes].push(batch.slice(start, rows));
            start += rows;
            spread_rows += rows;
        }
    }
    Ok(MemorySourceConfig::try_new_exec(
        &spread,
        schema.clone(),
        None,
    )?)
}

/// Some columns of a plan, in the order given.
pub(crate) fn project(
    input: Arc<dyn ExecutionPlan>,
    projection: &[usize],
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = input.schema();
    if projection.iter().copied().eq(0..schema.fields().len()) {
        return Ok(input);
    }
    let exprs = projection.iter().map(|&i| {
        let name = schema.field(i).name();
        (
            Arc::new(Column::new(name, i)) as Arc<dyn PhysicalExpr>,
            name.clone(),
        )
    });
    Ok(Arc::new(ProjectionExec::try_new(
        exprs.collect::<Vec<_>>(),
        input,
    )?))
}

#[async_trait]
impl TableProvider for MergedLeaf {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::common::Result<Vec<TableProviderFilterPushDown>> {
        let support = |f: &&Expr| match self.is_key_filter(f) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let wanted: Vec<usize> = match projection {
            Some(projection) => projection.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let filter = self.physical_filter(state, filters)?;
        let filter = filter.as_ref();
        let Some(split) = self.pin.view.aggregate() else {
            return Ok(self.states(state, &wanted, filter)?);
        };
        let plan = match &self.gives {
            Gives::Finished => self.finished(state, split, &wanted, filter)?,
            Gives::States(columns) => self.raw_states(state, split, columns, &wanted, filter)?,
            Gives::FinishedAndStates(columns) => {
                self.with_merged_states(state, split, columns, &wanted, filter)?
            }
        };
        Ok(plan)
    }
}

impl MergedLeaf {
    /// Where a state column of the leaf stands in a row of states of `columns`.
    fn state_place(&self, split: &AggregateSplit, wanted: usize) -> usize {
        wanted - self.pin.view.leaf_schema().fields().len() + split.keys().len()
    }

    fn raw_states(
        &self,
        state: &dyn Session,
        split: &Arc<AggregateSplit>,
        columns: &[usize],
        wanted: &[usize],
        filter: Option<&Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let states = self.states(state, &split.state_projection(columns), filter)?;
        let keys = self.key_count();
        let place = |w: usize| match w < keys {
            true => w,
            false => self.state_place(split, w),
        };
        self.renamed(states, wanted, &place)
    }

    /// Merges states and gives them with their finished values.
    fn with_merged_states(
        &self,
        state: &dyn Session,
        split: &Arc<AggregateSplit>,
        columns: &[usize],
        wanted: &[usize],
        filter: Option<&Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = self.key_count();
        let leaf_fields = self.pin.view.leaf_schema().fields().len();
        let every: Vec<usize> = (0..split.columns().len()).collect();
        let states = self.states(state, &split.state_projection(&every), filter)?;
        let one: Arc<dyn ExecutionPlan> = Arc::new(
            datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec::new(states),
        );
        let merged = split.merge_exec(AggregateMode::PartialReduce, &every, one)?;
        let exprs = wanted.iter().map(|&w| {
            let expr: Arc<dyn PhysicalExpr> = if w < keys {
                Arc::new(Column::new("key", w))
            } else if w < leaf_fields {
                Arc::new(FinishExpr {
                    split: split.clone(),
                    column: w - keys,
                })
            } else {
                let (column, part) = self.state_of(split, columns, w - leaf_fields);
                let at = split.columns()[column].state_columns().start + part;
                Arc::new(Column::new("state", at))
            };
            (expr, self.schema.field(w).name().clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(
            exprs.collect::<Vec<_>>(),
            merged,
        )?))
    }

    fn state_of(&self, split: &AggregateSplit, columns: &[usize], nth: usize) -> (usize, usize) {
        let mut nth = nth;
        for &column in columns {
            let parts = split.columns()[column].state_fields().len();
            if nth < parts {
                return (column, nth);
            }
            nth -= parts;
        }
        (0, 0)
    }
}

/// Finishes one column of merged states, row by row.
#[derive(Debug)]
struct FinishExpr {
    split: Arc<AggregateSplit>,
    column: usize,
}

impl PartialEq for FinishExpr {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.split, &other.split) && self.column == other.column
    }
}

impl Eq for FinishExpr {}

impl std::hash::Hash for FinishExpr {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.column.hash(state);
    }
}

impl std::fmt::Display for FinishExpr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "finish({})", self.split.columns()[self.column].name)
    }
}

impl PhysicalExpr for FinishExpr {
    fn data_type(&self, _: &Schema) -> datafusion::common::Result<DataType> {
        Ok(self.split.columns()[self.column]
            .aggregate()
            .field()
            .data_type()
            .clone())
    }

    fn nullable(&self, _: &Schema) -> datafusion::common::Result<bool> {
        Ok(self.split.columns()[self.column]
            .aggregate()
            .field()
            .is_nullable())
    }

    fn evaluate(&self, batch: &RecordBatch) -> datafusion::common::Result<ColumnarValue> {
        let column = &self.split.columns()[self.column];
        let states = &batch.columns()[column.state_columns()];
        Ok(ColumnarValue::Array(finish_column(column, states)?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn PhysicalExpr>>,
    ) -> datafusion::common::Result<Arc<dyn PhysicalExpr>> {
        Ok(self)
    }

    fn fmt_sql(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use datafusion::physical_plan::ExecutionPlanProperties;
    use datafusion::prelude::SessionContext;
    use futures::TryStreamExt;

    use super::*;

    /// However the rows came, each partition has as many of them as another, and all are there once.
    #[tokio::test]
    async fn partitions_have_as_many_rows_as_each_other() -> Result<()> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let task = SessionContext::new().task_ctx();
        let large = 20 * SPREAD_ROWS as i64 + 5;
        for sizes in [vec![large], vec![1; 300], vec![3, large, 0, 70_000], vec![]] {
            let mut next = 0;
            let batches = sizes.iter().map(|size| {
                let numbers = Int64Array::from_iter_values(next..next + size);
                next += size;
                RecordBatch::try_new(schema.clone(), vec![Arc::new(numbers)])
            });
            let plan = memory(batches.collect::<Result<_, _>>()?, &schema, 3)?;
            let (mut all, mut counts) = (Vec::new(), Vec::new());
            for partition in 0..plan.output_partitioning().partition_count() {
                let rows = plan.execute(partition, task.clone())?;
                let rows: Vec<RecordBatch> = rows.try_collect().await?;
                counts.push(rows.iter().map(RecordBatch::num_rows).sum::<usize>());
                let numbers = rows.iter().map(|b| b.column(0).as_primitive::<Int64Type>());
                all.extend(numbers.flat_map(|n| n.values().to_vec()));
            }
            all.sort_unstable();
            assert!(
                all.iter().copied().eq(0..next),
                "{sizes:?}: {} rows",
                all.len()
            );
            let (least, most) = (counts.iter().min(), counts.iter().max());
            let apart = most.unwrap_or(&0) - least.unwrap_or(&0);
            assert!(apart <= SPREAD_ROWS, "{sizes:?}: {counts:?}");
            let full = next as usize >= 3 * SPREAD_ROWS;
            assert!(counts.len() == 3 || !full, "{sizes:?}: {counts:?}");
        }
        Ok(())
    }
}
