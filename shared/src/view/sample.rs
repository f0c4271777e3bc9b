//! Samples of a view's keys: the same keys on both sides of the law, chosen by a hash of their
//! values, so that a part of a view can be checked for the price of that part.
//!
//! The hash stands below the aggregation that reads the facts, and on the leaf of a merged answer.
//! It is the engine's own, by which it also groups, so that values which are one key are one sample.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::hash_utils::{QualityRandomState, create_hashes};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column as ColumnRef, Result as EngineResult};
use datafusion::logical_expr::{
    Aggregate, ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use serde::{Deserialize, Serialize};

use super::{View, conflicts, plan, replace_table};
use crate::Result;

/// Which keys are in a sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeySample {
    /// The share of all keys, above 0 and at most 1.
    pub share: f64,
    /// Another seed, other keys.
    pub seed: u64,
}

impl KeySample {
    fn predicate(&self, keys: Vec<Expr>) -> Expr {
        let function = InSample {
            signature: Signature::variadic_any(Volatility::Immutable),
            below: (self.share.clamp(0.0, 1.0) * (1_u64 << 53) as f64) as u64,
            seed: self.seed,
        };
        ScalarUDF::new_from_impl(function).call(keys)
    }
}

/// Whether the hash of a row's values is below a bound of 53 bits.
#[derive(Debug, PartialEq, Eq, Hash)]
struct InSample {
    signature: Signature,
    below: u64,
    seed: u64,
}

impl ScalarUDFImpl for InSample {
    fn name(&self) -> &str {
        "in_sample"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> EngineResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let arrays = args
            .args
            .iter()
            .map(|a| a.to_array(args.number_rows))
            .collect::<EngineResult<Vec<_>>>()?;
        let mut hashes = vec![0; args.number_rows];
        create_hashes(
            &arrays,
            &QualityRandomState::with_seed(self.seed),
            &mut hashes,
        )?;
        let inside = hashes.iter().map(|&h| Some(mixed(h) >> 11 < self.below));
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::from_iter(
            inside,
        ))))
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): the hashes of several columns are
/// combined by multiplication, which leaves the upper bits uneven.
fn mixed(mut h: u64) -> u64 {
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

impl View {
    /// How many keys a row of the leaf has: none for a global aggregate, which is one row; every
    /// column for a view of rows.
    pub fn key_count(&self) -> usize {
        match &self.planned.aggregate {
            Some(split) if split.is_global() => 0,
            Some(split) => split.keys().len(),
            None => self.planned.leaf_schema.fields().len(),
        }
    }

    /// As [`View::answer_plan`], over the keys of a sample. Without keys it is the whole answer.
    pub fn sampled_answer_plan(
        &self,
        leaf: Arc<dyn TableProvider>,
        sample: &KeySample,
    ) -> Result<LogicalPlan> {
        let keys = self.planned.leaf_schema.fields()[..self.key_count()]
            .iter()
            .map(|f| Expr::Column(ColumnRef::new(Some(plan::LEAF), f.name())))
            .collect::<Vec<_>>();
        if keys.is_empty() {
            return self.answer_plan(leaf);
        }
        let sampled = self
            .planned
            .upper
            .clone()
            .transform_down(|node| match node {
                LogicalPlan::TableScan(scan) if scan.table_name.table() == plan::LEAF => {
                    let inside = sample.predicate(keys.clone());
                    let filtered =
                        LogicalPlanBuilder::from(LogicalPlan::TableScan(scan)).filter(inside)?;
                    Ok(Transformed::new(
                        filtered.build()?,
                        true,
                        TreeNodeRecursion::Jump,
                    ))
                }
                node => Ok(Transformed::no(node)),
            })?;
        let plan = replace_table(&sampled.data, plan::LEAF, leaf)?;
        Ok(conflicts::resolve(plan)?)
    }

    /// As [`View::recompute_plan`], over the keys of a sample: facts of other keys are left out
    /// before they are aggregated.
    pub fn sampled_recompute_plan(
        &self,
        facts: Arc<dyn TableProvider>,
        sample: &KeySample,
    ) -> Result<LogicalPlan> {
        if self.key_count() == 0 {
            return self.recompute_plan(facts);
        }
        let filtered = |input: LogicalPlan, keys: Vec<Expr>| {
            LogicalPlanBuilder::from(input)
                .filter(sample.predicate(keys))?
                .build()
        };
        let lower = match &self.planned.lower {
            LogicalPlan::Aggregate(a) if self.planned.aggregate.is_some() => {
                let keys = a.group_expr.iter().map(|e| e.clone().unalias());
                let input = filtered(LogicalPlan::clone(&a.input), keys.collect())?;
                LogicalPlan::Aggregate(Aggregate::try_new(
                    Arc::new(input),
                    a.group_expr.clone(),
                    a.aggr_expr.clone(),
                )?)
            }
            rows => {
                let columns = rows.schema().columns().into_iter().map(Expr::Column);
                filtered(rows.clone(), columns.collect())?
            }
        };
        let sampled = plan::replace_by(&self.planned.whole, &self.planned.lower, &lower)?;
        let plan = replace_table(&sampled, &self.definition.topic.name, facts)?;
        Ok(conflicts::resolve(plan)?)
    }
}
