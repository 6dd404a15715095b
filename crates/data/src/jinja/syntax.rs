//! The tree of a template: expressions and statements of `jinja2/nodes.py`, as far as chat
//! templates have them.

/// An expression and the line at which it begins.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    pub(super) kind: Kind,
    pub(super) line: u32,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Name(String),
    List(Vec<Expression>),
    Tuple(Vec<Expression>),
    Dict(Vec<(Expression, Expression)>),
    /// `x.name`
    Attribute(Box<Expression>, String),
    /// `x[key]`
    Item(Box<Expression>, Box<Expression>),
    /// `x[start:stop:step]`
    Slice(Box<Expression>, [Option<Box<Expression>>; 3]),
    Call(Box<Expression>, Arguments),
    Filter(Box<Expression>, FilterCall),
    Test(Box<Expression>, FilterCall),
    Not(Box<Expression>),
    Negative(Box<Expression>),
    Positive(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    /// `a ~ b ~ c`
    Concat(Vec<Expression>),
    /// Terms of one operator, from the left: `a + b + c`.
    Arithmetic(&'static str, Vec<Expression>),
    /// `a < b < c`
    Compare(Box<Expression>, Vec<(&'static str, Expression)>),
    /// `value if condition else otherwise`
    Conditional {
        condition: Box<Expression>,
        value: Box<Expression>,
        otherwise: Option<Box<Expression>>,
    },
}

/// A filter or a test: its name and arguments.
#[derive(Clone, Debug)]
pub(super) struct FilterCall {
    pub(super) name: String,
    pub(super) arguments: Arguments,
    pub(super) line: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expression>,
    pub(super) keyword: Vec<(String, Expression)>,
    /// `*list`
    pub(super) list: Option<Box<Expression>>,
    /// `**dict`
    pub(super) dict: Option<Box<Expression>>,
}

/// What an assignment writes to.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Name(String),
    /// `namespace.attribute`
    Attribute(String, String),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(super) struct Statement {
    pub(super) kind: StatementKind,
    pub(super) line: u32,
}

pub(super) type Body = Vec<Statement>;

#[derive(Debug)]
pub(super) enum StatementKind {
    Text(String),
    Print(Expression),
    If(Vec<(Expression, Body)>, Body),
    For(Box<ForLoop>),
    Set(Target, Expression),
    SetBlock(Target, Vec<FilterCall>, Body),
    FilterBlock(Vec<FilterCall>, Body),
    With(Vec<(Target, Expression)>, Body),
    Macro(MacroDefinition, Body),
    CallBlock { parameters: Parameters, call: Expression, body: Body },
    Generation(Body),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct ForLoop {
    pub(super) target: Target,
    pub(super) items: Expression,
    pub(super) condition: Option<Expression>,
    pub(super) recursive: bool,
    pub(super) body: Body,
    pub(super) otherwise: Body,
}

#[derive(Debug)]
pub(super) struct MacroDefinition {
    pub(super) name: String,
    pub(super) parameters: Parameters,
}

/// Names, the last of them with defaults.
pub(super) type Parameters = Vec<(String, Option<Expression>)>;
