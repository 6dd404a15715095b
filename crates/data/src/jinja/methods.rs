//! Methods of Python's strings, lists, tuples and dictionaries; those that change their object are
//! refused, as by jinja2's sandbox.

use minijinja::{Error, State, Value};

use super::arguments::{bind, required};
use super::limits;
use super::operators::{compare, subscript};
use super::types::{
    DictView, Tuple, Type, View, fail, integer, list, pairs_of, type_name, type_of,
};

pub(super) mod character;
pub(super) mod format;
pub(super) mod search;
pub(super) mod split;
pub(super) mod string;

/// The filter `__call(name, …)` that a call of a method becomes.
pub(super) fn call_filter(state: &State<'_, '_>, operands: &[Value]) -> Result<Value, Error> {
    let [object, name, arguments @ ..] = operands else {
        return fail("a method without a name is called");
    };
    call(state, object, name.as_str().unwrap_or_default(), arguments)
}

/// `object.name(arguments)`.
pub(super) fn call(
    state: &State<'_, '_>,
    object: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match type_of(object) {
        Type::Str(text) => {
            if object.is_safe() {
                return fail(format!(
                    "`{name}` of text that is marked by `|safe` or `|escape` is not supported"
                ));
            }
            limits::charge(text.len())?;
            arguments.iter().try_for_each(limits::charge_text)?;
            match string::call(state, object, text, name, arguments)? {
                Some(value) => return Ok(value),
                None => return no_method(object, name),
            }
        }
        Type::List => match list_method(object, name, arguments)? {
            Some(value) => return Ok(value),
            None => return no_method(object, name),
        },
        Type::Tuple(_) => {
            if let Some(value) = search_items(object, name, arguments)? {
                return Ok(value);
            }
        }
        Type::Dict(dict) => {
            if let Some(value) = dict_method(object, &|| pairs_of(dict), name, arguments)? {
                return Ok(value);
            }
        }
        Type::Undefined => return fail(format!("an undefined value has no method `{name}`")),
        Type::Other(_) => return call_attribute(state, object, name, arguments),
        _ => {}
    }
    call_attribute(state, object, name, arguments)
}

fn no_method<T>(object: &Value, name: &str) -> Result<T, Error> {
    fail(format!("the method `{name}` of {} is not supported", type_name(object)))
}

/// Calls what an object of the engine or a dictionary has under a name, such as a macro in a
/// namespace.
fn call_attribute(
    state: &State<'_, '_>,
    object: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match type_of(object) {
        Type::Other("LoopContext") if arguments.is_empty() => {
            return fail(format!("`{name}` of `loop` takes one or more arguments"));
        }
        // The engine compares them.
        Type::Other("LoopContext") => limits::check_items(arguments)?,
        Type::Other("function") => {}
        _ => return call_item(state, object, name, arguments),
    }
    object.call_method(state, name, arguments)
}

fn call_item(
    state: &State<'_, '_>,
    object: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let attribute = match subscript::own_attribute(object, name)? {
        Some(_) => return no_method(object, name),
        None => object.get_attr(name)?,
    };
    if attribute.is_undefined() {
        return no_method(object, name);
    }
    attribute.call(state, arguments)
}

fn list_method(object: &Value, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "copy" => {
            let [] = bind(name, arguments, [])?;
            list(object.try_iter()?.collect()).map(Some)
        }
        "count" | "index" => search_items(object, name, arguments),
        "append" | "clear" | "extend" | "insert" | "pop" | "remove" | "reverse" | "sort" => {
            fail(format!("the method `{name}` changes a list, which the sandbox of jinja2 refuses"))
        }
        _ => Ok(None),
    }
}

fn search_items(object: &Value, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    if !matches!(name, "count" | "index") {
        return Ok(None);
    }
    let [wanted] = bind(name, arguments, ["value"])?;
    let wanted = required(name, "value", wanted)?;
    let mut count = 0_i128;
    for (index, item) in object.try_iter()?.enumerate() {
        limits::charge(compare::COMPARISON)?;
        if compare::equals(&item, &wanted)? {
            if name == "index" {
                return Ok(Some(integer(index as i128)));
            }
            count += 1;
        }
    }
    if name == "index" {
        fail("`index`: the value is not in the list")
    } else {
        Ok(Some(integer(count)))
    }
}

fn dict_method(
    object: &Value,
    pairs: &dyn Fn() -> Vec<(Value, Value)>,
    name: &str,
    arguments: &[Value],
) -> Result<Option<Value>, Error> {
    let view = |view, items: Vec<Value>| {
        limits::charge_object(items.len())?;
        Ok(Some(Value::from_object(DictView { view, items })))
    };
    match name {
        "get" => {
            let [key, default] = bind(name, arguments, ["key", "default"])?;
            let key = required(name, "key", key)?;
            super::operators::check_hashable(&key)?;
            let found =
                object.as_object().and_then(|dict| dict.get_value(&subscript::as_key(&key)));
            Ok(Some(found.or(default).unwrap_or(Value::from(()))))
        }
        "items" => {
            let [] = bind(name, arguments, [])?;
            view(View::Items, pairs().into_iter().map(Tuple::pair).collect::<Result<_, _>>()?)
        }
        "keys" => {
            let [] = bind(name, arguments, [])?;
            view(View::Keys, pairs().into_iter().map(|(key, _)| key).collect())
        }
        "values" => {
            let [] = bind(name, arguments, [])?;
            view(View::Values, pairs().into_iter().map(|(_, value)| value).collect())
        }
        "copy" => {
            let [] = bind(name, arguments, [])?;
            super::operators::dict_of(pairs()).map(Some)
        }
        "clear" | "pop" | "popitem" | "setdefault" | "update" => fail(format!(
            "the method `{name}` changes a dictionary, which the sandbox of jinja2 refuses"
        )),
        _ => Ok(None),
    }
}
