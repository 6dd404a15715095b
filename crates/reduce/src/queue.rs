//! Buckets that wait for their gradients: filled by gradient hooks, and sent in their order as soon
//! as they are complete.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bucket_reducer::BucketReducer;
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// A bucket to be reduced, and its step.
pub(crate) type ReduceJob = (BucketReducer, u64);

pub(crate) struct Queue {
    parameters: Arc<Vec<Parameter>>,
    /// Those that are here, in order: all but the first `sent`.
    reducers: VecDeque<BucketReducer>,
    /// How many parameters of each of them are not complete.
    missing: VecDeque<usize>,
    sent: usize,
    reducer_of: Vec<usize>,
    /// Where in its bucket each gradient lies if it can lie there.
    homes: Vec<Option<usize>>,
    /// Parameters that backward has reached since the last reduction.
    is_used: Vec<bool>,
    /// Parameters whose gradient is complete.
    is_complete: Vec<bool>,
    /// The step whose gradients are sent as they become complete.
    began: Option<u64>,
    /// To the threads that reduce, by turns; none where the caller does.
    jobs: Vec<Sender<ReduceJob>>,
}

impl Queue {
    pub(crate) fn new(
        parameters: Arc<Vec<Parameter>>,
        reducers: Vec<BucketReducer>,
        jobs: Vec<Sender<ReduceJob>>,
    ) -> Queue {
        let count = parameters.len();
        let (mut reducer_of, mut homes) = (vec![0; count], vec![None; count]);
        for (number, reducer) in reducers.iter().enumerate() {
            for (member, home) in reducer.bucket.homes(&parameters) {
                (reducer_of[member], homes[member]) = (number, home);
            }
        }
        let (is_used, is_complete) = (vec![false; count], vec![false; count]);
        let (missing, reducers) =
            (reducers.iter().map(BucketReducer::len).collect(), reducers.into());
        Queue {
            parameters,
            reducers,
            missing,
            sent: 0,
            reducer_of,
            homes,
            is_used,
            is_complete,
            began: None,
            jobs,
        }
    }

    /// From now on a gradient that is complete may leave, if there is somebody to take it.
    pub(crate) fn begin(&mut self, step: u64) {
        self.began = (!self.jobs.is_empty()).then_some(step);
    }

    /// The step of [`Queue::begin`].
    pub(crate) fn began(&self) -> Option<u64> {
        self.began
    }

    /// For each parameter, whether it got a gradient since the last reduction: backward reached it,
    /// or somebody gave it another.
    pub(crate) fn used(&self) -> Vec<bool> {
        let is_replaced = |member: usize| {
            let gradient = self.parameters[member].tensor().grad();
            gradient.defined()
                && self.homes[member].is_some_and(|home| home != gradient.data_ptr() as usize)
        };
        self.is_used
            .iter()
            .enumerate()
            .map(|(member, &is_used)| is_used || is_replaced(member))
            .collect()
    }

    /// All buckets, when none is on its way.
    pub(crate) fn reducers(&mut self) -> Result<&mut VecDeque<BucketReducer>> {
        if self.sent == 0 { Ok(&mut self.reducers) } else { Err(Error::Broken) }
    }

    /// Notes that backward has completed a gradient, and sends what is complete with it.
    pub(crate) fn complete(&mut self, member: usize) -> Result<()> {
        self.is_used[member] = true;
        let Some(step) = self.began else { return Ok(()) };
        if self.is_complete[member] {
            return Ok(());
        }
        self.is_complete[member] = true;
        let place = self.reducer_of[member].checked_sub(self.sent).ok_or(Error::Broken)?;
        self.reducers[place].bucket.load(&self.parameters, |other| other == member)?;
        self.missing[place] -= 1;
        while self.missing.front() == Some(&0) {
            self.send_first(step)?;
        }
        Ok(())
    }

    /// Completes all buckets with the gradients there are. Sends them if there is somebody to take
    /// them, and tells how many are on their way; otherwise gives them to the caller.
    pub(crate) fn complete_all(&mut self, step: u64) -> Result<(usize, Vec<BucketReducer>)> {
        let is_complete = &self.is_complete;
        for reducer in &mut self.reducers {
            reducer.bucket.load(&self.parameters, |member| !is_complete[member])?;
        }
        if self.jobs.is_empty() {
            self.sent = self.reducers.len();
            return Ok((0, self.reducers.drain(..).collect()));
        }
        while !self.reducers.is_empty() {
            self.send_first(step)?;
        }
        Ok((self.sent, Vec::new()))
    }

    /// Takes all buckets back.
    pub(crate) fn take_back(&mut self, reducers: Vec<BucketReducer>) {
        self.missing = reducers.iter().map(BucketReducer::len).collect();
        self.reducers = reducers.into();
        (self.sent, self.began) = (0, None);
        self.is_used.fill(false);
        self.is_complete.fill(false);
    }

    /// No bucket will be sent any more.
    pub(crate) fn close(&mut self) {
        self.jobs.clear();
    }

    fn send_first(&mut self, step: u64) -> Result<()> {
        if let Some(reducer) = self.reducers.pop_front() {
            self.missing.pop_front();
            let job = &self.jobs[self.sent % self.jobs.len()];
            self.sent += 1;
            job.send((reducer, step)).map_err(|_| Error::Broken)?;
        }
        Ok(())
    }
}

/// A queue that hooks share with the reducer. After a panic the job ends in any case.
pub(crate) fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
