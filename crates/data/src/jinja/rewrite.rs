//! A template's tree written as a template for minijinja that renders what jinja2 renders.
//!
//! minijinja differs from jinja2 in its operators, printing, attributes and white space. So its own
//! are not used: the tree comes from a parser that follows jinja2's, and each operator that could
//! differ becomes a filter with Python's meaning (`__add`, `__item`, …). What remains to minijinja
//! is scopes, loops, macros and conditions.
//!
//! Each expression stands on its line of the original, so that errors name that line.

use std::collections::{HashMap, HashSet};

use super::refusal::{Refusal, refuse};
use super::syntax::{Body, Statement, StatementKind};
use scope::Scope;

mod call;
mod expression;
mod literal;
mod scan;
mod scope;
mod statement;

/// What the rewritten template is, and what it holds.
pub(super) struct Rewritten {
    pub(super) source: String,
    pub(super) has_generation: bool,
    /// A generation block whose place in the text cannot be told, and why.
    pub(super) untracked: Option<Refusal>,
}

pub(super) fn rewrite(body: &Body) -> Result<Rewritten, Refusal> {
    let defaults = scan::parameters_with_defaults(body);
    let mut writer = Writer {
        text: String::new(),
        line: 1,
        captures: 0,
        macros: 0,
        recursive: false,
        generation: false,
        has_generation: false,
        untracked: None,
        scopes: Vec::new(),
        defaults,
    };
    writer.scope(Vec::new(), body)?;
    Ok(Rewritten {
        source: writer.text,
        has_generation: writer.has_generation,
        untracked: writer.untracked,
    })
}

struct Writer {
    text: String,
    /// The line at which `text` ends.
    line: u32,
    /// Enclosing statements whose output goes into a value: macros, blocks of `set`, `filter` and
    /// `call`.
    captures: usize,
    /// Enclosing macros.
    macros: usize,
    /// Whether the innermost enclosing loops include a recursive one, whose inner output goes into
    /// a value.
    recursive: bool,
    /// Whether a generation block encloses what is written.
    generation: bool,
    has_generation: bool,
    untracked: Option<Refusal>,
    /// The names of the enclosing scopes.
    scopes: Vec<HashSet<String>>,
    /// Of each macro's name, the parameters with defaults.
    defaults: HashMap<String, HashSet<(usize, String)>>,
}

impl Writer {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Writes newlines, which must be without meaning here, until the text is at `line`.
    fn sync(&mut self, line: u32) {
        while self.line < line {
            self.text.push('\n');
            self.line += 1;
        }
    }

    fn body(&mut self, body: &Body) -> Result<(), Refusal> {
        body.iter().try_for_each(|statement| self.statement(statement))
    }

    /// A body with variables of its own, of which `parameters` have values.
    fn scope(&mut self, parameters: Vec<String>, body: &Body) -> Result<(), Refusal> {
        let scope = Scope::new(parameters, body);
        for name in &scope.undefined_first {
            let known = self.scopes.iter().any(|names| names.contains(name));
            if !known {
                self.push(&format!("{{% set {name} = none|__undefined %}}"));
            }
        }
        self.scopes.push(scope.names);
        self.body(body)?;
        self.scopes.pop();
        Ok(())
    }

    /// A body whose output goes into a value.
    fn captured_scope(&mut self, parameters: Vec<String>, body: &Body) -> Result<(), Refusal> {
        self.captures += 1;
        self.scope(parameters, body)?;
        self.captures -= 1;
        Ok(())
    }

    /// A body from which nothing that it sets leaves.
    fn closed_scope(&mut self, body: &Body) -> Result<(), Refusal> {
        self.push("{% with %}");
        self.scope(Vec::new(), body)?;
        self.push("{% endwith %}");
        Ok(())
    }

    fn statement(&mut self, statement: &Statement) -> Result<(), Refusal> {
        let line = statement.line;
        match &statement.kind {
            StatementKind::Text(text) => self.raw_text(text, line),
            StatementKind::Print(value) => self.print(value)?,
            StatementKind::If(branches, otherwise) => {
                self.if_statement(branches, otherwise, line)?
            }
            StatementKind::For(for_loop) => self.for_loop(for_loop, line)?,
            StatementKind::Set(target, value) => self.set(target, value, line)?,
            StatementKind::SetBlock(target, filters, body) => {
                self.set_block(target, filters, body, line)?
            }
            StatementKind::FilterBlock(filters, body) => self.filter_block(filters, body, line)?,
            StatementKind::With(variables, body) => self.with(variables, body, line)?,
            StatementKind::Macro(definition, body) => {
                self.macro_definition(definition, body, line)?
            }
            StatementKind::CallBlock { parameters, call, body } => {
                self.call_block(parameters, call, body, line)?
            }
            StatementKind::Generation(body) => self.generation(body, line)?,
            StatementKind::Break => self.push("{% break %}"),
            StatementKind::Continue => self.push("{% continue %}"),
        }
        Ok(())
    }

    /// The block is transparent, but what is set in it does not leave it.
    fn generation(&mut self, body: &Body, line: u32) -> Result<(), Refusal> {
        self.has_generation = true;
        let captured = self.captures > 0 || self.recursive || self.generation;
        if captured && self.untracked.is_none() {
            let reason = "a generation block in a macro, a recursive loop, another or a block that sets a variable is not supported";
            self.untracked = refuse::<()>(line, reason).err();
        }
        self.push("{% with %}");
        if !captured {
            self.push("{{ none|__generation_begin }}");
        }
        let outer = std::mem::replace(&mut self.generation, true);
        self.scope(Vec::new(), body)?;
        self.generation = outer;
        if !captured {
            self.push("{{ none|__generation_end }}");
        }
        self.push("{% endwith %}");
        Ok(())
    }
}
