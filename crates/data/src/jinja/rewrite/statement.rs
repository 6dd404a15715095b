//! Statements.

use super::{Writer, scan};
use crate::jinja::refusal::{Refusal, refuse};
use crate::jinja::syntax::{
    Arguments, Body, Expression, FilterCall, ForLoop, Kind, MacroDefinition, Parameters,
    StatementKind, Target,
};

/// Bytes of rewritten template that make a step.
const TEXT_PER_STEP: usize = 16;

impl Writer {
    /// A printed value. What only joins texts is printed piece by piece.
    pub(super) fn print(&mut self, value: &Expression) -> Result<(), Refusal> {
        match &value.kind {
            // A newline here is one of the text, not of the template: written as it is, it would
            // shift the lines of errors.
            Kind::Str(text) if !text.contains('\n') => self.raw_text(text, value.line),
            Kind::Concat(terms) => terms.iter().try_for_each(|term| self.print(term))?,
            _ => {
                self.push("{{ ");
                self.expression(value)?;
                self.push(" }}");
            }
        }
        Ok(())
    }

    fn tag(&mut self, name: &str, line: u32) {
        self.push("{% ");
        self.push(name);
        self.push(" ");
        self.sync(line);
    }

    pub(super) fn if_statement(
        &mut self,
        branches: &[(Expression, Body)],
        otherwise: &Body,
        line: u32,
    ) -> Result<(), Refusal> {
        for (index, (condition, body)) in branches.iter().enumerate() {
            self.tag(if index == 0 { "if" } else { "elif" }, line);
            self.chain(condition)?;
            self.push(" %}");
            self.body(body)?;
        }
        if !otherwise.is_empty() {
            self.push("{% else %}");
            self.body(otherwise)?;
        }
        self.push("{% endif %}");
        Ok(())
    }

    pub(super) fn for_loop(&mut self, for_loop: &ForLoop, line: u32) -> Result<(), Refusal> {
        let ForLoop { target, items, condition, recursive, body, otherwise } = for_loop;
        let lazy = match condition {
            Some(condition) => scan::reads_what_is_set(condition, body),
            None => false,
        };
        if lazy && (*recursive || !otherwise.is_empty() || scan::reads_loop(body)) {
            return refuse(
                line,
                "the condition of a loop over `loop` depends on what the loop sets, which is not supported",
            );
        }
        self.tag("for", line);
        self.target(target);
        self.push(" in ");
        self.chain(items)?;
        self.push("|__iter(");
        let steps_at = self.text.len();
        self.push(")");
        if let Some(condition) = condition.as_ref().filter(|_| !lazy) {
            self.push(" if ");
            self.chain(condition)?;
        }
        self.push(if *recursive { " recursive %}" } else { " %}" });
        let outer = self.recursive;
        self.recursive |= *recursive;
        match condition.as_ref().filter(|_| lazy) {
            // jinja2 asks the condition when the loop comes to the item, after the bodies of those
            // before it.
            Some(condition) => self.conditional_body(condition, scan::names_of(target), body)?,
            None => self.loop_body(scan::names_of(target), body)?,
        }
        self.recursive = outer;
        self.insert_steps(steps_at);
        if !otherwise.is_empty() {
            self.push("{% else %}");
            self.closed_scope(otherwise)?;
        }
        self.push("{% endfor %}");
        Ok(())
    }

    /// Writes, at an earlier place, the steps that running what was written since takes.
    fn insert_steps(&mut self, at: usize) {
        let steps = (self.text.len() - at) / TEXT_PER_STEP + 1;
        self.text.insert_str(at, &steps.to_string());
    }

    /// The body of a loop. A macro in it keeps the variables of its scope, which in minijinja is
    /// one for all iterations.
    fn loop_body(&mut self, parameters: Vec<String>, body: &Body) -> Result<(), Refusal> {
        let macros = |kind: &StatementKind| {
            matches!(kind, StatementKind::Macro(..) | StatementKind::CallBlock { .. })
        };
        if !scan::has_directly(body, macros) {
            return self.scope(parameters, body);
        }
        if scan::has_directly(body, |kind| {
            matches!(kind, StatementKind::Break | StatementKind::Continue)
        }) {
            return refuse(
                self.line,
                "a macro or a call block in a loop with `break` or `continue` is not supported",
            );
        }
        self.push("{% with %}");
        self.scope(parameters, body)?;
        self.push("{% endwith %}");
        Ok(())
    }

    fn conditional_body(
        &mut self,
        condition: &Expression,
        parameters: Vec<String>,
        body: &Body,
    ) -> Result<(), Refusal> {
        self.push("{% if ");
        self.chain(condition)?;
        self.push(" %}");
        self.loop_body(parameters, body)?;
        self.push("{% endif %}");
        Ok(())
    }

    fn target(&mut self, target: &Target) {
        match target {
            Target::Name(name) => self.push(name),
            Target::Attribute(object, name) => self.push(&format!("{object}.{name}")),
            Target::Tuple(targets) => {
                self.push("(");
                for target in targets {
                    self.target(target);
                    self.push(", ");
                }
                self.push(")");
            }
        }
    }

    pub(super) fn set(
        &mut self,
        target: &Target,
        value: &Expression,
        line: u32,
    ) -> Result<(), Refusal> {
        self.tag("set", line);
        self.target(target);
        self.push(" = ");
        match target {
            Target::Name(_) => self.expression(value)?,
            // What a namespace holds can grow from one iteration to the next.
            Target::Attribute(..) | Target::Tuple(_) => {
                match &value.kind {
                    Kind::Tuple(items) => self.list(items)?,
                    _ => self.chain(value)?,
                }
                self.push("|__bounded");
            }
        }
        self.push(" %}");
        Ok(())
    }

