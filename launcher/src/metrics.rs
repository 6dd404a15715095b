//! `metrics.jsonl`: one step per line, read while it grows.

use serde::Deserialize;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

/// One line. Fields that a line lacks are `None`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Step {
    /// The step, from 1.
    pub step: u64,
    /// The run's steps, where the line says so.
    pub total_steps: Option<u64>,
    /// The training loss.
    pub loss: Option<f64>,
    /// The learning rate.
    pub learning_rate: Option<f64>,
    /// The norm of all gradients together, before clipping.
    pub grad_norm: Option<f64>,
    /// Tokens of all ranks per second.
    pub tokens_per_second: Option<f64>,
    /// The step's time.
    pub step_seconds: Option<f64>,
    /// Tokens of all ranks in the step.
    pub tokens: Option<f64>,
    /// Bytes held for the backward pass.
    pub kept_bytes: Option<f64>,
    /// Bytes that the same sites would hold uncompressed.
    pub exact_bytes: Option<f64>,
    /// Peak of tensor memory.
    pub peak_bytes: Option<f64>,
    /// Bytes this step sent.
    pub reduced_bytes: Option<f64>,
    /// Bytes an exact sum would have sent.
    pub exact_reduced_bytes: Option<f64>,
    /// The validation loss after this step, where it was measured.
    pub eval_loss: Option<f64>,
    /// The share of the validation samples whose class was predicted, where samples have classes
    /// and it was measured.
    pub eval_accuracy: Option<f64>,
}

/// Reads the lines that have been written since the last look.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    position: u64,
    /// The file that was read, by its number: a run that resumes replaces it.
    file: Option<u64>,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl Follower {
    /// Follows the file at `path`, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, position: 0, file: None, partial: Vec::new() }
    }

    /// The steps written since the last call. A line that is no step is passed over. Where the file
    /// was replaced, all of its steps: a step that is not after the one before it begins the file
    /// again.
    pub fn poll(&mut self) -> Vec<Step> {
        let mut new = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            let number = Some(file.metadata()?.ino());
            if self.file != number {
                (self.file, self.position) = (number, 0);
                self.partial.clear();
            }
            file.seek(SeekFrom::Start(self.position))?;
            file.read_to_end(&mut new)
        });
        // The file appears with the first step; on a network file system a read may also fail for a
        // moment.
        let Ok(read) = read else { return Vec::new() };
        self.position += read as u64;
        self.partial.extend_from_slice(&new);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let lines: Vec<u8> = self.partial.drain(..=end).collect();
        lines
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice::<Step>(line).ok())
            .filter(|step| step.loss.is_some())
            .collect()
    }
}

/// A run so far, summed up.
#[derive(Debug, Clone, Default)]
pub struct Course {
    /// The first step.
    pub first: Option<Step>,
    /// The last step.
    pub last: Option<Step>,
    steps: u64,
    seconds: f64,
    tokens: f64,
    settled_seconds: f64,
    kept_bytes: Option<f64>,
    exact_bytes: Option<f64>,
    peak_bytes: Option<f64>,
    reduced_bytes: Option<f64>,
    exact_reduced_bytes: Option<f64>,
}

impl Course {
    /// Adds a step. One that is not after the last begins the course again.
    pub fn add(&mut self, step: Step) {
        if step.step > 0 && self.last.as_ref().is_some_and(|last| step.step <= last.step) {
            *self = Self::default();
        }
        let seconds = step.step_seconds.unwrap_or(0.0);
        self.seconds += seconds;
        self.tokens +=
            step.tokens.or(step.tokens_per_second.map(|rate| rate * seconds)).unwrap_or(0.0);
        // The first step also pays for memory and caches.
        if self.steps > 0 {
            self.settled_seconds += seconds;
        }
        self.steps += 1;
        largest(&mut self.kept_bytes, step.kept_bytes);
        largest(&mut self.exact_bytes, step.exact_bytes);
        largest(&mut self.peak_bytes, step.peak_bytes);
        sum(&mut self.reduced_bytes, step.reduced_bytes);
        sum(&mut self.exact_reduced_bytes, step.exact_reduced_bytes);
        self.first.get_or_insert_with(|| step.clone());
        self.last = Some(step);
    }

