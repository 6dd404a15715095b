//! JSON as Python writes it.

use std::borrow::Cow;

use serde_json::{Error, Value};

use crate::record::{Fault, fault};

const REMEDY: &str = "write one whole record on each line, or one array of records";

/// Parses a value. What is no JSON, but what `json.dumps` of Python writes all the same, is read,
/// too: `NaN`, `Infinity` and `-Infinity`, and numbers beyond them, as null; half of a surrogate
/// pair (`"\ud83d"`) as U+FFFD, the replacement character. Of two equal keys the last counts.
///
/// # Errors
/// What is wrong with it, and what to do.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Fault> {
    serde_json::from_slice(bytes).or_else(|error| mended(bytes, error))
}

/// Refuses a value of which a whole number has lost digits; `bytes` are what it was parsed from.
///
/// # Errors
/// If a whole number has more than 64 bits.
pub(crate) fn check_digits(value: &Value, bytes: &[u8]) -> Result<(), Fault> {
    if has_large_number(value) && has_long_integer(bytes) {
        return fault(
            "a whole number has more than 64 bits, and would lose digits",
            "write it as a string",
        );
    }
    Ok(())
}

/// Whether a number may have been a whole one of more than 64 bits.
fn has_large_number(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_f64() && number.as_f64().is_some_and(|number| number.abs() >= i64::MAX as f64)
        }
        Value::Array(items) => items.iter().any(has_large_number),
        Value::Object(fields) => fields.values().any(has_large_number),
        _ => false,
    }
}

/// Whether there are nineteen digits in a row that no fraction or exponent follows.
fn has_long_integer(bytes: &[u8]) -> bool {
    let runs =
        bytes.split(|byte| !(byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+')));
    runs.into_iter().any(|run| run.len() >= 19 && run.iter().all(u8::is_ascii_digit))
}

/// The text of bytes.
///
/// # Errors
/// If it is not UTF-8: with the place of the first byte that is not.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).or_else(|error| {
        let at = error.valid_up_to();
        let lines = bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
        let place = if lines > 0 { format!("its line {}, ", lines + 1) } else { String::new() };
        let column =
            at - bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1) + 1;
        fault(
            format!("it is not UTF-8 ({place}byte {column} is {:#04x})", bytes[at]),
            "save the file as UTF-8; it may be in Latin-1 or Windows-1252",
        )
    })
}

/// Parses again what serde_json refused, with what Python writes put right.
fn mended(bytes: &[u8], error: Error) -> Result<Value, Fault> {
    let text = utf8(bytes)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match mend(text) {
        Cow::Owned(mended) => {
            serde_json::from_str(&mended).or_else(|error| broken(&mended, &error))
        }
        Cow::Borrowed(text) if text.len() < bytes.len() => {
            serde_json::from_str(text).or_else(|error| broken(text, &error))
        }
        Cow::Borrowed(text) => broken(text, &error),
    }
}

fn broken<T>(text: &str, error: &Error) -> Result<T, Fault> {
    let rest = text
        .lines()
        .nth(error.line().saturating_sub(1))
        .and_then(|line| line.get(error.column().saturating_sub(1)..));
    let rest = rest.unwrap_or_default();
    let says = error.to_string();
    if says.starts_with("trailing characters") && rest.starts_with(',') {
        return fault(
            format!("broken JSON (a comma follows the record: {says})"),
            "write one whole record on each line, without commas between them",
        );
    }
    if says.starts_with("trailing characters") && rest.starts_with(['{', '[', '"']) {
        return fault(format!("broken JSON (several values on one line: {says})"), REMEDY);
    }
    if says.starts_with("recursion limit") {
        return fault(
            format!("broken JSON (it is nested more than 127 levels deep: {says})"),
            "flatten the record",
        );
    }
    if error.is_eof() {
        return fault(format!("broken JSON (it ends too early: {says})"), REMEDY);
    }
    if text.starts_with("{'") || text.starts_with("[{'") {
        return fault(
            format!("broken JSON (keys in single quotes, as Python prints a dict: {says})"),
            "write it with json.dumps",
        );
    }
    fault(format!("broken JSON ({says})"), REMEDY)
}

/// Replaces what Python writes and JSON lacks.
fn mend(text: &str) -> Cow<'_, str> {
    let (mut mended, mut done, mut at) = (String::new(), 0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let (end, instead) = match bytes[at] {
            b'"' => {
                at = string(text, at, &mut done, &mut mended);
                continue;
            }
            b'N' | b'I' | b'-' | b'0'..=b'9' => word(text, at),
            _ => (at + 1, None),
        };
        if let Some(instead) = instead {
            mended.push_str(&text[done..at]);
            mended.push_str(instead);
            done = end;
        }
        at = end;
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    mended.push_str(&text[done..]);
    Cow::Owned(mended)
}

/// The end of the word or number at `at`, and null if it is none of JSON.
fn word(text: &str, at: usize) -> (usize, Option<&'static str>) {
    let rest = &text[at..];
    let length = rest
        .find(|letter: char| !letter.is_ascii_alphanumeric() && !"+-.".contains(letter))
        .unwrap_or(rest.len());
    let word = &rest[..length];
    let is_number = word.starts_with(|letter: char| letter == '-' || letter.is_ascii_digit());
    let is_beyond = is_number && word.parse::<f64>().is_ok_and(f64::is_infinite);
    (at + length, (is_beyond || word == "NaN" || word == "Infinity").then_some("null"))
}