    pub(super) fn set_block(
        &mut self,
        target: &Target,
        filters: &[FilterCall],
        body: &Body,
        line: u32,
    ) -> Result<(), Refusal> {
        self.tag("set", line);
        self.target(target);
        for filter in filters {
            self.push(" | ");
            self.filter_name_and_arguments(filter)?;
        }
        self.push(" %}");
        self.captures += 1;
        self.closed_scope(body)?;
        self.captures -= 1;
        self.push("{% endset %}");
        Ok(())
    }

    pub(super) fn filter_block(
        &mut self,
        filters: &[FilterCall],
        body: &Body,
        line: u32,
    ) -> Result<(), Refusal> {
        self.tag("filter", line);
        for (index, filter) in filters.iter().enumerate() {
            self.push(if index > 0 { " | " } else { "" });
            self.filter_name_and_arguments(filter)?;
        }
        self.push(" %}");
        self.captures += 1;
        self.closed_scope(body)?;
        self.captures -= 1;
        self.push("{% endfilter %}");
        Ok(())
    }

    /// The values are computed before any of the names has its new one.
    pub(super) fn with(
        &mut self,
        variables: &[(Target, Expression)],
        body: &Body,
        line: u32,
    ) -> Result<(), Refusal> {
        self.tag("with", line);
        match variables {
            [] => {}
            [(target, value)] => {
                self.target(target);
                self.push(" = ");
                self.expression(value)?;
            }
            _ => {
                self.push("(");
                for (target, _) in variables {
                    self.target(target);
                    self.push(", ");
                }
                self.push(") = ");
                self.list(&variables.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>())?;
            }
        }
        self.push(" %}");
        self.scope(
            variables.iter().flat_map(|(target, _)| scan::names_of(target)).collect(),
            body,
        )?;
        self.push("{% endwith %}");
        Ok(())
    }

    pub(super) fn macro_definition(
        &mut self,
        definition: &MacroDefinition,
        body: &Body,
        line: u32,
    ) -> Result<(), Refusal> {
        let counted_at = self.begin_closure();
        self.tag("macro", line);
        self.push(&definition.name);
        self.parameters(&definition.parameters);
        self.push(" %}{{ ");
        let steps_at = self.text.len();
        self.push("|__step }}");
        for (name, default) in &definition.parameters {
            let Some(default) = default else { continue };
            self.push(&format!("{{% set {name} = "));
            self.chain(default)?;
            self.push(&format!(" if {name} is undefined() else {name}|__unmark_undefined %}}"));
        }
        self.read_outer_names(&definition.parameters, body);
        self.macros += 1;
        self.captured_scope(names_of_parameters(&definition.parameters), body)?;
        self.macros -= 1;
        self.insert_steps(steps_at);
        self.push("{% endmacro %}");
        self.count_closure(counted_at);
        Ok(())
    }

    /// The engine keeps the variables that a macro may read for each time that it is defined.
    fn begin_closure(&mut self) -> usize {
        self.push("{{ ");
        let at = self.text.len();
        self.push("|__closure }}");
        at
    }

    /// Writes, at an earlier place, the names that what was written since may read.
    fn count_closure(&mut self, at: usize) {
        let names = (self.text.len() - at) / TEXT_PER_STEP + 1;
        self.text.insert_str(at, &names.to_string());
    }

    /// minijinja takes a name that a macro sets, as in `{% set x = x %}`, for the macro's own where
    /// it is read, too. That it is read before makes it one of the outer scope.
    fn read_outer_names(&mut self, parameters: &Parameters, body: &Body) {
        let mut names = scan::read_and_set(body);
        names.retain(|name| {
            name != "loop" && !parameters.iter().any(|(parameter, _)| parameter == name)
        });
        if !names.is_empty() {
            self.push(&format!("{{% if false %}}{{{{ [{}] }}}}{{% endif %}}", names.join(", ")));
        }
    }

    /// Defaults are not minijinja's, as they may refer to the parameters before them.
    fn parameters(&mut self, parameters: &Parameters) {
        let names: Vec<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
        self.push(&format!("({})", names.join(", ")));
    }

    pub(super) fn call_block(
        &mut self,
        parameters: &Parameters,
        call: &Expression,
        body: &Body,
        line: u32,
    ) -> Result<(), Refusal> {
        let Kind::Call(function, arguments) = &call.kind else {
            return refuse(line, "a call block calls a macro");
        };
        let Kind::Name(name) = &function.kind else {
            return refuse(line, "a call block of anything but a macro's name is not supported");
        };
        if parameters.iter().any(|(_, default)| default.is_some()) {
            return refuse(line, "a call block whose parameters have defaults is not supported");
        }
        let counted_at = self.begin_closure();
        self.tag("call", line);
        self.parameters(parameters);
        self.call_of_block(name, arguments)?;
        self.push(" %}");
        self.read_outer_names(parameters, body);
        self.captured_scope(names_of_parameters(parameters), body)?;
        self.push("{% endcall %}");
        self.count_closure(counted_at);
        Ok(())
    }

    fn call_of_block(&mut self, name: &str, arguments: &Arguments) -> Result<(), Refusal> {
        self.push(" ");
        self.push(name);
        self.push("(");
        self.arguments(arguments, false, Some(name))
    }
}

fn names_of_parameters(parameters: &Parameters) -> Vec<String> {
    parameters.iter().map(|(name, _)| name.clone()).collect()
}
