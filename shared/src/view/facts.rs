//! Placeholder tables: what a view is planned over before it is known which facts and which states
//! it reads. They are replaced before anything runs.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

macro_rules! placeholder {
    ($(#[$doc:meta])* $vis:vis $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        $vis struct $name(pub SchemaRef);

        #[async_trait]
        impl TableProvider for $name {
            fn schema(&self) -> SchemaRef {
                self.0.clone()
            }

            fn table_type(&self) -> TableType {
                TableType::Base
            }

            async fn scan(
                &self,
                _state: &dyn Session,
                _projection: Option<&Vec<usize>>,
                _filters: &[Expr],
                _limit: Option<usize>,
            ) -> Result<Arc<dyn ExecutionPlan>> {
                internal_err!("a placeholder table was executed")
            }
        }
    };
}

placeholder!(
    /// Stands for a topic's facts.
    pub FactsTable
);
placeholder!(
    /// Stands for a view's keys and finished columns.
    pub LeafTable
);
placeholder!(
    /// Stands for a reference's rows until its joins are resolved.
    pub(super) ReferenceTable
);
