//! Scopes as `jinja2/idtracking.py` finds them: what a variable is before the statement that sets
//! it.
//!
//! A scope that sets a name without having read it has no value for it before: loops and macros
//! inside it that read the name earlier find it undefined, even if a variable of that name is given
//! to the template.

use std::collections::HashSet;

use super::scan::{names_in_expression, names_in_filters, names_in_statements};
use crate::jinja::syntax::{Body, Expression, Statement, StatementKind, Target};

/// The names of one scope, without those of the scopes inside it.
#[derive(Default)]
pub(super) struct Scope {
    /// Read or set.
    pub(super) names: HashSet<String>,
    /// Set first, after a scope inside has read them.
    pub(super) undefined_first: Vec<String>,
    read_inside: HashSet<String>,
}

impl Scope {
    /// The scope of a body whose `parameters` have values from the start.
    pub(super) fn new(parameters: impl IntoIterator<Item = String>, body: &Body) -> Self {
        let mut scope = Self { names: parameters.into_iter().collect(), ..Self::default() };
        scope.body(body, false);
        scope
    }

    fn body(&mut self, body: &Body, conditional: bool) {
        body.iter().for_each(|statement| self.statement(statement, conditional));
    }

    fn statement(&mut self, statement: &Statement, conditional: bool) {
        match &statement.kind {
            StatementKind::Text(_) | StatementKind::Break | StatementKind::Continue => {}
            StatementKind::Print(value) => self.read(value),
            StatementKind::If(branches, otherwise) => self.branches(branches, otherwise),
            StatementKind::For(for_loop) => {
                self.read(&for_loop.items);
                for_loop
                    .condition
                    .iter()
                    .for_each(|condition| names_in_expression(condition, &mut self.read_inside));
                names_in_statements(&for_loop.body, &mut self.read_inside);
                names_in_statements(&for_loop.otherwise, &mut self.read_inside);
            }
            StatementKind::Set(target, value) => {
                self.read(value);
                self.target(target, conditional);
            }
            StatementKind::SetBlock(target, filters, body) => {
                // The body reads before the target is set, though it stands after it.
                names_in_filters(filters, &mut self.read_inside);
                names_in_statements(body, &mut self.read_inside);
                self.target(target, conditional);
            }
            StatementKind::FilterBlock(filters, body) => {
                names_in_filters(filters, &mut self.names);
                names_in_statements(body, &mut self.read_inside);
            }
            StatementKind::With(variables, body) => {
                variables.iter().for_each(|(_, value)| self.read(value));
                names_in_statements(body, &mut self.read_inside);
            }
            StatementKind::Macro(definition, body) => {
                self.set(&definition.name, conditional);
                let defaults =
                    definition.parameters.iter().filter_map(|(_, default)| default.as_ref());
                defaults.for_each(|default| names_in_expression(default, &mut self.read_inside));
                names_in_statements(body, &mut self.read_inside);
            }
            StatementKind::CallBlock { call, body, .. } => {
                self.read(call);
                names_in_statements(body, &mut self.read_inside);
            }
            StatementKind::Generation(body) => names_in_statements(body, &mut self.read_inside),
        }
    }

    /// What branches set may be what was given: jinja2 looks that up.
    fn branches(&mut self, branches: &[(Expression, Body)], otherwise: &Body) {
        for (condition, body) in branches {
            self.read(condition);
            self.body(body, true);
        }
        self.body(otherwise, true);
    }

    fn read(&mut self, value: &Expression) {
        names_in_expression(value, &mut self.names);
    }

    fn target(&mut self, target: &Target, conditional: bool) {
        match target {
            Target::Name(name) => self.set(name, conditional),
            Target::Attribute(namespace, _) => _ = self.names.insert(namespace.clone()),
            Target::Tuple(targets) => {
                targets.iter().for_each(|target| self.target(target, conditional))
            }
        }
    }

    fn set(&mut self, name: &str, conditional: bool) {
        let is_first = self.names.insert(name.to_owned());
        if is_first && !conditional && self.read_inside.contains(name) {
            self.undefined_first.push(name.to_owned());
        }
    }
}
