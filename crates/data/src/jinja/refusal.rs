//! Why a template is not accepted, in one line.

/// A reason and the line of the template.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) line: u32,
}

impl Refusal {
    /// One line for a message.
    pub(super) fn describe(&self) -> String {
        format!("{}, its line {}", self.reason, self.line)
    }
}

pub(super) fn refuse<T>(line: u32, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { reason: reason.into(), line })
}
