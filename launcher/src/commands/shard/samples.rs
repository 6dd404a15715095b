//! Samples with what is trained marked: in colour on a terminal, between ⟦ and ⟧ elsewhere.

use anstyle::{AnsiColor, Style};
use data::ShownToken;
use std::fmt::Write as _;

/// How trained tokens are told from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marks {
    /// Bold green.
    Colour,
    /// Between ⟦ and ⟧; those of the text itself are written as `\u{27e6}` and `\u{27e7}`.
    Brackets,
}

const TRAINED: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));

impl Marks {
    /// Colour where stdout is a terminal, as NO_COLOR, CLICOLOR and CLICOLOR_FORCE say.
    pub(super) fn of_stdout() -> Self {
        match anstream::AutoStream::choice(&std::io::stdout()) {
            anstream::ColorChoice::Never => Self::Brackets,
            _ => Self::Colour,
        }
    }

    fn legend(self) -> String {
        match self {
            Self::Colour => format!("trained tokens are {TRAINED}bold and green{TRAINED:#}"),
            Self::Brackets => "trained tokens stand between ⟦ and ⟧".into(),
        }
    }

    fn open(self) -> String {
        match self {
            Self::Colour => TRAINED.render().to_string(),
            Self::Brackets => "⟦".into(),
        }
    }

    fn close(self) -> String {
        match self {
            Self::Colour => TRAINED.render_reset().to_string(),
            Self::Brackets => "⟧".into(),
        }
    }

    /// The end of a line inside of a trained run or another one, and the margin of the next. Colour
    /// would fill the margin too, and shows no trained newline by itself.
    fn line_end(self, trained: bool) -> String {
        match self {
            Self::Colour if trained => format!("↵{}\n│ {}", self.close(), self.open()),
            _ => "\n│ ".into(),
        }
    }
}

/// The samples, the first of which has the number `from`.
pub(super) fn text(samples: &[Vec<ShownToken>], from: usize, marks: Marks) -> String {
    let mut out = format!("{}\n\n", marks.legend());
    for (number, sample) in (from..).zip(samples) {
        let trained = sample.iter().filter(|token| token.trained).count();
        let _ = writeln!(out, "┌ sample {number}: {} tokens, {trained} trained", sample.len());
        let segments: Vec<&[ShownToken]> = sample.chunk_by(|a, b| a.segment == b.segment).collect();
        for (index, tokens) in segments.iter().enumerate() {
            if segments.len() > 1 {
                let _ = writeln!(
                    out,
                    "├ segment {} of {}: {} tokens",
                    index + 1,
                    segments.len(),
                    tokens.len()
                );
            }
            let _ = writeln!(out, "│ {}", segment(tokens, marks));
        }
        out.push_str("└\n\n");
    }
    out
}

fn segment(tokens: &[ShownToken], marks: Marks) -> String {
    let mut out = String::new();
    for run in tokens.chunk_by(|a, b| a.trained == b.trained) {
        let trained = run[0].trained;
        let text: String = run.iter().map(|token| readable(token, trained, marks)).collect();
        // The parts of a character that ends in the next run.
        if trained && !text.is_empty() {
            let _ = write!(out, "{}{text}{}", marks.open(), marks.close());
        } else {
            out.push_str(&text);
        }
    }
    out
}

fn readable(token: &ShownToken, trained: bool, marks: Marks) -> String {
    let mut out = String::new();
    for character in token.text.chars() {
        match character {
            '\n' => out.push_str(&marks.line_end(trained)),
            '\t' => out.push('\t'),
            '⟦' | '⟧' if marks == Marks::Brackets => out.extend(character.escape_unicode()),
            // A text must not steer the terminal.
            character if character.is_control() => out.extend(character.escape_default()),
            character => out.push(character),
        }
    }
    out
}

/// The same tokens as their ids, for data that came without a tokenizer.
pub(super) fn with_ids(samples: &mut [Vec<ShownToken>]) {
    for token in samples.iter_mut().flatten() {
        token.text = format!("{} ", token.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, trained: bool, segment: usize) -> ShownToken {
        ShownToken { id: 0, text: text.into(), trained, segment }
    }

    #[test]
    fn runs_of_trained_tokens_stand_in_brackets_that_the_text_cannot_write() {
        let tokens = [
            token("a ⟦b⟧\u{1b}", false, 0),
            token("c", true, 0),
            token("d\ne", true, 0),
            token("[x]", false, 0),
        ];
        assert_eq!(segment(&tokens, Marks::Brackets), "a \\u{27e6}b\\u{27e7}\\u{1b}⟦cd\n│ e⟧[x]");
    }

    #[test]
    fn colours_end_with_the_line_and_show_a_trained_newline() {
        let tokens = [token("a\n", false, 0), token("b\n", true, 0), token("⟦", false, 0)];
        assert_eq!(
            segment(&tokens, Marks::Colour),
            "a\n│ \u{1b}[1m\u{1b}[32mb↵\u{1b}[0m\n│ \u{1b}[1m\u{1b}[32m\u{1b}[0m⟦"
        );
    }

    #[test]
    fn parts_of_a_character_leave_no_empty_brackets() {
        let tokens = [token("", true, 0), token("é", false, 0), token("f", true, 0)];
        assert_eq!(segment(&tokens, Marks::Brackets), "é⟦f⟧");
    }

    #[test]
    fn segments_of_a_row_are_told_apart() {
        let sample = vec![token("a", false, 0), token("b", true, 0), token("c", false, 1)];
        let shown = text(&[sample], 7, Marks::Brackets);
        let says = "┌ sample 7: 3 tokens, 1 trained\n├ segment 1 of 2: 2 tokens\n│ a⟦b⟧\n├ segment 2 of 2: 1 tokens\n│ c\n└\n";
        assert!(shown.contains(says), "{shown}");
    }
}
