use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the bytes kept for backward at this moment, and what exact keeping would hold at the same sites.
#[derive(Debug, Default)]
pub struct Ledger {
    kept: AtomicU64,
    exact: AtomicU64,
}

impl Ledger {
    /// Bytes held for backward now.
    pub fn kept_bytes(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    /// Bytes that the same sites would hold uncompressed.
    pub fn exact_bytes(&self) -> u64 {
        self.exact.load(Ordering::Relaxed)
    }

    /// Enters what is kept, until the entry is dropped.
    pub(crate) fn enter(self: &Arc<Self>, kept: u64, exact: u64) -> Entry {
        self.kept.fetch_add(kept, Ordering::Relaxed);
        self.exact.fetch_add(exact, Ordering::Relaxed);
        Entry { ledger: self.clone(), kept, exact }
    }
}

/// One kept tensor's line in the ledger.
#[derive(Debug)]
pub(crate) struct Entry {
    ledger: Arc<Ledger>,
    pub(crate) kept: u64,
    pub(crate) exact: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.kept.fetch_sub(self.kept, Ordering::Relaxed);
        self.ledger.exact.fetch_sub(self.exact, Ordering::Relaxed);
    }
}
