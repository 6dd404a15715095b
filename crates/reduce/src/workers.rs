//! The threads that reduce buckets while backward continues. Each has a process group to itself, so
//! that one's sums travel while another waits for a result, compresses, or adds up.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tch::Device;

use autograd::{Ready, SideStream};
use collective::ProcessGroup;

use crate::bucket_reducer::BucketReducer;
use crate::error::{Error, Result};
use crate::queue::ReduceJob;

/// A bucket that has become its mean, or will have when what is queued on its GPU is done.
pub(crate) struct ReducedBucket {
    pub(crate) reducer: BucketReducer,
    /// The bytes handed over.
    pub(crate) bytes: Result<u64>,
    /// From when to when the thread had it; a GPU may take longer.
    pub(crate) span: (Instant, Instant),
    ready: Option<Ready>,
}

impl ReducedBucket {
    /// Lets what the caller queues from here on see the mean.
    pub(crate) fn wait(&self) -> Result<()> {
        self.ready.as_ref().map_or(Ok(()), |ready| Ok(ready.wait(&[&self.reducer.bucket.flat()])?))
    }
}

/// The threads, to which buckets go by turns.
pub(crate) struct ReduceWorkers(Vec<Worker>);

struct Worker {
    results: Receiver<ReducedBucket>,
    thread: JoinHandle<()>,
}

impl ReduceWorkers {
    /// Starts the threads, which end once their senders are dropped. The bucket of number `n` goes
    /// to sender `n` modulo their number, on every rank. What a thread queues on a GPU runs in
    /// parallel with backward, on a stream of its own.
    pub(crate) fn start(
        group: &dyn ProcessGroup,
        device: Device,
    ) -> Result<(Vec<Sender<ReduceJob>>, ReduceWorkers)> {
        // Two communicators of NCCL on one GPU can wait for each other's kernels: there it is one.
        let count = if device == Device::Cpu { 2 } else { 1 };
        let (mut jobs, mut workers) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count {
            let (job, worker) = Worker::start(group.duplicate()?, SideStream::new(device)?)?;
            jobs.push(job);
            workers.push(worker);
        }
        Ok((jobs, ReduceWorkers(workers)))
    }

    /// Waits for the bucket that was sent as number `number` of its step.
    pub(crate) fn result(&self, number: usize) -> Result<ReducedBucket> {
        self.0[number % self.0.len()].results.recv().map_err(|_| Error::Broken)
    }

    /// Waits for the end of the threads, whose senders are dropped by now.
    pub(crate) fn join(self) {
        for worker in self.0 {
            drop(worker.results);
            // A panic has ended the job, or has been reported where it happened.
            let _ = worker.thread.join();
        }
    }
}

impl Worker {
    fn start(
        group: Arc<dyn ProcessGroup>,
        side: Option<SideStream>,
    ) -> Result<(Sender<ReduceJob>, Worker)> {
        let (job, ordered) = channel::<ReduceJob>();
        let (result, results) = channel();
        let body = move || {
            let _no_grad = tch::no_grad_guard();
            for (mut reducer, step) in ordered {
                let started = Instant::now();
                let (bytes, ready) = {
                    let _span = tracing::trace_span!("reduce").entered();
                    reduce(&mut reducer, &*group, step, side.as_ref())
                };
                if result
                    .send(ReducedBucket { reducer, bytes, span: (started, Instant::now()), ready })
                    .is_err()
                {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("gradients".into())
            .spawn(body)
            .map_err(Error::Thread)?;
        Ok((job, Worker { results, thread }))
    }
}

/// The time in which at least one of these spans was under way.
pub(crate) fn busy_time(mut spans: Vec<(Instant, Instant)>) -> Duration {
    spans.sort_unstable();
    let (mut total, mut until) = (Duration::ZERO, None);
    for (start, end) in spans {
        let from = until.map_or(start, |until: Instant| until.max(start));
        total += end.saturating_duration_since(from);
        until = Some(from.max(end));
    }
    total
}

fn reduce(
    reducer: &mut BucketReducer,
    group: &dyn ProcessGroup,
    step: u64,
    side: Option<&SideStream>,
) -> (Result<u64>, Option<Ready>) {
    let Some(side) = side else { return (reducer.reduce(group, step), None) };
    let flat = reducer.bucket.flat();
    match side.run(&[&flat], || reducer.reduce(group, step)) {
        Ok((bytes, ready)) => (bytes, Some(ready)),
        Err(error) => (Err(error.into()), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_two_workers_counts_once() {
        let start = Instant::now();
        let span = |from, to| (start + Duration::from_secs(from), start + Duration::from_secs(to));
        assert_eq!(busy_time(vec![]), Duration::ZERO);
        assert_eq!(
            busy_time(vec![span(5, 8), span(3, 6), span(4, 5), span(10, 11), span(8, 8)]),
            Duration::from_secs(6)
        );
    }
}
