//! `str.format`.

use minijinja::value::Kwargs;
use minijinja::{Error, Value};

use crate::jinja::arguments::split;
use crate::jinja::format_spec::Form;
use crate::jinja::limits::charge;
use crate::jinja::operators::subscript;
use crate::jinja::printing;
use crate::jinja::text::byte_of;
use crate::jinja::types::{Type, fail, number_of, string, type_name, type_of};

/// `text.format(arguments)`.
pub(super) fn format(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (positional, named) = split(arguments);
    let mut fields = Fields { positional, named, next: 0 };
    string(fields.fill(text, 2)?)
}

/// Bytes that reading a field counts for.
pub(in crate::jinja) const FIELD: usize = 32;

struct Fields<'a> {
    positional: &'a [Value],
    named: Option<Kwargs>,
    /// The next field without a name; the fields with numbers come from elsewhere.
    next: usize,
}

impl Fields<'_> {
    /// A format with its fields filled; `depth` is how often a format may hold another.
    fn fill(&mut self, format: &str, depth: usize) -> Result<String, Error> {
        let (mut result, mut rest) = (String::new(), format);
        while let Some(at) = rest.find(['{', '}']) {
            result.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix(brace) {
                result.push_str(brace);
                rest = after;
                continue;
            }
            let Some(end) = (brace == "{").then(|| end_of_field(after)).flatten() else {
                return fail("`format`: a single brace in the format");
            };
            let text = self.field(&after[..end], depth)?;
            charge(text.len() + FIELD)?;
            result.push_str(&text);
            rest = &after[end + 1..];
        }
        result.push_str(rest);
        Ok(result)
    }

    fn field(&mut self, field: &str, depth: usize) -> Result<String, Error> {
        if depth == 0 {
            return fail("`format`: fields are nested too deeply");
        }
        let (name, spec) = field.split_at(end_of_name(field));
        let (name, conversion) = name
            .split_once('!')
            .map_or((name, None), |(name, conversion)| (name, Some(conversion)));
        let value = self.value(name)?;
        let spec = self.fill(spec.strip_prefix(':').unwrap_or_default(), depth - 1)?;
        match conversion {
            None => format_value(&value, &spec),
            Some("s") => format_value(&string(printing::str(&value)?)?, &spec),
            Some("r") => format_value(&string(printing::repr(&value)?)?, &spec),
            Some(other) => fail(format!("`format`: the conversion `!{other}` is not supported")),
        }
    }

    /// The argument that a field names, and what its attributes and items lead to.
    fn value(&mut self, name: &str) -> Result<Value, Error> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut path) = name.split_at(end);
        let mut value = self.argument(first)?;
        while !path.is_empty() {
            if let Some(after) = path.strip_prefix('[') {
                let Some((key, after)) = after.split_once(']') else {
                    return fail("`format`: `[` has no end");
                };
                let key = key.parse::<i64>().map_or_else(|_| Value::from(key), Value::from);
                value = subscript::get_item(&value, &key)?;
                path = after;
            } else {
                return fail("`format`: attributes in a field are not supported");
            }
            if value.is_undefined() {
                return fail(format!("`format`: there is nothing at `{name}`"));
            }
        }
        Ok(value)
    }

    fn argument(&mut self, name: &str) -> Result<Value, Error> {
        let index = if name.is_empty() {
            self.next += 1;
            Ok(self.next - 1)
        } else {
            name.parse::<usize>()
        };
        let found = match index {
            Ok(index) => self.positional.get(index).cloned(),
            Err(_) => self.named.as_ref().and_then(|named| named.peek::<Value>(name).ok()),
        };
        found.map_or_else(|| fail(format!("`format`: there is no argument `{name}`")), Ok)
    }
}

/// Where the `}` of a field is, whose format may hold fields.
fn end_of_field(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (at, character) in text.char_indices() {
        match character {
            '{' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

/// Where the name of a field ends: at a `:` outside brackets.
fn end_of_name(field: &str) -> usize {
    let mut inside = false;
    for (at, character) in field.char_indices() {
        match character {
            '[' => inside = true,
            ']' => inside = false,
            ':' if !inside => return at,
            _ => {}
        }
    }
    field.len()
}

/// `format(value, spec)`.
fn format_value(value: &Value, spec: &str) -> Result<String, Error> {
    if spec.is_empty() {
        return printing::str(value);
    }
    let mut form = parse(spec)?;
    match type_of(value) {
        Type::Str(text) => {
            if !matches!(form.kind, None | Some('s'))
                || form.sign.is_some()
                || form.alternate
                || form.grouping.is_some()
            {
                return fail(format!("`format`: {spec:?} is no format of a string"));
            }
            let kept = form.precision.map_or(text.len(), |count| byte_of(text, count));
            if form.align == Some('=') {
                form.align = Some('<');
            }
            form.pad(&text[..kept], '<')
        }
        Type::Bool(value) if form.kind.is_none() => form.pad(if value { "1" } else { "0" }, '>'),
        Type::Float(number)
            if form.kind.is_none() && form.precision.is_none() && form.grouping.is_none() =>
        {
            let text = printing::float(number);
            let sign =
                form.sign.filter(|_| !text.starts_with('-')).map(String::from).unwrap_or_default();
            form.pad(&format!("{sign}{text}"), '>')
        }
        Type::Float(_) if form.kind.is_none() => fail(
            "`format` of a floating-point number with a precision but without a kind is not supported",
        ),
        _ if number_of(value).is_some() => {
            if form.fill == '0' && form.align == Some('=') && form.grouping.is_some() {
                return fail("`format` of grouped digits filled with zeros is not supported");
            }
            let text = form.number(value)?;
            form.pad(&text, '>')
        }
        _ => fail(format!(
            "`format` of a value of type {} with {spec:?} is not supported",
            type_name(value)
        )),
    }
}

/// `[[fill]align][sign][#][0][width][grouping][.precision][kind]`.
fn parse(spec: &str) -> Result<Form, Error> {
    let mut form = Form::default();
    let mut characters: Vec<char> = spec.chars().collect();
    let is_align = |c: Option<&char>| c.is_some_and(|c| "<>=^".contains(*c));
    if is_align(characters.get(1)) {
        (form.fill, form.align) = (characters[0], Some(characters[1]));
        characters.drain(..2);
    } else if is_align(characters.first()) {
        form.align = Some(characters.remove(0));
    }
    let mut skip = |allowed: &str| {
        let found = characters.first().copied().filter(|c| allowed.contains(*c));
        if found.is_some() {
            characters.remove(0);
        }
        found
    };
    form.sign = skip("+- ");
    form.alternate = skip("#").is_some();
    if skip("0").is_some() && form.align.is_none() {
        (form.fill, form.align) = ('0', Some('='));
    }
    while let Some(digit) = skip("0123456789") {
        form.width =
            form.width.saturating_mul(10).saturating_add(digit.to_digit(10).unwrap_or(0) as usize);
    }
    form.grouping = skip(",_");
    if skip(".").is_some() {
        let mut precision = 0_usize;
        while let Some(digit) = skip("0123456789") {
            precision = precision
                .saturating_mul(10)
                .saturating_add(digit.to_digit(10).unwrap_or(0) as usize);
        }
        form.precision = Some(precision);
    }
    form.kind = skip("bcdeEfFgGnosxX%");
    if characters.is_empty() {
        Ok(form)
    } else {
        fail(format!("`format`: the format {spec:?} is not supported"))
    }
}
