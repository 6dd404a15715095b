//! `strftime_now`: the date in a form of Python's `strftime`.

use std::fmt::Write;

use chrono::{DateTime, Local};
use minijinja::Error;

use super::limits;
use super::types::fail;

/// Directives that mean the same to chrono and to Python, with and without a `-` before them.
const DIRECTIVES: &str = "aAbBdeHIjmMpSuUVwWyYGgCDFhnRtTxXc%";
const WITHOUT_PADDING: &str = "dHIjmMSeyU";

/// Bytes that a byte of a format becomes at most.
const LONGEST: usize = 16;

pub(super) fn strftime(now: DateTime<Local>, format: &str) -> Result<String, Error> {
    limits::charge(format.len().saturating_mul(LONGEST))?;
    let mut known = String::with_capacity(format.len());
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            known.push(character);
            continue;
        }
        match characters.next() {
            Some(directive) if DIRECTIVES.contains(directive) => known.extend(['%', directive]),
            Some('f') => known.push_str("%6f"),
            // Python's `now()` has no time zone.
            Some('Z' | 'z') => {}
            Some('-') => match characters.next() {
                Some(directive) if WITHOUT_PADDING.contains(directive) => {
                    known.extend(['%', '-', directive])
                }
                other => {
                    return unknown(&format!("%-{}", other.map(String::from).unwrap_or_default()));
                }
            },
            other => return unknown(&format!("%{}", other.map(String::from).unwrap_or_default())),
        }
    }
    let mut text = String::new();
    // `to_string` of a date panics on a format that it does not know; `write!` says so.
    match write!(text, "{}", now.format(&known)) {
        Ok(()) => Ok(text),
        Err(_) => unknown(format),
    }
}

fn unknown<T>(directive: &str) -> Result<T, Error> {
    fail(format!("strftime_now does not support the format {directive:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_directives_print_and_others_are_named() {
        limits::start(&minijinja::Value::UNDEFINED, limits::Bounds::Whole);
        let now = DateTime::from_timestamp(0, 0).unwrap().with_timezone(&Local);
        assert_eq!(
            strftime(now, "%d %b %Y, %-d%%").unwrap(),
            now.format("%d %b %Y, %-d%%").to_string()
        );
        assert_eq!(strftime(now, "%Z%z").unwrap(), "");
        assert!(strftime(now, "%Q").unwrap_err().to_string().contains("%Q"));
        assert!(strftime(now, "%").is_err());
    }
}
