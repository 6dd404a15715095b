//! What a template's tree says of its names, before it is written.

use std::collections::{HashMap, HashSet};

use crate::jinja::syntax::{Arguments, Body, Expression, FilterCall, Kind, StatementKind, Target};

/// Of each macro's name, the parameters that have a default: positions and names.
pub(super) fn parameters_with_defaults(body: &Body) -> HashMap<String, HashSet<(usize, String)>> {
    let mut found: HashMap<String, HashSet<(usize, String)>> = HashMap::new();
    visit_statements(body, &mut |statement| {
        if let StatementKind::Macro(definition, _) = statement {
            let parameters = definition
                .parameters
                .iter()
                .enumerate()
                .filter(|(_, (_, default))| default.is_some());
            let parameters = parameters.map(|(position, (name, _))| (position, name.clone()));
            found.entry(definition.name.clone()).or_default().extend(parameters);
        }
    });
    found
}

/// Whether `condition` reads a namespace that `body` writes to.
pub(super) fn reads_what_is_set(condition: &Expression, body: &Body) -> bool {
    let mut written = HashSet::new();
    visit_statements(body, &mut |statement| {
        if let StatementKind::Set(target, _) | StatementKind::SetBlock(target, ..) = statement {
            namespaces(target, &mut written);
        }
    });
    let mut reads = false;
    visit_names(condition, &mut |name| reads |= written.contains(name));
    reads
}

/// Names that statements both read and set, in any scope inside them, in order.
pub(super) fn read_and_set(body: &Body) -> Vec<String> {
    let (mut read, mut set) = (HashSet::new(), HashSet::new());
    names_in_statements(body, &mut read);
    visit_statements(body, &mut |statement| match statement {
        StatementKind::Set(target, _) | StatementKind::SetBlock(target, ..) => {
            set.extend(names_of(target))
        }
        StatementKind::For(for_loop) => set.extend(names_of(&for_loop.target)),
        StatementKind::With(variables, _) => {
            set.extend(variables.iter().flat_map(|(target, _)| names_of(target)))
        }
        StatementKind::Macro(definition, _) => {
            set.insert(definition.name.clone());
            set.extend(definition.parameters.iter().map(|(name, _)| name.clone()));
        }
        StatementKind::CallBlock { parameters, .. } => {
            set.extend(parameters.iter().map(|(name, _)| name.clone()))
        }
        _ => {}
    });
    let mut both: Vec<String> = read.intersection(&set).cloned().collect();
    both.sort();
    both
}

/// The names that a target sets.
pub(super) fn names_of(target: &Target) -> Vec<String> {
    match target {
        Target::Name(name) => vec![name.clone()],
        Target::Attribute(..) => Vec::new(),
        Target::Tuple(targets) => targets.iter().flat_map(names_of).collect(),
    }
}

/// Whether statements of `body`, with those in its conditions, satisfy `wanted`.
pub(super) fn has_directly(body: &Body, wanted: fn(&StatementKind) -> bool) -> bool {
    body.iter().any(|statement| match &statement.kind {
        StatementKind::If(branches, otherwise) => branches
            .iter()
            .map(|(_, body)| body)
            .chain([otherwise])
            .any(|body| has_directly(body, wanted)),
        other => wanted(other),
    })
}

/// Whether `body` reads the variable `loop`.
pub(super) fn reads_loop(body: &Body) -> bool {
    let mut reads = false;
    visit_statements(body, &mut |statement| {
        expressions(statement, &mut |value| {
            visit_names(value, &mut |name| reads |= name == "loop")
        });
    });
    reads
}

/// All names that an expression reads.
pub(super) fn names_in_expression(value: &Expression, names: &mut HashSet<String>) {
    visit_names(value, &mut |name| _ = names.insert(name.to_owned()));
}

/// All names that filters read.
pub(super) fn names_in_filters(filters: &[FilterCall], names: &mut HashSet<String>) {
    filters.iter().for_each(|filter| {
        children_of_arguments(&filter.arguments, &mut |value| names_in_expression(value, names))
    });
}

/// All names that statements read, with those inside them.
pub(super) fn names_in_statements(body: &Body, names: &mut HashSet<String>) {
    visit_statements(body, &mut |statement| {
        expressions(statement, &mut |value| names_in_expression(value, names))
    });
}

