//! `format % values` of strings (printf-style formatting).

use minijinja::{Error, Value};

use super::format_spec::{Form, whole};
use super::limits::charge;
use super::methods::format::FIELD;
use super::printing;
use super::types::{Type, fail, index_of, string, type_of};

/// `format % values`: a tuple holds one value per place, a dictionary those with names, anything
/// else is one value.
pub(super) fn format(format: &str, values: &Value) -> Result<Value, Error> {
    let (items, single): (Vec<Value>, bool) = match type_of(values) {
        Type::Tuple(tuple) => (tuple.items.clone(), false),
        _ => (vec![values.clone()], true),
    };
    let mut places = Places { values, items, used: 0, by_name: false };
    let (mut result, mut rest) = (String::new(), format);
    while let Some(at) = rest.find('%') {
        result.push_str(&rest[..at]);
        let (conversion, length) = Conversion::parse(&rest[at + 1..], &mut places)?;
        rest = &rest[at + 1 + length..];
        let text = if conversion.form.kind == Some('%') {
            "%".to_owned()
        } else {
            conversion.apply(&mut places)?
        };
        charge(text.len() + FIELD)?;
        result.push_str(&text);
    }
    result.push_str(rest);
    let all_used = places.used == places.items.len() || places.by_name;
    // A dictionary, or a list, may be given without a place for it.
    let may_be_unused = single
        && places.used == 0
        && matches!(type_of(values), Type::Dict(_) | Type::List | Type::Range(_) | Type::Undefined);
    if !all_used && !may_be_unused {
        return fail("`%`: not all arguments are used by the format");
    }
    string(result)
}

struct Places<'a> {
    values: &'a Value,
    items: Vec<Value>,
    used: usize,
    by_name: bool,
}

impl Places<'_> {
    fn next(&mut self) -> Result<Value, Error> {
        match self.items.get(self.used) {
            Some(value) => {
                self.used += 1;
                Ok(value.clone())
            }
            None => fail("`%`: not enough arguments for the format"),
        }
    }
}

struct Conversion {
    form: Form,
    /// Digits at least, of an integer; characters at most, of a string.
    zero: bool,
    left: bool,
    name: Option<String>,
}

impl Conversion {
    /// What stands after a `%`, and its length.
    fn parse(text: &str, places: &mut Places<'_>) -> Result<(Self, usize), Error> {
        let mut conversion = Self { form: Form::default(), zero: false, left: false, name: None };
        let mut rest = text;
        if let Some(after) = rest.strip_prefix('(') {
            let Some((name, after)) = after.split_once(')') else {
                return fail("`%(`: the name has no end");
            };
            conversion.name = Some(name.to_owned());
            rest = after;
        }
        while let Some(flag) = rest.chars().next().filter(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => conversion.left = true,
                '0' => conversion.zero = true,
                '#' => conversion.form.alternate = true,
                '+' => conversion.form.sign = Some('+'),
                _ => conversion.form.sign = conversion.form.sign.or(Some(' ')),
            }
            rest = &rest[1..];
        }
        let (width, after) = number(rest, places)?;
        if let Some(width) = width {
            conversion.left |= width < 0;
            conversion.form.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
        }
        rest = after;
        if let Some(after) = rest.strip_prefix('.') {
            let (precision, after) = number(after, places)?;
            conversion.form.precision = Some(usize::try_from(precision.unwrap_or(0)).unwrap_or(0));
            rest = after;
        }
        rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
        let Some(kind) = rest.chars().next() else {
            return fail("`%`: the format ends within a place");
        };
        conversion.form.kind = Some(kind);
        Ok((conversion, text.len() - rest.len() + kind.len_utf8()))
    }

    fn apply(mut self, places: &mut Places<'_>) -> Result<String, Error> {
        let value = match &self.name {
            None => places.next()?,
            Some(name) => {
                places.by_name = true;
                let Type::Dict(dict) = type_of(places.values) else {
                    return fail("`%(name)`: the argument is no dictionary");
                };
                match dict.get_value(&Value::from(name.as_str())) {
                    Some(value) => value,
                    None => return fail(format!("`%`: there is no `{name}`")),
                }
            }
        };
        self.form.align = Some(if self.left { '<' } else { '>' });
        let kind = self.form.kind.unwrap_or('s');
        match kind {
            's' | 'r' | 'a' => {
                let text =
                    if kind == 's' { printing::str(&value)? } else { printing::repr(&value)? };
                if kind == 'a' && !text.is_ascii() {
                    return fail("`%a` of what is not ASCII is not supported");
                }
                let kept = self
                    .form
                    .precision
                    .map_or(text.len(), |count| super::text::byte_of(&text, count));
                self.form.pad(&text[..kept], '>')
            }
            'c' => match type_of(&value) {
                Type::Str(text) if super::text::length(text) == 1 => self.form.pad(text, '>'),
                Type::Int(_) => {
                    let text = self.form.number(&value)?;
                    self.form.pad(&text, '>')
                }
                _ => fail("`%c` takes a character or a number"),
            },
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' => self.integer(&value, kind),
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => self.padded_number(&value),
            _ => fail(format!("`%{kind}` is not supported")),
        }
    }

    fn integer(mut self, value: &Value, kind: char) -> Result<String, Error> {
        self.form.kind = Some(if matches!(kind, 'i' | 'u') { 'd' } else { kind });
        let value = match (kind, type_of(value)) {
            ('x' | 'X' | 'o', Type::Float(_)) => {
                return fail(format!("`%{kind}` takes an integer and not a float"));
            }
            _ => whole(value)?,
        };
        if self.form.precision.is_some() {
            return fail("a precision of an integer in `%` is not supported");
        }
        self.padded_number(&value)
    }

    fn padded_number(mut self, value: &Value) -> Result<String, Error> {
        let text = self.form.number(value)?;
        if self.zero && !self.left {
            self.form.align = Some('=');
            self.form.fill = '0';
        }
        self.form.pad(&text, '>')
    }
}

/// A number, or the next value for `*`.
fn number<'a>(text: &'a str, places: &mut Places<'_>) -> Result<(Option<i64>, &'a str), Error> {
    if let Some(after) = text.strip_prefix('*') {
        return Ok((Some(index_of(&places.next()?, "a width by `*`")?), after));
    }
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if end == 0 {
        return Ok((None, text));
    }
    match text[..end].parse() {
        Ok(number) => Ok((Some(number), &text[end..])),
        Err(_) => fail("`%`: a width is too large"),
    }
}
