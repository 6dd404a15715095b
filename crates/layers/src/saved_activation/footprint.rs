//! The footprint of a tensor saved for backward.

use compression::Rank;

use crate::footprint::{Allocation, MemorySim, WIDE};
use crate::{SavePolicy, Site};

/// A tensor saved for backward.
pub struct SavedTensor {
    alloc: Allocation,
    /// Bytes of the tensor that comes back; `None` if it was saved exactly.
    restored: Option<u64>,
}

impl SavedTensor {
    /// Whether its code has to be restored.
    pub(crate) fn is_code(&self) -> bool {
        self.restored.is_some()
    }
}

impl MemorySim {
    /// Saves `[rows, width]` as `policy` says.
    pub fn save(
        &self,
        policy: &SavePolicy,
        x: &Allocation,
        (rows, width): (u64, u64),
        site: Site,
    ) -> SavedTensor {
        let exact = rows * width * self.element;
        let code = match policy {
            SavePolicy::Exact => None,
            SavePolicy::Code(options) | SavePolicy::Delta(options) => {
                let bytes = options.bytes(rows as i64, width as i64).ok();
                bytes
                    .filter(|bytes| *bytes < exact || matches!(options.rank, Rank::Auto { .. }))
                    .map(|bytes| bytes.min(exact))
            }
        };
        if self.is_counting.get() {
            *self.sites.borrow_mut().entry(site).or_default() += code.unwrap_or(exact);
        }
        match code {
            None => SavedTensor { alloc: x.clone(), restored: None },
            Some(bytes) => {
                // While it is coded: a copy in f32, and what is computed from it, of the same size.
                let (_copy, _work) = (self.wide(rows * width), self.wide(rows * width));
                // The sum of what was saved before this block, from which the next one is taken, in
                // f32.
                let sum =
                    if matches!(policy, SavePolicy::Delta(_)) { rows * width * WIDE } else { 0 };
                SavedTensor { alloc: self.tracker.take(bytes), restored: Some(exact + sum) }
            }
        }
    }

    /// The tensor that comes back in backward.
    pub fn restore(&self, saved: &SavedTensor) -> Allocation {
        saved.restored.map_or_else(|| saved.alloc.clone(), |bytes| self.tracker.take(bytes))
    }
}
