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
pub(super) fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let (mut start, mut characters) = (0, text.char_indices().peekable());
    while let Some((at, character)) = characters.next() {
        let ends = matches!(
            character,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        if !ends {
            continue;
        }
        let mut next = at + character.len_utf8();
        if character == '\r' && characters.peek().is_some_and(|(_, following)| *following == '\n') {
            characters.next();
            next += 1;
        }
        lines.push(&text[start..if keep_ends { next } else { at }]);
        start = next;
    }
    if start < text.len() {
        lines.push(&text[start..]);
    }
    lines
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
        assert_eq!(split_lines("a\r\nb\x0bc\u{2028}d\n\ne", false), ["a", "b", "c", "d", "", "e"]);
        assert_eq!(split_lines("a\n", true), ["a\n"]);
        assert!(split_lines("", false).is_empty());
    }
}
