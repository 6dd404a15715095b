//! Watching a run: its metrics, read while they grow, and their display.

use crate::{
    kubeflow::StatusReporter,
    metrics::{Course, Follower},
    progress::{Progress, words},
    run_dir::RunDir,
};
use config::{Length, Run};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// The time between two polls of a run.
pub const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A run that is being watched.
pub struct RunMonitor {
    follower: Follower,
    course: Course,
    progress: Progress,
    total: Option<u64>,
    reporter: Option<StatusReporter>,
}

impl RunMonitor {
    /// Starts watching; `what` is shown until the first step is done.
    pub fn start(run: &Run, what: &str) -> Self {
        let total = match run.length() {
            Length::Steps(steps) => Some(steps),
            // Only the trainer knows the number of samples; its first line of metrics has the
            // number of steps.
            Length::Epochs(_) => None,
        };
        let mut progress = Progress::start(what, total);
        progress.announce();
        Self {
            follower: Follower::new(RunDir::new(run).metrics()),
            course: Course::default(),
            progress,
            total,
            reporter: StatusReporter::from_environment(),
        }
    }

    /// Shows what is new.
    pub fn poll(&mut self) {
        for step in self.follower.poll() {
            self.total = step.total_steps.or(self.total);
            self.course.add(step.clone());
            self.progress.update(step.step, self.total, words(&step, &self.course, self.total));
            if let Some(reporter) = &self.reporter {
                reporter.update(&step, &self.course, self.total);
            }
        }
    }

    /// The step the run is in: the one after the last that is done, 0 before any is.
    pub fn step(&self) -> u64 {
        let Some(last) = &self.course.last else { return 0 };
        self.total.map_or(last.step + 1, |total| (last.step + 1).min(total))
    }

    /// Whether the last step is done.
    pub fn is_done(&self) -> bool {
        let last = self.course.last.as_ref().map(|last| last.step);
        self.total.is_some() && last == self.total
    }

    /// Polls once more, ends the display, and returns the step as [`RunMonitor::step`].
    pub fn finish(mut self) -> u64 {
        self.poll();
        let step = self.step();
        self.progress.finish();
        if let Some(reporter) = self.reporter {
            reporter.finish();
        }
        step
    }
}

/// Watches a run of this same process, on a thread of its own, until it is dropped.
pub struct Background {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts watching.
    pub fn start(run: &Run, what: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut monitor = RunMonitor::start(run, what);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                monitor.poll();
                std::thread::sleep(POLL_INTERVAL);
            }
            monitor.finish();
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A display that failed is not the run's failure.
            let _ = thread.join();
        }
    }
}