fn namespaces(target: &Target, written: &mut HashSet<String>) {
    match target {
        Target::Name(_) => {}
        Target::Attribute(name, _) => {
            written.insert(name.clone());
        }
        Target::Tuple(targets) => targets.iter().for_each(|target| namespaces(target, written)),
    }
}

fn visit_statements(body: &Body, visit: &mut dyn FnMut(&StatementKind)) {
    for statement in body {
        visit(&statement.kind);
        match &statement.kind {
            StatementKind::If(branches, otherwise) => {
                branches.iter().for_each(|(_, body)| visit_statements(body, visit));
                visit_statements(otherwise, visit);
            }
            StatementKind::For(for_loop) => {
                visit_statements(&for_loop.body, visit);
                visit_statements(&for_loop.otherwise, visit);
            }
            StatementKind::SetBlock(_, _, body)
            | StatementKind::FilterBlock(_, body)
            | StatementKind::With(_, body)
            | StatementKind::Macro(_, body)
            | StatementKind::CallBlock { body, .. }
            | StatementKind::Generation(body) => visit_statements(body, visit),
            _ => {}
        }
    }
}

/// The expressions that belong to a statement itself.
fn expressions(statement: &StatementKind, visit: &mut dyn FnMut(&Expression)) {
    match statement {
        StatementKind::Print(value)
        | StatementKind::Set(_, value)
        | StatementKind::CallBlock { call: value, .. } => visit(value),
        StatementKind::If(branches, _) => {
            branches.iter().for_each(|(condition, _)| visit(condition))
        }
        StatementKind::For(for_loop) => {
            visit(&for_loop.items);
            for_loop.condition.iter().for_each(visit);
        }
        StatementKind::Macro(definition, _) => {
            definition
                .parameters
                .iter()
                .filter_map(|(_, default)| default.as_ref())
                .for_each(visit);
        }
        StatementKind::With(variables, _) => variables.iter().for_each(|(_, value)| visit(value)),
        StatementKind::SetBlock(_, filters, _) | StatementKind::FilterBlock(filters, _) => {
            filters.iter().for_each(|filter| children_of_arguments(&filter.arguments, visit));
        }
        _ => {}
    }
}

fn visit_names(value: &Expression, visit: &mut dyn FnMut(&str)) {
    if let Kind::Name(name) = &value.kind {
        visit(name);
    }
    children(value, &mut |child| visit_names(child, visit));
}

fn children(value: &Expression, visit: &mut dyn FnMut(&Expression)) {
    match &value.kind {
        Kind::Null
        | Kind::Bool(_)
        | Kind::Int(_)
        | Kind::Float(_)
        | Kind::Str(_)
        | Kind::Name(_) => {}
        Kind::List(items)
        | Kind::Tuple(items)
        | Kind::And(items)
        | Kind::Or(items)
        | Kind::Concat(items)
        | Kind::Arithmetic(_, items) => {
            items.iter().for_each(visit);
        }
        Kind::Dict(items) => items.iter().for_each(|(key, value)| {
            visit(key);
            visit(value);
        }),
        Kind::Attribute(object, _)
        | Kind::Not(object)
        | Kind::Negative(object)
        | Kind::Positive(object) => visit(object),
        Kind::Item(object, key) => {
            visit(object);
            visit(key);
        }
        Kind::Slice(object, parts) => {
            visit(object);
            parts.iter().flatten().for_each(|part| visit(part));
        }
        Kind::Call(function, arguments) => {
            visit(function);
            children_of_arguments(arguments, visit);
        }
        Kind::Filter(operand, filter) | Kind::Test(operand, filter) => {
            visit(operand);
            children_of_arguments(&filter.arguments, visit);
        }
        Kind::Compare(left, rest) => {
            visit(left);
            rest.iter().for_each(|(_, value)| visit(value));
        }
        Kind::Conditional { condition, value, otherwise } => {
            visit(condition);
            visit(value);
            otherwise.iter().for_each(|otherwise| visit(otherwise));
        }
    }
}

fn children_of_arguments(arguments: &Arguments, visit: &mut dyn FnMut(&Expression)) {
    arguments.positional.iter().for_each(&mut *visit);
    arguments.keyword.iter().for_each(|(_, value)| visit(value));
    arguments.list.iter().chain(&arguments.dict).for_each(|value| visit(value));
}
