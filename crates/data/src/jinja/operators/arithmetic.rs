//! Numbers: integers of 127 bits, beyond which an operation is refused, and floating-point numbers.

use minijinja::{Error, Value};

use crate::jinja::types::{Number, fail, integer, number_of, type_name};

/// Applies a binary operator from the left.
pub(in crate::jinja) fn combine(
    operands: &[Value],
    apply: impl Fn(&Value, &Value) -> Result<Value, Error>,
) -> Result<Value, Error> {
    let mut result = operands[0].clone();
    for operand in &operands[1..] {
        result = apply(&result, operand)?;
    }
    Ok(result)
}

pub(in crate::jinja) fn unsupported<T>(
    operator: &str,
    left: &Value,
    right: &Value,
) -> Result<T, Error> {
    let undefined = left.is_undefined() || right.is_undefined();
    let what = if undefined { "an undefined value is used" } else { "unsupported types" };
    fail(format!("{what}: {} {operator} {}", type_name(left), type_name(right)))
}

fn overflow<T>(operator: &str) -> Result<T, Error> {
    fail(format!("the result of `{operator}` has more than 127 bits, which is not supported"))
}

/// An operator on two numbers, of integers and of floating-point numbers.
pub(in crate::jinja) fn numbers(
    operator: &str,
    left: &Value,
    right: &Value,
    of_integers: impl Fn(i128, i128) -> Option<i128>,
    of_floats: impl Fn(f64, f64) -> Option<f64>,
) -> Result<Value, Error> {
    let (Some(a), Some(b)) = (number_of(left), number_of(right)) else {
        return unsupported(operator, left, right);
    };
    let divides = matches!(operator, "//" | "%");
    if divides && matches!(b, Number::Int(0) | Number::Float(0.0)) {
        return fail(format!("division by zero: `{operator}`"));
    }
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => {
            of_integers(a, b).map_or_else(|| overflow(operator), |value| Ok(integer(value)))
        }
        (a, b) => of_floats(float(a), float(b))
            .map_or_else(|| overflow(operator), |value| Ok(Value::from(value))),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "as Python's float() of an integer, which rounds to the nearest"
)]
fn float(number: Number) -> f64 {
    match number {
        Number::Int(value) => value as f64,
        Number::Float(value) => value,
    }
}

pub(in crate::jinja) fn divide(left: &Value, right: &Value) -> Result<Value, Error> {
    let (Some(a), Some(b)) = (number_of(left), number_of(right)) else {
        return unsupported("/", left, right);
    };
    let inexact =
        |number: &Number| matches!(number, Number::Int(value) if value.unsigned_abs() > 1 << 53);
    if inexact(&a) || inexact(&b) {
        return fail("`/` of integers beyond 2^53 is not supported");
    }
    let (a, b) = (float(a), float(b));
    if b == 0.0 { fail("division by zero: `/`") } else { Ok(Value::from(a / b)) }
}

/// Rounds towards minus infinity.
pub(in crate::jinja) fn floor_quotient(a: i128, b: i128) -> Option<i128> {
    let quotient = a.checked_div(b)?;
    let inexact = a % b != 0 && (a < 0) != (b < 0);
    Some(quotient - i128::from(inexact))
}

/// Has the sign of the divisor.
pub(in crate::jinja) fn remainder(a: i128, b: i128) -> Option<i128> {
    let remainder = a.checked_rem(b)?;
    let other_sign = remainder != 0 && (remainder < 0) != (b < 0);
    Some(if other_sign { remainder + b } else { remainder })
}

pub(in crate::jinja) fn remainder_float(a: f64, b: f64) -> Option<f64> {
    let remainder = a % b;
    if remainder == 0.0 {
        return Some(0.0_f64.copysign(b));
    }
    Some(if (remainder < 0.0) == (b < 0.0) { remainder } else { remainder + b })
}

/// `float.__floordiv__`.
pub(in crate::jinja) fn floor_quotient_float(a: f64, b: f64) -> Option<f64> {
    let quotient = (a - remainder_float(a, b)?) / b;
    if quotient == 0.0 {
        return Some(0.0_f64.copysign(a / b));
    }
    let floor = quotient.floor();
    Some(if quotient - floor > 0.5 { floor + 1.0 } else { floor })
}

pub(in crate::jinja) fn power(left: &Value, right: &Value) -> Result<Value, Error> {
    let (Some(a), Some(b)) = (number_of(left), number_of(right)) else {
        return unsupported("**", left, right);
    };
    if let (Number::Int(base), Number::Int(exponent)) = (&a, &b)
        && *exponent >= 0
    {
        let exponent = u32::try_from(*exponent).ok();
        let value = exponent.and_then(|exponent| base.checked_pow(exponent));
        return value.map_or_else(|| overflow("**"), |value| Ok(integer(value)));
    }
    let (a, b) = (float(a), float(b));
    let value = a.powf(b);
    if value.is_finite() {
        Ok(Value::from(value))
    } else {
        fail("the result of `**` is no finite number")
    }
}

pub(in crate::jinja) fn negative(operand: &Value) -> Result<Value, Error> {
    match number_of(operand) {
        Some(Number::Int(value)) => {
            value.checked_neg().map_or_else(|| overflow("-"), |value| Ok(integer(value)))
        }
        Some(Number::Float(value)) => Ok(Value::from(-value)),
        None => fail(format!("bad operand of `-`: {}", type_name(operand))),
    }
}

pub(in crate::jinja) fn positive(operand: &Value) -> Result<Value, Error> {
    match number_of(operand) {
        Some(Number::Int(value)) => Ok(integer(value)),
        Some(Number::Float(value)) => Ok(Value::from(value)),
        None => fail(format!("bad operand of `+`: {}", type_name(operand))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_rounds_down_and_the_remainder_has_the_divisors_sign() {
        for (a, b, quotient, rest) in
            [(7, 2, 3, 1), (-7, 2, -4, 1), (7, -2, -4, -1), (-7, -2, 3, -1)]
        {
            assert_eq!((floor_quotient(a, b), remainder(a, b)), (Some(quotient), Some(rest)));
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let (a, b, quotient, rest) = (a as f64, b as f64, quotient as f64, rest as f64);
            assert_eq!(
                (floor_quotient_float(a, b), remainder_float(a, b)),
                (Some(quotient), Some(rest))
            );
        }
    }
}
