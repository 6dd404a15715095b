//! Equality, order and membership.

use std::cmp::Ordering;

use minijinja::{Error, State, Value};

use super::unsupported;
use crate::jinja::limits::{MAX_DEPTH, charge, charge_items};
use crate::jinja::types::{Number, Type, fail, number_of, pairs_of, type_name, type_of};

/// Bytes that looking at an item of a sequence counts for.
pub(in crate::jinja) const COMPARISON: usize = 8;

pub(in crate::jinja) fn equal(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    Ok(Value::from(equals(&operands[0], &operands[1])?))
}

pub(in crate::jinja) fn unequal(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    Ok(Value::from(!equals(&operands[0], &operands[1])?))
}

pub(in crate::jinja) fn less(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    ordered("<", &operands[0], &operands[1]).map(Value::from)
}

pub(in crate::jinja) fn less_or_equal(
    _: &State<'_, '_>,
    operands: &[Value],
) -> Result<Value, Error> {
    ordered("<=", &operands[0], &operands[1]).map(Value::from)
}

pub(in crate::jinja) fn greater(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    ordered(">", &operands[0], &operands[1]).map(Value::from)
}

pub(in crate::jinja) fn greater_or_equal(
    _: &State<'_, '_>,
    operands: &[Value],
) -> Result<Value, Error> {
    ordered(">=", &operands[0], &operands[1]).map(Value::from)
}

pub(in crate::jinja) fn is_in(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    Ok(Value::from(contains(&operands[1], &operands[0])?))
}

pub(in crate::jinja) fn is_not_in(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    Ok(Value::from(!contains(&operands[1], &operands[0])?))
}

/// `a < b < c`, as the value, an operator, a value, an operator, …
pub(in crate::jinja) fn chain(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    let mut left = &operands[0];
    for pair in operands[1..].chunks_exact(2) {
        let right = &pair[1];
        let holds = match pair[0].as_str().unwrap_or_default() {
            "==" => equals(left, right)?,
            "!=" => !equals(left, right)?,
            "in" => contains(right, left)?,
            "not in" => !contains(right, left)?,
            operator => ordered(operator, left, right)?,
        };
        if !holds {
            return Ok(Value::from(false));
        }
        left = right;
    }
    Ok(Value::from(true))
}

/// `left == right`.
pub(in crate::jinja) fn equals(left: &Value, right: &Value) -> Result<bool, Error> {
    equals_at(left, right, 0)
}

