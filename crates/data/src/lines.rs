//! Records that are lines or paragraphs of a text file.

use crate::error::Result;
use crate::input::{Input, RECORD_LIMIT, too_long};
use crate::records::{Content, Cursor, Raw, Rows};

/// JSON, one record a line.
pub(crate) struct Lines {
    input: Input,
    line: u64,
}

/// Runs of lines that are not blank.
pub(crate) struct Paragraphs {
    input: Input,
    line: u64,
}

impl Lines {
    /// The lines from the next byte on, before which there are `line` of them.
    pub(crate) fn new(input: Input, line: u64) -> Self {
        Self { input, line }
    }
}

impl Paragraphs {
    /// The paragraphs from a place on.
    pub(crate) fn new(mut input: Input, from: Cursor) -> Result<Self> {
        if from.records > 0 {
            input.skip_to(from.byte)?;
        }
        Ok(Self { input, line: from.line })
    }
}

impl Rows for Lines {
    fn next(&mut self) -> Result<Option<Raw>> {
        let mut found = Vec::new();
        while self.input.read_line(&mut found, self.line + 1)? > 0 {
            self.line += 1;
            if !found.trim_ascii().is_empty() {
                return Ok(Some(Raw::new(self.line, Content::Json(found))));
            }
            found.clear();
        }
        Ok(None)
    }

    fn place(&self) -> (u64, u64) {
        (self.input.position(), self.line)
    }

    fn bytes_read(&self) -> u64 {
        self.input.bytes_read()
    }
}

impl Rows for Paragraphs {
    fn next(&mut self) -> Result<Option<Raw>> {
        let (mut text, mut first, mut next) = (Vec::new(), 0, Vec::new());
        while self.input.read_line(&mut next, self.line + 1)? > 0 {
            self.line += 1;
            if next.trim_ascii().is_empty() {
                if !text.is_empty() {
                    break;
                }
            } else if text.is_empty() {
                (first, text) = (self.line, std::mem::take(&mut next));
            } else {
                text.push(b'\n');
                text.extend_from_slice(&next);
            }
            if text.len() as u64 > RECORD_LIMIT {
                return Err(too_long(self.input.path(), first, RECORD_LIMIT));
            }
            next.clear();
        }
        text.truncate(text.trim_ascii_end().len());
        Ok((!text.is_empty()).then(|| Raw::new(first, Content::Text(text))))
    }

    fn place(&self) -> (u64, u64) {
        (self.input.position(), self.line)
    }

    fn bytes_read(&self) -> u64 {
        self.input.bytes_read()
    }
}
