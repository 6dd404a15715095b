//! Statements.

use super::{MAX_BRANCHES, Parser};
use crate::jinja::lexer::Token;
use crate::jinja::refusal::{Refusal, refuse};
use crate::jinja::syntax::{
    Body, Expression, ForLoop, Kind, MacroDefinition, Parameters, Statement, StatementKind, Target,
};

/// Statements of jinja2 that a chat template cannot use in transformers, or that have no meaning
/// there.
const REFUSED: [&str; 8] =
    ["include", "import", "from", "extends", "block", "autoescape", "trans", "do"];

impl Parser {
    pub(super) fn text(&mut self) -> Statement {
        let line = self.line();
        let text = match &mut self.tokens[self.position].0 {
            Token::Data(text) => std::mem::take(text),
            _ => String::new(),
        };
        self.position += 1;
        Statement { kind: StatementKind::Text(text), line }
    }

    pub(super) fn print(&mut self) -> Result<Statement, Refusal> {
        let line = self.line();
        self.position += 1;
        let value = self.tuple()?;
        self.expect(&Token::VariableEnd)?;
        Ok(Statement { kind: StatementKind::Print(value), line })
    }

    /// A statement from its name on, up to the end of its last tag.
    pub(super) fn statement(&mut self) -> Result<Statement, Refusal> {
        let line = self.line();
        let name = self.expect_name()?;
        let kind = match name.as_str() {
            "if" => self.if_statement()?,
            "for" => self.for_loop()?,
            "set" => self.set()?,
            "macro" => self.macro_definition()?,
            "call" => self.call_block()?,
            "filter" => self.filter_block()?,
            "with" => self.with()?,
            "print" => self.print_statement()?,
            "generation" => StatementKind::Generation(self.function_body("endgeneration")?),
            "break" | "continue" => self.loop_control(&name, line)?,
            name if REFUSED.contains(&name) => {
                return refuse(line, format!("the statement `{name}` is not supported"));
            }
            _ => return refuse(line, format!("unknown statement {name}")),
        };
        Ok(Statement { kind, line })
    }

    /// `{% print a, b %}` prints one after the other.
    fn print_statement(&mut self) -> Result<StatementKind, Refusal> {
        let line = self.line();
        let mut values = vec![self.expression()?];
        while self.skip_operator(",") {
            values.push(self.expression()?);
        }
        Ok(StatementKind::Print(Expression { kind: Kind::Concat(values), line }))
    }

    fn loop_control(&self, name: &str, line: u32) -> Result<StatementKind, Refusal> {
        if !self.loops {
            let reason = format!(
                "`{name}` outside a loop, or in a block inside it that it cannot leave, is not supported"
            );
            return refuse(line, reason);
        }
        Ok(if name == "break" { StatementKind::Break } else { StatementKind::Continue })
    }

    /// The end of a tag, the statements after it up to one of `ends`, and which end it was.
    fn block(&mut self, ends: &[&str]) -> Result<(Body, String), Refusal> {
        self.skip_operator(":");
        self.expect(&Token::BlockEnd)?;
        let body = self.body(ends)?;
        let end = self.expect_name()?;
        Ok((body, end))
    }

    /// A body out of which `break` and `continue` cannot go.
    fn function_body(&mut self, end: &str) -> Result<Body, Refusal> {
        let loops = std::mem::replace(&mut self.loops, false);
        let (body, _) = self.block(&[end])?;
        self.loops = loops;
        Ok(body)
    }

