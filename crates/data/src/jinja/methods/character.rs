//! Classes of characters, and changes of case.

use std::sync::LazyLock;

use minijinja::Error;
use regex::Regex;

use crate::jinja::limits::charge;
use crate::jinja::types::fail;

/// `str.islower`: no cased character is anything else, and there is one.
pub(in crate::jinja) fn is_lower(text: &str) -> bool {
    !text.chars().any(|c| c.is_uppercase() || is_title(c)) && text.chars().any(char::is_lowercase)
}

/// `str.isupper`.
pub(in crate::jinja) fn is_upper(text: &str) -> bool {
    !text.chars().any(|c| c.is_lowercase() || is_title(c)) && text.chars().any(char::is_uppercase)
}

fn is_title(character: char) -> bool {
    matches!(character, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}' | 'ᾼ' | 'ῌ' | 'ῼ')
}

fn is_cased(character: char) -> bool {
    character.is_lowercase() || character.is_uppercase() || is_title(character)
}

/// The title case of a character: that of Georgian letters, digraphs and Greek letters with iota
/// below is not their upper case.
fn title_case(character: char) -> Result<String, Error> {
    if matches!(character, '\u{1c4}'..='\u{1cc}' | '\u{1f1}'..='\u{1f3}' | '\u{10d0}'..='\u{10ff}' | '\u{1f80}'..='\u{1fff}')
    {
        return fail(format!("the title case of {character:?} is not supported"));
    }
    let mut upper = character.to_uppercase();
    let first = upper.next().into_iter();
    Ok(first.chain(upper.flat_map(char::to_lowercase)).collect())
}

/// `str.capitalize`.
pub(in crate::jinja) fn capitalize(text: &str) -> Result<String, Error> {
    let mut characters = text.chars();
    match characters.next() {
        None => Ok(String::new()),
        Some(first) => Ok(title_case(first)? + &characters.as_str().to_lowercase()),
    }
}

/// `str.title`: each letter that follows none begins a word.
pub(in crate::jinja) fn title(text: &str) -> Result<String, Error> {
    let mut result = String::with_capacity(text.len());
    let mut inside = false;
    for character in text.chars() {
        if inside {
            result.extend(character.to_lowercase());
        } else {
            result.push_str(&title_case(character)?);
        }
        inside = is_cased(character);
    }
    Ok(result)
}

/// `str.swapcase`.
pub(in crate::jinja) fn swap_case(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_uppercase() {
            result.extend(character.to_lowercase());
        } else {
            result.extend(character.to_uppercase());
        }
    }
    result
}

/// `str.istitle`.
pub(in crate::jinja) fn is_title_text(text: &str) -> bool {
    let (mut inside, mut found) = (false, false);
    for character in text.chars() {
        let upper = character.is_uppercase() || is_title(character);
        if (upper && inside) || (character.is_lowercase() && !inside) {
            return false;
        }
        inside = is_cased(character);
        found |= inside;
    }
    found
}

/// `str.isdigit`, `isalpha` and their kin: whether all characters are of a class, and there is one.
pub(in crate::jinja) fn is_all(name: &str, text: &str) -> Result<bool, Error> {
    for character in text.chars() {
        if !is_of(name, character)? {
            return Ok(false);
        }
    }
    Ok(!text.is_empty())
}

#[expect(clippy::unwrap_used, reason = "constant patterns, which a test compiles")]
fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap()
}

static LETTER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\p{L}"));
static DECIMAL: LazyLock<Regex> = LazyLock::new(|| pattern(r"\p{Nd}"));
static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\p{N}"));
static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\p{L}\p{N}_]+"));

/// How many words `\w+` finds in Python.
pub(in crate::jinja) fn words(text: &str) -> usize {
    WORD.find_iter(text).count()
}

/// Bytes that asking for the classes of a character counts for: that takes long.
const CLASSES: usize = 32;

fn is_of(name: &str, character: char) -> Result<bool, Error> {
    if character.is_ascii() {
        return Ok(match name {
            "isalpha" => character.is_ascii_alphabetic(),
            "isalnum" => character.is_ascii_alphanumeric(),
            _ => character.is_ascii_digit(),
        });
    }
    charge(CLASSES)?;
    let mut buffer = [0; 4];
    let text: &str = character.encode_utf8(&mut buffer);
    let (letter, decimal, number) =
        (LETTER.is_match(text), DECIMAL.is_match(text), NUMBER.is_match(text));
    match name {
        "isalpha" => Ok(letter),
        "isdecimal" => Ok(decimal),
        "isalnum" if letter || number => Ok(true),
        "isdigit" | "isnumeric" if decimal || !number && !letter => Ok(decimal),
        "isalnum" => Ok(false),
        _ => fail(format!("`{name}` of {character:?} is not supported")),
    }
}
