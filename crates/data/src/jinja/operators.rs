//! Python's operators. Each takes its operands as the arguments of a filter; several operands are
//! combined from the left.

use minijinja::{Error, State, Value};

use super::types::{Type, fail, list, type_name, type_of};
use super::{limits, percent, printing};

pub(super) mod arithmetic;
pub(super) mod compare;
pub(super) mod subscript;

use arithmetic::{combine, unsupported};

/// `a + b + c`.
pub(super) fn add(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    if operands.iter().all(|operand| operand.as_str().is_some() && !operand.is_safe()) {
        return concat_strings(operands.iter().filter_map(Value::as_str));
    }
    combine(operands, add_two)
}

fn concat_strings<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Result<Value, Error> {
    let length = texts.clone().map(str::len).sum();
    limits::charge(length)?;
    let mut joined = String::with_capacity(length);
    joined.extend(texts);
    Ok(Value::from(joined))
}

fn add_two(left: &Value, right: &Value) -> Result<Value, Error> {
    refuse_markup(&[left, right])?;
    match (type_of(left), type_of(right)) {
        (Type::Str(left), Type::Str(right)) => concat_strings([left, right].into_iter()),
        (Type::List, Type::List) => {
            limits::charge_items(left.len().unwrap_or(0) + right.len().unwrap_or(0))?;
            Ok(Value::from(left.try_iter()?.chain(right.try_iter()?).collect::<Vec<Value>>()))
        }
        (Type::Tuple(left), Type::Tuple(right)) => {
            limits::charge_items(left.items.len() + right.items.len())?;
            super::types::Tuple::value([&left.items[..], &right.items[..]].concat())
        }
        _ => arithmetic::numbers("+", left, right, i128::checked_add, |left, right| {
            Some(left + right)
        }),
    }
}

pub(super) fn subtract(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    combine(operands, |left, right| {
        arithmetic::numbers("-", left, right, i128::checked_sub, |left, right| Some(left - right))
    })
}

pub(super) fn multiply(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    combine(operands, |left, right| {
        refuse_markup(&[left, right])?;
        match (type_of(left), type_of(right)) {
            (Type::Str(_) | Type::List | Type::Tuple(_), Type::Int(_) | Type::Bool(_)) => {
                repeat(left, right)
            }
            (Type::Int(_) | Type::Bool(_), Type::Str(_) | Type::List | Type::Tuple(_)) => {
                repeat(right, left)
            }
            _ => arithmetic::numbers("*", left, right, i128::checked_mul, |left, right| {
                Some(left * right)
            }),
        }
    })
}

fn repeat(sequence: &Value, count: &Value) -> Result<Value, Error> {
    let count = usize::try_from(super::types::index_of(count, "a factor")?).unwrap_or(0);
    match type_of(sequence) {
        Type::Str(text) => {
            limits::charge(text.len().saturating_mul(count))?;
            Ok(Value::from(text.repeat(count)))
        }
        Type::Tuple(tuple) => {
            limits::charge_items(tuple.items.len().saturating_mul(count))?;
            super::types::Tuple::value(repeated(&tuple.items, count))
        }
        _ => {
            let items = super::types::items_of(sequence)?;
            limits::charge_items(items.len().saturating_mul(count))?;
            Ok(Value::from(repeated(&items, count)))
        }
    }
}

fn repeated(items: &[Value], count: usize) -> Vec<Value> {
    std::iter::repeat_n(items, count).flatten().cloned().collect()
}

pub(super) fn divide(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    combine(operands, arithmetic::divide)
}

pub(super) fn floor_divide(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    combine(operands, |left, right| {
        arithmetic::numbers(
            "//",
            left,
            right,
            arithmetic::floor_quotient,
            arithmetic::floor_quotient_float,
        )
    })
}

/// `a % b`: the remainder of numbers, or a string with its arguments put in.
pub(super) fn modulo(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    combine(operands, |left, right| {
        refuse_markup(&[left])?;
        match left.as_str() {
            Some(format) => percent::format(format, right),
            None => arithmetic::numbers(
                "%",
                left,
                right,
                arithmetic::remainder,
                arithmetic::remainder_float,
            ),
        }
    })
}

pub(super) fn power(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    combine(operands, arithmetic::power)
}

pub(super) fn negative(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    arithmetic::negative(&operands[0])
}

pub(super) fn positive(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    arithmetic::positive(&operands[0])
}

/// `a ~ b ~ c`.
pub(super) fn concat(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    let length = operands.iter().filter_map(Value::as_str).map(str::len).sum();
    limits::charge(length)?;
    let mut joined = String::with_capacity(length);
    for operand in operands {
        match operand.as_str() {
            Some(text) => joined.push_str(text),
            None => joined.push_str(&printing::str(operand)?),
        }
    }
    Ok(Value::from(joined))
}

