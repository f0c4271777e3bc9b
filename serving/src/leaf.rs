//! The leaf of a merged view: keys and finished columns, and where a query combines them merged
//! states, from the states of the master view and the delta. Filters on keys go down to the files and
//! the pieces; nothing else does.

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_shared::view::{AggregateSplit, StateCodec, identity_states};
use anabranch_shared::{
    DeltaPart, Error, FileSource, LateReads, Result, ViewPin, count_files, decode_states,
    scan_files, scan_spilled, split_parts,
};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::functions::core::get_field;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateMode;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;

use crate::layer::LayerExec;
use crate::merge_states::keep_state;

/// In how many rows the leaf may give what it has of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowsOfKey {
    /// In one, as it gives finished columns.
    One,
    /// In several, as states are stored, where no finished column is wanted.
    Several,
}

/// The states that the leaf gives besides keys and finished columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct States {
    /// A number by which the query's leaves differ.
    pub(crate) source: usize,
    /// Of which finished columns.
    pub(crate) columns: Vec<usize>,
    /// How rows may come.
    pub(crate) rows: RowsOfKey,
}

/// A column of the leaf that is a part of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    column: usize,
    part: usize,
}

/// A view's leaf, pinned.
///
/// Invariant: `schema` is the view's leaf schema, followed by a column for each of `parts`.
#[derive(Clone, Debug)]
pub(crate) struct MergedLeaf {
    pin: Arc<ViewPin>,
    rows: RowsOfKey,
    parts: Vec<Part>,
    schema: SchemaRef,
    /// Which keys there are for whoever asks; nothing of the query is computed of others.
    barrier: Option<Expr>,
}

/// The name of a part of a state in a query's plan, which no column of a user's has.
pub(crate) fn state_name(source: usize, column: usize, part: usize) -> String {
    format!("state {source}.{column}.{part}")
}

impl MergedLeaf {
    pub(crate) fn new(pin: Arc<ViewPin>) -> Self {
        let schema = pin.view.leaf_schema().clone();
        Self {
            pin,
            rows: RowsOfKey::One,
            parts: Vec::new(),
            schema,
            barrier: None,
        }
    }

    /// The same leaf of the keys alone that a condition on them chooses.
    pub(crate) fn of_keys(self, barrier: Option<Expr>) -> Self {
        Self { barrier, ..self }
    }

    /// The same leaf with states. Columns that it gave before keep their places.
    pub(crate) fn with_states(&self, states: States) -> Self {
        let leaf_schema = self.pin.view.leaf_schema();
        let fields = leaf_schema.fields().iter().map(|f| f.as_ref().clone());
        let mut fields: Vec<Field> = fields.collect();
        let mut parts = Vec::new();
        let split = self.pin.view.aggregate();
        for &column in states.columns.iter().filter(|_| split.is_some()) {
            let found = split.and_then(|split| split.columns().get(column));
            let of_column = found.map(|c| c.state_fields()).unwrap_or_default();
            for (part, field) in of_column.iter().enumerate() {
                let name = state_name(states.source, column, part);
                fields.push(Field::new(name, field.data_type().clone(), true));
                parts.push(Part { column, part });
            }
        }
        Self {
            pin: self.pin.clone(),
            rows: states.rows,
            parts,
            schema: Arc::new(Schema::new(fields)),
            barrier: self.barrier.clone(),
        }
    }

    /// The names of the columns that are parts of states.
    pub(crate) fn state_names(&self) -> impl Iterator<Item = &str> {
        let given = self.schema.fields().iter();
        given
            .skip(self.finished_end())
            .map(|field| field.name().as_str())
    }

