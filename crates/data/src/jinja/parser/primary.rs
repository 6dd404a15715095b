//! Literals, names, and what follows them: attributes, subscripts, calls, filters and tests.

use super::Parser;
use crate::jinja::lexer::Token;
use crate::jinja::refusal::{Refusal, refuse};
use crate::jinja::syntax::{Arguments, Expression, FilterCall, Kind};

/// Names that jinja2 lets a template read as variables, and that would be operators here.
const KEYWORDS: [&str; 9] = ["if", "else", "and", "or", "not", "in", "is", "self", "super"];

impl Parser {
    pub(super) fn primary(&mut self) -> Result<Expression, Refusal> {
        let line = self.line();
        let Some(token) = self.peek().cloned() else { return self.unexpected("an expression") };
        let kind = match token {
            Token::Name(name) => name_kind(name, line)?,
            Token::Int(value) => Kind::Int(value),
            Token::Float(value) => Kind::Float(value),
            Token::Str(text) => Kind::Str(text),
            Token::Operator("(") => return self.parenthesized(line),
            Token::Operator("[") => return self.list(line),
            Token::Operator("{") => return self.dict(line),
            _ => return self.unexpected("an expression"),
        };
        self.position += 1;
        let Kind::Str(mut text) = kind else { return Ok(Expression { kind, line }) };
        while let Some(Token::Str(more)) = self.peek() {
            text.push_str(more);
            self.position += 1;
        }
        Ok(Expression { kind: Kind::Str(text), line })
    }

    fn parenthesized(&mut self, line: u32) -> Result<Expression, Refusal> {
        self.position += 1;
        if self.skip_operator(")") {
            return Ok(Expression { kind: Kind::Tuple(Vec::new()), line });
        }
        let value = self.tuple()?;
        self.expect_operator(")")?;
        Ok(value)
    }

    fn list(&mut self, line: u32) -> Result<Expression, Refusal> {
        self.position += 1;
        let mut items = Vec::new();
        while !self.skip_operator("]") {
            if !items.is_empty() {
                self.expect_operator(",")?;
                if self.skip_operator("]") {
                    break;
                }
            }
            items.push(self.expression()?);
        }
        Ok(Expression { kind: Kind::List(items), line })
    }

    fn dict(&mut self, line: u32) -> Result<Expression, Refusal> {
        self.position += 1;
        let mut items = Vec::new();
        while !self.skip_operator("}") {
            if !items.is_empty() {
                self.expect_operator(",")?;
                if self.skip_operator("}") {
                    break;
                }
            }
            let key = self.expression()?;
            self.expect_operator(":")?;
            items.push((key, self.expression()?));
        }
        Ok(Expression { kind: Kind::Dict(items), line })
    }

    pub(super) fn postfix(&mut self, mut value: Expression) -> Result<Expression, Refusal> {
        loop {
            let line = self.line();
            let kind = if self.skip_operator(".") {
                self.attribute(value)?
            } else if self.skip_operator("[") {
                self.subscript(value)?
            } else if self.at_operator("(") {
                Kind::Call(Box::new(value), self.arguments()?)
            } else {
                return Ok(value);
            };
            self.deepen()?;
            value = Expression { kind, line };
        }
    }

    fn attribute(&mut self, value: Expression) -> Result<Kind, Refusal> {
        let line = self.line();
        if let Some(Token::Int(index)) = self.peek() {
            let index = Expression { kind: Kind::Int(*index), line };
            self.position += 1;
            return Ok(Kind::Item(Box::new(value), Box::new(index)));
        }
        Ok(Kind::Attribute(Box::new(value), self.expect_name()?))
    }

    fn subscript(&mut self, value: Expression) -> Result<Kind, Refusal> {
        let line = self.line();
        let mut parts: [Option<Box<Expression>>; 3] = [None, None, None];
        let mut colons = 0;
        loop {
            if self.skip_operator("]") {
                break;
            } else if self.at_operator(":") && colons < 2 {
                self.position += 1;
                colons += 1;
            } else if self.at_operator(",") {
                return refuse(line, "a subscript with a comma is not supported");
            } else if parts[colons].is_none() {
                parts[colons] = Some(Box::new(self.expression()?));
            } else {
                return self.unexpected("`]`");
            }
        }
        if colons > 0 {
            return Ok(Kind::Slice(Box::new(value), parts));
        }
        let [Some(key), ..] = parts else { return refuse(line, "a subscript is empty") };
        Ok(Kind::Item(Box::new(value), key))
    }

