//! Objects of Python that minijinja has not.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueIter};
use minijinja::{Error, State, Value};

use crate::jinja::limits::charge_object;

/// A tuple, or a named tuple if it has names.
#[derive(Debug)]
pub(in crate::jinja) struct Tuple {
    pub(in crate::jinja) items: Vec<Value>,
    names: &'static [&'static str],
}

impl Tuple {
    pub(in crate::jinja) fn value(items: Vec<Value>) -> Result<Value, Error> {
        Self::named_value(items, &[])
    }

    pub(in crate::jinja) fn named_value(
        items: Vec<Value>,
        names: &'static [&'static str],
    ) -> Result<Value, Error> {
        charge_object(items.len())?;
        Ok(Value::from_object(Self { items, names }))
    }

    /// A key of a dictionary and its value.
    pub(in crate::jinja) fn pair((key, value): (Value, Value)) -> Result<Value, Error> {
        Self::value(vec![key, value])
    }
}

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str() {
            Some(name) => self.get_value_by_str(name),
            None => self.items.get(key.as_usize()?).cloned(),
        }
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let index = self.names.iter().position(|name| *name == key)?;
        self.items.get(index).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }
}

/// `range(start, stop, step)`.
#[derive(Debug)]
pub(in crate::jinja) struct Range {
    pub(in crate::jinja) start: i64,
    pub(in crate::jinja) stop: i64,
    pub(in crate::jinja) step: i64,
    pub(in crate::jinja) length: usize,
}

impl Range {
    pub(in crate::jinja) fn at(&self, index: usize) -> Option<i64> {
        (index < self.length).then(|| self.start + self.step * index.cast_signed() as i64)
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.at(key.as_usize()?).map(Value::from)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.length)
    }
}

/// Which part of a dictionary a view shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::jinja) enum View {
    Keys,
    Values,
    Items,
}

/// `dict.keys()`, `dict.values()` or `dict.items()`: it has a length and can be iterated again, but
/// has no indices.
#[derive(Debug)]
pub(in crate::jinja) struct DictView {
    pub(in crate::jinja) view: View,
    pub(in crate::jinja) items: Vec<Value>,
}

impl DictView {
    pub(in crate::jinja) fn type_name(&self) -> &'static str {
        match self.view {
            View::Keys => "dict_keys",
            View::Values => "dict_values",
            View::Items => "dict_items",
        }
    }
}

impl Object for DictView {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let view = Arc::clone(self);
        Enumerator::Iter(Box::new(
            (0..self.items.len()).map(move |index| view.items[index].clone()),
        ))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }
}

/// An iterator: what is taken from it is gone.
#[derive(Debug)]
pub(in crate::jinja) struct Generator {
    items: Mutex<VecDeque<Value>>,
}

impl Generator {
    pub(in crate::jinja) fn value(items: Vec<Value>) -> Value {
        Value::from_object(Self { items: Mutex::new(items.into()) })
    }

    pub(in crate::jinja) fn next(&self) -> Option<Value> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// What has not been taken.
    pub(in crate::jinja) fn waiting(&self) -> Vec<Value> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(in crate::jinja) fn waiting_count(&self) -> usize {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Iter(Box::new(Drain(Arc::clone(self))))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

struct Drain(Arc<Generator>);

impl Iterator for Drain {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = self.0.waiting_count();
        (remaining, Some(remaining))
    }
}

/// What a loop runs over; each item takes steps.
pub(in crate::jinja) struct Counted {
    items: Mutex<Option<ValueIter>>,
    /// Where that is known: minijinja does not know it of a string's characters.
    length: Option<usize>,
    steps: u64,
}

impl Counted {
    pub(in crate::jinja) fn value(items: ValueIter, length: Option<usize>, steps: u64) -> Value {
        Value::from_object(Self { items: Mutex::new(Some(items)), length, steps })
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Counted")
    }
}

impl Object for Counted {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.items.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(items) => Enumerator::Iter(Box::new(CountedItems {
                items,
                left: self.length,
                steps: self.steps,
            })),
            None => Enumerator::Empty,
        }
    }
}

struct CountedItems {
    items: ValueIter,
    left: Option<usize>,
    steps: u64,
}

impl Iterator for CountedItems {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        let item = self.items.next()?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        // An error as an item ends the loop with that error.
        Some(crate::jinja::limits::step(self.steps).map_or_else(Value::from, |()| item))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.map_or_else(|| self.items.size_hint(), |left| (left, Some(left)))
    }
}

/// A method that is not called: `'abc'.upper`.
#[derive(Debug)]
pub(in crate::jinja) struct BoundMethod {
    pub(in crate::jinja) object: Value,
    pub(in crate::jinja) name: String,
}

impl Object for BoundMethod {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        crate::jinja::methods::call(state, &self.object, &self.name, args)
    }
}

/// An undefined argument that a macro must not replace by the parameter's default.
#[derive(Debug)]
pub(in crate::jinja) struct MarkedUndefined;

impl Object for MarkedUndefined {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}
