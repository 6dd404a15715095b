//! Records of a JSON file: one a line, or the elements of one array.

use std::io::BufRead;

use crate::error::{Error, Place, Result};
use crate::input::{Input, RECORD_LIMIT, too_long};
use crate::json_layout;
use crate::json_scan::{Scan, Step};
use crate::lines::Lines;
use crate::records::{Content, Cursor, Raw, Rows};

/// Opens a file whose content, not its name, says which of the two it is, at a place in it.
///
/// # Errors
/// If the file cannot be read, or holds records in neither way.
pub(crate) fn open(mut input: Input, columns: &[&str], from: Cursor) -> Result<Box<dyn Rows>> {
    let line = skip_blank(&mut input)?;
    if input.head()?.first() == Some(&b'[') {
        let (mut line, mut state) = (line + 1, State::Before);
        if from.records > 0 {
            input.skip_to(from.byte)?;
            (line, state) = (from.line, State::After);
        }
        return Ok(Box::new(Elements { input, line, state, past: (from.byte, from.line) }));
    }
    if from.records > 0 {
        input.skip_to(from.byte)?;
        return Ok(Box::new(Lines::new(input, from.line)));
    }
    let path = input.path().to_owned();
    json_layout::check(&path, line + 1, input.head()?, columns)?;
    Ok(Box::new(Lines::new(input, line)))
}

/// Goes to the first byte that is not blank, and counts the lines before it.
fn skip_blank(input: &mut Input) -> Result<u64> {
    let mut lines = 0;
    loop {
        let there = input.peek()?;
        let blank = there.len() - there.trim_ascii_start().len();
        let ends = blank < there.len() || there.is_empty();
        lines += line_ends(&there[..blank]);
        input.consume(blank);
        if ends {
            return Ok(lines);
        }
    }
}

fn line_ends(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// The elements of an array, cut out one by one and not parsed yet.
struct Elements {
    input: Input,
    /// The line of the next byte, from 1.
    line: u64,
    state: State,
    /// The byte and the line past the last element.
    past: (u64, u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the bracket that opens the array.
    Before,
    /// Past an element.
    After,
    /// Past the bracket that closes it.
    Ended,
}

impl Rows for Elements {
    fn next(&mut self) -> Result<Option<Raw>> {
        let is_first = self.state == State::Before;
        match (self.state, self.peek()?) {
            (State::Before, _) => self.input.consume(1),
            (State::After, Some(b',')) => self.input.consume(1),
            (State::After, Some(b']')) => return self.end(),
            (State::After, Some(_)) => {
                return Err(self.broken("a comma is missing between two records"));
            }
            (State::After, None) => return Err(self.broken("the array does not end")),
            (State::Ended, _) => return Ok(None),
        }
        match self.peek()? {
            Some(b']') if is_first => self.end(),
            Some(b']') => {
                Err(self.broken("a comma stands before the bracket that closes the array"))
            }
            Some(b',') => Err(self.broken("there is nothing between two commas")),
            None => Err(self.broken("the array does not end")),
            Some(_) => self.element().map(Some),
        }
    }

    fn place(&self) -> (u64, u64) {
        // Not the place of the next byte: past the bracket that closes the array it could not be
        // found again.
        self.past
    }

    fn bytes_read(&self) -> u64 {
        self.input.bytes_read()
    }
}

impl Elements {
    /// The next byte that is not blank.
    fn peek(&mut self) -> Result<Option<u8>> {
        self.line += skip_blank(&mut self.input)?;
        Ok(self.input.peek()?.first().copied())
    }

    fn element(&mut self) -> Result<Raw> {
        let (line, mut found, mut scan) = (self.line, Vec::new(), Scan::default());
        loop {
            let there = self.input.peek()?;
            if there.is_empty() && !scan.may_end() {
                return Err(self.broken("the array does not end"));
            }
            let step = if there.is_empty() { Step::End(0) } else { scan.step(there) };
            let count = match step {
                Step::More => there.len(),
                Step::End(count) | Step::Broken(count, _) => count,
            };
            found.extend_from_slice(&there[..count]);
            self.line += line_ends(&there[..count]);
            self.input.consume(count);
            match step {
                Step::More if found.len() as u64 > RECORD_LIMIT => {
                    return Err(too_long(self.input.path(), line, RECORD_LIMIT));
                }
                Step::More => {}
                Step::End(_) => break,
                Step::Broken(_, problem) => return Err(self.broken(problem)),
            }
        }
        (self.state, self.past) = (State::After, (self.input.position(), self.line));
        Ok(Raw::new(line, Content::Json(found)))
    }

    /// Past the closing bracket there may be nothing else.
    fn end(&mut self) -> Result<Option<Raw>> {
        self.input.consume(1);
        self.state = State::Ended;
        match self.peek()? {
            None => Ok(None),
            Some(_) => Err(self.broken("something follows the array")),
        }
    }

    fn broken(&self, problem: &str) -> Error {
        Error::Record {
            place: Place { path: self.input.path().to_owned(), line: self.line as usize },
            problem: format!("broken JSON ({problem})"),
            remedy: "write one array of records, or one whole record on each line".into(),
        }
    }
}