/// Reads over the string that opens at `at`, replaces halves of surrogate pairs in it, and gives
/// its end.
fn string(text: &str, mut at: usize, done: &mut usize, mended: &mut String) -> usize {
    let bytes = text.as_bytes();
    at += 1;
    while at < bytes.len() && bytes[at] != b'"' {
        let Some(unit) = escaped_unit(text, at) else {
            at += if bytes[at] == b'\\' { 2 } else { 1 };
            continue;
        };
        let has_half = (0xD800..0xDC00).contains(&unit)
            && escaped_unit(text, at + 6).is_some_and(|next| (0xDC00..0xE000).contains(&next));
        if !has_half && (0xD800..0xE000).contains(&unit) {
            mended.push_str(&text[*done..at]);
            mended.push_str("\\ufffd");
            *done = at + 6;
        }
        at += if has_half { 12 } else { 6 };
    }
    at + 1
}

/// The code unit that is escaped at `at` as `\u` and four digits.
fn escaped_unit(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn whole_numbers_beyond_64_bits_are_refused_and_other_numbers_are_read() {
        for text in [
            "[123456789012345678901234567890]",
            "[-9223372036854775809]",
            "{\"a\": [18446744073709551616]}",
        ] {
            assert!(
                check_digits(&parse(text.as_bytes()).unwrap(), text.as_bytes())
                    .unwrap_err()
                    .problem
                    .contains("64 bits"),
                "{text}"
            );
        }
        for text in [
            "[18446744073709551615]",
            "[-9223372036854775808]",
            "[1e300]",
            "[12345678901234567890.5e3]",
            "[\"1234567890123456789012\"]",
        ] {
            assert!(
                check_digits(&parse(text.as_bytes()).unwrap(), text.as_bytes()).is_ok(),
                "{text}"
            );
        }
    }

    fn problem(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().problem
    }

    #[test]
    fn what_python_writes_is_read() {
        for (text, expected) in [
            (
                r#"{"a": NaN, "b": [-Infinity, Infinity], "text": "NaN, \"Infinity"}"#,
                json!({"a": null, "b": [null, null], "text": "NaN, \"Infinity"}),
            ),
            (
                r#"{"a": 1e999, "b": -1E+400, "c": 1e5, "d": -0.5}"#,
                json!({"a": null, "b": null, "c": 1e5, "d": -0.5}),
            ),
            (
                r#"["\ud83d", "\ud83d\ude00", "a\ude00b", "\\ud83d", "\ud83d\ud83d\ude00", "é\ud83dn"]"#,
                json!(["\u{fffd}", "😀", "a\u{fffd}b", "\\ud83d", "\u{fffd}😀", "é\u{fffd}n"]),
            ),
            ("\u{feff}{\"a\": 1}", json!({"a": 1})),
            (r#"{"a": 1, "a": 2}"#, json!({"a": 2})),
            ("{\"a\": 1}\r", json!({"a": 1})),
        ] {
            assert_eq!(
                parse(text.as_bytes()).unwrap_or_else(|fault| panic!("{text}: {fault:?}")),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_broken_is_called_by_its_name() {
        for (text, says) in [
            (r#"{"a": 1}{"a": 2}"#, "several values on one line"),
            (r#"{"a": 1} [2]"#, "several values on one line"),
            (r#"{"a": 1},"#, "a comma follows the record"),
            (r#"{"a": 1,}"#, "trailing comma"),
            (r#"{"a": [1"#, "ends too early"),
            (r#"{'a': 1}"#, "as Python prints a dict"),
            (r#"{"a": NaN, "b": nan}"#, "broken JSON (expected"),
            (r#"{"a": NaNs}"#, "broken JSON (expected"),
            ("{\"a\": \"\t\"}", "control character"),
        ] {
            assert!(problem(text).contains(says), "{text}: {}", problem(text));
        }
        assert!(
            problem(&format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)))
                .contains("nested more than 127 levels")
        );
        let fault = parse(b"{\"a\": \"caf\xE9\"}").unwrap_err();
        assert_eq!(fault.problem, "it is not UTF-8 (byte 11 is 0xe9)");
        assert!(fault.remedy.contains("UTF-8"));
        assert_eq!(
            utf8(b"a\nbc\xFF").unwrap_err().problem,
            "it is not UTF-8 (its line 2, byte 3 is 0xff)"
        );
    }

    proptest! {
        #[test]
        fn valid_json_is_never_touched_and_nothing_panics(text in "([\\[\\]{}\",: \n]|NaN|-?Infinity|-|1e999|0.5|\\\\ud83d|\\\\ude00|\\\\|é|a){0,40}") {
            let whole: Result<Value, _> = serde_json::from_str(&text);
            if let Ok(whole) = whole {
                prop_assert_eq!(parse(text.as_bytes()).unwrap(), whole);
            } else {
                let _ = parse(text.as_bytes());
            }
        }
    }
}