    /// Where the leaf's finished columns end, and parts of states begin.
    fn finished_end(&self) -> usize {
        self.pin.view.leaf_schema().fields().len()
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
        let source = FileSource::of_engine(state.runtime_env())?;
        let master = scan_files(
            &source,
            &pin.root,
            &pin.files,
            (codec.storage_schema(), &LateReads::default()),
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

    /// The wanted columns, what is of a key in one row.
    fn merged(
        &self,
        state: &dyn Session,
        split: &Arc<AggregateSplit>,
        wanted: &[usize],
        filter: Option<&Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = split.keys().len();
        let (finished, kept) = self.columns_of(wanted);
        let columns: Vec<usize> = finished.iter().chain(&kept).copied().collect();
        let states = self.states(state, &split.state_projection(&columns), filter)?;
        let aggregate = |&column: &usize| split.columns()[column].aggregate();
        let mut aggregates: Vec<_> = finished.iter().map(|c| aggregate(c).clone()).collect();
        for column in &kept {
            aggregates.push(keep_state(aggregate(column))?);
        }
        let merged = split.merge_exec_of(final_mode(state), aggregates, states)?;
        let schema = merged.schema();
        let config = Arc::new(state.config_options().clone());
        self.renamed(merged, wanted, &|w| match self.part(w) {
            Some(Part { column, part }) => {
                let at = keys + finished.len() + kept.partition_point(|&c| c < column);
                let state = Arc::new(Column::new(schema.field(at).name(), at));
                part_of(state, part, &schema, &config)
            }
            None if w < self.key_count() => Ok(column_at(&schema, w)),
            None => {
                let column = w - self.key_count();
                let at = keys + finished.partition_point(|&c| c < column);
                Ok(column_at(&schema, at))
            }
        })
    }

    /// Keys and parts of states as they are stored, several rows a key.
    fn stored(
        &self,
        state: &dyn Session,
        split: &Arc<AggregateSplit>,
        wanted: &[usize],
        filter: Option<&Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (_, columns) = self.columns_of(wanted);
        let projection = split.state_projection(&columns);
        let states = self.states(state, &projection, filter)?;
        let schema = states.schema();
        self.renamed(states, wanted, &|w| {
            let stored = match self.part(w) {
                Some(p) => split.columns()[p.column].state_columns().start + p.part,
                None => w,
            };
            Ok(column_at(
                &schema,
                projection.partition_point(|&p| p < stored),
            ))
        })
    }

    /// The part of a state that a column of the leaf is.
    fn part(&self, column: usize) -> Option<Part> {
        let part = column.checked_sub(self.finished_end())?;
        self.parts.get(part).copied()
    }

    /// Of the wanted columns of the leaf: the aggregates whose finished values are wanted, and those
    /// whose states are.
    fn columns_of(&self, wanted: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let keys = self.key_count();
        let (mut finished, mut kept) = (BTreeSet::new(), BTreeSet::new());
        for &w in wanted.iter().filter(|w| **w >= keys) {
            match self.part(w) {
                Some(part) => kept.insert(part.column),
                None => finished.insert(w - keys),
            };
        }
        (finished.into_iter().collect(), kept.into_iter().collect())
    }

    /// The wanted columns of the leaf under its names, each from a plan that has it elsewhere.
    fn renamed(
        &self,
        input: Arc<dyn ExecutionPlan>,
        wanted: &[usize],
        from: &dyn Fn(usize) -> Result<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let exprs = wanted
            .iter()
            .map(|&w| Ok((from(w)?, self.schema.field(w).name().clone())))
            .collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ProjectionExec::try_new(exprs, input)?))
    }
}

fn column_at(schema: &Schema, at: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(schema.field(at).name(), at))
}

/// A part of a merged state, whose parts are fields of one column.
fn part_of(
    state: Arc<dyn PhysicalExpr>,
    part: usize,
    schema: &Schema,
    config: &Arc<ConfigOptions>,
) -> Result<Arc<dyn PhysicalExpr>> {
    let field = match state.data_type(schema)? {
        DataType::Struct(parts) => parts.get(part).map(|f| f.name().clone()),
        _ => None,
    };
    let name = field.ok_or_else(|| Error::Internal(format!("no part {part} of a state")))?;
    let name = Arc::new(Literal::new(ScalarValue::from(name)));
    let args = vec![state, name as Arc<dyn PhysicalExpr>];
    let part = ScalarFunctionExpr::try_new(get_field(), args, schema, config.clone())?;
    Ok(Arc::new(part))
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
        let support = |f: &&Expr| match self.is_key_filter(f) && self.barrier.is_none() {
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
        let filter = match &self.barrier {
            None => self.physical_filter(state, filters)?,
            Some(barrier) => self.physical_filter(state, std::slice::from_ref(barrier))?,
        };
        let filter = filter.as_ref();
        let none_finished = self.columns_of(&wanted).0.is_empty();
        let rows = match (self.pin.view.aggregate(), self.rows) {
            (None, _) => self.states(state, &wanted, filter)?,
            (Some(split), RowsOfKey::Several) if none_finished && !self.parts.is_empty() => {
                self.stored(state, split, &wanted, filter)?
            }
            (Some(split), _) => self.merged(state, split, &wanted, filter)?,
        };
        Ok(match self.barrier {
            None => rows,
            Some(_) => LayerExec::barrier(rows),
        })
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
