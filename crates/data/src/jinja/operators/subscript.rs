//! Attributes, items and slices, as jinja2's `getattr` and `getitem` look them up.

use minijinja::{Error, State, Value};

use crate::jinja::limits::{self, charge};
use crate::jinja::registry::{is_forbidden, methods_of};
use crate::jinja::types::{
    BoundMethod, Generator, Range, Tuple, Type, fail, index_of, integer, list, number_of, string,
    type_name, type_of,
};
use crate::jinja::{text, types};

/// `object.name`: a method before an item.
pub(in crate::jinja) fn attribute(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    let (object, name) = (&operands[0], operands[1].as_str().unwrap_or_default());
    match own_attribute(object, name)? {
        Some(value) => Ok(value),
        None => object.get_attr(name),
    }
}

/// `object[key]`: an item before a method.
pub(in crate::jinja) fn item(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    get_item(&operands[0], &operands[1])
}

/// An attribute that belongs to the type and is no item.
pub(in crate::jinja) fn own_attribute(object: &Value, name: &str) -> Result<Option<Value>, Error> {
    if object.is_undefined() {
        return fail(format!("an undefined value has no attribute `{name}`"));
    }
    if is_forbidden(name) {
        return fail(format!("the attribute `{name}` is not allowed in a template"));
    }
    if let Type::Tuple(_) = type_of(object)
        && let value = object.get_attr(name)?
        && !value.is_undefined()
    {
        return Ok(Some(value));
    }
    if !methods_of(object).contains(&name) {
        return Ok(None);
    }
    if object.is_number() || matches!(type_of(object), Type::Bool(_)) {
        return fail(format!("the attribute `{name}` of a number is not supported"));
    }
    Ok(Some(Value::from_object(BoundMethod { object: object.clone(), name: name.to_owned() })))
}

pub(in crate::jinja) fn get_item(object: &Value, key: &Value) -> Result<Value, Error> {
    if let Some(found) = item_of(object, key)? {
        return Ok(found);
    }
    match key.as_str() {
        Some(name) => Ok(own_attribute(object, name)?.unwrap_or(Value::UNDEFINED)),
        None => Ok(Value::UNDEFINED),
    }
}

/// A key by which a dictionary finds what Python finds: there, true is 1, and 1.0 is 1.
pub(in crate::jinja) fn as_key(key: &Value) -> Value {
    match type_of(key) {
        Type::Bool(value) => Value::from(i64::from(value)),
        #[expect(clippy::cast_possible_truncation, reason = "the bounds are checked")]
        Type::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => {
            Value::from(value as i64)
        }
        _ => key.clone(),
    }
}

fn item_of(object: &Value, key: &Value) -> Result<Option<Value>, Error> {
    match type_of(object) {
        Type::Undefined => fail("an undefined value has no items"),
        Type::Dict(dict) => {
            if matches!(type_of(key), Type::Tuple(_)) {
                limits::check_depth(key, 0)?;
            }
            Ok(dict.get_value(&as_key(key)))
        }
        Type::Str(text) => {
            let Some(index) = position(key, || text::length(text)) else { return Ok(None) };
            charge(if text.is_ascii() { 0 } else { text.len() })?;
            let at = text::byte_of(text, index);
            Ok(text[at..].chars().next().map(Value::from))
        }
        Type::List | Type::Tuple(_) | Type::Range(_) => {
            let Some(index) = position(key, || object.len().unwrap_or(0)) else { return Ok(None) };
            Ok(Some(object.get_item_by_index(index)?).filter(|item| !item.is_undefined()))
        }
        Type::Other(_) if key.as_str().is_some() => Ok(Some(object.get_item(key)?)),
        _ => Ok(None),
    }
}

/// The place that an index means; none if it is no integer or there is no such place.
fn position(key: &Value, length: impl FnOnce() -> usize) -> Option<usize> {
    let index = match number_of(key)? {
        types::Number::Int(index) => i64::try_from(index).ok()?,
        types::Number::Float(_) => return None,
    };
    let length = length();
    let index = if index < 0 {
        length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?
    } else {
        usize::try_from(index).ok()?
    };
    (index < length).then_some(index)
}

