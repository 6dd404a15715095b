//! Tokens of a template, as jinja2's lexer finds them with `trim_blocks` and `lstrip_blocks`
//! (`jinja2/lexer.py`).

use super::refusal::{Refusal, refuse};
use super::text::{is_space, trim_end_matches_space};

mod literal;

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text between tags, white space already stripped.
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
}

/// Longest first, so that `**` is not two `*`.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

/// The tokens of a template, each with its line.
pub(super) fn tokenize(source: &str) -> Result<Vec<(Token, u32)>, Refusal> {
    let source = normalize_newlines(source);
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, position: 0, line: 1, at_line_start: true, tokens: Vec::new() };
    lexer.root()?;
    Ok(lexer.tokens)
}

fn normalize_newlines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

#[derive(Clone, Copy, PartialEq)]
enum Tag {
    Variable,
    Block,
    Comment,
}

struct Lexer<'a> {
    source: &'a str,
    position: usize,
    line: u32,
    /// Whether what was read last ended with a newline.
    at_line_start: bool,
    tokens: Vec<(Token, u32)>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.position..]
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source.as_bytes()[self.position..self.position + bytes];
        self.line +=
            u32::try_from(passed.iter().filter(|&&byte| byte == b'\n').count()).unwrap_or(u32::MAX);
        self.at_line_start = passed.last() == Some(&b'\n');
        self.position += bytes;
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn root(&mut self) -> Result<(), Refusal> {
        while let Some((offset, tag)) = next_tag(self.rest()) {
            let after = &self.rest()[offset + 2..];
            let sign = after.chars().next().filter(|c| matches!(c, '-' | '+'));
            self.data(offset, sign, tag);
            let raw = if tag == Tag::Block { raw_begin(self.rest()) } else { None };
            if let Some(length) = raw {
                self.advance(length);
                self.raw()?;
                continue;
            }
            let opening = 2 + usize::from(sign.is_some());
            match tag {
                Tag::Comment => {
                    self.advance(opening);
                    self.comment()?;
                }
                Tag::Block | Tag::Variable => {
                    self.push(if tag == Tag::Block {
                        Token::BlockBegin
                    } else {
                        Token::VariableBegin
                    });
                    self.advance(opening);
                    self.tag(tag)?;
                }
            }
        }
        let rest = self.rest();
        self.push_data(rest);
        Ok(())
    }

    /// The text of `length` bytes before a tag, stripped as the tag's sign and `lstrip_blocks` ask.
    fn data(&mut self, length: usize, sign: Option<char>, tag: Tag) {
        let text = &self.rest()[..length];
        let kept = match sign {
            Some('-') => trim_end_matches_space(text),
            None if tag != Tag::Variable => {
                let line = text.rfind('\n').map_or(0, |newline| newline + 1);
                let strippable = line > 0 || self.at_line_start;
                if strippable && text[line..].chars().all(is_space) { &text[..line] } else { text }
            }
            _ => text,
        };
        self.push_data(kept);
        self.advance_keeping_start(length);
    }

    /// An empty text leaves it open whether the line has begun.
    fn advance_keeping_start(&mut self, bytes: usize) {
        let at_line_start = self.at_line_start;
        self.advance(bytes);
        if bytes == 0 {
            self.at_line_start = at_line_start;
        }
    }

    fn push_data(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Token::Data(text.to_owned()));
        }
    }

    fn comment(&mut self) -> Result<(), Refusal> {
        let Some(end) = self.rest().find("#}") else {
            return refuse(self.line, "a comment has no end `#}`");
        };
        let sign = self.rest()[..end].chars().next_back().filter(|c| matches!(c, '-' | '+'));
        self.advance(end);
        self.close("#}", sign);
        Ok(())
    }

    /// Passes the end of a tag, and the white space that goes with it.
    fn close(&mut self, end: &str, sign: Option<char>) {
        let after = &self.rest()[end.len()..];
        let space = match sign {
            Some('-') => after.len() - after.trim_start_matches(is_space).len(),
            Some(_) => 0,
            None => usize::from(end != "}}" && after.starts_with('\n')),
        };
        self.advance(end.len() + space);
    }

    fn raw(&mut self) -> Result<(), Refusal> {
        let (begin, line) = (self.rest(), self.line);
        let mut from = 0;
        while let Some(offset) = begin[from..].find("{%") {
            let start = from + offset;
            if let Some((length, opening, closing)) = raw_end(&begin[start..]) {
                self.data(start, opening, Tag::Block);
                self.advance(length);
                self.close("%}", closing);
                return Ok(());
            }
            from = start + 2;
        }
        refuse(line, "a raw block has no end `{% endraw %}`")
    }

    /// The tokens inside a tag, and its end.
    fn tag(&mut self, tag: Tag) -> Result<(), Refusal> {
        let mut open: Vec<&str> = Vec::new();
        loop {
            let space = self.rest().len() - self.rest().trim_start_matches(is_space).len();
            if open.is_empty() && self.tag_end(tag) {
                return Ok(());
            }
            if space > 0 {
                self.advance(space);
                continue;
            }
            if self.rest().is_empty() {
                return refuse(self.line, "a tag has no end");
            }
            self.token(&mut open)?;
        }
    }

    fn tag_end(&mut self, tag: Tag) -> bool {
        let (end, signs): (&str, &[char]) =
            if tag == Tag::Block { ("%}", &['-', '+']) } else { ("}}", &['-']) };
        let sign = self
            .rest()
            .chars()
            .next()
            .filter(|c| signs.contains(c) && self.rest()[1..].starts_with(end));
        if sign.is_none() && !self.rest().starts_with(end) {
            return false;
        }
        self.push(if tag == Tag::Block { Token::BlockEnd } else { Token::VariableEnd });
        self.advance(usize::from(sign.is_some()));
        self.close(end, sign);
        true
    }

    fn token(&mut self, open: &mut Vec<&'static str>) -> Result<(), Refusal> {
        let rest = self.rest();
        let after_dot = self.source[..self.position].ends_with('.');
        if let Some((token, length)) = literal::number(rest, after_dot, self.line)? {
            self.push(token);
            self.advance(length);
        } else if let Some(length) = name_length(rest) {
            self.name(length)?;
        } else if let Some((text, length)) = literal::string(rest, self.line)? {
            self.push(Token::Str(text));
            self.advance(length);
        } else if let Some(operator) =
            OPERATORS.into_iter().find(|operator| rest.starts_with(operator))
        {
            balance(open, operator, self.line)?;
            self.push(Token::Operator(operator));
            self.advance(operator.len());
        } else {
            let character = rest.chars().next().unwrap_or_default();
            return refuse(self.line, format!("unexpected character {character:?}"));
        }
        Ok(())
    }

    fn name(&mut self, length: usize) -> Result<(), Refusal> {
        let name = &self.rest()[..length];
        if !name.is_ascii() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return refuse(
                self.line,
                format!(
                    "the name `{name}` is not supported: names have ASCII letters, digits and `_`"
                ),
            );
        }
        self.push(Token::Name(name.to_owned()));
        self.advance(length);
        Ok(())
    }
}

