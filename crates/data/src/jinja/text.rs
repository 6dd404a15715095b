//! Characters and white space as Python's `str` has them.

/// `str.isspace` of one character: Unicode's white space, and the four separators of ASCII.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

/// `str.rstrip()`.
pub(super) fn trim_end_matches_space(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `str.splitlines(keepends)`.
pub(super) fn split_lines(text: &str, keep_ends: bool) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.char_indices().find(|(_, character)| ends_line(*character));
        let (at, length) = match end {
            Some((at, '\r')) if rest[at..].starts_with("\r\n") => (at, 2),
            Some((at, character)) => (at, character.len_utf8()),
            None => (rest.len(), 0),
        };
        let line = &rest[..if keep_ends { at + length } else { at }];
        rest = &rest[at + length..];
        Some(line)
    })
}

fn ends_line(character: char) -> bool {
    matches!(
        character,
        '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// The byte at which character `index` begins; the end where there is none.
pub(super) fn byte_of(text: &str, index: usize) -> usize {
    if text.is_ascii() {
        return index.min(text.len());
    }
    text.char_indices().nth(index).map_or(text.len(), |(at, _)| at)
}

/// `len(text)`.
pub(super) fn length(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_python_ends_them() {
        let lines = |text, keep_ends| split_lines(text, keep_ends).collect::<Vec<_>>();
        assert_eq!(lines("a\r\nb\x0bc\u{2028}d\n\ne", false), ["a", "b", "c", "d", "", "e"]);
        assert_eq!(lines("a\n", true), ["a\n"]);
        assert_eq!(lines("a\r\n\rb", true), ["a\r\n", "\r", "b"]);
        assert!(lines("", false).is_empty());
    }
}
