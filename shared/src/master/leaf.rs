//! The leaf of a view's plan over its master view alone: keys and finished columns, sorted by keys
//! where the states could be merged in their order.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateMode;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use object_store::path::Path;

use super::{Master, MasterPin};
use crate::Result;
use crate::scan::{FileSource, decode_states, scan_files, scan_sorted_states};
use crate::storage::Storage;
use crate::topic::LateReads;
use crate::view::{AggregateSplit, View, identity_states};

/// A pinned master view's keys and finished columns.
#[derive(Debug)]
pub struct MasterLeaf {
    view: Arc<View>,
    storage: Storage,
    root: Path,
    pin: MasterPin,
    /// How many files may be merged in their order at once.
    fan_in: usize,
}

impl MasterLeaf {
    /// The leaf over a pinned master view. Up to `fan_in` files are merged as streams in the order
    /// of their keys; more are grouped by hashing.
    pub fn new(master: &Master, pin: MasterPin, fan_in: usize) -> Self {
        Self {
            view: master.view().clone(),
            storage: master.table().storage().clone(),
            root: master.table().root().clone(),
            pin,
            fan_in,
        }
    }

    /// The states in the types that they have in memory; sorted by keys where they can be.
    fn states(&self) -> Result<Arc<dyn ExecutionPlan>> {
        let codec = self.view.codec();
        let sorted = codec.keys() > 0 && (1..=self.fan_in).contains(&self.pin.files.len());
        let schema = codec.storage_schema();
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let stored = match sorted {
            true => scan_sorted_states(self.storage.store(), &self.root, &self.pin.files, codec)?,
            false => {
                let store = FileSource::new(self.storage.store().clone());
                let columns = (schema, &LateReads::default());
                scan_files(&store, &self.root, &self.pin.files, columns, &all, None, 1)?
            }
        };
        let states = decode_states(stored, codec, &all)?;
        // The answer of a view without GROUP BY is one row also of no facts.
        let Some(identity) = identity_states(&self.view)? else {
            return Ok(states);
        };
        let schema = codec.state_schema().clone();
        let identity = MemorySourceConfig::try_new_exec(&[vec![identity]], schema, None)?;
        let both = UnionExec::try_new(vec![states, identity])?;
        Ok(Arc::new(CoalescePartitionsExec::new(both)))
    }

    /// The `wanted` columns of the leaf.
    fn finished(
        &self,
        split: &Arc<AggregateSplit>,
        wanted: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let stored_keys = split.keys().len();
        // The synthetic key of an aggregation without GROUP BY is no column of the leaf.
        let keys = if split.is_global() { 0 } else { stored_keys };
        let columns: BTreeSet<usize> = wanted.iter().filter_map(|w| w.checked_sub(keys)).collect();
        let columns: Vec<usize> = columns.into_iter().collect();
        let states = columns_of(self.states()?, &split.state_projection(&columns))?;
        let merged = split.merge_exec(AggregateMode::Final, &columns, states)?;
        let places = wanted.iter().map(|&w| match w.checked_sub(keys) {
            None => w,
            Some(column) => stored_keys + columns.partition_point(|&c| c < column),
        });
        columns_of(merged, &places.collect::<Vec<_>>())
    }

    /// The columns under the leaf's own names.
    fn renamed(
        &self,
        input: Arc<dyn ExecutionPlan>,
        wanted: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (from, to) = (input.schema(), self.view.leaf_schema());
        let exprs = wanted.iter().enumerate().map(|(i, &w)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(from.field(i).name(), i));
            (column, to.field(w).name().clone())
        });
        let exprs: Vec<_> = exprs.collect();
        Ok(Arc::new(ProjectionExec::try_new(exprs, input)?))
    }
}

/// Some columns of a plan, in the order given.
fn columns_of(
    input: Arc<dyn ExecutionPlan>,
    projection: &[usize],
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = input.schema();
    let exprs = projection.iter().map(|&i| {
        let name = schema.field(i).name();
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(name, i));
        (column, name.clone())
    });
    let exprs: Vec<_> = exprs.collect();
    Ok(Arc::new(ProjectionExec::try_new(exprs, input)?))
}

#[async_trait]
impl TableProvider for MasterLeaf {
    fn schema(&self) -> SchemaRef {
        self.view.leaf_schema().clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let wanted: Vec<usize> = match projection {
            Some(projection) => projection.clone(),
            None => (0..self.view.leaf_schema().fields().len()).collect(),
        };
        let plan = match self.view.aggregate() {
            Some(split) => self.finished(split, &wanted)?,
            None => columns_of(self.states()?, &wanted)?,
        };
        Ok(self.renamed(plan, &wanted)?)
    }
}