fn balance(open: &mut Vec<&'static str>, operator: &'static str, line: u32) -> Result<(), Refusal> {
    let closing = match operator {
        "(" => Some(")"),
        "[" => Some("]"),
        "{" => Some("}"),
        _ => None,
    };
    open.extend(closing);
    if !matches!(operator, ")" | "]" | "}") {
        return Ok(());
    }
    match open.pop() {
        Some(expected) if expected == operator => Ok(()),
        Some(expected) => refuse(line, format!("unexpected `{operator}`, expected `{expected}`")),
        None => refuse(line, format!("unexpected `{operator}`")),
    }
}

fn next_tag(text: &str) -> Option<(usize, Tag)> {
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(offset) = text[from..].find('{') {
        let at = from + offset;
        match bytes.get(at + 1) {
            Some(b'{') => return Some((at, Tag::Variable)),
            Some(b'%') => return Some((at, Tag::Block)),
            Some(b'#') => return Some((at, Tag::Comment)),
            _ => from = at + 1,
        }
    }
    None
}

fn name_length(text: &str) -> Option<usize> {
    let length = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    (length > 0).then_some(length)
}

/// The length of a `{% raw %}` that `text` begins with. No newline after it is trimmed, but `-%}`
/// takes white space.
fn raw_begin(text: &str) -> Option<usize> {
    let inside = text[2..].strip_prefix(['-', '+']).unwrap_or(&text[2..]);
    let after =
        inside.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
    let rest = match after.strip_prefix("-%}") {
        Some(rest) => rest.trim_start_matches(is_space),
        None => after.strip_prefix("%}")?,
    };
    Some(text.len() - rest.len())
}

/// The length of an `{% endraw` that `text` begins with up to its `%}`, and the signs at its two
/// ends.
fn raw_end(text: &str) -> Option<(usize, Option<char>, Option<char>)> {
    let sign = |text: &str| text.chars().next().filter(|c| matches!(c, '-' | '+'));
    let opening = sign(&text[2..]);
    let inside = &text[2 + usize::from(opening.is_some())..];
    let after =
        inside.trim_start_matches(is_space).strip_prefix("endraw")?.trim_start_matches(is_space);
    let closing = sign(after);
    let end = &after[usize::from(closing.is_some())..];
    end.starts_with("%}").then(|| (text.len() - end.len(), opening, closing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(source: &str) -> Vec<String> {
        let only_data = |(token, _)| if let Token::Data(text) = token { Some(text) } else { None };
        tokenize(source).unwrap().into_iter().filter_map(only_data).collect()
    }

    #[test]
    fn blocks_take_their_line_and_variables_do_not() {
        assert_eq!(data("a\n  {% if x %}\nb\n  {{ x }}\nc\n"), ["a\n", "b\n  ", "\nc"]);
        assert_eq!(data("a \n {%- if x -%} \n b"), ["a", "b"]);
        assert_eq!(data("a\n  {%+ if x +%}\nb"), ["a\n  ", "\nb"]);
    }

    #[test]
    fn a_raw_block_is_text() {
        assert_eq!(data("{% raw %}\n{{ x }}{% endraw %}\ny"), ["\n{{ x }}", "y"]);
    }

    #[test]
    fn carriage_returns_are_newlines() {
        assert_eq!(data("a\r\nb\rc\r\n"), ["a\nb\nc"]);
    }

    #[test]
    fn every_token_has_its_line() {
        let tokens = tokenize("a\n{{ x\n+ 'b\nc' }}\n{% y %}").unwrap();
        let lines: Vec<u32> = tokens.iter().map(|(_, line)| *line).collect();
        assert_eq!(lines, [1, 2, 2, 3, 3, 4, 4, 5, 5, 5]);
    }
}
