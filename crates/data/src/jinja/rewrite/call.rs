//! Calls and their arguments.

use super::Writer;
use super::expression::{is_constant, is_loop};
use crate::jinja::refusal::{Refusal, refuse};
use crate::jinja::syntax::{Arguments, Expression, Kind};

/// Steps of an iteration that `loop()` begins, whose body is not written to its end yet.
const RECURSION_STEPS: usize = 100;

impl Writer {
    pub(super) fn call(
        &mut self,
        function: &Expression,
        arguments: &Arguments,
    ) -> Result<(), Refusal> {
        match &function.kind {
            Kind::Attribute(object, name) if is_loop(object) => {
                self.push("loop.");
                self.push(name);
                self.bounded_arguments(arguments)
            }
            Kind::Attribute(object, name) => {
                self.chain(object)?;
                self.push(&format!("|__call(\"{name}\""));
                self.arguments(arguments, true, None)
            }
            Kind::Name(name) if name == "loop" => self.recurse(arguments, function.line),
            Kind::Name(name) => {
                self.variable(name, function.line)?;
                self.push("(");
                self.arguments(arguments, false, Some(name))
            }
            _ => {
                self.atom(function)?;
                self.push("(");
                self.arguments(arguments, false, None)
            }
        }
    }

    /// `loop(items)` in a recursive loop.
    fn recurse(&mut self, arguments: &Arguments, line: u32) -> Result<(), Refusal> {
        let Arguments { positional, keyword, list: None, dict: None } = arguments else {
            return refuse(line, "`loop()` with `*` or `**` is not supported");
        };
        let ([items], []) = (&positional[..], &keyword[..]) else {
            return refuse(line, "`loop()` takes one argument");
        };
        self.push("loop(");
        self.chain(items)?;
        self.push(&format!("|__iter({RECURSION_STEPS}))"));
        Ok(())
    }

    /// Arguments that minijinja compares: each is counted first.
    fn bounded_arguments(&mut self, arguments: &Arguments) -> Result<(), Refusal> {
        let Arguments { positional, keyword, list: None, dict: None } = arguments else {
            return refuse(self.line, "a method of `loop` with `*` or `**` is not supported");
        };
        if positional.is_empty() || !keyword.is_empty() {
            return refuse(self.line, "a method of `loop` takes arguments without names");
        }
        self.push("(");
        for (index, value) in positional.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            self.chain(value)?;
            self.push("|__bounded");
        }
        self.push(")");
        Ok(())
    }

    /// The arguments of a call up to its `)`, after one already written if it `follows` that. Those
    /// that the macro `name` has defaults for are marked where they may be undefined: the macro
    /// must not put the default in their place.
    pub(super) fn arguments(
        &mut self,
        arguments: &Arguments,
        follows: bool,
        name: Option<&str>,
    ) -> Result<(), Refusal> {
        let mut follows = follows;
        let mut comma = |writer: &mut Self| {
            writer.push(if std::mem::replace(&mut follows, true) { ", " } else { "" })
        };
        let defaults = name.and_then(|name| self.defaults.get(name)).cloned().unwrap_or_default();
        for (index, value) in arguments.positional.iter().enumerate() {
            comma(self);
            let marked =
                !is_constant(value) && defaults.iter().any(|(position, _)| *position == index);
            self.argument(value, marked)?;
        }
        if let Some(list) = &arguments.list {
            comma(self);
            self.push("*");
            self.chain(list)?;
            self.push(if defaults.is_empty() { "|__splat" } else { "|__splat(true)" });
        }
        for (keyword, value) in &arguments.keyword {
            comma(self);
            self.push(keyword);
            self.push("=");
            let marked =
                !is_constant(value) && defaults.iter().any(|(_, parameter)| parameter == keyword);
            self.argument(value, marked)?;
        }
        if let Some(dict) = &arguments.dict {
            comma(self);
            self.push("**");
            self.chain(dict)?;
            self.push(if defaults.is_empty() { "|__splat" } else { "|__splat(true)" });
        }
        self.push(")");
        Ok(())
    }

    fn argument(&mut self, value: &Expression, marked: bool) -> Result<(), Refusal> {
        if !marked {
            return self.expression(value);
        }
        self.chain(value)?;
        self.push("|__mark_undefined");
        Ok(())
    }
}