    pub(super) fn arguments(&mut self) -> Result<Arguments, Refusal> {
        let line = self.line();
        let mut arguments = Arguments::default();
        self.expect_operator("(")?;
        let mut first = true;
        while !self.skip_operator(")") {
            if !std::mem::take(&mut first) {
                self.expect_operator(",")?;
                if self.skip_operator(")") {
                    break;
                }
            }
            if !self.argument(&mut arguments)? {
                return refuse(line, "invalid syntax in the arguments of a call");
            }
        }
        Ok(arguments)
    }

    /// One argument; false if it may not stand after those before it.
    fn argument(&mut self, arguments: &mut Arguments) -> Result<bool, Refusal> {
        let starred = arguments.list.is_some() || arguments.dict.is_some();
        if self.skip_operator("*") {
            arguments.list = Some(Box::new(self.expression()?));
            return Ok(!starred);
        }
        if self.skip_operator("**") {
            let allowed = arguments.dict.is_none();
            arguments.dict = Some(Box::new(self.expression()?));
            return Ok(allowed);
        }
        let keyword = matches!(self.peek(), Some(Token::Name(_)))
            && matches!(self.peek_at(1), Some(Token::Operator("=")));
        if keyword {
            let name = self.expect_name()?;
            self.position += 1;
            arguments.keyword.push((name, self.expression()?));
            return Ok(arguments.dict.is_none());
        }
        arguments.positional.push(self.expression()?);
        Ok(!starred && arguments.keyword.is_empty())
    }

    /// Filters, tests and calls after an operand.
    pub(super) fn filters(&mut self, mut value: Expression) -> Result<Expression, Refusal> {
        loop {
            let line = self.line();
            let kind = if self.skip_operator("|") {
                Kind::Filter(Box::new(value), self.filter_call()?)
            } else if self.skip_name("is") {
                self.test(value)?
            } else if self.at_operator("(") {
                Kind::Call(Box::new(value), self.arguments()?)
            } else {
                return Ok(value);
            };
            self.deepen()?;
            value = Expression { kind, line };
        }
    }

    /// A filter's name and arguments.
    pub(super) fn filter_call(&mut self) -> Result<FilterCall, Refusal> {
        let line = self.line();
        let name = self.dotted_name()?;
        let arguments =
            if self.at_operator("(") { self.arguments()? } else { Arguments::default() };
        Ok(FilterCall { name, arguments, line })
    }

    /// `| filter | filter …`
    pub(super) fn filter_calls(&mut self) -> Result<Vec<FilterCall>, Refusal> {
        let mut filters = Vec::new();
        while self.skip_operator("|") {
            filters.push(self.filter_call()?);
        }
        Ok(filters)
    }

    fn dotted_name(&mut self) -> Result<String, Refusal> {
        let mut name = self.expect_name()?;
        while self.skip_operator(".") {
            name = format!("{name}.{}", self.expect_name()?);
        }
        Ok(name)
    }

    fn test(&mut self, value: Expression) -> Result<Kind, Refusal> {
        let line = self.line();
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let mut arguments = Arguments::default();
        if self.at_operator("(") {
            arguments = self.arguments()?;
        } else if self.at_argument_of_test() {
            if self.at_name("is") {
                return refuse(line, "tests cannot be chained with `is`");
            }
            let argument = self.primary()?;
            arguments.positional.push(self.postfix(argument)?);
        }
        let test = Kind::Test(Box::new(value), FilterCall { name, arguments, line });
        Ok(if negated { Kind::Not(Box::new(Expression { kind: test, line })) } else { test })
    }

    /// Whether an argument without parentheses follows, as in `x is divisibleby 3`.
    fn at_argument_of_test(&self) -> bool {
        match self.peek() {
            Some(Token::Name(name)) => !matches!(name.as_str(), "else" | "or" | "and"),
            Some(
                Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Operator("(" | "[" | "{"),
            ) => true,
            _ => false,
        }
    }
}

fn name_kind(name: String, line: u32) -> Result<Kind, Refusal> {
    Ok(match name.as_str() {
        "true" | "True" => Kind::Bool(true),
        "false" | "False" => Kind::Bool(false),
        "none" | "None" => Kind::Null,
        keyword if KEYWORDS.contains(&keyword) => {
            return refuse(line, format!("`{keyword}` as a variable is not supported"));
        }
        _ => Kind::Name(name),
    })
}
