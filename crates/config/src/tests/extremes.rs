//! Every key with values that nobody means: no panic, and one line that names the key.

use super::{LEAST, load};
use crate::registry;
use proptest::prelude::*;

/// Values in TOML that are in no range.
const EXTREMES: [&str; 14] = [
    "9223372036854775807",
    "-9223372036854775808",
    "4611686018427387904",
    "9007199254740993",
    "-1",
    "0",
    "1e308",
    "-1e308",
    "inf",
    "nan",
    "\"\"",
    "[9223372036854775807, -9223372036854775808]",
    "{ a = 9223372036854775807 }",
    "[[[]]]",
];

/// `table.key`, and the value as it is given there.
fn given(table: &str, key: &str, value: &str) -> (String, String) {
    match table.split_once('.') {
        Some(("data", list)) => {
            (format!("data.{list}"), format!("[{{ path = \"a\", {key} = {value} }}]"))
        }
        Some((outer, list)) => (format!("{outer}.{list}"), format!("[{{ {key} = {value} }}]")),
        None => (format!("{table}.{key}"), value.to_owned()),
    }
}

fn keys() -> Vec<(&'static str, &'static str, bool)> {
    let whole = |schema: &serde_json::Value| schema["type"] == "integer";
    registry::tables()
        .iter()
        .flat_map(|table| table.keys.iter().map(move |key| (table.name, key)))
        .map(|(table, key)| (table, key.name, whole(&key.schema)))
        .collect()
}

#[test]
fn an_absurd_number_is_refused_by_its_key() {
    for (table, key, is_whole) in keys() {
        for value in EXTREMES {
            let (name, value) = given(table, key, value);
            let loaded = load(LEAST, &[&format!("{name}={value}")]);
            if let Err(message) = &loaded {
                assert!(!message.contains('\n'), "{message}");
                assert!(
                    message.contains(key) || message.contains("overrides"),
                    "{name}: {message}"
                );
            }
            let is_huge = value == EXTREMES[0] && is_whole && key != "seed";
            assert!(!is_huge || loaded.is_err(), "{name} = {value} is taken");
        }
    }
}

proptest! {
    /// Two keys at once, with any numbers.
    #[test]
    fn no_numbers_panic(
        first in 0..1000_usize,
        second in 0..1000_usize,
        numbers in (any::<i64>(), any::<f64>()),
    ) {
        let keys = keys();
        let (a, b) = (keys[first % keys.len()], keys[second % keys.len()]);
        let (name, value) = given(a.0, a.1, &numbers.0.to_string());
        let (other, float) = given(b.0, b.1, &format!("{:e}", numbers.1));
        let _ = load(LEAST, &[&format!("{name}={value}"), &format!("{other}={float}")]);
        let _ = load(LEAST, &[&format!("{name}={value}"), &format!("{other}={value}")]);
    }
}

#[test]
fn a_step_of_too_many_tokens_is_refused() {
    let large = ["run.batch_size=1000000", "data.sequence_length=1048576"];
    let message = load(LEAST, &large).unwrap_err();
    assert!(message.contains("[run] batch_size: is 1000000, and"), "{message}");
    assert!(load(LEAST, &[large[0], large[1], "cluster.ranks=1000"]).is_ok());
}
