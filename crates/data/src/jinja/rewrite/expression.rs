//! Expressions: literals, names and conditions stay what they are, operators become filters.

use super::Writer;
use crate::jinja::refusal::{Refusal, refuse};
use crate::jinja::registry;
use crate::jinja::syntax::{Expression, FilterCall, Kind};

/// How tightly an expression's text holds together.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    /// May be followed by `.`, `[` or `(`.
    Atom,
    /// May be followed by `|`.
    Chain,
    Low,
}

fn level(value: &Expression) -> Level {
    match &value.kind {
        Kind::Null | Kind::Bool(_) | Kind::Str(_) | Kind::Name(_) => Level::Atom,
        Kind::List(items) if !nests(items) => Level::Atom,
        Kind::Int(_) | Kind::Float(_) => Level::Chain,
        Kind::Dict(items) if is_plain_dict(items) => Level::Atom,
        Kind::Attribute(object, name) if is_loop(object) || !registry::is_method(name) => {
            Level::Atom
        }
        Kind::Item(_, key) if plain_key(key).is_some() => Level::Atom,
        Kind::Call(function, _) => match &function.kind {
            Kind::Attribute(object, _) if !is_loop(object) => Level::Chain,
            _ => Level::Atom,
        },
        Kind::Not(_) | Kind::And(_) | Kind::Or(_) | Kind::Conditional { .. } => Level::Low,
        Kind::Compare(left, rest) if is_native_comparison(left, rest) => Level::Low,
        _ => Level::Chain,
    }
}

pub(super) fn is_constant(value: &Expression) -> bool {
    matches!(value.kind, Kind::Null | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) | Kind::Str(_))
}

/// Whether a list of these may be nested more deeply than what is in the template.
fn nests<'a>(items: impl IntoIterator<Item = &'a Expression>) -> bool {
    let is_flat = |item: &Expression| {
        is_constant(item)
            || matches!(
                item.kind,
                Kind::Concat(_) | Kind::Compare(..) | Kind::Not(_) | Kind::Test(..)
            )
    };
    items.into_iter().any(|item| !is_flat(item))
}

/// A dictionary that is written as it is.
fn is_plain_dict(items: &[(Expression, Expression)]) -> bool {
    has_plain_keys(items) && !nests(items.iter().map(|(_, value)| value))
}

fn has_plain_keys(items: &[(Expression, Expression)]) -> bool {
    items.iter().all(|(key, _)| is_plain_key(key))
}

/// A key of a dictionary that needs no check.
fn is_plain_key(key: &Expression) -> bool {
    matches!(key.kind, Kind::Null | Kind::Int(_) | Kind::Str(_))
}

pub(super) fn is_loop(value: &Expression) -> bool {
    matches!(&value.kind, Kind::Name(name) if name == "loop")
}

/// A subscript that finds what an attribute finds: a string that names no method.
fn plain_key(key: &Expression) -> Option<&str> {
    match &key.kind {
        Kind::Str(name) if !registry::is_method(name) => Some(name),
        _ => None,
    }
}

/// Equality with a literal means the same in minijinja and in Python.
fn is_native_comparison(left: &Expression, rest: &[(&str, Expression)]) -> bool {
    matches!(rest, [("==" | "!=", right)] if is_constant(left) || is_constant(right))
}

fn filter_of(operator: &str) -> &'static str {
    match operator {
        "+" => "__add",
        "-" => "__sub",
        "*" => "__mul",
        "/" => "__div",
        "//" => "__floor_div",
        "%" => "__mod",
        "**" => "__pow",
        "==" => "__eq",
        "!=" => "__ne",
        "<" => "__lt",
        "<=" => "__le",
        ">" => "__gt",
        ">=" => "__ge",
        "in" => "__in",
        _ => "__not_in",
    }
}

