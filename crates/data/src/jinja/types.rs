//! Python's types, of which minijinja has fewer: what a value is to a template, and the objects
//! that make up the rest.

use minijinja::value::{DynObject, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::functions::{Cycler, Joiner};
use super::{limits, text};

pub(super) use object::{
    BoundMethod, Counted, DictView, Generator, MarkedUndefined, Range, Tuple, View,
};

mod object;

/// A value as Python sees it.
pub(super) enum Type<'a> {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(&'a str),
    List,
    Tuple(&'a Tuple),
    Dict(&'a DynObject),
    View(&'a DictView),
    Range(&'a Range),
    Generator(&'a Generator),
    /// What only the engine has: a namespace, a macro, the variable `loop`, a function.
    Other(&'static str),
}

pub(super) fn type_of(value: &Value) -> Type<'_> {
    match value.kind() {
        ValueKind::Undefined => Type::Undefined,
        ValueKind::None => Type::None,
        ValueKind::Bool => Type::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => {
            value.clone().try_into().map_or(Type::Other("int"), Type::Int)
        }
        ValueKind::Number => Type::Float(value.clone().try_into().unwrap_or(f64::NAN)),
        ValueKind::String => value.as_str().map_or(Type::Other("bytes"), Type::Str),
        _ => value.as_object().map_or(Type::Other("object"), type_of_object),
    }
}

fn type_of_object(object: &DynObject) -> Type<'_> {
    match object.repr() {
        ObjectRepr::Seq => {
            if let Some(tuple) = object.downcast_ref() {
                Type::Tuple(tuple)
            } else if let Some(range) = object.downcast_ref() {
                Type::Range(range)
            } else {
                Type::List
            }
        }
        ObjectRepr::Map => engine_type(object).map_or(Type::Dict(object), Type::Other),
        ObjectRepr::Iterable => Type::List,
        _ => {
            if let Some(view) = object.downcast_ref() {
                Type::View(view)
            } else if let Some(generator) = object.downcast_ref() {
                Type::Generator(generator)
            } else if object.is::<BoundMethod>() {
                Type::Other("method")
            } else if object.is::<MarkedUndefined>() {
                Type::Other("Undefined")
            } else {
                Type::Other("function")
            }
        }
    }
}

/// The values inside an object that is no sequence and no mapping; a generator keeps its own.
pub(super) fn held_by(object: &DynObject) -> Vec<Value> {
    if let Some(generator) = object.downcast_ref::<Generator>() {
        generator.waiting()
    } else if let Some(view) = object.downcast_ref::<DictView>() {
        view.items.clone()
    } else if let Some(method) = object.downcast_ref::<BoundMethod>() {
        vec![method.object.clone()]
    } else if let Some(cycler) = object.downcast_ref::<Cycler>() {
        cycler.items.clone()
    } else if let Some(joiner) = object.downcast_ref::<Joiner>() {
        vec![joiner.separator.clone()]
    } else {
        Vec::new()
    }
}

/// The engine's own objects look like maps; only their types' names tell.
fn engine_type(object: &DynObject) -> Option<&'static str> {
    match object.type_name().rsplit("::").next()? {
        "Namespace" => Some("Namespace"),
        "Loop" => Some("LoopContext"),
        "Macro" => Some("Macro"),
        "Closure" | "Module" => Some("module"),
        _ => None,
    }
}

/// Python's name of a value's type.
pub(super) fn type_name(value: &Value) -> &'static str {
    match type_of(value) {
        Type::Undefined => "Undefined",
        Type::None => "NoneType",
        Type::Bool(_) => "bool",
        Type::Int(_) => "int",
        Type::Float(_) => "float",
        Type::Str(_) => "str",
        Type::List => "list",
        Type::Tuple(_) => "tuple",
        Type::Dict(_) => "dict",
        Type::View(view) => view.type_name(),
        Type::Range(_) => "range",
        Type::Generator(_) => "generator",
        Type::Other(name) => name,
    }
}

/// An error of the template, with a reason.
pub(super) fn fail<T>(reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, reason.into()))
}

/// A number of Python; booleans are numbers, too.
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

pub(super) fn number_of(value: &Value) -> Option<Number> {
    match type_of(value) {
        Type::Bool(value) => Some(Number::Int(i128::from(value))),
        Type::Int(value) => Some(Number::Int(value)),
        Type::Float(value) => Some(Number::Float(value)),
        _ => None,
    }
}

pub(super) fn integer(value: i128) -> Value {
    i64::try_from(value).map_or_else(|_| Value::from(value), Value::from)
}

/// An argument that must be an integer, as an index or a count; what is out of range is the
/// nearest.
pub(super) fn index_of(value: &Value, what: &str) -> Result<i64, Error> {
    match number_of(value) {
        Some(Number::Int(value)) => {
            Ok(i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX }))
        }
        _ => fail(format!("{what} is {} and not an integer", type_name(value))),
    }
}

/// An argument that must be a string.
pub(super) fn str_of<'a>(value: &'a Value, what: &str) -> Result<&'a str, Error> {
    match value.as_str() {
        Some(text) => Ok(text),
        None => fail(format!("{what} is {} and not a string", type_name(value))),
    }
}

/// The items of what Python can iterate over; a generator is empty afterwards.
pub(super) fn items_of(value: &Value) -> Result<Vec<Value>, Error> {
    match type_of(value) {
        Type::None | Type::Bool(_) | Type::Int(_) | Type::Float(_) | Type::Other(_) => {
            fail(format!("a value of type {} is not iterable", type_name(value)))
        }
        Type::Undefined => Ok(Vec::new()),
        known => {
            limits::charge_object(count_of(value, &known))?;
            Ok(value.try_iter()?.collect())
        }
    }
}

/// How many items iterating gives.
fn count_of(value: &Value, known: &Type<'_>) -> usize {
    match known {
        Type::Str(text) => text::length(text),
        Type::Generator(generator) => generator.waiting_count(),
        _ => value.len().unwrap_or(0),
    }
}

/// The pairs of a dictionary, in their order.
pub(super) fn pairs_of(dict: &DynObject) -> Vec<(Value, Value)> {
    dict.try_iter_pairs().into_iter().flatten().collect()
}

/// A list.
pub(super) fn list(items: Vec<Value>) -> Result<Value, Error> {
    limits::charge_object(items.len())?;
    Ok(Value::from(items))
}

/// A string.
pub(super) fn string(text: impl AsRef<str>) -> Result<Value, Error> {
    let text = text.as_ref();
    limits::charge(text.len())?;
    Ok(Value::from(text))
}
