//! How a command fails, and the exit code of it.

use std::process::ExitCode;

/// The exit code of a run that was stopped by a signal after a checkpoint: run it again to resume.
/// It is EX_TEMPFAIL of `sysexits.h`, on which schedulers can requeue a job.
pub const STOPPED: u8 = 75;

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Failure {
    /// Wrong use, configuration or input: exit code 2.
    Input(String),
    /// Anything else: exit code 1.
    Other(anyhow::Error),
    /// A signal asked to stop, and a checkpoint was saved: exit code 75. No failure, but not done
    /// either.
    Stopped(String),
    /// A failure that has been reported already: only the exit code is left.
    Reported(u8),
}

impl Failure {
    /// A failure that is no fault of the input.
    pub fn other(message: impl Into<String>) -> Self {
        Self::Other(anyhow::anyhow!(message.into()))
    }

    /// What failed, on one line.
    pub fn message(&self) -> String {
        match self {
            Self::Input(message) | Self::Stopped(message) => one_line(message),
            Self::Other(error) => one_line(&with_causes(error)),
            Self::Reported(code) => format!("exit code {code}"),
        }
    }

    /// Prints `error: …` on one line, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        let code = match self {
            Self::Input(_) => 2,
            Self::Other(_) => 1,
            Self::Stopped(_) => {
                eprintln!("{}", self.message());
                return ExitCode::from(STOPPED);
            }
            Self::Reported(code) => return ExitCode::from(*code),
        };
        eprintln!("error: {}", self.message());
        ExitCode::from(code)
    }
}

/// The error and its causes, each once: many a message of a library ends with that of its cause.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| match cause.to_string() {
        cause if text.contains(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}

/// Messages of libraries may hold line breaks; an error is one line.
pub fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

impl From<clap::Error> for Failure {
    /// clap's page in one line: `unexpected argument '--rank' found; a similar argument exists:
    /// '--ranks'; usage: …; try '--help'`.
    fn from(error: clap::Error) -> Self {
        let page = error.to_string();
        let parts = page.split("\n\n").map(one_line).filter(|part| !part.is_empty()).map(|part| {
            let part = ["error: ", "tip: "]
                .iter()
                .find_map(|word| part.strip_prefix(word))
                .unwrap_or(&part);
            part.replace("Usage: ", "usage: ")
                .replace("For more information, try '--help'.", "try '--help'")
        });
        Self::Input(parts.collect::<Vec<_>>().join("; "))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::Input(error.to_string())
    }
}

/// An error of a library crate: the input's fault, or another failure.
macro_rules! from_library_error {
    ($($library:ident),*) => {$(
        impl From<$library::Error> for Failure {
            fn from(error: $library::Error) -> Self {
                if error.is_input() { Self::Input(error.to_string()) } else { Self::Other(error.into()) }
            }
        }
    )*};
}

from_library_error!(analysis, inference, setup, trainer);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_cause_is_printed_once() {
        let cause = std::io::Error::other("no space left");
        let error = anyhow::Error::new(cause).context("cannot write a: no space left").context("b");
        assert_eq!(Failure::Other(error).message(), "b: cannot write a: no space left");
    }

    #[test]
    fn wrong_use_is_one_line_with_its_remedy() {
        let refused = |arguments: &[&str]| match crate::cli::Cli::command()
            .try_get_matches_from(arguments)
            .map_err(Failure::from)
        {
            Err(Failure::Input(message)) => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            refused(&["loract", "launch", "--rank", "2", "c.toml"]),
            "unexpected argument '--rank' found; a similar argument exists: '--ranks'; usage: loract launch --ranks <N> <CONFIG>; try '--help'"
        );
        assert_eq!(
            refused(&["loract", "launch", "-n", "0", "c.toml"]),
            "invalid value '0' for '--ranks <N>': give a whole number, 1 or more; try '--help'"
        );
    }

    #[test]
    fn a_message_of_several_lines_becomes_one() {
        assert_eq!(one_line("a\n  b\n\n c "), "a b c");
    }
}