/// `object[start:stop:step]`.
pub(in crate::jinja) fn slice(_: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    let [object, start, stop, step] = operands else { return fail("a slice has three parts") };
    let part = |value: &Value, what| {
        if value.is_none() { Ok(None) } else { index_of(value, what).map(Some) }
    };
    let (start, stop) = (part(start, "the start of a slice")?, part(stop, "the stop of a slice")?);
    let step = part(step, "the step of a slice")?.unwrap_or(1);
    if step == 0 {
        return fail("the step of a slice is 0");
    }
    match type_of(object) {
        Type::Str(text) => slice_str(text, start, stop, step),
        Type::List => {
            let length = object.len().unwrap_or(0);
            let at = |index| object.get_item_by_index(index);
            let places = places(length, start, stop, step);
            limits::charge_items(places.count)?;
            list(places.indices().map(at).collect::<Result<_, _>>()?)
        }
        Type::Tuple(tuple) => {
            let places = places(tuple.items.len(), start, stop, step);
            limits::charge_items(places.count)?;
            Tuple::value(places.indices().map(|index| tuple.items[index].clone()).collect())
        }
        Type::Range(range) => {
            let places = places(range.length, start, stop, step);
            let at = |place: i64| range.start.saturating_add(range.step.saturating_mul(place));
            let step = range.step.saturating_mul(places.step);
            Ok(Value::from_object(Range {
                start: at(places.first),
                stop: at(places.last),
                step,
                length: places.count,
            }))
        }
        Type::Undefined => fail("an undefined value is sliced"),
        _ => fail(format!("a value of type {} cannot be sliced", type_name(object))),
    }
}

fn slice_str(text: &str, start: Option<i64>, stop: Option<i64>, step: i64) -> Result<Value, Error> {
    charge(text.len())?;
    if text.is_ascii() {
        let places = places(text.len(), start, stop, step);
        if step == 1 {
            let first = usize::try_from(places.first).unwrap_or(0).min(text.len());
            return Ok(Value::from(&text[first..first + places.count]));
        }
        return string(
            places.indices().map(|index| char::from(text.as_bytes()[index])).collect::<String>(),
        );
    }
    let characters: Vec<char> = text.chars().collect();
    string(
        places(characters.len(), start, stop, step)
            .indices()
            .map(|index| characters[index])
            .collect::<String>(),
    )
}

/// The places of a slice: the first, the one before which it ends, the distance, and how many.
struct Places {
    first: i64,
    last: i64,
    step: i64,
    count: usize,
}

impl Places {
    fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        let place = |number: usize| {
            self.first.wrapping_add(self.step.wrapping_mul(number.cast_signed() as i64))
        };
        (0..self.count).filter_map(move |number| usize::try_from(place(number)).ok())
    }
}

/// `slice.indices` of Python.
fn places(length: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> Places {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |index: i64| {
        (if index < 0 { index.saturating_add(length) } else { index }).clamp(lowest, highest)
    };
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (first, last) = (start.map_or(first, clamp), stop.map_or(last, clamp));
    let distance = if step > 0 { last - first } else { first - last };
    let count =
        if distance <= 0 { 0 } else { (distance.unsigned_abs() - 1) / step.unsigned_abs() + 1 };
    Places { first, last, step, count: usize::try_from(count).unwrap_or(0) }
}

/// `reversed(value)`.
pub(in crate::jinja) fn reversed(value: &Value) -> Result<Value, Error> {
    let mut items = types::items_of(value)?;
    items.reverse();
    Ok(Generator::value(items))
}

/// `len(value)`.
pub(in crate::jinja) fn length(value: &Value) -> Result<Value, Error> {
    let length = match type_of(value) {
        Type::Str(text) => {
            charge(text.len())?;
            text::length(text)
        }
        Type::Undefined => 0,
        Type::List | Type::Tuple(_) | Type::Dict(_) | Type::View(_) | Type::Range(_) => {
            value.len().unwrap_or(0)
        }
        _ => return fail(format!("a value of type {} has no length", type_name(value))),
    };
    Ok(integer(length as i128))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(length: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> Vec<usize> {
        places(length, start, stop, step).indices().collect()
    }

    #[test]
    fn slices_have_the_places_of_python() {
        assert_eq!(indices(5, None, None, 2), [0, 2, 4]);
        assert_eq!(indices(5, None, None, -1), [4, 3, 2, 1, 0]);
        assert_eq!(indices(5, Some(-3), Some(-1), 1), [2, 3]);
        assert_eq!(indices(5, Some(10), Some(-10), -2), [4, 2, 0]);
        assert_eq!(indices(3, None, None, i64::MIN), [2]);
        assert_eq!(indices(0, None, None, -1), [0_usize; 0]);
    }
}