    /// Steps seen.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Mean seconds per step, without the first where there are others.
    pub fn step_seconds(&self) -> Option<f64> {
        let (seconds, steps) = if self.steps > 1 {
            (self.settled_seconds, self.steps - 1)
        } else {
            (self.seconds, self.steps)
        };
        (steps > 0 && seconds > 0.0).then(|| seconds / steps as f64)
    }

    /// Tokens per second over all steps.
    pub fn tokens_per_second(&self) -> Option<f64> {
        (self.seconds > 0.0 && self.tokens > 0.0).then(|| self.tokens / self.seconds)
    }

    /// Seconds of all steps.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// The most bytes held for a backward pass.
    pub fn kept_bytes(&self) -> Option<f64> {
        self.kept_bytes
    }

    /// The most bytes that would have been held uncompressed.
    pub fn exact_bytes(&self) -> Option<f64> {
        self.exact_bytes
    }

    /// The peak of tensor memory.
    pub fn peak_bytes(&self) -> Option<f64> {
        self.peak_bytes
    }

    /// Bytes that a rank sent over all steps.
    pub fn reduced_bytes(&self) -> Option<f64> {
        self.reduced_bytes
    }

    /// Bytes that exact sums would have sent.
    pub fn exact_reduced_bytes(&self) -> Option<f64> {
        self.exact_reduced_bytes
    }
}

fn largest(so_far: &mut Option<f64>, value: Option<f64>) {
    if let Some(value) = value {
        *so_far = Some(so_far.map_or(value, |so_far| so_far.max(value)));
    }
}

fn sum(so_far: &mut Option<f64>, value: Option<f64>) {
    if let Some(value) = value {
        *so_far = Some(so_far.unwrap_or(0.0) + value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_are_read_once_and_only_when_they_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut follower = Follower::new(path.clone());
        assert!(follower.poll().is_empty(), "no file yet");
        let mut file = File::create(&path).unwrap();
        write!(file, "{{\"step\":1,\"loss\":2.5}}\n{{\"step\":2,\"lo").unwrap();
        assert_eq!(follower.poll().iter().map(|step| step.step).collect::<Vec<_>>(), [1]);
        assert!(follower.poll().is_empty(), "half a line is no line");
        write!(
            file,
            "ss\":2.0}}\nnot json\n{{\"step\":2,\"eval_loss\":1}}\n{{\"step\":3,\"loss\":1}}\n"
        )
        .unwrap();
        assert_eq!(
            follower.poll().iter().map(|step| (step.step, step.loss)).collect::<Vec<_>>(),
            [(2, Some(2.0)), (3, Some(1.0))]
        );
    }

    #[test]
    fn a_file_that_was_replaced_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("metrics.jsonl"), dir.path().join("aside"));
        let mut follower = Follower::new(path.clone());
        let mut course = Course::default();
        let mut read = || follower.poll().into_iter().for_each(|step| course.add(step));
        std::fs::write(&path, "{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":2}\n{\"step\":3,\"lo")
            .unwrap();
        read();
        // A run resumes after step 1.
        std::fs::write(
            &aside,
            "{\"step\":1,\"loss\":3}\n{\"step\":2,\"loss\":2.5}\n{\"step\":3,\"loss\":1}\n",
        )
        .unwrap();
        std::fs::rename(&aside, &path).unwrap();
        read();
        assert_eq!((course.steps(), course.last.unwrap().loss), (3, Some(1.0)));
    }

    #[test]
    fn a_course_sums_what_was_sent_and_keeps_the_most_that_was_held() {
        let mut course = Course::default();
        assert_eq!((course.step_seconds(), course.tokens_per_second()), (None, None));
        for (step, (seconds, kept, sent)) in
            (1..).zip([(3.0, 10.0, 5.0), (1.0, 30.0, 1.0), (2.0, 20.0, 1.0)])
        {
            course.add(Step {
                step,
                step_seconds: Some(seconds),
                tokens: Some(60.0),
                kept_bytes: Some(kept),
                reduced_bytes: Some(sent),
                ..Step::default()
            });
        }
        assert_eq!(course.steps(), 3);
        assert_eq!(course.step_seconds(), Some(1.5), "the first step is left out");
        assert_eq!(course.tokens_per_second(), Some(30.0));
        assert_eq!(
            (course.kept_bytes(), course.reduced_bytes(), course.peak_bytes()),
            (Some(30.0), Some(7.0), None)
        );
    }
}
