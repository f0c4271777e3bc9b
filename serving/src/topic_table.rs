//! Topics, dead letters and other tables as a query sees them: files in the storage up to a pinned
//! head, and what has not landed from memory.

use std::sync::Arc;

use anabranch_shared::table::AddFile;
use anabranch_shared::{
    FactsFile, FileSource, LateReads, OFFSET, PARTITION, PlainPin, Ranges, Result, TopicPin,
    dead_letter_schema, fit_facts, scan_files,
};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType, col, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::union::UnionExec;
use object_store::path::Path;

use crate::layer::LayerExec;
use crate::leaf::{memory, project};
use crate::nan_fence::NanFenceExec;

/// Rows in files and in memory.
#[derive(Debug)]
pub(crate) struct FilesTable {
    schema: SchemaRef,
    reads: LateReads,
    root: Path,
    whole: Vec<Arc<AddFile>>,
    /// Files of which only some ranges count.
    partial: Vec<(Arc<AddFile>, Ranges)>,
    memory: Vec<RecordBatch>,
    /// Which rows there are for whoever asks; nothing of the query is computed of others.
    barrier: Option<Expr>,
}

impl FilesTable {
    pub(crate) fn topic(pin: &TopicPin) -> Result<Self> {
        Self::topic_as(pin, pin.topic.schema(), pin.topic.late_reads())
    }

    /// The topic with the fields of another declaration of it.
    pub(crate) fn topic_as(pin: &TopicPin, schema: SchemaRef, reads: LateReads) -> Result<Self> {
        Self::new(schema, reads, pin.root.clone(), &pin.files, &pin.memory)
    }

    pub(crate) fn dead_letters(pin: &TopicPin) -> Result<Self> {
        let (root, files) = (pin.dead_root.clone(), &pin.dead_files);
        let schema = dead_letter_schema();
        Self::new(schema, LateReads::default(), root, files, &pin.dead_memory)
    }

    pub(crate) fn plain(pin: &PlainPin) -> Self {
        Self {
            schema: pin.schema.clone(),
            reads: LateReads::default(),
            root: pin.root.clone(),
            whole: pin.files.clone(),
            partial: Vec::new(),
            memory: Vec::new(),
            barrier: None,
        }
    }

    /// The same table of the rows alone that a condition chooses.
    pub(crate) fn of_rows(self, barrier: Option<Expr>) -> Self {
        Self { barrier, ..self }
    }

    fn new(
        schema: SchemaRef,
        reads: LateReads,
        root: Path,
        files: &[FactsFile],
        memory: &[RecordBatch],
    ) -> Result<Self> {
        let memory = fitted(&schema, &reads, memory)?;
        let (partial, whole): (Vec<&FactsFile>, Vec<&FactsFile>) =
            files.iter().partition(|f| f.partial);
        Ok(Self {
            schema,
            reads,
            root,
            whole: whole.iter().map(|f| f.add.clone()).collect(),
            partial: partial
                .iter()
                .map(|f| (f.add.clone(), f.wanted.clone()))
                .collect(),
            memory,
            barrier: None,
        })
    }

    /// The rows of a barrier, whose columns are read besides the wanted ones.
    async fn barred(
        &self,
        state: &dyn Session,
        wanted: &[usize],
        barrier: &Expr,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let mut read = wanted.to_vec();
        for column in barrier.column_refs() {
            let at = self.schema.index_of(column.name())?;
            if !read.contains(&at) {
                read.push(at);
            }
        }
        let filters = std::slice::from_ref(barrier);
        let rows = self.rows(state, &read, filters).await?;
        let schema = DFSchema::try_from(self.schema.project(&read)?)?;
        let chosen = state.create_physical_expr(barrier.clone(), &schema)?;
        let rows = Arc::new(FilterExec::try_new(chosen, rows)?);
        let front: Vec<usize> = (0..wanted.len()).collect();
        Ok(LayerExec::barrier(project(rows, &front)?))
    }

    fn part(
        &self,
        state: &dyn Session,
        files: &[Arc<AddFile>],
        predicate: Option<Arc<dyn PhysicalExpr>>,
        projection: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = state.config().target_partitions();
        let source = FileSource::of_engine(state.runtime_env())?;
        let scan = scan_files(
            &source,
            &self.root,
            files,
            (&self.schema, &self.reads),
            projection,
            predicate,
            partitions,
        )?;
        Ok(NanFenceExec::around(scan))
    }
}

#[async_trait]
impl TableProvider for FilesTable {
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
        let support = match self.barrier {
            None => TableProviderFilterPushDown::Inexact,
            Some(_) => TableProviderFilterPushDown::Unsupported,
        };
        Ok(vec![support; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let wanted: Vec<usize> = match projection {
            Some(p) => p.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        match &self.barrier {
            None => self.rows(state, &wanted, filters).await,
            Some(barrier) => self.barred(state, &wanted, barrier).await,
        }
    }
}

impl FilesTable {
    /// Rows of which some may be left out that the filters leave out.
    async fn rows(
        &self,
        state: &dyn Session,
        wanted: &[usize],
        filters: &[Expr],
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let df_schema = DFSchema::try_from(self.schema.as_ref().clone())?;
        let predicate = match conjunction(filters.iter().filter(|f| !f.is_volatile()).cloned()) {
            Some(filter) => Some(state.create_physical_expr(filter, &df_schema)?),
            None => None,
        };
        let mut parts = vec![self.part(state, &self.whole, predicate.clone(), wanted)?];
        // Of files of which some ranges count the place is read too, and nothing more.
        let mut placed = wanted.to_vec();
        for name in [PARTITION, OFFSET] {
            let place = self.schema.index_of(name).ok();
            placed.extend(place.filter(|at| !wanted.contains(at)));
        }
        let of_placed = DFSchema::try_from(self.schema.project(&placed)?)?;
        let front: Vec<usize> = (0..wanted.len()).collect();
        for (file, ranges) in &self.partial {
            let read = self.part(
                state,
                std::slice::from_ref(file),
                predicate.clone(),
                &placed,
            )?;
            let inside = state.create_physical_expr(in_ranges(ranges), &of_placed)?;
            let inside = Arc::new(FilterExec::try_new(inside, read)?);
            parts.push(project(inside, &front)?);
        }
        let partitions = state.config().target_partitions();
        let recent = memory(self.memory.clone(), &self.schema, partitions)?;
        parts.push(project(recent, wanted)?);
        UnionExec::try_new(parts)
    }
}

fn in_ranges(ranges: &Ranges) -> Expr {
    ranges
        .iter()
        .map(|(p, r)| {
            col(PARTITION)
                .eq(lit(p.0))
                .and(col(OFFSET).gt_eq(lit(r.start.0)))
                .and(col(OFFSET).lt(lit(r.end.0)))
        })
        .reduce(Expr::or)
        .unwrap_or_else(|| lit(false))
}

/// Batches in the columns of a schema. As a rule all are of one schema, which is compared once.
fn fitted(
    schema: &SchemaRef,
    reads: &LateReads,
    batches: &[RecordBatch],
) -> Result<Vec<RecordBatch>> {
    let mut same: Option<SchemaRef> = None;
    let fit = |rows: &RecordBatch| {
        let is_same = same
            .as_ref()
            .is_some_and(|s| Arc::ptr_eq(s, rows.schema_ref()));
        if is_same || rows.schema_ref() == schema {
            same = Some(rows.schema());
            return Ok(rows.clone());
        }
        fit_facts(schema, reads, rows)
    };
    batches.iter().map(fit).collect()
}
