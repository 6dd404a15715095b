//! A file's bytes, cut into records that know their line.

use std::path::Path;

use serde::de::IgnoredAny;

use crate::error::{Error, Place};

/// The bytes of one record and the line on which they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice<'a> {
    pub(crate) line: usize,
    pub(crate) bytes: &'a [u8],
}

impl Slice<'_> {
    pub(crate) fn place(&self, path: &Path) -> Place {
        Place { path: path.to_owned(), line: self.line }
    }
}

/// What is wrong with a file's frame: the line, and why.
pub(crate) type Broken = (usize, String);

/// The same as an error.
pub(crate) fn error(path: &Path, (line, problem): Broken) -> Error {
    Error::Record {
        place: Place { path: path.to_owned(), line },
        problem: format!("broken JSON ({problem})"),
        remedy: "write one array of records, or one whole record on each line".into(),
    }
}

/// The records of a JSON file: the elements of an array, or one record a line.
pub(crate) fn json(bytes: &[u8]) -> Result<Vec<Slice<'_>>, Broken> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => elements(bytes),
        _ => Ok(lines(bytes).filter(|slice| !slice.bytes.trim_ascii().is_empty()).collect()),
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = Slice<'_>> {
    bytes.split(|&byte| byte == b'\n').zip(1..).map(|(bytes, line)| Slice { line, bytes })
}

/// Steps over the elements of an array without building them; they are parsed later, in parallel.
fn elements(bytes: &[u8]) -> Result<Vec<Slice<'_>>, Broken> {
    let mut found = Vec::new();
    let mut cursor = Cursor { bytes, position: 0, line: 1 };
    cursor.skip_white_space();
    cursor.advance(1);
    cursor.skip_white_space();
    if cursor.peek() == Some(b']') {
        return cursor.end(found);
    }
    loop {
        cursor.skip_white_space();
        let rest = &bytes[cursor.position..];
        let mut stream = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
        match stream.next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err((cursor.line + error.line().saturating_sub(1), error.to_string())),
            None => return Err((cursor.line, "the array does not end".into())),
        }
        let length = stream.byte_offset();
        found.push(Slice { line: cursor.line, bytes: &rest[..length] });
        cursor.advance(length);
        cursor.skip_white_space();
        match cursor.peek() {
            Some(b',') => cursor.advance(1),
            Some(b']') => return cursor.end(found),
            Some(_) => return Err((cursor.line, "a comma is missing between two records".into())),
            None => return Err((cursor.line, "the array does not end".into())),
        }
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    line: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    fn advance(&mut self, count: usize) {
        let passed = &self.bytes[self.position..self.position + count];
        self.line += passed.iter().filter(|&&byte| byte == b'\n').count();
        self.position += count;
    }

    fn skip_white_space(&mut self) {
        let rest = &self.bytes[self.position..];
        self.advance(rest.len() - rest.trim_ascii_start().len());
    }

    /// Past the closing bracket there may be nothing else.
    fn end(mut self, found: Vec<Slice<'a>>) -> Result<Vec<Slice<'a>>, Broken> {
        self.advance(1);
        self.skip_white_space();
        match self.peek() {
            None => Ok(found),
            Some(_) => Err((self.line, "something follows the array".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen<'a>(slices: &[Slice<'a>]) -> Vec<(usize, &'a str)> {
        slices.iter().map(|slice| (slice.line, std::str::from_utf8(slice.bytes).unwrap().trim_end())).collect()
    }

    #[test]
    fn json_lines_keep_their_numbers_past_blank_ones_and_windows_ends() {
        let slices = json(b"\xEF\xBB\xBF{\"a\":1}\r\n\r\n  \n{\"b\":2}").unwrap();
        assert_eq!(seen(&slices), [(1, "{\"a\":1}"), (4, "{\"b\":2}")]);
    }

    #[test]
    fn array_elements_know_their_lines() {
        let slices = json(b"\n[\n {\"a\": \"x,]\"},\n\n {\n \"b\": [2]\n}\n, 3]\n").unwrap();
        assert_eq!(seen(&slices), [(3, "{\"a\": \"x,]\"}"), (5, "{\n \"b\": [2]\n}"), (8, "3")]);
        assert!(json(b"[ ]").unwrap().is_empty());
    }

    #[test]
    fn broken_arrays_name_the_line() {
        for (text, line) in [("[\n1,\n{\"a\":}\n]", 3), ("[1\n", 2), ("[1 2]", 1), ("[1]\nx", 2), ("[1,\n", 2)] {
            assert_eq!(json(text.as_bytes()).unwrap_err().0, line, "{text}");
        }
    }
}
