//! `bit_xor` that heeds DISTINCT with GROUP BY too: the engine's own accumulator over groups takes
//! every value, and gives states that can't be merged.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::functions_aggregate::bit_and_or_xor::bit_xor_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF,
    Signature,
};

/// `bit_xor`, over the engine's own.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct BitXor {
    engine: Arc<AggregateUDF>,
}

impl BitXor {
    pub(super) fn udaf() -> AggregateUDF {
        AggregateUDF::from(Self {
            engine: bit_xor_udaf(),
        })
    }

    fn engine(&self) -> &dyn AggregateUDFImpl {
        self.engine.inner().as_ref()
    }
}

impl AggregateUDFImpl for BitXor {
    fn name(&self) -> &str {
        self.engine().name()
    }

    fn signature(&self) -> &Signature {
        self.engine().signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.engine().return_type(arg_types)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.engine().state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.engine().accumulator(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        self.engine().create_groups_accumulator(args)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.engine().documentation()
    }
}
