//! Sums against numbers of any size, in any order and any division.

use arrow::array::PrimitiveArray;
use arrow::datatypes::DECIMAL128_MAX_PRECISION;

use super::*;

fn sum_type(data_type: DataType) -> SumType {
    SumType {
        name: "sum(x)".into(),
        data_type,
    }
}

/// A number that is the same at each run, of all sizes.
fn mixed(i: u64) -> u64 {
    let mut h = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^ (h >> 27)
}

/// Sums of groups whose values come in batches, and through states in between, are those of numbers
/// that can't overflow; what does not fit is an error.
fn check<T: Exact>(
    data_type: &DataType,
    value: impl Fn(u64) -> T::Native,
    wide: impl Fn(T::Native) -> i256,
    fits: impl Fn(i256) -> bool,
) -> Result<()> {
    const GROUPS: usize = 4;
    let sum = sum_type(data_type.clone());
    for case in 0..200_u64 {
        let mut right = vec![None::<i256>; GROUPS];
        let mut whole = groups::<T>(sum.clone())?;
        for part in 0..3 {
            let mut ids: Vec<usize> = (0..5)
                .map(|i| mixed(case * 31 + part * 7 + i) as usize % GROUPS)
                .collect();
            if part != 1 {
                // As in the engine, a group comes with its first row.
                ids[..GROUPS].copy_from_slice(&[0, 1, 2, 3]);
            }
            let values = (0..5).map(|i| {
                let seed = case * 1_009 + part * 101 + i;
                (!mixed(seed).is_multiple_of(5)).then(|| value(seed))
            });
            let values: Vec<Option<T::Native>> = values.collect();
            for (id, value) in ids.iter().zip(&values) {
                if let Some(value) = value {
                    right[*id] = Some(right[*id].unwrap_or_default().wrapping_add(wide(*value)));
                }
            }
            let array: PrimitiveArray<T> = values.into_iter().collect();
            let array: ArrayRef = Arc::new(array.with_data_type(data_type.clone()));
            match part {
                0 => whole.update_batch(&[array], &ids, None, GROUPS)?,
                1 => {
                    let states = whole.convert_to_state(&[array], None)?;
                    whole.merge_batch(&states, &ids, GROUPS)?;
                }
                _ => {
                    let mut other = groups::<T>(sum.clone())?;
                    other.update_batch(&[array], &ids, None, GROUPS)?;
                    let states = other.state(EmitTo::All)?;
                    let all: Vec<usize> = (0..GROUPS).collect();
                    whole.merge_batch(&states, &all, GROUPS)?;
                }
            }
        }
        // One group at a time, so that one that does not fit hides no other.
        for right in right {
            let found = whole.evaluate(EmitTo::First(1));
            match right {
                Some(right) if !fits(right) => {
                    let text = found.map_or_else(|e| e.to_string(), |v| format!("{v:?}"));
                    let digits: String = text.chars().filter(|c| *c != '.').collect();
                    assert!(
                        digits.contains(&right.to_string()),
                        "{case}: {right}: {text}"
                    );
                }
                right => {
                    let found = found?;
                    let found = found.as_primitive::<T>();
                    let found = found.is_valid(0).then(|| wide(found.value(0)));
                    assert_eq!(found, right, "{case}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn integers_are_exact() -> Result<()> {
    let value = |seed: u64| match mixed(seed) % 3 {
        0 => i64::MAX - (mixed(seed + 1) % 5) as i64,
        1 => i64::MIN + (mixed(seed + 1) % 5) as i64,
        _ => mixed(seed + 1) as i64,
    };
    let wide = |v: i64| i256::from_i128(i128::from(v));
    let fits = |v: i256| v >= wide(i64::MIN) && v <= wide(i64::MAX);
    check::<Int64Type>(&DataType::Int64, value, wide, fits)?;
    let wide = |v: u64| i256::from_i128(i128::from(v));
    let fits = |v: i256| v <= wide(u64::MAX);
    check::<UInt64Type>(&DataType::UInt64, mixed, wide, fits)
}

#[test]
fn decimals_are_exact() -> Result<()> {
    let most = 10_i128.pow(u32::from(DECIMAL128_MAX_PRECISION)) - 1;
    let value = |seed: u64| match mixed(seed) % 3 {
        0 => most - i128::from(mixed(seed + 1) % 5),
        1 => i128::from(mixed(seed + 1) % 5) - most,
        _ => i128::from(mixed(seed + 1)) * i128::from(mixed(seed + 2) as i64),
    };
    let within = |most: i128| move |v: i256| v.wrapping_abs() <= i256::from_i128(most);
    let full = DataType::Decimal128(DECIMAL128_MAX_PRECISION, 2);
    check::<Decimal128Type>(&full, value, i256::from_i128, within(most))?;
    // Sums that leave their type long before they leave their number.
    let narrow = DataType::Decimal128(20, 4);
    let most = 10_i128.pow(20) - 1;
    let value = move |seed: u64| match mixed(seed) % 2 {
        0 => most - i128::from(mixed(seed + 1) % 5),
        _ => i128::from(mixed(seed + 1) % 5) - most,
    };
    check::<Decimal128Type>(&narrow, value, i256::from_i128, within(most))
}

/// What is taken away again leaves what was there.
#[test]
fn a_window_gives_back_what_it_took() -> Result<()> {
    let mut one = one::<Decimal128Type>(sum_type(DataType::Decimal128(38, 0)))?;
    let most = 10_i128.pow(38) - 1;
    let values = |values: Vec<i128>| -> Result<[ArrayRef; 1]> {
        let values = arrow::array::Decimal128Array::from(values);
        Ok([Arc::new(values.with_precision_and_scale(38, 0)?)])
    };
    one.update_batch(&values(vec![most, most, most, 5])?)?;
    assert!(one.evaluate().is_err());
    one.retract_batch(&values(vec![most, most])?)?;
    assert!(one.evaluate().is_err());
    one.retract_batch(&values(vec![most])?)?;
    assert_eq!(one.evaluate()?, ScalarValue::Decimal128(Some(5), 38, 0));
    one.retract_batch(&values(vec![5])?)?;
    assert_eq!(one.evaluate()?, ScalarValue::Decimal128(None, 38, 0));
    Ok(())
}