impl Writer {
    /// An expression where nothing can bind to its text.
    pub(super) fn expression(&mut self, value: &Expression) -> Result<(), Refusal> {
        self.sync(value.line);
        match &value.kind {
            Kind::Null => self.push("none"),
            Kind::Bool(value) => self.push(if *value { "true" } else { "false" }),
            Kind::Int(value) => self.push(&value.to_string()),
            Kind::Float(value) => self.push(&format!("{value:?}")),
            Kind::Str(text) => self.string(text),
            Kind::Name(name) => self.variable(name, value.line)?,
            Kind::List(items) => {
                self.list(items)?;
                self.push(if nests(items) { "|__bounded" } else { "" });
            }
            Kind::Tuple(items) => {
                self.list(items)?;
                self.push("|__tuple");
            }
            Kind::Dict(items) => self.dict(items)?,
            Kind::Attribute(object, name) => self.attribute(object, name)?,
            Kind::Item(object, key) => self.item(object, key)?,
            Kind::Slice(object, parts) => self.slice(object, parts)?,
            Kind::Call(function, arguments) => self.call(function, arguments)?,
            Kind::Filter(operand, filter) => self.filter(operand, filter)?,
            Kind::Test(operand, test) => self.test(operand, test)?,
            Kind::Not(operand) => {
                self.push("not ");
                self.chain(operand)?;
            }
            Kind::Negative(operand) if matches!(operand.kind, Kind::Int(_) | Kind::Float(_)) => {
                self.push("-");
                self.expression(operand)?;
            }
            Kind::Negative(operand) => self.apply(operand, "__neg", &[])?,
            Kind::Positive(operand) => self.apply(operand, "__pos", &[])?,
            Kind::And(terms) => self.separated(terms, " and ")?,
            Kind::Or(terms) => self.separated(terms, " or ")?,
            Kind::Concat(terms) => self.apply(&terms[0], "__concat", &terms[1..])?,
            Kind::Arithmetic(operator, terms) => {
                self.apply(&terms[0], filter_of(operator), &terms[1..])?
            }
            Kind::Compare(left, rest) => self.compare(left, rest)?,
            Kind::Conditional { condition, value, otherwise } => {
                self.conditional(condition, value, otherwise.as_deref())?
            }
        }
        Ok(())
    }

    /// An expression to which a filter binds.
    pub(super) fn chain(&mut self, value: &Expression) -> Result<(), Refusal> {
        self.parenthesized(value, level(value) == Level::Low)
    }

    pub(super) fn atom(&mut self, value: &Expression) -> Result<(), Refusal> {
        self.parenthesized(value, level(value) != Level::Atom)
    }

    fn parenthesized(&mut self, value: &Expression, parentheses: bool) -> Result<(), Refusal> {
        if !parentheses {
            return self.expression(value);
        }
        self.push("(");
        self.expression(value)?;
        self.push(")");
        Ok(())
    }

    pub(super) fn variable(&mut self, name: &str, line: u32) -> Result<(), Refusal> {
        if self.macros > 0 && matches!(name, "varargs" | "kwargs") {
            return refuse(line, format!("`{name}` in a macro is not supported"));
        }
        self.push(name);
        Ok(())
    }

    /// `operand|filter(arguments)`.
    fn apply(
        &mut self,
        operand: &Expression,
        filter: &str,
        arguments: &[Expression],
    ) -> Result<(), Refusal> {
        self.chain(operand)?;
        self.push("|");
        self.push(filter);
        if !arguments.is_empty() {
            self.push("(");
            self.comma_separated(arguments)?;
            self.push(")");
        }
        Ok(())
    }

