//! Filters that choose or transform the items of a sequence one by one. They give generators.

use minijinja::{Error, State, Value};

use super::attribute::Path;
use crate::jinja::arguments::split;
use crate::jinja::operators::subscript;
use crate::jinja::registry::{is_filter, is_test};
use crate::jinja::types::{Generator, Type, fail, items_of, str_of, type_of};

/// `map('filter', arguments…)` or `map(attribute='name', default=…)`.
pub(in crate::jinja) fn map(state: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let items = items_of(&arguments[0])?;
    let (positional, named) = split(&arguments[1..]);
    if let ([], Some(named)) = (positional, &named) {
        let mut attribute = None;
        let mut default = None;
        for name in named.args() {
            match name {
                "attribute" => attribute = Some(named.peek::<Value>(name)?),
                "default" => default = Some(named.peek::<Value>(name)?),
                _ => return fail(format!("`map` has no argument `{name}`")),
            }
        }
        let Some(attribute) = attribute else {
            return fail("`map` takes a filter or an attribute");
        };
        let path = Path::from_argument(&attribute)?;
        let default = default.filter(|default| !default.is_none());
        let mapped =
            items.iter().map(|item| path.of(item, default.as_ref())).collect::<Result<_, _>>()?;
        return Ok(Generator::value(mapped));
    }
    let [filter, ..] = positional else { return fail("`map` takes a filter or an attribute") };
    let filter = str_of(filter, "the filter of `map`")?;
    if !is_filter(filter) {
        return fail(format!("the filter `{filter}` is not supported"));
    }
    apply_to_each(items, &arguments[2..], |operands| state.apply_filter(filter, operands))
        .map(Generator::value)
}

fn apply_to_each(
    items: Vec<Value>,
    more: &[Value],
    apply: impl Fn(&[Value]) -> Result<Value, Error>,
) -> Result<Vec<Value>, Error> {
    let mut operands = vec![Value::UNDEFINED];
    operands.extend_from_slice(more);
    let each = |item| {
        operands[0] = item;
        apply(&operands)
    };
    items.into_iter().map(each).collect()
}

/// Items for which a test, by default truth, gives `wanted`.
fn choose(
    state: &State<'_, '_>,
    value: &Value,
    path: Option<&Path>,
    test: &[Value],
    wanted: bool,
) -> Result<Value, Error> {
    let name = test.first().map(|name| str_of(name, "the name of a test")).transpose()?;
    if let Some(name) = name.filter(|name| !is_test(name) && !COMPARISONS.contains(name)) {
        return fail(format!("the test `{name}` is not supported"));
    }
    let mut operands = vec![Value::UNDEFINED];
    operands.extend_from_slice(test.get(1..).unwrap_or_default());
    let mut chosen = Vec::new();
    for item in items_of(value)? {
        operands[0] = path.map_or_else(|| Ok(item.clone()), |path| path.of(&item, None))?;
        let holds = match name {
            None => operands[0].is_true(),
            Some(name) => state.perform_test(test_name(name), &operands)?,
        };
        if holds == wanted {
            chosen.push(item);
        }
    }
    Ok(Generator::value(chosen))
}

/// Tests that only `select` and its kin can name.
const COMPARISONS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];

fn test_name(name: &str) -> &str {
    match name {
        "==" => "eq",
        "!=" => "ne",
        "<" => "lt",
        "<=" => "le",
        ">" => "gt",
        ">=" => "ge",
        name => name,
    }
}

pub(in crate::jinja) fn select(state: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    choose(state, &arguments[0], None, &arguments[1..], true)
}

pub(in crate::jinja) fn reject(state: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    choose(state, &arguments[0], None, &arguments[1..], false)
}

pub(in crate::jinja) fn selectattr(
    state: &State<'_, '_>,
    arguments: &[Value],
) -> Result<Value, Error> {
    choose_by_attribute(state, arguments, true)
}

pub(in crate::jinja) fn rejectattr(
    state: &State<'_, '_>,
    arguments: &[Value],
) -> Result<Value, Error> {
    choose_by_attribute(state, arguments, false)
}

fn choose_by_attribute(
    state: &State<'_, '_>,
    arguments: &[Value],
    wanted: bool,
) -> Result<Value, Error> {
    let [value, attribute, test @ ..] = arguments else {
        return fail("`selectattr` and `rejectattr` take the name of an attribute");
    };
    choose(state, value, Some(&Path::from_argument(attribute)?), test, wanted)
}

/// `attr('name')`: an attribute and never an item, so that a dictionary has only methods.
pub(in crate::jinja) fn attr(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [object, name] = arguments else { return fail("`attr` takes the name of an attribute") };
    let name = str_of(name, "the name of an attribute")?;
    if object.is_undefined() {
        return fail(format!("an undefined value has no attribute `{name}`"));
    }
    match (subscript::own_attribute(object, name)?, type_of(object)) {
        (Some(value), _) => Ok(value),
        (None, Type::Other(_)) => object.get_attr(name),
        _ => Ok(Value::UNDEFINED),
    }
}
