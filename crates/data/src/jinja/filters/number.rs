//! Filters of numbers.

use minijinja::{Error, State, Value};

use super::attribute::Path;
use crate::jinja::arguments::bind;
use crate::jinja::format_spec::whole;
use crate::jinja::limits::charge_text;
use crate::jinja::operators;
use crate::jinja::text::is_space;
use crate::jinja::types::{
    Number, Type, fail, index_of, integer, items_of, number_of, type_name, type_of,
};

pub(in crate::jinja) fn abs(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [] = bind("abs", &arguments[1..], [])?;
    match number_of(&arguments[0]) {
        Some(Number::Int(value)) if value != i128::MIN => Ok(integer(value.abs())),
        Some(Number::Float(value)) => Ok(Value::from(value.abs())),
        _ => fail(format!("`abs` of {}", type_name(&arguments[0]))),
    }
}

/// `int(default=0, base=10)`.
pub(in crate::jinja) fn int(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [default, base] = bind("int", &arguments[1..], ["default", "base"])?;
    let base = base.map_or(Ok(10), |base| index_of(&base, "`base`"))?;
    let default = default.unwrap_or_else(|| Value::from(0));
    let value = &arguments[0];
    charge_text(value)?;
    if base != 10 && value.as_str().is_some() {
        return fail("`int` of a string with a base other than 10 is not supported");
    }
    match type_of(value) {
        Type::Bool(_) | Type::Int(_) => whole(value),
        Type::Float(number) => {
            if number.is_nan() {
                Ok(default)
            } else {
                whole(value)
            }
        }
        Type::Str(text) => match parse_integer(text)? {
            Some(value) => Ok(integer(value)),
            None => match parse_float(text) {
                Some(number) if number.is_finite() => whole(&Value::from(number)),
                Some(number) if number.is_infinite() => fail("`int` of an infinite number"),
                _ => Ok(default),
            },
        },
        Type::Undefined => fail("`int` of an undefined value"),
        _ => Ok(default),
    }
}

/// What Python's `int(text)` reads; none if that is an error.
fn parse_integer(text: &str) -> Result<Option<i128>, Error> {
    let text = text.trim_matches(is_space);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let well_formed = !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
        && !digits.starts_with('_')
        && !digits.ends_with('_')
        && !digits.contains("__");
    if !well_formed {
        let other_digits = digits.chars().any(|c| !c.is_ascii() && c.is_numeric());
        return if other_digits {
            fail("`int` of digits that are not ASCII is not supported")
        } else {
            Ok(None)
        };
    }
    match text.replace('_', "").parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => fail("`int` of a number of more than 127 bits is not supported"),
    }
}

/// What Python's `float(text)` reads; none if that is an error.
fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let well_formed = !text.is_empty()
        && !text.starts_with('_')
        && !text.ends_with('_')
        && text.bytes().enumerate().all(|(at, byte)| {
            byte != b'_'
                || (text.as_bytes()[at - 1].is_ascii_digit()
                    && text.as_bytes().get(at + 1).is_some_and(u8::is_ascii_digit))
        });
    if well_formed { text.replace('_', "").parse().ok() } else { None }
}

/// `float(default=0.0)`.
pub(in crate::jinja) fn float(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [default] = bind("float", &arguments[1..], ["default"])?;
    let default = default.unwrap_or_else(|| Value::from(0.0));
    let value = &arguments[0];
    charge_text(value)?;
    match (number_of(value), value.as_str()) {
        #[expect(clippy::cast_precision_loss, reason = "as Python's float() of an integer")]
        (Some(Number::Int(value)), _) => Ok(Value::from(value as f64)),
        (Some(Number::Float(value)), _) => Ok(Value::from(value)),
        (None, Some(text)) => Ok(parse_float(text).map_or(default, Value::from)),
        _ if value.is_undefined() => fail("`float` of an undefined value"),
        _ => Ok(default),
    }
}

/// `round(precision=0, method='common')`.
pub(in crate::jinja) fn round(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [precision, method] = bind("round", &arguments[1..], ["precision", "method"])?;
    let precision = precision.map_or(Ok(0), |precision| index_of(&precision, "`precision`"))?;
    let method = method.unwrap_or_else(|| Value::from("common"));
    match (number_of(&arguments[0]), method.as_str()) {
        (Some(Number::Int(value)), Some("common")) if precision >= 0 => Ok(integer(value)),
        (Some(Number::Float(value)), Some("common")) => round_half_even(value, precision),
        (Some(number), Some("ceil" | "floor")) => {
            if !(0..=15).contains(&precision) {
                return fail("`round` with this precision is not supported");
            }
            #[expect(clippy::cast_precision_loss, reason = "as Python's float() of an integer")]
            let value = match number {
                Number::Int(value) => value as f64,
                Number::Float(value) => value,
            };
            let factor = 10_f64.powi(i32::try_from(precision).unwrap_or(0));
            let scaled = value * factor;
            Ok(Value::from(
                if method.as_str() == Some("ceil") { scaled.ceil() } else { scaled.floor() }
                    / factor,
            ))
        }
        (Some(_), Some("common")) => {
            fail("`round` of an integer with a negative precision is not supported")
        }
        (Some(_), _) => fail("the method of `round` is 'common', 'ceil' or 'floor'"),
        _ => fail(format!("`round` of {}", type_name(&arguments[0]))),
    }
}

/// Correct to the last digit, as the decimal digits are those of the exact number.
fn round_half_even(value: f64, precision: i64) -> Result<Value, Error> {
    if !(0..=300).contains(&precision) {
        return fail("`round` with this precision is not supported");
    }
    let decimals = usize::try_from(precision).unwrap_or(0);
    if !value.is_finite() {
        return Ok(Value::from(value));
    }
    Ok(Value::from(format!("{value:.decimals$}").parse::<f64>().unwrap_or(value)))
}

/// `sum(attribute=none, start=0)`.
pub(in crate::jinja) fn sum(state: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [attribute, start] = bind("sum", &arguments[1..], ["attribute", "start"])?;
    let path = attribute
        .filter(|attribute| !attribute.is_none())
        .map(|attribute| Path::from_argument(&attribute))
        .transpose()?;
    let mut total = start.unwrap_or_else(|| Value::from(0));
    if total.as_str().is_some() {
        return fail("`sum` of strings: join them");
    }
    for item in items_of(&arguments[0])? {
        let item = path.as_ref().map_or_else(|| Ok(item.clone()), |path| path.of(&item, None))?;
        total = operators::add(state, &[total, item])?;
    }
    Ok(total)
}
