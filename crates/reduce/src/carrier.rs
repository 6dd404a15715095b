//! The thread that reduces units while backward goes on. It has a process group to itself.

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
    /// What the thread took; a GPU may take longer.
    pub(crate) time: Duration,
    ready: Option<Ready>,
}

impl Answer {
    /// Lets what the caller queues from here on see the mean.
    pub(crate) fn wait(&self) -> Result<()> {
        self.ready.as_ref().map_or(Ok(()), |ready| Ok(ready.wait(&[&self.unit.bucket.flat()])?))
    }
}

pub(crate) struct Carrier {
    answers: Receiver<Answer>,
    thread: JoinHandle<()>,
}

impl Carrier {
    /// Starts the thread, which ends once the sender is dropped. What it queues on a GPU runs beside backward, on a stream of its own.
    pub(crate) fn start(group: Arc<dyn ProcessGroup>, device: Device) -> Result<(Sender<Order>, Carrier)> {
        let side = SideStream::new(device)?;
        let (orders, ordered) = channel::<Order>();
        let (answer, answers) = channel();
        let body = move || {
            let _no_grad = tch::no_grad_guard();
            for (mut unit, step) in ordered {
                let started = Instant::now();
                let (bytes, ready) = {
                    let _span = tracing::trace_span!("reduce").entered();
                    reduce(&mut unit, &*group, step, side.as_ref())
                };
                if answer.send(Answer { unit, bytes, time: started.elapsed(), ready }).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("gradients".into()).spawn(body).map_err(Error::Thread)?;
        Ok((orders, Carrier { answers, thread }))
    }

    /// The next unit, in the order in which they were sent.
    pub(crate) fn next(&self) -> Result<Answer> {
        self.answers.recv().map_err(|_| Error::Broken)
    }

    /// Waits for the end of the thread, whose sender is dropped by now.
    pub(crate) fn join(self) {
        drop(self.answers);
        // A panic has ended the job, or has been reported where it happened.
        let _ = self.thread.join();
    }
}

fn reduce(unit: &mut Unit, group: &dyn ProcessGroup, step: u64, side: Option<&SideStream>) -> (Result<u64>, Option<Ready>) {
    let Some(side) = side else { return (unit.reduce(group, step), None) };
    let flat = unit.bucket.flat();
    match side.run(&[&flat], || unit.reduce(group, step)) {
        Ok((bytes, ready)) => (bytes, Some(ready)),
        Err(error) => (Err(error.into()), None),
    }
}