    fn if_statement(&mut self) -> Result<StatementKind, Refusal> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple_without_condition()?;
            let (body, end) = self.block(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            if branches.len() > MAX_BRANCHES {
                return refuse(
                    self.line(),
                    format!("more than {MAX_BRANCHES} branches of `if` are not supported"),
                );
            }
            match end.as_str() {
                "elif" => {}
                "else" => {
                    let (otherwise, _) = self.block(&["endif"])?;
                    return Ok(StatementKind::If(branches, otherwise));
                }
                _ => return Ok(StatementKind::If(branches, Body::new())),
            }
        }
    }

    fn for_loop(&mut self) -> Result<StatementKind, Refusal> {
        let target = self.target(&["in"], false)?;
        self.expect_keyword("in")?;
        let items = self.tuple_without_condition_until(&["recursive"])?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        let loops = std::mem::replace(&mut self.loops, true);
        let (body, end) = self.block(&["endfor", "else"])?;
        self.loops = loops;
        let otherwise = if end == "else" { self.block(&["endfor"])?.0 } else { Body::new() };
        Ok(StatementKind::For(Box::new(ForLoop {
            target,
            items,
            condition,
            recursive,
            body,
            otherwise,
        })))
    }

    fn set(&mut self) -> Result<StatementKind, Refusal> {
        let target = self.target(&[], true)?;
        if self.skip_operator("=") {
            return Ok(StatementKind::Set(target, self.tuple()?));
        }
        let filters = self.filter_calls()?;
        Ok(StatementKind::SetBlock(target, filters, self.function_body("endset")?))
    }

    fn filter_block(&mut self) -> Result<StatementKind, Refusal> {
        let mut filters = vec![self.filter_call()?];
        filters.extend(self.filter_calls()?);
        Ok(StatementKind::FilterBlock(filters, self.function_body("endfilter")?))
    }

    fn with(&mut self) -> Result<StatementKind, Refusal> {
        let mut variables = Vec::new();
        while self.peek() != Some(&Token::BlockEnd) {
            if !variables.is_empty() {
                self.expect_operator(",")?;
            }
            let target = self.single_target(false)?;
            self.expect_operator("=")?;
            variables.push((target, self.expression()?));
        }
        Ok(StatementKind::With(variables, self.function_body("endwith")?))
    }

    fn macro_definition(&mut self) -> Result<StatementKind, Refusal> {
        let name = self.expect_name()?;
        let parameters = self.parameters()?;
        Ok(StatementKind::Macro(
            MacroDefinition { name, parameters },
            self.function_body("endmacro")?,
        ))
    }

    fn call_block(&mut self) -> Result<StatementKind, Refusal> {
        let parameters = if self.at_operator("(") { self.parameters()? } else { Vec::new() };
        let call = self.expression()?;
        Ok(StatementKind::CallBlock { parameters, call, body: self.function_body("endcall")? })
    }

    fn parameters(&mut self) -> Result<Parameters, Refusal> {
        let line = self.line();
        let mut parameters = Parameters::new();
        self.expect_operator("(")?;
        while !self.skip_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let name = self.expect_name()?;
            let default = if self.skip_operator("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, default)| default.is_some())
            {
                return refuse(
                    line,
                    format!("the parameter `{name}` without a default follows one with a default"),
                );
            }
            parameters.push((name, default));
        }
        Ok(parameters)
    }

    /// What is assigned to: a name, an attribute of a namespace where `attributes` allows it, or
    /// several.
    fn target(&mut self, ends: &[&str], attributes: bool) -> Result<Target, Refusal> {
        let first = self.single_target(attributes)?;
        if !self.at_operator(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.skip_operator(",") {
            if self.at_operator("=")
                || self.at_operator(")")
                || self.at_any_name(ends)
                || self.peek() == Some(&Token::BlockEnd)
            {
                break;
            }
            targets.push(self.single_target(attributes)?);
        }
        Ok(Target::Tuple(targets))
    }

    fn single_target(&mut self, attributes: bool) -> Result<Target, Refusal> {
        if self.skip_operator("(") {
            let target = self.nested(|parser| parser.target(&[], attributes))?;
            self.expect_operator(")")?;
            return Ok(target);
        }
        let line = self.line();
        let name = self.expect_name()?;
        if attributes && self.skip_operator(".") {
            return Ok(Target::Attribute(name, self.expect_name()?));
        }
        if matches!(
            name.as_str(),
            "loop" | "self" | "super" | "true" | "True" | "false" | "False" | "none" | "None"
        ) {
            return refuse(line, format!("assigning to `{name}` is not supported"));
        }
        Ok(Target::Name(name))
    }
}
