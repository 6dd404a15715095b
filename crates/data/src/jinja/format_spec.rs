//! Numbers and strings in a given form: the part of `format` and of `%` that they share.

use minijinja::{Error, Value};

use super::limits::charge;
use super::printing::shortest_float;
use super::text::length;
use super::types::{Number, fail, integer, number_of, type_name};

/// How a value is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) fill: char,
    /// `<`, `>`, `^` or `=` (between sign and digits); none for what is usual for the type.
    pub(super) align: Option<char>,
    /// `+` or a space: the sign of what is not negative.
    pub(super) sign: Option<char>,
    /// `#`: a prefix as `0x`.
    pub(super) alternate: bool,
    pub(super) width: usize,
    /// `,` or `_` between groups of digits.
    pub(super) grouping: Option<char>,
    pub(super) precision: Option<usize>,
    pub(super) kind: Option<char>,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            fill: ' ',
            align: None,
            sign: None,
            alternate: false,
            width: 0,
            grouping: None,
            precision: None,
            kind: None,
        }
    }
}

/// Digits after the point that a number may be asked for.
const MAX_PRECISION: usize = 1000;

impl Form {
    pub(super) fn pad(&self, text: &str, default: char) -> Result<String, Error> {
        let missing = self.width.saturating_sub(length(text));
        charge(text.len().saturating_add(missing.saturating_mul(self.fill.len_utf8())))?;
        let fill = |count: usize| self.fill.to_string().repeat(count);
        Ok(match self.align.unwrap_or(default) {
            '<' => format!("{text}{}", fill(missing)),
            '^' => format!("{}{text}{}", fill(missing / 2), fill(missing - missing / 2)),
            '=' => {
                let start = sign_and_prefix(text);
                format!("{}{}{}", &text[..start], fill(missing), &text[start..])
            }
            _ => format!("{}{text}", fill(missing)),
        })
    }

    /// A number, by the form's kind.
    pub(super) fn number(&self, value: &Value) -> Result<String, Error> {
        let Some(number) = number_of(value) else {
            return fail(format!("a number is expected and not {}", type_name(value)));
        };
        match (number, self.kind) {
            (Number::Int(value), None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b')) => {
                Ok(self.integer(value))
            }
            (Number::Int(value), Some('c')) => {
                match u32::try_from(value).ok().and_then(char::from_u32) {
                    Some(character) => Ok(character.to_string()),
                    None => fail("a number that is no character is formatted with `c`"),
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "as Python's float() of an integer")]
            (Number::Int(value), Some(_)) => self.float(value as f64),
            (Number::Float(_), Some('d' | 'x' | 'X' | 'o' | 'b' | 'c')) => {
                fail("a floating-point number is formatted as an integer")
            }
            (Number::Float(value), _) => self.float(value),
        }
    }

    fn integer(&self, value: i128) -> String {
        let size = value.unsigned_abs();
        let (prefix, digits) = match self.kind {
            Some('x') => ("0x", format!("{size:x}")),
            Some('X') => ("0X", format!("{size:X}")),
            Some('o') => ("0o", format!("{size:o}")),
            Some('b') => ("0b", format!("{size:b}")),
            _ => ("", size.to_string()),
        };
        let group = if prefix.is_empty() { 3 } else { 4 };
        let prefix = if self.alternate { prefix } else { "" };
        format!("{}{prefix}{}", self.sign_of(value < 0), self.grouped(&digits, group))
    }

    fn sign_of(&self, negative: bool) -> String {
        if negative {
            "-".to_owned()
        } else {
            self.sign.filter(|sign| *sign != '-').map(String::from).unwrap_or_default()
        }
    }

    fn grouped(&self, digits: &str, size: usize) -> String {
        let Some(separator) = self.grouping else { return digits.to_owned() };
        let mut result = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(size) {
                result.push(separator);
            }
            result.push(digit);
        }
        result
    }

    fn float(&self, value: f64) -> Result<String, Error> {
        let precision = self.precision.unwrap_or(6);
        if precision > MAX_PRECISION {
            return fail(format!(
                "more than {MAX_PRECISION} digits after the point are not supported"
            ));
        }
        let kind = self.kind.unwrap_or('g');
        let size = value.abs();
        let digits = if !size.is_finite() {
            if size.is_nan() { "nan".to_owned() } else { "inf".to_owned() }
        } else {
            match kind.to_ascii_lowercase() {
                'f' => format!("{size:.precision$}"),
                '%' => format!("{:.precision$}%", size * 100.0),
                'e' => exponent_of_two_digits(&format!("{size:.precision$e}")),
                'g' | 'n' => general(size, precision.max(1), self.alternate)?,
                _ => {
                    return fail(format!(
                        "the format `{kind}` of a floating-point number is not supported"
                    ));
                }
            }
        };
        let (whole, rest) =
            digits.split_at(digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len()));
        let text = format!(
            "{}{}{rest}",
            self.sign_of(value.is_sign_negative() && !value.is_nan()),
            self.grouped(whole, 3)
        );
        Ok(if kind.is_ascii_uppercase() { text.to_uppercase() } else { text })
    }
}

fn sign_and_prefix(text: &str) -> usize {
    let sign = usize::from(text.starts_with(['-', '+', ' ']));
    let prefix = ["0x", "0X", "0o", "0b"].iter().any(|prefix| text[sign..].starts_with(prefix));
    sign + if prefix { 2 } else { 0 }
}

/// `1.5e7` as Python writes it: `1.5e+07`.
fn exponent_of_two_digits(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// `%g`: so many digits in all, without zeros at the end, with an exponent where the number is
/// large or small.
fn general(size: f64, precision: usize, alternate: bool) -> Result<String, Error> {
    if alternate {
        return fail("the format `#g` is not supported");
    }
    let scientific = format!("{size:.*e}", precision - 1);
    let exponent: i32 =
        scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let trim = |digits: &str| {
        if digits.contains('.') {
            digits.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            digits.to_owned()
        }
    };
    let limit = i32::try_from(precision).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= limit {
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        return Ok(exponent_of_two_digits(&format!("{}e{exponent}", trim(mantissa))));
    }
    let decimals = usize::try_from(limit - 1 - exponent).unwrap_or(0);
    Ok(trim(&format!("{size:.decimals$}")))
}

/// The integer that `%d` writes for a number: its whole part.
pub(super) fn whole(value: &Value) -> Result<Value, Error> {
    match number_of(value) {
        Some(Number::Int(value)) => Ok(integer(value)),
        Some(Number::Float(value)) if value.is_finite() => {
            let (_, digits, exponent) = shortest_float(value.trunc());
            if exponent > 36 || digits.is_empty() {
                return fail("a number of more than 127 bits is not supported");
            }
            #[expect(clippy::cast_possible_truncation, reason = "checked just now")]
            Ok(integer(value as i128))
        }
        _ => fail(format!("`%d` takes a number and not {}", type_name(value))),
    }
}
