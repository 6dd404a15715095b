//! The progress of a run in the status of its TrainJob, where Kubeflow Trainer says where to post it.
//!
//! With its feature `TrainJobStatus`, Kubeflow Trainer sets three variables in the pod that starts
//! the ranks ([`URL`], [`TOKEN`], [`CA_CERTIFICATE`]) and takes an `UpdateTrainJobStatusRequest`
//! there (`pkg/apis/trainer/v1alpha1/trainjob_types.go` of kubeflow/trainer). A thread posts the
//! latest status at most every five seconds. Whatever goes wrong is one warning, never a failure.

mod post;

use crate::metrics::{Course, Step};
use post::{Endpoint, TIMEOUT};
use serde::Serialize;
use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

/// Where the status is posted.
pub const URL: &str = "KUBEFLOW_TRAINER_SERVER_URL";
/// The file of the token that goes with it, which is replaced from time to time.
pub const TOKEN: &str = "KUBEFLOW_TRAINER_SERVER_TOKEN";
/// The file of the certificate by which the server is known.
pub const CA_CERTIFICATE: &str = "KUBEFLOW_TRAINER_SERVER_CA_CERT";

/// The least time between two posts.
const INTERVAL: Duration = Duration::from_secs(5);

/// What is posted.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    trainer_status: Status,
}

/// `TrainerStatus`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_percentage: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_remaining_seconds: Option<i32>,
    metrics: Vec<Metric>,
    last_updated_time: String,
}

/// `Metric`, whose value is a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Metric {
    name: &'static str,
    value: String,
}

impl Status {
    /// The status after `step`, of `total` steps if that is known.
    fn new(step: &Step, course: &Course, total: Option<u64>) -> Self {
        let left = total.map(|total| total.saturating_sub(step.step));
        let seconds = left.zip(course.step_seconds()).map(|(left, each)| left as f64 * each);
        let metrics = [
            ("loss", step.loss),
            ("learning_rate", step.learning_rate),
            ("grad_norm", step.grad_norm),
            ("tokens_per_second", step.tokens_per_second),
            ("eval_loss", step.eval_loss),
            ("eval_accuracy", step.eval_accuracy),
        ];
        // Written with an exponent where it would otherwise be longer than Kubeflow takes.
        let metrics = metrics.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let metrics = metrics.map(|(name, value)| Metric { name, value: format!("{value:?}") });
        let count = Metric { name: "step", value: step.step.to_string() };
        Self {
            progress_percentage: total
                .filter(|total| *total > 0)
                .map(|total| (step.step.min(total) as f64 / total as f64 * 100.0) as i32),
            // The conversion keeps to the bounds of the type.
            estimated_remaining_seconds: seconds.map(|seconds| seconds.ceil() as i32),
            metrics: std::iter::once(count).chain(metrics).collect(),
            last_updated_time: chrono::Utc::now()
                .to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        }
    }
}

/// The latest status that is not posted yet, and whether it is the last.
#[derive(Default)]
struct Slot {
    status: Option<Status>,
    is_last: bool,
}

#[derive(Default)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a status; `None` after the last.
    fn next(&self) -> Option<Status> {
        let slot = self.lock();
        let is_idle = |slot: &mut Slot| slot.status.is_none() && !slot.is_last;
        let slot = self.changed.wait_while(slot, is_idle);
        slot.unwrap_or_else(PoisonError::into_inner).status.take()
    }

    /// Waits until `moment`, or until it is known that no status follows.
    fn rest(&self, moment: Instant) {
        let slot = self.lock();
        let may_follow = |slot: &mut Slot| slot.status.is_some() || !slot.is_last;
        let left = moment.saturating_duration_since(Instant::now());
        // Either way it is time to look again.
        drop(self.changed.wait_timeout_while(slot, left, may_follow));
    }
}

/// Posts the status of a run from a thread of its own.
pub struct StatusReporter {
    shared: Arc<Shared>,
    ended: Receiver<()>,
}

impl StatusReporter {
    /// A reporter, where the environment names a server.
    pub fn from_environment() -> Option<Self> {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let url = variable(URL)?;
        let token = variable(TOKEN).map(Into::into);
        let certificate = variable(CA_CERTIFICATE).map(Into::into);
        match Endpoint::new(&url, token, certificate) {
            Ok(endpoint) => Some(Self::start(endpoint)),
            Err(why) => {
                warn(&why);
                None
            }
        }
    }

