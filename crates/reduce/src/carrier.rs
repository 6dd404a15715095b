//! The threads that reduce units while backward goes on. Each has a process group to itself, so that one's sums travel while another waits for
//! an answer, compresses, or adds up.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use autograd::{Ready, SideStream};
use collective::ProcessGroup;
use tch::Device;

use crate::queue::Order;
use crate::unit::Unit;
use crate::{Error, Result};

/// A unit that has become its mean, or will have when what is queued on its GPU is done.
pub(crate) struct Answer {
    pub(crate) unit: Unit,
    /// The bytes handed over.
    pub(crate) bytes: Result<u64>,
    /// From when to when the thread had it; a GPU may take longer.
    pub(crate) span: (Instant, Instant),
    ready: Option<Ready>,
}

impl Answer {
    /// Lets what the caller queues from here on see the mean.
    pub(crate) fn wait(&self) -> Result<()> {
        self.ready.as_ref().map_or(Ok(()), |ready| Ok(ready.wait(&[&self.unit.bucket.flat()])?))
    }
}

/// The threads, to which units go by turns.
pub(crate) struct Carrier(Vec<Lane>);

struct Lane {
    answers: Receiver<Answer>,
    thread: JoinHandle<()>,
}

impl Carrier {
    /// Starts the threads, which end once their senders are dropped. The unit of number `n` goes to sender `n` modulo their number, on every rank.
    /// What a thread queues on a GPU runs beside backward, on a stream of its own.
    pub(crate) fn start(group: &dyn ProcessGroup, device: Device) -> Result<(Vec<Sender<Order>>, Carrier)> {
        // Two communicators of NCCL on one GPU can wait for each other's kernels: there it is one.
        let count = if device == Device::Cpu { 2 } else { 1 };
        let (mut orders, mut lanes) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count {
            let (order, lane) = Lane::start(group.duplicate()?, SideStream::new(device)?)?;
            orders.push(order);
            lanes.push(lane);
        }
        Ok((orders, Carrier(lanes)))
    }

    /// Waits for the unit that was sent as number `number` of its step.
    pub(crate) fn answer(&self, number: usize) -> Result<Answer> {
        self.0[number % self.0.len()].answers.recv().map_err(|_| Error::Broken)
    }

    /// Waits for the end of the threads, whose senders are dropped by now.
    pub(crate) fn join(self) {
        for lane in self.0 {
            drop(lane.answers);
            // A panic has ended the job, or has been reported where it happened.
            let _ = lane.thread.join();
        }
    }
}

impl Lane {
    fn start(group: Arc<dyn ProcessGroup>, side: Option<SideStream>) -> Result<(Sender<Order>, Lane)> {
        let (order, ordered) = channel::<Order>();
        let (answer, answers) = channel();
        let body = move || {
            let _no_grad = tch::no_grad_guard();
            for (mut unit, step) in ordered {
                let started = Instant::now();
                let (bytes, ready) = {
                    let _span = tracing::trace_span!("reduce").entered();
                    reduce(&mut unit, &*group, step, side.as_ref())
                };
                if answer.send(Answer { unit, bytes, span: (started, Instant::now()), ready }).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("gradients".into()).spawn(body).map_err(Error::Thread)?;
        Ok((order, Lane { answers, thread }))
    }
}

/// The time in which at least one of these spans was under way.
pub(crate) fn union(mut spans: Vec<(Instant, Instant)>) -> Duration {
    spans.sort_unstable();
    let (mut total, mut until) = (Duration::ZERO, None);
    for (start, end) in spans {
        let from = until.map_or(start, |until: Instant| until.max(start));
        total += end.saturating_duration_since(from);
        until = Some(from.max(end));
    }
    total
}

fn reduce(unit: &mut Unit, group: &dyn ProcessGroup, step: u64, side: Option<&SideStream>) -> (Result<u64>, Option<Ready>) {
    let Some(side) = side else { return (unit.reduce(group, step), None) };
    let flat = unit.bucket.flat();
    match side.run(&[&flat], || unit.reduce(group, step)) {
        Ok((bytes, ready)) => (bytes, Some(ready)),
        Err(error) => (Err(error.into()), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_two_lanes_counts_once() {
        let start = Instant::now();
        let span = |from, to| (start + Duration::from_secs(from), start + Duration::from_secs(to));
        assert_eq!(union(vec![]), Duration::ZERO);
        assert_eq!(union(vec![span(5, 8), span(3, 6), span(4, 5), span(10, 11), span(8, 8)]), Duration::from_secs(6));
    }
}
