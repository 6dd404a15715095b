//! The thread that reduces units while backward goes on. It has a process group to itself.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use collective::ProcessGroup;

use crate::queue::Order;
use crate::unit::Unit;
use crate::{Error, Result};

/// Units in the order in which they were sent, with the bytes that they took and the time.
type Answer = (Unit, Result<u64>, Duration);

pub(crate) struct Carrier {
    answers: Receiver<Answer>,
    thread: JoinHandle<()>,
}

impl Carrier {
    /// Starts the thread, which ends once the sender is dropped.
    pub(crate) fn start(group: Arc<dyn ProcessGroup>) -> Result<(Sender<Order>, Carrier)> {
        let (orders, ordered) = channel::<Order>();
        let (answer, answers) = channel();
        let body = move || {
            let _no_grad = tch::no_grad_guard();
            for (mut unit, step) in ordered {
                let started = Instant::now();
                let bytes = {
                    let _span = tracing::trace_span!("reduce").entered();
                    unit.reduce(&*group, step)
                };
                if answer.send((unit, bytes, started.elapsed())).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("gradients".into()).spawn(body).map_err(Error::Thread)?;
        Ok((orders, Carrier { answers, thread }))
    }

    /// The next unit that has become its mean.
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
