//! Arguments of filters, functions and methods, bound to their names as Python binds them.

use minijinja::value::Kwargs;
use minijinja::{Error, Value};

use super::types::fail;

/// The positional arguments, and those with names.
pub(super) fn split(arguments: &[Value]) -> (&[Value], Option<Kwargs>) {
    if let Some((last, rest)) = arguments.split_last()
        && last.is_kwargs()
        && let Ok(named) = Kwargs::try_from(last.clone())
    {
        return (rest, Some(named));
    }
    (arguments, None)
}

/// The arguments in the order of `names`; those that are not given are none.
pub(super) fn bind<const N: usize>(
    function: &str,
    arguments: &[Value],
    names: [&str; N],
) -> Result<[Option<Value>; N], Error> {
    let (positional, named) = split(arguments);
    if positional.len() > N {
        return fail(format!(
            "`{function}` takes at most {N} arguments and is given {}",
            positional.len()
        ));
    }
    let mut bound = [const { None }; N];
    for (slot, value) in bound.iter_mut().zip(positional) {
        *slot = Some(value.clone());
    }
    let Some(named) = named else { return Ok(bound) };
    for name in named.args() {
        let Some(index) = names.iter().position(|known| *known == name) else {
            return fail(format!("`{function}` has no argument `{name}`"));
        };
        if bound[index].is_some() {
            return fail(format!("`{function}` is given its argument `{name}` twice"));
        }
        bound[index] = Some(named.peek(name)?);
    }
    Ok(bound)
}

/// An argument without which nothing can be done.
pub(super) fn required(function: &str, name: &str, value: Option<Value>) -> Result<Value, Error> {
    match value {
        Some(value) => Ok(value),
        None => fail(format!("`{function}` is not given its argument `{name}`")),
    }
}

/// Whether an optional argument is given and true in Python's sense.
pub(super) fn is_true(value: Option<&Value>, default: bool) -> bool {
    value.map_or(default, Value::is_true)
}