fn equals_at(left: &Value, right: &Value, depth: usize) -> Result<bool, Error> {
    if depth > MAX_DEPTH {
        return fail("values that are nested too deeply are compared");
    }
    if let (Some(a), Some(b)) = (natural(left), natural(right)) {
        return Ok(a == b);
    }
    charge(COMPARISON)?;
    if let (Some(a), Some(b)) = (number_of(left), number_of(right)) {
        return Ok(compare_numbers(&a, &b) == Some(Ordering::Equal));
    }
    match (type_of(left), type_of(right)) {
        (Type::Str(a), Type::Str(b)) => {
            charge(if a.len() == b.len() { a.len() } else { 0 })?;
            Ok(a == b)
        }
        (Type::None, Type::None) | (Type::Undefined, Type::Undefined) => Ok(true),
        (Type::List, Type::List)
        | (Type::Tuple(_), Type::Tuple(_))
        | (Type::Range(_), Type::Range(_)) => equal_items(left, right, depth),
        (Type::Dict(a), Type::Dict(b)) => {
            if a.enumerator_len() != b.enumerator_len() {
                return Ok(false);
            }
            charge_items(a.enumerator_len().unwrap_or(0))?;
            for (key, value) in pairs_of(a) {
                match b.get_value(&key) {
                    Some(other) if equals_at(&value, &other, depth + 1)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Type::View(_), Type::View(_))
        | (Type::Generator(_), Type::Generator(_))
        | (Type::Other(_), Type::Other(_)) => {
            fail(format!("comparing values of type {} is not supported", type_name(left)))
        }
        _ => Ok(false),
    }
}

fn equal_items(left: &Value, right: &Value, depth: usize) -> Result<bool, Error> {
    if left.len() != right.len() {
        return Ok(false);
    }
    charge_items(left.len().unwrap_or(0))?;
    for (a, b) in left.try_iter()?.zip(right.try_iter()?) {
        if !equals_at(&a, &b, depth + 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The usual case: an index or a count.
fn natural(value: &Value) -> Option<usize> {
    if value.is_integer() { value.as_usize() } else { None }
}

/// Exact for an integer and a floating-point number, too.
fn compare_numbers(a: &Number, b: &Number) -> Option<Ordering> {
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => Some(a.cmp(b)),
        (Number::Float(a), Number::Float(b)) => a.partial_cmp(b),
        (Number::Int(a), Number::Float(b)) => compare_exactly(*a, *b),
        (Number::Float(a), Number::Int(b)) => compare_exactly(*b, *a).map(Ordering::reverse),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a float beyond the integers saturates, and its sign decides"
)]
fn compare_exactly(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    let whole = b.trunc() as i128;
    Some(a.cmp(&whole).then_with(|| 0.0.partial_cmp(&b.fract()).unwrap_or(Ordering::Equal)))
}

fn ordered(operator: &str, left: &Value, right: &Value) -> Result<bool, Error> {
    let Some(order) = order_at(operator, left, right, 0)? else { return Ok(false) };
    Ok(match operator {
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    })
}

/// The order of two values that Python can compare; none for NaN.
pub(in crate::jinja) fn order(left: &Value, right: &Value) -> Result<Option<Ordering>, Error> {
    order_at("<", left, right, 0)
}

fn order_at(
    operator: &str,
    left: &Value,
    right: &Value,
    depth: usize,
) -> Result<Option<Ordering>, Error> {
    if depth > MAX_DEPTH {
        return fail("values that are nested too deeply are compared");
    }
    if let (Some(a), Some(b)) = (natural(left), natural(right)) {
        return Ok(Some(a.cmp(&b)));
    }
    charge(COMPARISON)?;
    if let (Some(a), Some(b)) = (number_of(left), number_of(right)) {
        return Ok(compare_numbers(&a, &b));
    }
    match (type_of(left), type_of(right)) {
        (Type::Str(a), Type::Str(b)) => {
            charge(a.len().min(b.len()))?;
            Ok(Some(a.cmp(b)))
        }
        (Type::List, Type::List) | (Type::Tuple(_), Type::Tuple(_)) => {
            charge_items(left.len().min(right.len()).unwrap_or(0))?;
            for (a, b) in left.try_iter()?.zip(right.try_iter()?) {
                if !equals_at(&a, &b, depth + 1)? {
                    return order_at(operator, &a, &b, depth + 1);
                }
            }
            Ok(Some(left.len().cmp(&right.len())))
        }
        _ => unsupported(operator, left, right),
    }
}

/// `item in container`.
pub(in crate::jinja) fn contains(container: &Value, item: &Value) -> Result<bool, Error> {
    match type_of(container) {
        Type::Str(text) => match item.as_str() {
            Some(part) => {
                charge(text.len() + part.len())?;
                Ok(text.contains(part))
            }
            None => fail(format!("`in` of a string takes a string and not {}", type_name(item))),
        },
        Type::Undefined => Ok(false),
        Type::Dict(dict) => {
            super::check_hashable(item)?;
            Ok(dict.get_value(&super::subscript::as_key(item)).is_some())
        }
        Type::List | Type::Tuple(_) | Type::Range(_) | Type::View(_) | Type::Generator(_) => {
            for value in container.try_iter()? {
                charge(COMPARISON)?;
                if equals(&value, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => fail(format!("`in` of a value of type {} is not supported", type_name(container))),
    }
}
