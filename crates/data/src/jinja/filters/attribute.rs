//! Attributes by name, as `attribute='a.b.0'` names them.

use minijinja::{Error, Value};

use crate::jinja::limits::charge_text;
use crate::jinja::operators::subscript::get_item;
use crate::jinja::types::{fail, type_name};

/// A path of names and numbers.
pub(super) struct Path(Vec<Value>);

impl Path {
    /// From the argument `attribute`: a string with dots, or a number.
    pub(super) fn from_argument(attribute: &Value) -> Result<Self, Error> {
        if let Some(path) = attribute.as_str() {
            let part = |part: &str| {
                let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                let index = if digits { part.parse::<i64>().ok() } else { None };
                index.map_or_else(|| Value::from(part), Value::from)
            };
            return Ok(Self(path.split('.').map(part).collect()));
        }
        if attribute.is_integer() {
            return Ok(Self(vec![attribute.clone()]));
        }
        fail(format!(
            "an attribute is named by a string or a number and not by {}",
            type_name(attribute)
        ))
    }

    /// What an item has at the path; `default` where that is undefined.
    pub(super) fn of(&self, item: &Value, default: Option<&Value>) -> Result<Value, Error> {
        let mut value = item.clone();
        for part in &self.0 {
            value = get_item(&value, part)?;
            if let (true, Some(default)) = (value.is_undefined(), default) {
                value = default.clone();
            }
        }
        Ok(value)
    }
}

/// What items are compared by: an attribute if one is named, and without regard to case if that is
/// asked for.
pub(super) struct Key {
    path: Option<Path>,
    ignore_case: bool,
}

impl Key {
    pub(super) fn new(attribute: Option<&Value>, case_sensitive: bool) -> Result<Self, Error> {
        let path = attribute
            .filter(|attribute| !attribute.is_none())
            .map(Path::from_argument)
            .transpose()?;
        Ok(Self { path, ignore_case: !case_sensitive })
    }

    pub(super) fn of(&self, item: &Value, default: Option<&Value>) -> Result<Value, Error> {
        let value = self.plain(item, default)?;
        self.folded(value)
    }

    /// As the item has it.
    pub(super) fn plain(&self, item: &Value, default: Option<&Value>) -> Result<Value, Error> {
        self.path.as_ref().map_or_else(|| Ok(item.clone()), |path| path.of(item, default))
    }

    pub(super) fn folded(&self, value: Value) -> Result<Value, Error> {
        charge_text(&value)?;
        Ok(match value.as_str() {
            Some(text) if self.ignore_case => Value::from(text.to_lowercase()),
            _ => value,
        })
    }
}