    fn start(endpoint: Endpoint) -> Self {
        let shared = Arc::new(Shared::default());
        let (sender, ended) = channel();
        let its = Arc::clone(&shared);
        std::thread::spawn(move || {
            post_all(&endpoint, &its);
            // Nobody may wait any more.
            let _ = sender.send(());
        });
        Self { shared, ended }
    }

    /// Notes the state after `step`; it is posted when its time has come, unless a later one is
    /// there by then.
    pub fn update(&self, step: &Step, course: &Course, total: Option<u64>) {
        self.shared.lock().status = Some(Status::new(step, course, total));
        self.shared.changed.notify_all();
    }

    /// Waits until the last state is posted, or until the server had its time for it.
    pub fn finish(self) {
        self.shared.lock().is_last = true;
        self.shared.changed.notify_all();
        // The name of the server may take longer; then the last state is not posted.
        let _ = self.ended.recv_timeout(INTERVAL + 2 * TIMEOUT);
    }
}

/// Posts each status until the last.
fn post_all(endpoint: &Endpoint, shared: &Shared) {
    let mut has_warned = false;
    while let Some(trainer_status) = shared.next() {
        let body = serde_json::to_string(&Request { trainer_status });
        let posted = body.map_err(|why| why.to_string()).and_then(|body| endpoint.post(&body));
        if let Err(why) = posted
            && !has_warned
        {
            warn(&format!("cannot post to {}: {why}", endpoint.url()));
            has_warned = true;
        }
        shared.rest(Instant::now() + INTERVAL);
    }
}

fn warn(why: &str) {
    eprintln!("warning: Kubeflow is not told of the progress: {why}; the run continues");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    fn course(steps: u64) -> (Step, Course) {
        let step =
            Step { step: steps, loss: Some(2.5), step_seconds: Some(2.0), ..Step::default() };
        let mut course = Course::default();
        course.add(step.clone());
        (step, course)
    }

    #[test]
    fn a_status_has_the_fields_of_kubeflow() {
        let (step, course) = course(1);
        let status = Status::new(&step, &course, Some(3));
        let posted = serde_json::to_value(Request { trainer_status: status }).unwrap();
        let time = posted["trainerStatus"]["lastUpdatedTime"].as_str().unwrap();
        assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok(), "{time}");
        assert_eq!(
            posted,
            serde_json::json!({"trainerStatus": {
                "progressPercentage": 33,
                "estimatedRemainingSeconds": 4,
                "metrics": [{"name": "step", "value": "1"}, {"name": "loss", "value": "2.5"}],
                "lastUpdatedTime": time,
            }})
        );
        let unknown = Status::new(&step, &course, None);
        assert_eq!(
            (unknown.progress_percentage, unknown.estimated_remaining_seconds),
            (None, None)
        );
    }

    #[test]
    fn the_last_state_is_posted_and_the_server_is_spared() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/status", listener.local_addr().unwrap());
        let (sender, posts) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut got = vec![0; 4096];
                let read = stream.read(&mut got).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                sender.send(String::from_utf8_lossy(&got[..read]).into_owned()).unwrap();
            }
        });
        let reporter = StatusReporter::start(Endpoint::new(&url, None, None).unwrap());
        for number in 1..=50 {
            let (step, course) = course(number);
            reporter.update(&step, &course, Some(50));
        }
        reporter.finish();
        let posts: Vec<String> = posts.try_iter().collect();
        assert!((1..=2).contains(&posts.len()), "{posts:?}");
        let last = posts.last().unwrap();
        assert!(last.contains("\"progressPercentage\":100"), "{last}");
    }

    #[test]
    fn a_server_that_never_answers_holds_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/status", listener.local_addr().unwrap());
        let reporter = StatusReporter::start(Endpoint::new(&url, None, None).unwrap());
        let (step, course) = course(1);
        reporter.update(&step, &course, None);
        reporter.finish();
    }

    #[test]
    fn no_number_leaves_kubeflows_bounds() {
        let (step, course) = course(9);
        let beyond = Status::new(&step, &course, Some(3));
        assert_eq!(
            (beyond.progress_percentage, beyond.estimated_remaining_seconds),
            (Some(100), Some(0))
        );
        let long = Status::new(&step, &course, Some(u64::MAX));
        assert_eq!(
            (long.progress_percentage, long.estimated_remaining_seconds),
            (Some(0), Some(i32::MAX))
        );
        let wild = Step { loss: Some(-f64::MIN_POSITIVE), ..step };
        let wild = Status::new(&wild, &course, Some(0));
        assert_eq!(wild.progress_percentage, None);
        assert!(
            wild.metrics.iter().all(|metric| (1..=64).contains(&metric.value.len())),
            "{wild:?}"
        );
    }
}
