//! Tests: what stands after `is` (`jinja2/tests.py`).

use minijinja::{Error, State, Value};

use super::arguments::{bind, required};
use super::operators::{arithmetic, compare};
use super::types::{Type, fail, type_of};
use super::{methods, printing, registry};

fn other(name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [other] = bind(name, &arguments[1..], ["other"])?;
    required(name, "other", other)
}

/// The value of a test that takes nothing else.
fn alone(arguments: &[Value]) -> Result<&Value, Error> {
    match arguments {
        [value] => Ok(value),
        _ => fail("the test takes no arguments"),
    }
}

macro_rules! of_type {
    ($($name:ident => $pattern:pat),* $(,)?) => {
        $(pub(super) fn $name(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
            Ok(matches!(type_of(alone(arguments)?), $pattern))
        })*
    };
}

of_type! {
    undefined => Type::Undefined,
    boolean => Type::Bool(_),
    is_true => Type::Bool(true),
    is_false => Type::Bool(false),
    integer => Type::Int(_),
    float => Type::Float(_),
    number => Type::Int(_) | Type::Float(_) | Type::Bool(_),
    string => Type::Str(_),
    mapping => Type::Dict(_),
    none => Type::None,
    sequence => Type::Str(_) | Type::List | Type::Tuple(_) | Type::Dict(_) | Type::Range(_) | Type::Undefined,
    iterable => Type::Str(_)
        | Type::List
        | Type::Tuple(_)
        | Type::Dict(_)
        | Type::Range(_)
        | Type::View(_)
        | Type::Generator(_)
        | Type::Undefined
        | Type::Other("LoopContext"),
}

pub(super) fn defined(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    Ok(!alone(arguments)?.is_undefined())
}

pub(super) fn callable(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    match type_of(alone(arguments)?) {
        Type::Other("function" | "method" | "Macro" | "LoopContext") | Type::Undefined => Ok(true),
        Type::Other(name) => {
            fail(format!("the test `callable` of a value of type {name} is not supported"))
        }
        _ => Ok(false),
    }
}

pub(super) fn escaped(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    Ok(alone(arguments)?.is_safe())
}

/// Identity can be told for what exists only once.
pub(super) fn same_as(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    let (value, other) = (&arguments[0], other("sameas", arguments)?);
    match (type_of(value), type_of(&other)) {
        (Type::None, Type::None) => Ok(true),
        (Type::Bool(a), Type::Bool(b)) => Ok(a == b),
        (Type::None | Type::Bool(_), _) | (_, Type::None | Type::Bool(_)) => Ok(false),
        _ => fail("the test `sameas` of anything but none, true and false is not supported"),
    }
}

pub(super) fn equal(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    compare::equals(&arguments[0], &other("eq", arguments)?)
}

pub(super) fn unequal(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    Ok(!compare::equals(&arguments[0], &other("ne", arguments)?)?)
}

fn ordered(
    operator: fn(&State<'_, '_>, &[Value]) -> Result<Value, Error>,
    name: &str,
    state: &State<'_, '_>,
    arguments: &[Value],
) -> Result<bool, Error> {
    Ok(operator(state, &[arguments[0].clone(), other(name, arguments)?])?.is_true())
}

pub(super) fn less(state: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    ordered(compare::less, "lt", state, arguments)
}

pub(super) fn less_or_equal(state: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    ordered(compare::less_or_equal, "le", state, arguments)
}

pub(super) fn greater(state: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    ordered(compare::greater, "gt", state, arguments)
}

pub(super) fn greater_or_equal(state: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    ordered(compare::greater_or_equal, "ge", state, arguments)
}

pub(super) fn is_in(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    compare::contains(&other("in", arguments)?, &arguments[0])
}

fn divides(value: &Value, divisor: &Value, rest: i64) -> Result<bool, Error> {
    let remainder = arithmetic::numbers(
        "%",
        value,
        divisor,
        arithmetic::remainder,
        arithmetic::remainder_float,
    )?;
    compare::equals(&remainder, &Value::from(rest))
}

pub(super) fn divisible_by(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    divides(&arguments[0], &other("divisibleby", arguments)?, 0)
}

pub(super) fn even(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    divides(alone(arguments)?, &Value::from(2), 0)
}

pub(super) fn odd(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    divides(alone(arguments)?, &Value::from(2), 1)
}

pub(super) fn lower(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    Ok(methods::character::is_lower(&printing::str(alone(arguments)?)?))
}

pub(super) fn upper(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    Ok(methods::character::is_upper(&printing::str(alone(arguments)?)?))
}

/// Filters of jinja2 that are not supported are known to it.
const OTHER_FILTERS: [&str; 8] = [
    "filesizeformat",
    "forceescape",
    "pprint",
    "random",
    "striptags",
    "urlize",
    "wordwrap",
    "xmlattr",
];

pub(super) fn is_filter(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    let name = alone(arguments)?.as_str().unwrap_or_default();
    Ok(registry::is_filter(name) || OTHER_FILTERS.contains(&name))
}

pub(super) fn is_test(_: &State<'_, '_>, arguments: &[Value]) -> Result<bool, Error> {
    let name = alone(arguments)?.as_str().unwrap_or_default();
    Ok(registry::is_test(name) || ["==", "!=", "<", "<=", ">", ">="].contains(&name))
}
