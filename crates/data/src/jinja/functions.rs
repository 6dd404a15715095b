//! Functions that a template can call without an import (`jinja2/defaults.py`, and transformers'
//! own).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use minijinja::value::{Object, ObjectRepr};
use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::{bind, required, split};
use super::operators::dict_of;
use super::types::{Range, Type, fail, index_of, items_of, pairs_of, type_of};
use super::{limits, printing};

/// Numbers in a range, as the sandbox bounds them.
const MAX_RANGE: usize = 100_000;

/// `range(stop)`, `range(start, stop)`, `range(start, stop, step)`.
pub(super) fn range(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let bounds = arguments
        .iter()
        .map(|bound| index_of(bound, "an argument of `range`"))
        .collect::<Result<Vec<i64>, Error>>()?;
    let (start, stop, step) = match bounds[..] {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] => (start, stop, step),
        _ => return fail("`range` takes one to three arguments"),
    };
    if step == 0 {
        return fail("the step of `range` is 0");
    }
    let distance = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let length =
        if distance <= 0 { 0 } else { (distance.unsigned_abs() - 1) / step.unsigned_abs() + 1 };
    match usize::try_from(length) {
        Ok(length) if length <= MAX_RANGE => {
            Ok(Value::from_object(Range { start, stop, step, length }))
        }
        _ => fail(format!("`range` of {length} numbers: at most {MAX_RANGE} are allowed")),
    }
}

/// `dict(key=value)`, `dict(mapping)`, `dict(pairs)`.
pub(super) fn dict(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    dict_of(entries("dict", arguments)?)
}

fn entries(function: &str, arguments: &[Value]) -> Result<Vec<(Value, Value)>, Error> {
    let (positional, named) = split(arguments);
    let mut entries = Vec::new();
    match positional {
        [] => {}
        [source] => match type_of(source) {
            Type::Dict(dict) => entries.extend(pairs_of(dict)),
            _ => {
                for pair in items_of(source)? {
                    match &items_of(&pair)?[..] {
                        [key, value] => entries.push((key.clone(), value.clone())),
                        _ => return fail(format!("`{function}` takes pairs of a key and a value")),
                    }
                }
            }
        },
        _ => return fail(format!("`{function}` takes at most one argument without a name")),
    }
    for name in named.iter().flat_map(|named| named.args()) {
        let value = named.as_ref().map_or(Ok(Value::UNDEFINED), |named| named.peek(name))?;
        entries.push((Value::from(name), value));
    }
    Ok(entries)
}

/// `namespace(key=value)`: the one object whose attributes a template can set.
pub(super) fn namespace(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let entries = entries("namespace", arguments)?;
    for (_, value) in &entries {
        limits::check_depth(value, 1)?;
    }
    minijinja::functions::namespace(Some(entries.into_iter().collect()))
}

/// `raise_exception(message)`.
pub(super) fn raise_exception(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [message] = bind("raise_exception", arguments, ["message"])?;
    let message = printing::str(&required("raise_exception", "message", message)?)?;
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// `cycler(a, b, …)`.
pub(super) fn cycler(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    if arguments.is_empty() || split(arguments).1.is_some() {
        return fail("`cycler` takes one or more arguments without names");
    }
    limits::check_items(arguments)?;
    limits::charge_object(arguments.len())?;
    Ok(Value::from_object(Cycler { items: arguments.to_vec(), position: AtomicUsize::new(0) }))
}

#[derive(Debug)]
pub(super) struct Cycler {
    pub(super) items: Vec<Value>,
    position: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current"))
            .then(|| self.items[self.position.load(Ordering::Relaxed) % self.items.len()].clone())
    }

    fn call_method(
        self: &Arc<Self>,
        _: &State<'_, '_>,
        name: &str,
        arguments: &[Value],
    ) -> Result<Value, Error> {
        match (name, arguments) {
            ("next", []) => Ok(self.items
                [self.position.fetch_add(1, Ordering::Relaxed) % self.items.len()]
            .clone()),
            ("reset", []) => {
                self.position.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => {
                fail(format!("a cycler has no method `{name}` with {} arguments", arguments.len()))
            }
        }
    }
}

/// `joiner(separator)`: nothing at its first call, the separator at each later one.
pub(super) fn joiner(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [separator] = bind("joiner", arguments, ["sep"])?;
    let separator = separator.unwrap_or_else(|| Value::from(", "));
    limits::check_depth(&separator, 1)?;
    limits::charge_object(1)?;
    Ok(Value::from_object(Joiner { separator, used: AtomicBool::new(false) }))
}

#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) separator: Value,
    used: AtomicBool,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
        if !arguments.is_empty() {
            return fail("a joiner takes no arguments");
        }
        if self.used.swap(true, Ordering::Relaxed) {
            return Ok(self.separator.clone());
        }
        Ok(Value::from(""))
    }
}