/// A text from `|safe` or `|escape` escapes what is joined to it in Python.
pub(super) fn refuse_markup(operands: &[&Value]) -> Result<(), Error> {
    if operands.iter().any(|operand| operand.is_safe()) {
        return fail(
            "an operation on text that is marked by `|safe` or `|escape` is not supported",
        );
    }
    Ok(())
}

/// `(a, b)`.
pub(super) fn tuple(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    let items = super::types::items_of(&operands[0])?;
    limits::check_items(&items)?;
    super::types::Tuple::value(items)
}

/// `{key: value}` from a list of keys and values.
pub(super) fn dict(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    let items = super::types::items_of(&operands[0])?;
    let pairs = items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
    dict_of(pairs.collect())
}

pub(super) fn dict_of(pairs: Vec<(Value, Value)>) -> Result<Value, Error> {
    limits::charge_object(pairs.len().saturating_mul(PLACES_OF_PAIR))?;
    for (key, value) in &pairs {
        check_key(key)?;
        limits::check_depth(value, 1)?;
    }
    Ok(pairs.into_iter().collect())
}

/// Values whose room a pair takes in a dictionary, with the table by which its key is found.
const PLACES_OF_PAIR: usize = 4;

/// What can change cannot be looked up in a dictionary. What is looked up is read as a whole, which
/// is counted.
pub(super) fn check_hashable(key: &Value) -> Result<(), Error> {
    match type_of(key) {
        Type::List | Type::Dict(_) => {
            fail(format!("a value of type {} is not hashable", type_name(key)))
        }
        Type::Tuple(_) => limits::check_depth(key, 0),
        Type::Str(text) => limits::charge(text.len()),
        _ => Ok(()),
    }
}

/// Only what cannot change is a key.
fn check_key(key: &Value) -> Result<(), Error> {
    check_hashable(key)?;
    match type_of(key) {
        Type::None | Type::Int(_) | Type::Str(_) => Ok(()),
        Type::Tuple(tuple) => tuple.items.iter().try_for_each(check_key),
        _ => fail(format!(
            "a value of type {} is not supported as a key of a dictionary",
            type_name(key)
        )),
    }
}

/// What a loop runs over, with the steps of each iteration: an error where Python has nothing to
/// iterate over.
pub(super) fn iterate(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    let (items, steps) = (&operands[0], operands[1].as_usize().unwrap_or(1));
    match type_of(items) {
        Type::None | Type::Bool(_) | Type::Int(_) | Type::Float(_) | Type::Other(_) => {
            return fail(format!("a value of type {} is not iterable", type_name(items)));
        }
        Type::Str(text) => limits::charge(text.len())?,
        _ => {}
    }
    Ok(super::types::Counted::value(items.try_iter()?, items.len(), steps as u64))
}

/// Counts the steps of a macro's body.
pub(super) fn step(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    limits::step(operands[0].as_usize().unwrap_or(1) as u64)?;
    Ok(Value::UNDEFINED)
}

/// Counts what the engine keeps of a macro: a table, and an entry for each name that it may read.
pub(super) fn closure(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    const TABLE: usize = 1024;
    const NAME: usize = 128;
    let names = operands[0].as_usize().unwrap_or(1);
    limits::charge(names.saturating_mul(NAME).saturating_add(TABLE))?;
    Ok(Value::UNDEFINED)
}

/// A value that may be kept from one iteration to the next: its nesting is bounded.
pub(super) fn bounded(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    limits::check_depth(&operands[0], 0)?;
    Ok(operands[0].clone())
}

/// What `*` or `**` spreads over arguments; for a macro with defaults, undefined items are marked.
pub(super) fn splat(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    let value = &operands[0];
    let marked = operands.len() > 1;
    match type_of(value) {
        Type::Dict(dict) => {
            limits::charge_items(dict.enumerator_len().unwrap_or(0))?;
            let has_undefined =
                super::types::pairs_of(dict).iter().any(|(_, value)| value.is_undefined());
            if marked && has_undefined {
                return fail(
                    "undefined arguments by `**` of a macro with defaults are not supported",
                );
            }
            Ok(value.clone())
        }
        _ => {
            let items = super::types::items_of(value)?;
            list(if marked { items.iter().map(mark).collect() } else { items })
        }
    }
}

fn mark(value: &Value) -> Value {
    if value.is_undefined() {
        Value::from_object(super::types::MarkedUndefined)
    } else {
        value.clone()
    }
}

pub(super) fn mark_undefined(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    Ok(mark(&operands[0]))
}

pub(super) fn unmark_undefined(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    let marked = operands[0].downcast_object_ref::<super::types::MarkedUndefined>().is_some();
    Ok(if marked { Value::UNDEFINED } else { operands[0].clone() })
}
