//! Filters of sequences as a whole.

use minijinja::{Error, State, Value};

use super::attribute::Path;
use crate::jinja::arguments::{bind, is_true};
use crate::jinja::growing::Growing;
use crate::jinja::operators::subscript;
use crate::jinja::printing;
use crate::jinja::types::{
    self, Generator, Tuple, Type, fail, items_of, pairs_of, type_name, type_of,
};

pub(in crate::jinja) fn length(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [] = bind("length", &arguments[1..], [])?;
    subscript::length(&arguments[0])
}

pub(in crate::jinja) fn default(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [default, boolean] = bind("default", &arguments[1..], ["default_value", "boolean"])?;
    let value = &arguments[0];
    let replaced = value.is_undefined() || (is_true(boolean.as_ref(), false) && !value.is_true());
    Ok(if replaced { default.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

pub(in crate::jinja) fn first(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [] = bind("first", &arguments[1..], [])?;
    let value = &arguments[0];
    match type_of(value) {
        Type::Generator(generator) => Ok(generator.next().unwrap_or(Value::UNDEFINED)),
        Type::Str(text) => Ok(text.chars().next().map_or(Value::UNDEFINED, Value::from)),
        Type::List | Type::Tuple(_) | Type::Range(_) | Type::Dict(_) | Type::View(_) => {
            Ok(value.try_iter()?.next().unwrap_or(Value::UNDEFINED))
        }
        _ => Ok(items_of(value)?.into_iter().next().unwrap_or(Value::UNDEFINED)),
    }
}

pub(in crate::jinja) fn last(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [] = bind("last", &arguments[1..], [])?;
    let value = &arguments[0];
    match type_of(value) {
        Type::Str(text) => Ok(text.chars().next_back().map_or(Value::UNDEFINED, Value::from)),
        Type::List | Type::Tuple(_) | Type::Range(_) => match value.len() {
            None | Some(0) => Ok(Value::UNDEFINED),
            Some(length) => value.get_item_by_index(length - 1),
        },
        Type::Dict(_) | Type::View(_) => Ok(items_of(value)?.pop().unwrap_or(Value::UNDEFINED)),
        Type::Undefined => Ok(Value::UNDEFINED),
        _ => fail(format!("a value of type {} has no last item", type_name(value))),
    }
}

pub(in crate::jinja) fn list(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [] = bind("list", &arguments[1..], [])?;
    types::list(items_of(&arguments[0])?)
}

/// The pairs of a dictionary; none of an undefined value.
pub(in crate::jinja) fn items(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [] = bind("items", &arguments[1..], [])?;
    match type_of(&arguments[0]) {
        Type::Undefined => Ok(Generator::value(Vec::new())),
        Type::Dict(dict) => {
            let pairs = pairs_of(dict).into_iter().map(Tuple::pair);
            Ok(Generator::value(pairs.collect::<Result<_, _>>()?))
        }
        _ => fail(format!("`items` takes a dictionary and not {}", type_name(&arguments[0]))),
    }
}

pub(in crate::jinja) fn join(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [separator, attribute] = bind("join", &arguments[1..], ["d", "attribute"])?;
    let mut items = items_of(&arguments[0])?;
    if let Some(attribute) = attribute.filter(|attribute| !attribute.is_none()) {
        let path = Path::from_argument(&attribute)?;
        items = items.iter().map(|item| path.of(item, None)).collect::<Result<_, _>>()?;
    }
    let separator =
        separator.map_or_else(|| Ok(String::new()), |separator| printing::str(&separator))?;
    let mut joined = Growing::default();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            joined.push_str(&separator)?;
        }
        match item.as_str() {
            Some(text) => joined.push_str(text)?,
            None => joined.push_str(&printing::str(item)?)?,
        }
    }
    Ok(Value::from(joined.into_string()))
}

/// A string from its end; the items of anything else from the last, which a generator gives.
pub(in crate::jinja) fn reverse(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [] = bind("reverse", &arguments[1..], [])?;
    let value = &arguments[0];
    match type_of(value) {
        Type::Str(text) => types::string(text.chars().rev().collect::<String>()),
        Type::Generator(_) => {
            let mut items = items_of(value)?;
            items.reverse();
            types::list(items)
        }
        _ => subscript::reversed(value),
    }
}
