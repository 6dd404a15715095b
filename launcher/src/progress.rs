//! The progress of a run: one bar on a terminal, a line every ten seconds elsewhere.

use crate::metrics::{Course, Step};
use config::units;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// Time between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// What takes less than this, and was not announced, passes without a line there.
const QUIET: Duration = Duration::from_secs(2);

/// The progress of one activity, shown on stderr.
pub struct Progress {
    /// `None` where stderr is no terminal.
    bar: Option<ProgressBar>,
    what: String,
    /// Whether its parts are bytes.
    bytes: bool,
    /// When the next line may follow.
    next_line: Instant,
    unsaid: Option<String>,
    /// Whether anything was said yet, and any news.
    announced: bool,
    untold: bool,
}

impl Progress {
    /// Begins to show something of `total` parts, if that is known.
    pub fn start(what: &str, total: Option<u64>) -> Self {
        Self::new(what, total, false)
    }

    /// Begins to show something that is counted in bytes.
    pub fn of_bytes(what: &str, total: Option<u64>) -> Self {
        Self::new(what, total, true)
    }

    fn new(what: &str, total: Option<u64>, bytes: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(5));
            bar.set_style(style(total.is_some(), bytes));
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            what: what.to_owned(),
            bytes,
            next_line: Instant::now() + QUIET,
            unsaid: None,
            announced: false,
            untold: true,
        }
    }

    /// Says what begins, where there is no terminal that shows it.
    pub fn announce(&mut self) {
        if self.bar.is_none() {
            eprintln!("{}", self.what);
            self.announced = true;
            self.next_line = Instant::now() + LINE_EVERY;
        }
    }

    /// Shows that `done` of `total` parts are done.
    pub fn update(&mut self, done: u64, total: Option<u64>, message: String) {
        match &self.bar {
            Some(bar) => {
                if let Some(total) = total
                    && bar.length() != Some(total)
                {
                    bar.set_style(style(true, self.bytes));
                    bar.set_length(total);
                }
                bar.set_position(done);
                bar.set_message(message);
            }
            None => {
                // A new activity is shown at once; the progress of a known one can wait.
                let first = std::mem::take(&mut self.untold) && message != self.what;
                let count = |count: u64| {
                    if self.bytes { units::bytes(count as f64) } else { count.to_string() }
                };
                let part = total.map_or_else(
                    || count(done),
                    |total| format!("{}/{}", count(done), count(total)),
                );
                self.unsaid = Some(format!("{part}  {message}"));
                if first || Instant::now() >= self.next_line {
                    self.say();
                }
            }
        }
    }

    /// Ends the display; the last state of a run without a terminal is still said.
    pub fn finish(mut self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None if self.untold || !self.announced => {}
            None => self.say(),
        }
    }

    fn say(&mut self) {
        if let Some(line) = self.unsaid.take() {
            eprintln!("{line}");
            self.announced = true;
            self.next_line = Instant::now() + LINE_EVERY;
        }
    }
}

fn style(known_total: bool, bytes: bool) -> ProgressStyle {
    let template = match (known_total, bytes) {
        (true, true) => {
            "{bar:14} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left  {wide_msg}"
        }
        (false, true) => "{spinner} {decimal_bytes}  {wide_msg}",
        (true, false) => "{bar:14} {pos}/{len}  {wide_msg}",
        (false, false) => "{spinner} {pos}  {wide_msg}",
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

/// A step in a few words: `loss 3.214  533 tokens/s  activations 7.10 MB of 28.4 MB  41 s left`.
pub fn words(step: &Step, course: &Course, total: Option<u64>) -> String {
    let mut words = Vec::new();
    if let Some(loss) = step.loss {
        words.push(format!("loss {loss:.4}"));
    }
    if let Some(rate) = step.tokens_per_second {
        words.push(format!("{} tokens/s", units::rate(rate)));
    }
    match (step.kept_bytes, step.exact_bytes) {
        (Some(kept), Some(exact)) if exact > kept => {
            words.push(format!("activations {} of {}", units::bytes(kept), units::bytes(exact)))
        }
        (Some(kept), _) => words.push(format!("activations {}", units::bytes(kept))),
        _ => {}
    }
    if let (Some(left @ 1..), Some(seconds)) =
        (total.map(|total| total.saturating_sub(step.step)), course.step_seconds())
    {
        words.push(format!("{} left", units::seconds(seconds * left as f64)));
    }
    words.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_says_loss_speed_memory_and_time_left() {
        let step = Step {
            step: 10,
            loss: Some(3.21),
            tokens_per_second: Some(533.0),
            step_seconds: Some(2.0),
            kept_bytes: Some(7.1e6),
            exact_bytes: Some(28.4e6),
            ..Step::default()
        };
        let mut course = Course::default();
        course.add(step.clone());
        assert_eq!(
            words(&step, &course, Some(30)),
            "loss 3.2100  533 tokens/s  activations 7.10 MB of 28.4 MB  40.0 s left"
        );
        assert_eq!(
            words(&Step { loss: Some(1.0), ..Step::default() }, &Course::default(), None),
            "loss 1.0000"
        );
    }
}
