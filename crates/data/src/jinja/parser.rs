//! The tree of a template from its tokens, as `jinja2/parser.py` builds it with the extensions
//! `loopcontrols` and `generation`.

use super::lexer::{Token, tokenize};
use super::refusal::{Refusal, refuse};
use super::syntax::{Body, Statement};

mod expression;
mod primary;
mod statement;

/// Depth of the tree of expressions and statements; a deeper one would need more stack than a
/// thread has.
const MAX_DEPTH: usize = 100;
/// Terms of `and` and `or`, and branches of `if`, which make a deep tree for minijinja.
const MAX_BRANCHES: usize = 200;
/// Bytes of a template.
const MAX_SOURCE: usize = 4 << 20;

pub(super) fn parse(source: &str) -> Result<Body, Refusal> {
    if source.len() > MAX_SOURCE {
        return refuse(
            1,
            format!("a template of {} bytes is not supported: at most {MAX_SOURCE}", source.len()),
        );
    }
    let tokens = tokenize(source)?;
    let mut parser = Parser { tokens, position: 0, depth: 0, loops: false };
    let body = parser.body(&[])?;
    Ok(body)
}

struct Parser {
    tokens: Vec<(Token, u32)>,
    position: usize,
    depth: usize,
    /// Whether `break` and `continue` have a loop to act on.
    loops: bool,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.position + ahead).map(|(token, _)| token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.position).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    fn at_name(&self, name: &str) -> bool {
        self.is_name(0, name)
    }

    fn is_name(&self, ahead: usize, name: &str) -> bool {
        matches!(self.peek_at(ahead), Some(Token::Name(found)) if found == name)
    }

    fn at_any_name(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.at_name(name))
    }

    fn at_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Operator(found)) if *found == operator)
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.at_name(name);
        self.position += usize::from(found);
        found
    }

    fn skip_operator(&mut self, operator: &str) -> bool {
        let found = self.at_operator(operator);
        self.position += usize::from(found);
        found
    }

    fn expect_operator(&mut self, operator: &str) -> Result<(), Refusal> {
        if self.skip_operator(operator) {
            Ok(())
        } else {
            self.unexpected(&format!("`{operator}`"))
        }
    }

    fn expect_keyword(&mut self, name: &str) -> Result<(), Refusal> {
        if self.skip_name(name) { Ok(()) } else { self.unexpected(&format!("`{name}`")) }
    }

    fn expect_name(&mut self) -> Result<String, Refusal> {
        if let Some(Token::Name(name)) = self.peek() {
            let name = name.clone();
            self.position += 1;
            return Ok(name);
        }
        self.unexpected("a name")
    }

    fn expect(&mut self, token: &Token) -> Result<(), Refusal> {
        if self.peek() == Some(token) {
            self.position += 1;
            return Ok(());
        }
        self.unexpected(match token {
            Token::BlockEnd => "`%}`",
            _ => "`}}`",
        })
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T, Refusal> {
        let found = match self.peek() {
            None => "the end of the template".to_owned(),
            Some(Token::Name(name)) => format!("`{name}`"),
            Some(Token::Operator(operator)) => format!("`{operator}`"),
            Some(Token::Str(_)) => "a string".into(),
            Some(Token::Int(_) | Token::Float(_)) => "a number".into(),
            Some(Token::BlockEnd) => "`%}`".into(),
            Some(Token::VariableEnd) => "`}}`".into(),
            Some(Token::Data(_) | Token::BlockBegin | Token::VariableBegin) => "text".into(),
        };
        refuse(self.line(), format!("{found} where {expected} is expected"))
    }

    /// Runs `parse` one level deeper.
    fn nested<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let depth = self.depth;
        self.deepen()?;
        let result = parse(self);
        self.depth = depth;
        result
    }

    /// What is parsed becomes a part of what follows, as `x` of `x.y`, up to the end of the
    /// [`nested`](Self::nested) call.
    fn deepen(&mut self) -> Result<(), Refusal> {
        if self.depth == MAX_DEPTH {
            return refuse(self.line(), format!("nested more than {MAX_DEPTH} levels deep"));
        }
        self.depth += 1;
        Ok(())
    }

    /// Statements up to a tag with one of the names `ends`, whose name is the next token then;
    /// without `ends`, all.
    fn body(&mut self, ends: &[&str]) -> Result<Body, Refusal> {
        let mut body = Body::new();
        while let Some(token) = self.peek() {
            match token {
                Token::Data(_) => body.push(self.text()),
                Token::VariableBegin => body.push(self.print()?),
                _ => {
                    self.position += 1;
                    if self.at_any_name(ends) {
                        return Ok(body);
                    }
                    let statement: Statement = self.nested(Self::statement)?;
                    body.push(statement);
                    self.expect(&Token::BlockEnd)?;
                }
            }
        }
        if ends.is_empty() {
            Ok(body)
        } else {
            refuse(self.line(), format!("there is no `{{% {} %}}`", ends[0]))
        }
    }
}
