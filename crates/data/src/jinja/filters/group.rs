//! Filters that make groups of items.

use std::collections::HashSet;

use minijinja::{Error, State, Value};

use super::attribute::Key;
use super::sort::sorted_by;
use crate::jinja::arguments::{bind, is_true, required};
use crate::jinja::limits::{charge, charge_items, check_items};
use crate::jinja::operators::compare;
use crate::jinja::types::{Generator, Tuple, fail, index_of, items_of, list};

/// `batch(linecount, fill_with=none)`: lists of so many items.
pub(in crate::jinja) fn batch(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [size, fill] = bind("batch", &arguments[1..], ["linecount", "fill_with"])?;
    let size = usize::try_from(index_of(&required("batch", "linecount", size)?, "`linecount`")?)
        .unwrap_or(0);
    if size == 0 {
        return fail("`batch` of fewer than one item is not supported");
    }
    let items = items_of(&arguments[0])?;
    check_items(&items)?;
    let mut batches = Vec::new();
    for chunk in items.chunks(size) {
        let mut batch = chunk.to_vec();
        if let Some(fill) = fill.as_ref().filter(|fill| !fill.is_none()) {
            charge_items(size)?;
            batch.resize(size, fill.clone());
        }
        batches.push(list(batch)?);
    }
    Ok(Generator::value(batches))
}

/// `slice(slices, fill_with=none)`: so many lists, the first of them one item longer where it does
/// not come out even.
pub(in crate::jinja) fn slice(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [slices, fill] = bind("slice", &arguments[1..], ["slices", "fill_with"])?;
    let slices =
        usize::try_from(index_of(&required("slice", "slices", slices)?, "`slices`")?).unwrap_or(0);
    if slices == 0 {
        return fail("`slice` into fewer than one list is not supported");
    }
    let items = items_of(&arguments[0])?;
    check_items(&items)?;
    charge_items(slices)?;
    let (each, longer) = (items.len() / slices, items.len() % slices);
    let (mut lists, mut start) = (Vec::new(), 0);
    for index in 0..slices {
        let end = start + each + usize::from(index < longer);
        let mut part = items[start..end].to_vec();
        if let Some(fill) = fill.as_ref().filter(|fill| !fill.is_none() && index >= longer) {
            part.push(fill.clone());
        }
        lists.push(list(part)?);
        start = end;
    }
    Ok(Generator::value(lists))
}

/// `groupby(attribute, default=none, case_sensitive=false)`: named tuples of a key and the items
/// that have it.
pub(in crate::jinja) fn groupby(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [attribute, default, case_sensitive] =
        bind("groupby", &arguments[1..], ["attribute", "default", "case_sensitive"])?;
    let attribute = required("groupby", "attribute", attribute)?;
    let key = Key::new(Some(&attribute), is_true(case_sensitive.as_ref(), false))?;
    let default = default.filter(|default| !default.is_none());
    let items = items_of(&arguments[0])?;
    check_items(&items)?;
    let sorted = sorted_by(items, &key, default.as_ref())?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in sorted {
        let value = key.of(&item, default.as_ref())?;
        match groups.last_mut() {
            Some((last, items)) if compare::equals(last, &value)? => items.push(item),
            _ => groups.push((value, vec![item])),
        }
    }
    let group = |(_, items): (Value, Vec<Value>)| {
        let grouper = key.plain(&items[0], default.as_ref())?;
        Tuple::named_value(vec![grouper, list(items)?], &["grouper", "list"])
    };
    list(groups.into_iter().map(group).collect::<Result<_, Error>>()?)
}

/// `unique(case_sensitive=false, attribute=none)`: the first of the items that are equal.
pub(in crate::jinja) fn unique(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [case_sensitive, attribute] =
        bind("unique", &arguments[1..], ["case_sensitive", "attribute"])?;
    let key = Key::new(attribute.as_ref(), is_true(case_sensitive.as_ref(), false))?;
    let (mut texts, mut others, mut kept) = (HashSet::new(), Vec::new(), Vec::new());
    for item in items_of(&arguments[0])? {
        let value = key.of(&item, None)?;
        let is_new = match value.as_str() {
            Some(text) => texts.insert(text.to_owned()),
            None => {
                let known = contains(&others, &value)?;
                if !known {
                    others.push(value);
                }
                !known
            }
        };
        if is_new {
            kept.push(item);
        }
    }
    Ok(Generator::value(kept))
}

fn contains(values: &[Value], wanted: &Value) -> Result<bool, Error> {
    if !matches!(
        wanted.kind(),
        minijinja::value::ValueKind::Number
            | minijinja::value::ValueKind::Bool
            | minijinja::value::ValueKind::None
    ) {
        return fail(
            "`unique` of anything but strings, numbers, booleans and none is not supported",
        );
    }
    for value in values {
        charge(compare::COMPARISON)?;
        if compare::equals(value, wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}
