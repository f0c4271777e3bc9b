//! The function that stands in a plan where a fact meets a reference: from the key, and the fact's place,
//! to the reference's row. It answers once it is bound to rows: those that all facts meet, or, where what
//! was made is made again, those that the facts of each place met.

use std::fmt::{Debug, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Fields, Int32Type, Int64Type};
use datafusion::common::{DataFusionError, Result as EngineResult, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::{Reference, ReferenceRows};
use crate::{OffsetRange, PartitionId};

/// To what a lookup is bound.
#[derive(Clone, Debug, Default)]
pub(crate) enum Bound {
    /// To nothing yet.
    #[default]
    No,
    /// To rows that all facts meet.
    One(Arc<ReferenceRows>),
    /// To rows that the facts of ranges met.
    ByPlace(Arc<Vec<MetRows>>),
}

/// Ranges, and the rows that their facts met.
pub(crate) type MetRows = (Vec<(PartitionId, OffsetRange)>, Arc<ReferenceRows>);

/// The function.
#[derive(Clone)]
pub(crate) struct Lookup {
    pub(crate) reference: Arc<Reference>,
    bound: Bound,
    /// Whether the row is met that was the latest at a time, which is told after the key.
    as_of: bool,
    name: String,
    columns: Fields,
    signature: Signature,
}

impl Lookup {
    pub(crate) fn new(reference: &Arc<Reference>, as_of: bool, bound: Bound) -> Self {
        let arguments = reference.key.len() + usize::from(as_of) + 2;
        let when = if as_of { "_as_of" } else { "" };
        Self {
            bound,
            as_of,
            name: format!("row_of_{}{when}", reference.name),
            columns: reference.columns(),
            // The key, the time where one is told, then partition and offset.
            signature: Signature::any(arguments, Volatility::Immutable),
            reference: reference.clone(),
        }
    }

    /// The same, bound to something.
    pub(crate) fn bound_to(&self, bound: Bound) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::from(Self::new(
            &self.reference,
            self.as_of,
            bound,
        )))
    }

    /// The lookup that a function is, if it is one.
    pub(crate) fn of(function: &ScalarUDF) -> Option<&Self> {
        (function.inner().as_ref() as &dyn std::any::Any).downcast_ref()
    }

    /// What the facts of places met.
    fn by_place(&self, met: &[MetRows], arguments: &[ArrayRef]) -> EngineResult<ArrayRef> {
        let told = self.told();
        let rows = arguments[0].len();
        let partitions = arguments[told].as_primitive::<Int32Type>();
        let offsets = arguments[told + 1].as_primitive::<Int64Type>();
        let mut of_met: Vec<Vec<u32>> = vec![Vec::new(); met.len()];
        let mut picks = Vec::with_capacity(rows);
        for row in 0..rows {
            let (partition, offset) = (partitions.value(row), offsets.value(row));
            let holds = |(p, r): &(PartitionId, OffsetRange)| {
                p.0 == partition && r.start.0 <= offset && offset < r.end.0
            };
            // What was found out later of a range counts.
            let Some(number) = met.iter().rposition(|(ranges, _)| ranges.iter().any(holds)) else {
                return exec_err!(
                    "what the fact at offset {offset} of partition {partition} met of reference `{}` is not known",
                    self.reference.name
                );
            };
            picks.push((number, of_met[number].len()));
            of_met[number].push(u32::try_from(row).unwrap_or(u32::MAX));
        }
        let found = met.iter().zip(of_met).map(|((_, rows), of)| {
            let of = UInt32Array::from(of);
            let told = arguments[..told].iter().map(|k| take(k, &of, None));
            self.find(rows, &told.collect::<Result<Vec<_>, _>>()?)
        });
        let found = found.collect::<EngineResult<Vec<StructArray>>>()?;
        let found: Vec<&dyn Array> = found.iter().map(|f| f as &dyn Array).collect();
        match found.is_empty() {
            true => Ok(new_null_array(
                &DataType::Struct(self.columns.clone()),
                rows,
            )),
            false => Ok(interleave(&found, &picks)?),
        }
    }

    /// How many arguments say which row is meant.
    pub(crate) fn told(&self) -> usize {
        self.reference.key.len() + usize::from(self.as_of)
    }

    /// Whether what was before is asked for.
    pub(crate) fn is_as_of(&self) -> bool {
        self.as_of
    }

    fn find(&self, rows: &ReferenceRows, told: &[ArrayRef]) -> EngineResult<StructArray> {
        let (keys, times) = told.split_at(self.reference.key.len());
        let found = rows.find(keys, times.first(), &self.columns);
        found.map_err(|e| DataFusionError::External(Box::new(e)))
    }
}

impl ScalarUDFImpl for Lookup {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> EngineResult<DataType> {
        Ok(DataType::Struct(self.columns.clone()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let rows = args.number_rows;
        let arguments = args.args.iter().map(|a| a.to_array(rows));
        let arguments = arguments.collect::<EngineResult<Vec<_>>>()?;
        let found = match &self.bound {
            Bound::No => {
                return exec_err!("reference `{}` is not there yet", self.reference.name);
            }
            Bound::One(rows) => Arc::new(self.find(rows, &arguments[..self.told()])?) as ArrayRef,
            Bound::ByPlace(met) => self.by_place(met, &arguments)?,
        };
        Ok(ColumnarValue::Array(found))
    }
}

impl Debug for Lookup {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup")
            .field("reference", &self.name)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Lookup {
    fn eq(&self, other: &Self) -> bool {
        let same_rows = match (&self.bound, &other.bound) {
            (Bound::No, Bound::No) => true,
            (Bound::One(a), Bound::One(b)) => Arc::ptr_eq(a, b),
            (Bound::ByPlace(a), Bound::ByPlace(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        same_rows && self.as_of == other.as_of && self.reference == other.reference
    }
}

impl Eq for Lookup {}

impl Hash for Lookup {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}
