//! A text that is counted while it grows, before it takes its memory.

use std::fmt;

use minijinja::Error;

use super::limits::charge;

/// A text of which nobody knows the length before it is written.
#[derive(Default)]
pub(super) struct Growing {
    text: String,
    counted: usize,
}

impl Growing {
    pub(super) fn push_str(&mut self, part: &str) -> Result<(), Error> {
        self.count(part.len())?;
        self.text.push_str(part);
        Ok(())
    }

    pub(super) fn push(&mut self, character: char) -> Result<(), Error> {
        self.count(character.len_utf8())?;
        self.text.push(character);
        Ok(())
    }

    /// Adds what `part` prints, which is short.
    pub(super) fn print(&mut self, part: impl fmt::Display) -> Result<(), Error> {
        self.push_str(&part.to_string())
    }

    pub(super) fn into_string(self) -> String {
        self.text
    }

    /// Counts ahead by a part of the length, so that it is done rarely.
    fn count(&mut self, bytes: usize) -> Result<(), Error> {
        let length = self.text.len() + bytes;
        if length > self.counted {
            let more = (length - self.counted).max(length / 4).max(16);
            charge(more)?;
            self.counted += more;
        }
        Ok(())
    }
}
