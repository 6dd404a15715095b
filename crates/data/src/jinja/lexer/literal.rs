//! Numbers and strings as Python writes them.

use super::Token;
use crate::jinja::refusal::{Refusal, refuse};

/// A number at the beginning of `text`, and its length in bytes. After a dot, as in `x.0`, it has
/// no fraction.
pub(super) fn number(
    text: &str,
    after_dot: bool,
    line: u32,
) -> Result<Option<(Token, usize)>, Refusal> {
    if !after_dot && let Some(length) = float_length(text) {
        let written = text[..length].replace('_', "");
        return match written.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Some((Token::Float(value), length))),
            _ => refuse(line, format!("the number {written} is too large")),
        };
    }
    let Some((length, radix)) = integer_length(text) else { return Ok(None) };
    let written = text[..length].replace('_', "");
    let digits = if radix == 10 { written.as_str() } else { &written[2..] };
    match i128::from_str_radix(digits, radix) {
        Ok(value) => Ok(Some((Token::Int(value), length))),
        Err(_) => {
            refuse(line, format!("the number {written} is too large: integers have up to 127 bits"))
        }
    }
}

/// `12`, `1_000`.
fn digits(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut length = 0;
    while length < bytes.len() {
        let underscore = bytes[length] == b'_' && length > 0;
        let digit = length + usize::from(underscore);
        if !bytes.get(digit).is_some_and(u8::is_ascii_digit) {
            break;
        }
        length = digit + 1;
    }
    (length > 0).then_some(length)
}

/// `1.5`, `1e3`, `1.5e-3`: a fraction, an exponent or both.
fn float_length(text: &str) -> Option<usize> {
    let whole = digits(text)?;
    let fraction = text[whole..].strip_prefix('.').and_then(digits).map_or(0, |length| length + 1);
    let end = whole + fraction;
    let exponent = text[end..].strip_prefix(['e', 'E']).and_then(|after| {
        let sign = usize::from(after.starts_with(['+', '-']));
        digits(&after[sign..]).map(|length| 1 + sign + length)
    });
    (fraction > 0 || exponent.is_some()).then(|| end + exponent.unwrap_or(0))
}

fn integer_length(text: &str) -> Option<(usize, u32)> {
    for (radix, prefixes) in [(2, ["0b", "0B"]), (8, ["0o", "0O"]), (16, ["0x", "0X"])] {
        if prefixes.iter().any(|prefix| text.starts_with(prefix)) {
            let after = &text[2..];
            let length =
                after.find(|c: char| !(c.is_digit(radix) || c == '_')).unwrap_or(after.len());
            if length > 0 {
                return Some((2 + length, radix));
            }
        }
    }
    let length = digits(text)?;
    // A decimal number does not begin with 0, and jinja2 reads `007` as 0, 0 and 7.
    if text.starts_with('0') && text[..length].contains(|c: char| c.is_ascii_digit() && c != '0') {
        return Some((1, 10));
    }
    Some((length, 10))
}

/// A string at the beginning of `text`, and its length in bytes with the quotes.
pub(super) fn string(text: &str, line: u32) -> Result<Option<(String, usize)>, Refusal> {
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
        return Ok(None);
    };
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return Ok(Some((unescape(&text[1..at], line)?, at + 1))),
            _ => {}
        }
    }
    refuse(line, "a string has no end")
}

/// Python's escapes; what is none keeps its backslash.
fn unescape(text: &str, line: u32) -> Result<String, Refusal> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let Some(letter) = after.chars().next() else { break };
        let (character, length) = match letter {
            '\n' => (None, 1),
            '\\' | '\'' | '"' => (Some(letter), 1),
            'a' => (Some('\x07'), 1),
            'b' => (Some('\x08'), 1),
            'f' => (Some('\x0c'), 1),
            'n' => (Some('\n'), 1),
            'r' => (Some('\r'), 1),
            't' => (Some('\t'), 1),
            'v' => (Some('\x0b'), 1),
            '0'..='7' => {
                let length =
                    after.bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                (Some(code_point(&after[..length], 8, line)?), length)
            }
            'x' => (Some(hexadecimal(after, 2, line)?), 3),
            'u' => (Some(hexadecimal(after, 4, line)?), 5),
            'U' => (Some(hexadecimal(after, 8, line)?), 9),
            'N' => {
                return refuse(
                    line,
                    "`\\N{…}` in a string is not supported: write the character itself",
                );
            }
            _ => {
                result.push('\\');
                (Some(letter), letter.len_utf8())
            }
        };
        result.extend(character);
        rest = &after[length..];
    }
    result.push_str(rest);
    Ok(result)
}

fn hexadecimal(after: &str, digits: usize, line: u32) -> Result<char, Refusal> {
    match after.get(1..=digits).filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        Some(text) => code_point(text, 16, line),
        None => refuse(line, "an escape in a string is cut short"),
    }
}

fn code_point(digits: &str, radix: u32, line: u32) -> Result<char, Refusal> {
    match u32::from_str_radix(digits, radix).ok().and_then(char::from_u32) {
        Some(character) => Ok(character),
        None => refuse(
            line,
            format!(
                "the escape {digits} in a string is no character (half a surrogate pair is not supported)"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &str) -> String {
        string(source, 1).unwrap().unwrap().0
    }

    #[test]
    fn strings_unescape_as_in_python() {
        assert_eq!(text(r#"'a\nb\\c\'d\x41\u00e9\101'"#), "a\nb\\c'dAéA");
        assert_eq!(text("'a\\\nb'"), "ab");
        assert_eq!(text(r"'\d\w'"), r"\d\w");
        assert!(string(r"'\ud83d'", 1).is_err());
        assert!(string("'abc", 1).is_err());
    }

    #[test]
    fn numbers_have_the_length_that_python_gives_them() {
        let read = |text: &str| number(text, false, 1).unwrap().unwrap();
        assert_eq!(read("1_000)"), (Token::Int(1000), 5));
        assert_eq!(read("0x1F "), (Token::Int(31), 4));
        assert_eq!(read("1.5e3"), (Token::Float(1500.0), 5));
        assert_eq!(read("1.x"), (Token::Int(1), 1));
        assert_eq!(number("0.5", true, 1).unwrap().unwrap(), (Token::Int(0), 1));
    }
}
