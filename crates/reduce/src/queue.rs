//! Units that wait for their gradients: filled by gradient hooks, and sent in their order as soon as they are complete.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::parameter::Parameter;
use crate::unit::Unit;
use crate::{Error, Result};

/// A unit to be reduced, and its step.
pub(crate) type Order = (Unit, u64);

pub(crate) struct Queue {
    parameters: Arc<Vec<Parameter>>,
    /// Those that are here, in order: all but the first `sent`.
    units: VecDeque<Unit>,
    /// How many parameters of each of them are not complete.
    missing: VecDeque<usize>,
    sent: usize,
    unit_of: Vec<usize>,
    /// Where in its bucket each gradient lies if it can lie there.
    homes: Vec<Option<usize>>,
    /// Parameters that backward has reached since the last reduction.
    is_used: Vec<bool>,
    /// Parameters whose gradient is complete.
    is_complete: Vec<bool>,
    /// The step whose gradients are sent as they become complete.
    began: Option<u64>,
    /// To the threads that reduce, by turns; none where the caller does.
    orders: Vec<Sender<Order>>,
}

impl Queue {
    pub(crate) fn new(parameters: Arc<Vec<Parameter>>, units: Vec<Unit>, orders: Vec<Sender<Order>>) -> Queue {
        let count = parameters.len();
        let (mut unit_of, mut homes) = (vec![0; count], vec![None; count]);
        for (number, unit) in units.iter().enumerate() {
            for (member, home) in unit.bucket.homes(&parameters) {
                (unit_of[member], homes[member]) = (number, home);
            }
        }
        let (is_used, is_complete) = (vec![false; count], vec![false; count]);
        let (missing, units) = (units.iter().map(Unit::len).collect(), units.into());
        Queue { parameters, units, missing, sent: 0, unit_of, homes, is_used, is_complete, began: None, orders }
    }

    /// From now on a gradient that is complete may leave, if there is somebody to take it.
    pub(crate) fn begin(&mut self, step: u64) {
        self.began = (!self.orders.is_empty()).then_some(step);
    }

    /// The step of [`Queue::begin`].
    pub(crate) fn began(&self) -> Option<u64> {
        self.began
    }

    /// For each parameter, whether it got a gradient since the last reduction: backward reached it, or somebody gave it another.
    pub(crate) fn used(&self) -> Vec<bool> {
        let is_replaced = |member: usize| {
            let gradient = self.parameters[member].tensor().grad();
            gradient.defined() && self.homes[member].is_some_and(|home| home != gradient.data_ptr() as usize)
        };
        self.is_used.iter().enumerate().map(|(member, &is_used)| is_used || is_replaced(member)).collect()
    }

    /// All units, when none is on its way.
    pub(crate) fn units(&mut self) -> Result<&mut VecDeque<Unit>> {
        if self.sent == 0 { Ok(&mut self.units) } else { Err(Error::Broken) }
    }

    /// Notes that backward has completed a gradient, and sends what is complete with it.
    pub(crate) fn complete(&mut self, member: usize) -> Result<()> {
        self.is_used[member] = true;
        let Some(step) = self.began else { return Ok(()) };
        if self.is_complete[member] {
            return Ok(());
        }
        self.is_complete[member] = true;
        let place = self.unit_of[member].checked_sub(self.sent).ok_or(Error::Broken)?;
        self.units[place].bucket.load(&self.parameters, |other| other == member)?;
        self.missing[place] -= 1;
        while self.missing.front() == Some(&0) {
            self.send_first(step)?;
        }
        Ok(())
    }

    /// Completes all units with the gradients there are. Sends them if there is somebody to take them, and tells how many are on their way;
    /// otherwise gives them to the caller.
    pub(crate) fn complete_all(&mut self, step: u64) -> Result<(usize, Vec<Unit>)> {
        let is_complete = &self.is_complete;
        for unit in &mut self.units {
            unit.bucket.load(&self.parameters, |member| !is_complete[member])?;
        }
        if self.orders.is_empty() {
            self.sent = self.units.len();
            return Ok((0, self.units.drain(..).collect()));
        }
        while !self.units.is_empty() {
            self.send_first(step)?;
        }
        Ok((self.sent, Vec::new()))
    }

    /// Takes all units back.
    pub(crate) fn take_back(&mut self, units: Vec<Unit>) {
        self.missing = units.iter().map(Unit::len).collect();
        self.units = units.into();
        (self.sent, self.began) = (0, None);
        self.is_used.fill(false);
        self.is_complete.fill(false);
    }

    /// No units will be sent any more.
    pub(crate) fn close(&mut self) {
        self.orders.clear();
    }

    fn send_first(&mut self, step: u64) -> Result<()> {
        if let Some(unit) = self.units.pop_front() {
            self.missing.pop_front();
            let order = &self.orders[self.sent % self.orders.len()];
            self.sent += 1;
            order.send((unit, step)).map_err(|_| Error::Broken)?;
        }
        Ok(())
    }
}

/// A queue that hooks share with the reducer. After a panic the job ends in any case.
pub(crate) fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
