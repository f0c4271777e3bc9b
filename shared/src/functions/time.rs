//! Functions of time that the engine lacks: buckets aligned as in TimescaleDB, and truncation in a
//! time zone as in PostgreSQL.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::datatypes::{DataType, Field, FieldRef, IntervalDayTimeType, IntervalMonthDayNanoType};
use datafusion::common::types::logical_string;
use datafusion::common::{Result, ScalarValue, exec_err, internal_err, plan_err};
use datafusion::functions::datetime::{date_bin, date_trunc as engine_date_trunc};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    Coercion, ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, TypeSignature, TypeSignatureClass, Volatility,
};

const NANOS_A_MILLI: i64 = 1_000_000;
const NANOS_A_DAY: i64 = 86_400_000 * NANOS_A_MILLI;

/// Where buckets of days and less begin: Monday, 2000-01-03, in nanoseconds since 1970. Source:
/// TimescaleDB, `time_bucket`, "origin".
const ORIGIN_OF_DAYS: i64 = 10_959 * NANOS_A_DAY;

/// Where buckets of months begin: 2000-01-01.
const ORIGIN_OF_MONTHS: i64 = 10_957 * NANOS_A_DAY;

/// `time_bucket(interval, ts [, origin])`.
pub(super) fn time_bucket() -> ScalarUDF {
    let engine = date_bin();
    let signature = engine.signature().clone();
    ScalarUDF::from(TimeBucket { engine, signature })
}

/// `date_trunc(unit, ts [, zone])`.
pub(super) fn date_trunc() -> ScalarUDF {
    let engine = engine_date_trunc();
    let text = || Coercion::new_exact(TypeSignatureClass::Native(logical_string()));
    let in_zone = TypeSignature::Coercible(vec![
        text(),
        Coercion::new_exact(TypeSignatureClass::Timestamp),
        text(),
    ]);
    let known = engine.signature().type_signature.clone();
    let signature = Signature::one_of(vec![known, in_zone], Volatility::Immutable);
    let aliases = engine.aliases().to_vec();
    ScalarUDF::from(DateTrunc {
        engine,
        signature,
        aliases,
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TimeBucket {
    engine: Arc<ScalarUDF>,
    signature: Signature,
}

impl TimeBucket {
    /// Where the buckets of an interval begin, for timestamps of a type. The origin nearest to 1970
    /// is taken of all that give the same buckets: nanoseconds reach 292 years from it.
    fn origin(width: &ScalarValue, timestamps: &DataType) -> Result<ScalarValue> {
        let nanos = match width {
            ScalarValue::IntervalMonthDayNano(Some(width)) => {
                let (months, days, nanos) = IntervalMonthDayNanoType::to_parts(*width);
                let fixed = i64::from(days).checked_mul(NANOS_A_DAY);
                match (months, fixed.and_then(|d| d.checked_add(nanos))) {
                    (0, fixed) => fixed,
                    (_, Some(0)) => None,
                    _ => return plan_err!("a bucket is months or days and less, not both"),
                }
            }
            ScalarValue::IntervalDayTime(Some(width)) => {
                let (days, millis) = IntervalDayTimeType::to_parts(*width);
                Some(i64::from(days) * NANOS_A_DAY + i64::from(millis) * NANOS_A_MILLI)
            }
            other => return plan_err!("`time_bucket` takes a constant interval, not `{other}`"),
        };
        let origin = match nanos {
            None => ORIGIN_OF_MONTHS,
            Some(width) if width > 0 => ORIGIN_OF_DAYS.rem_euclid(width),
            Some(_) => return plan_err!("a bucket is longer than nothing"),
        };
        let DataType::Timestamp(_, zone) = timestamps else {
            return plan_err!("`time_bucket` takes a timestamp, not `{timestamps}`");
        };
        Ok(ScalarValue::TimestampNanosecond(Some(origin), zone.clone()))
    }
}

impl ScalarUDFImpl for TimeBucket {
    fn name(&self) -> &str {
        "time_bucket"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.engine.return_type(arg_types)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let [ColumnarValue::Scalar(width), timestamps] = args.args.as_slice() {
            let origin = Self::origin(width, &timestamps.data_type())?;
            args.arg_fields
                .push(Arc::new(Field::new("origin", origin.data_type(), true)));
            args.args.push(ColumnarValue::Scalar(origin));
        }
        match args.args.len() {
            3 => self.engine.invoke_with_args(args),
            _ => exec_err!("`time_bucket` takes a constant interval"),
        }
    }

    fn simplify(&self, mut args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        if let [width, timestamps] = args.as_slice() {
            let Expr::Literal(width, _) = width else {
                return plan_err!("`time_bucket` takes a constant interval, not `{width}`");
            };
            let origin = Self::origin(width, &info.get_data_type(timestamps)?)?;
            args.push(Expr::Literal(origin, None));
        }
        Ok(ExprSimplifyResult::Simplified(self.engine.call(args)))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateTrunc {
    engine: Arc<ScalarUDF>,
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        "date_trunc"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        internal_err!("the type depends on the arguments")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        match (args.arg_fields, args.scalar_arguments) {
            ([_, timestamps, _], [_, _, zone]) => {
                zone_of(*zone)?;
                let data_type = timestamps.data_type().clone();
                Ok(Arc::new(Field::new(self.name(), data_type, true)))
            }
            _ => self.engine.return_field_from_args(args),
        }
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let zone = match args.args.as_slice() {
            [_, _, ColumnarValue::Scalar(zone)] => zone_of(Some(zone))?,
            [_, _, _] => zone_of(None)?,
            _ => return self.engine.invoke_with_args(args),
        };
        args.args.truncate(2);
        args.arg_fields.truncate(2);
        let given = args.args[1].data_type();
        let DataType::Timestamp(unit, _) = given else {
            return exec_err!("`date_trunc` in a zone takes a timestamp, not `{given}`");
        };
        let within = DataType::Timestamp(unit, Some(zone));
        let utc = DataType::Timestamp(unit, Some("+00:00".into()));
        args.args[1] = args.args[1].cast_to(&utc, None)?.cast_to(&within, None)?;
        args.arg_fields[1] = Arc::new(Field::new("ts", within.clone(), true));
        args.return_field = Arc::new(Field::new(self.name(), within, true));
        self.engine.invoke_with_args(args)?.cast_to(&given, None)
    }

    fn simplify(&self, args: Vec<Expr>, _info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(match args.len() {
            3 => ExprSimplifyResult::Original(args),
            _ => ExprSimplifyResult::Simplified(self.engine.call(args)),
        })
    }
}

/// The time zone that an argument names.
fn zone_of(argument: Option<&ScalarValue>) -> Result<Arc<str>> {
    let zone = argument.and_then(|zone| zone.try_as_str().flatten());
    let Some(zone) = zone else {
        return plan_err!("`date_trunc` takes a constant time zone, for example 'Europe/Berlin'");
    };
    match zone.parse::<Tz>() {
        Ok(_) => Ok(zone.into()),
        Err(_) => plan_err!(
            "`{zone}` is no time zone; write one of the IANA database, for example 'Europe/Berlin', or an offset, for example '+02:00'"
        ),
    }
}
