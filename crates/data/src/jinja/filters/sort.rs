//! Filters that order items.

use std::cmp::Ordering;

use minijinja::{Error, State, Value};

use super::attribute::Key;
use crate::jinja::arguments::{bind, is_true};
use crate::jinja::operators::compare;
use crate::jinja::types::{Tuple, Type, fail, items_of, list, pairs_of, type_name, type_of};

/// The order of two keys, of which equal ones need no order.
fn order_unless_equal(a: &Value, b: &Value) -> Result<Option<Ordering>, Error> {
    if compare::equals(a, b)? { Ok(Some(Ordering::Equal)) } else { compare::order(a, b) }
}

type Order = fn(&Value, &Value) -> Result<Option<Ordering>, Error>;

/// Sorts items by keys, stably; `reverse` keeps the order of equal ones.
fn sort_by_keys(
    mut keyed: Vec<(Vec<Value>, Value)>,
    ordered: Order,
    reverse: bool,
) -> Result<Vec<Value>, Error> {
    let mut failure = None;
    let mut order = |a: &[Value], b: &[Value]| -> Ordering {
        for (a, b) in a.iter().zip(b) {
            match ordered(a, b) {
                Ok(Some(Ordering::Equal)) => {}
                Ok(Some(order)) => return order,
                Ok(None) => {
                    failure.get_or_insert_with(|| fail::<()>("sorting NaN is not supported").err());
                    return Ordering::Equal;
                }
                Err(error) => {
                    failure.get_or_insert(Some(error));
                    return Ordering::Equal;
                }
            }
        }
        Ordering::Equal
    };
    keyed.sort_by(|(a, _), (b, _)| if reverse { order(b, a) } else { order(a, b) });
    match failure.flatten() {
        Some(error) => Err(error),
        None => Ok(keyed.into_iter().map(|(_, item)| item).collect()),
    }
}

/// `sort(reverse=false, case_sensitive=false, attribute=none)`.
pub(in crate::jinja) fn sort(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [reverse, case_sensitive, attribute] =
        bind("sort", &arguments[1..], ["reverse", "case_sensitive", "attribute"])?;
    let case_sensitive = is_true(case_sensitive.as_ref(), false);
    let keys = keys_of(attribute.as_ref(), case_sensitive)?;
    let mut keyed = Vec::new();
    for item in items_of(&arguments[0])? {
        let key = keys.iter().map(|key| key.of(&item, None)).collect::<Result<Vec<_>, _>>()?;
        keyed.push((key, item));
    }
    list(sort_by_keys(keyed, order_unless_equal, is_true(reverse.as_ref(), false))?)
}

/// The keys that `attribute='a,b'` names.
fn keys_of(attribute: Option<&Value>, case_sensitive: bool) -> Result<Vec<Key>, Error> {
    match attribute.and_then(Value::as_str) {
        Some(paths) => paths
            .split(',')
            .map(|path| Key::new(Some(&Value::from(path)), case_sensitive))
            .collect(),
        None => Ok(vec![Key::new(attribute, case_sensitive)?]),
    }
}

/// Items by one key.
pub(super) fn sorted_by(
    items: Vec<Value>,
    key: &Key,
    default: Option<&Value>,
) -> Result<Vec<Value>, Error> {
    let keyed = items.into_iter().map(|item| Ok((vec![key.of(&item, default)?], item)));
    sort_by_keys(keyed.collect::<Result<_, Error>>()?, compare::order, false)
}

/// `dictsort(case_sensitive=false, by='key', reverse=false)`.
pub(in crate::jinja) fn dictsort(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [case_sensitive, by, reverse] =
        bind("dictsort", &arguments[1..], ["case_sensitive", "by", "reverse"])?;
    let by_value = match by.as_ref().map(|by| by.as_str()) {
        None | Some(Some("key")) => false,
        Some(Some("value")) => true,
        _ => return fail("`dictsort` is by 'key' or by 'value'"),
    };
    let key = Key::new(None, is_true(case_sensitive.as_ref(), false))?;
    let Type::Dict(dict) = type_of(&arguments[0]) else {
        return fail(format!("`dictsort` takes a dictionary and not {}", type_name(&arguments[0])));
    };
    let keyed = pairs_of(dict).into_iter().map(|(name, value)| {
        let sorted_by = key.folded(if by_value { value.clone() } else { name.clone() })?;
        Ok((vec![sorted_by], Tuple::value(vec![name, value])?))
    });
    list(sort_by_keys(
        keyed.collect::<Result<_, Error>>()?,
        compare::order,
        is_true(reverse.as_ref(), false),
    )?)
}

fn extreme(name: &str, arguments: &[Value], wanted: Ordering) -> Result<Value, Error> {
    let [case_sensitive, attribute] = bind(name, &arguments[1..], ["case_sensitive", "attribute"])?;
    let key = Key::new(attribute.as_ref(), is_true(case_sensitive.as_ref(), false))?;
    let mut best: Option<(Value, Value)> = None;
    for item in items_of(&arguments[0])? {
        let value = key.of(&item, None)?;
        let better = match &best {
            None => true,
            Some((best, _)) => compare::order(&value, best)? == Some(wanted),
        };
        if better {
            best = Some((value, item));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}

pub(in crate::jinja) fn min(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    extreme("min", arguments, Ordering::Less)
}

pub(in crate::jinja) fn max(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    extreme("max", arguments, Ordering::Greater)
}