    fn comma_separated(&mut self, values: &[Expression]) -> Result<(), Refusal> {
        for (index, value) in values.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            self.expression(value)?;
        }
        Ok(())
    }

    fn separated(&mut self, terms: &[Expression], separator: &str) -> Result<(), Refusal> {
        for (index, term) in terms.iter().enumerate() {
            self.push(if index > 0 { separator } else { "" });
            self.chain(term)?;
        }
        Ok(())
    }

    pub(super) fn list(&mut self, items: &[Expression]) -> Result<(), Refusal> {
        self.push("[");
        self.comma_separated(items)?;
        self.push("]");
        Ok(())
    }

    fn dict(&mut self, items: &[(Expression, Expression)]) -> Result<(), Refusal> {
        if !has_plain_keys(items) {
            let flat: Vec<Expression> =
                items.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect();
            self.list(&flat)?;
            self.push("|__dict");
            return Ok(());
        }
        self.push("{");
        for (index, (key, value)) in items.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            self.expression(key)?;
            self.push(": ");
            self.expression(value)?;
        }
        self.push(if is_plain_dict(items) { "}" } else { "}|__bounded" });
        Ok(())
    }

    fn attribute(&mut self, object: &Expression, name: &str) -> Result<(), Refusal> {
        if registry::is_method(name) && !is_loop(object) {
            self.chain(object)?;
            self.push(&format!("|__attr(\"{name}\")"));
            return Ok(());
        }
        self.atom(object)?;
        self.push(".");
        self.push(name);
        Ok(())
    }

    fn item(&mut self, object: &Expression, key: &Expression) -> Result<(), Refusal> {
        let Some(name) = plain_key(key) else {
            return self.apply(object, "__item", std::slice::from_ref(key));
        };
        self.atom(object)?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit());
        if is_name && !name.is_empty() {
            self.push(".");
            self.push(name);
        } else {
            self.push("[");
            self.string(name);
            self.push("]");
        }
        Ok(())
    }

    fn slice(
        &mut self,
        object: &Expression,
        parts: &[Option<Box<Expression>>; 3],
    ) -> Result<(), Refusal> {
        self.chain(object)?;
        self.push("|__slice(");
        for (index, part) in parts.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            match part {
                Some(part) => self.expression(part)?,
                None => self.push("none"),
            }
        }
        self.push(")");
        Ok(())
    }

    fn filter(&mut self, operand: &Expression, filter: &FilterCall) -> Result<(), Refusal> {
        self.chain(operand)?;
        self.push("|");
        self.filter_name_and_arguments(filter)
    }

    pub(super) fn filter_name_and_arguments(&mut self, filter: &FilterCall) -> Result<(), Refusal> {
        self.sync(filter.line);
        self.named(filter, registry::is_filter(&filter.name), "__unknown_filter")
    }

    fn test(&mut self, operand: &Expression, test: &FilterCall) -> Result<(), Refusal> {
        self.chain(operand)?;
        self.push(" is ");
        self.sync(test.line);
        self.named(test, registry::is_test(&test.name), "__unknown_test")
    }

    /// A name that is not known fails when it is used, not where it only stands.
    fn named(&mut self, call: &FilterCall, known: bool, otherwise: &str) -> Result<(), Refusal> {
        if !known {
            self.push(otherwise);
            self.push("(");
            self.string(&call.name);
            self.push(")");
            return Ok(());
        }
        self.push(&call.name);
        self.push("(");
        self.arguments(&call.arguments, false, None)
    }

    fn compare(
        &mut self,
        left: &Expression,
        rest: &[(&'static str, Expression)],
    ) -> Result<(), Refusal> {
        if is_native_comparison(left, rest) {
            self.chain(left)?;
            self.push(if rest[0].0 == "==" { " == " } else { " != " });
            return self.chain(&rest[0].1);
        }
        if let [(operator, right)] = rest {
            return self.apply(left, filter_of(operator), std::slice::from_ref(right));
        }
        self.chain(left)?;
        self.push("|__compare(");
        for (index, (operator, operand)) in rest.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            self.string(operator);
            self.push(", ");
            self.expression(operand)?;
        }
        self.push(")");
        Ok(())
    }

    fn conditional(
        &mut self,
        condition: &Expression,
        value: &Expression,
        otherwise: Option<&Expression>,
    ) -> Result<(), Refusal> {
        self.chain(value)?;
        self.push(" if ");
        self.chain(condition)?;
        if let Some(otherwise) = otherwise {
            self.push(" else ");
            self.chain(otherwise)?;
        }
        Ok(())
    }
}
