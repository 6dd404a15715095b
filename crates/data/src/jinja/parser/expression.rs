//! Expressions, from the weakest operator to the strongest; each level is one method of
//! `jinja2/parser.py`.

use super::{MAX_BRANCHES, Parser};
use crate::jinja::lexer::Token;
use crate::jinja::refusal::{Refusal, refuse};
use crate::jinja::syntax::{Expression, Kind};

const COMPARISONS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];

impl Parser {
    /// One expression, or several with commas between them: a tuple.
    pub(super) fn tuple(&mut self) -> Result<Expression, Refusal> {
        self.tuple_of(Self::expression, &[])
    }

    /// As [`tuple`](Self::tuple), where `if` is no part of an expression.
    pub(super) fn tuple_without_condition(&mut self) -> Result<Expression, Refusal> {
        self.tuple_of(Self::or, &[])
    }

    pub(super) fn tuple_without_condition_until(
        &mut self,
        ends: &[&str],
    ) -> Result<Expression, Refusal> {
        self.tuple_of(Self::or, ends)
    }

    fn tuple_of(
        &mut self,
        parse: fn(&mut Self) -> Result<Expression, Refusal>,
        ends: &[&str],
    ) -> Result<Expression, Refusal> {
        let line = self.line();
        let first = self.nested(parse)?;
        if !self.at_operator(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip_operator(",") {
            let ended = matches!(self.peek(), None | Some(Token::VariableEnd | Token::BlockEnd));
            if ended || self.at_operator(")") || self.at_any_name(ends) {
                break;
            }
            items.push(self.nested(parse)?);
        }
        Ok(Expression { kind: Kind::Tuple(items), line })
    }

    pub(super) fn expression(&mut self) -> Result<Expression, Refusal> {
        self.nested(Self::conditional)
    }

    fn conditional(&mut self) -> Result<Expression, Refusal> {
        let line = self.line();
        let mut value = self.or()?;
        while self.skip_name("if") {
            self.deepen()?;
            let condition = Box::new(self.or()?);
            let otherwise =
                if self.skip_name("else") { Some(Box::new(self.expression()?)) } else { None };
            value = Expression {
                kind: Kind::Conditional { condition, value: Box::new(value), otherwise },
                line,
            };
        }
        Ok(value)
    }

    fn or(&mut self) -> Result<Expression, Refusal> {
        self.chain("or", Self::and, Kind::Or)
    }

    fn and(&mut self) -> Result<Expression, Refusal> {
        self.chain("and", Self::not, Kind::And)
    }

    fn chain(
        &mut self,
        name: &str,
        parse: fn(&mut Self) -> Result<Expression, Refusal>,
        kind: fn(Vec<Expression>) -> Kind,
    ) -> Result<Expression, Refusal> {
        let line = self.line();
        let first = parse(self)?;
        if !self.at_name(name) {
            return Ok(first);
        }
        let mut terms = vec![first];
        while self.skip_name(name) {
            terms.push(parse(self)?);
        }
        if terms.len() > MAX_BRANCHES {
            return refuse(
                line,
                format!("more than {MAX_BRANCHES} operands of `{name}` are not supported"),
            );
        }
        Ok(Expression { kind: kind(terms), line })
    }

    fn not(&mut self) -> Result<Expression, Refusal> {
        let line = self.line();
        if self.skip_name("not") {
            let negated = Box::new(self.nested(Self::not)?);
            return Ok(Expression { kind: Kind::Not(negated), line });
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expression, Refusal> {
        let line = self.line();
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let operator = if let Some(operator) =
                COMPARISONS.into_iter().find(|operator| self.at_operator(operator))
            {
                self.position += 1;
                operator
            } else if self.skip_name("in") {
                "in"
            } else if self.at_name("not") && self.is_name(1, "in") {
                self.position += 2;
                "not in"
            } else {
                break;
            };
            rest.push((operator, self.sum()?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Ok(Expression { kind: Kind::Compare(Box::new(first), rest), line })
    }

    fn sum(&mut self) -> Result<Expression, Refusal> {
        self.arithmetic(&["+", "-"], Self::concat)
    }

    fn concat(&mut self) -> Result<Expression, Refusal> {
        let line = self.line();
        let first = self.product()?;
        if !self.at_operator("~") {
            return Ok(first);
        }
        let mut terms = vec![first];
        while self.skip_operator("~") {
            terms.push(self.product()?);
        }
        Ok(Expression { kind: Kind::Concat(terms), line })
    }

    fn product(&mut self) -> Result<Expression, Refusal> {
        self.arithmetic(&["*", "/", "//", "%"], Self::power)
    }

    fn power(&mut self) -> Result<Expression, Refusal> {
        self.arithmetic(&["**"], Self::unary)
    }

    /// Operators of one rank bind from the left; equal ones in a row become one node.
    fn arithmetic(
        &mut self,
        operators: &[&'static str],
        parse: fn(&mut Self) -> Result<Expression, Refusal>,
    ) -> Result<Expression, Refusal> {
        let line = self.line();
        let mut left = parse(self)?;
        while let Some(&operator) = operators.iter().find(|operator| self.at_operator(operator)) {
            self.deepen()?;
            let mut terms = vec![left];
            while self.skip_operator(operator) {
                terms.push(parse(self)?);
            }
            left = Expression { kind: Kind::Arithmetic(operator, terms), line };
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expression, Refusal> {
        let operand = self.signed()?;
        self.filters(operand)
    }

    /// A sign binds stronger than a filter: `-1|abs` is `(-1)|abs`.
    fn signed(&mut self) -> Result<Expression, Refusal> {
        let line = self.line();
        let operand = if self.skip_operator("-") {
            Expression { kind: Kind::Negative(Box::new(self.nested(Self::signed)?)), line }
        } else if self.skip_operator("+") {
            Expression { kind: Kind::Positive(Box::new(self.nested(Self::signed)?)), line }
        } else {
            self.primary()?
        };
        self.postfix(operand)
    }
}
