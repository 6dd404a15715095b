use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the bytes saved for backward at this moment, and what the same sites would hold
/// uncompressed.
#[derive(Debug, Default)]
pub struct SavedBytes {
    held: AtomicU64,
    exact: AtomicU64,
}

impl SavedBytes {
    /// Bytes held for backward now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that the same sites would hold uncompressed.
    pub fn exact(&self) -> u64 {
        self.exact.load(Ordering::Relaxed)
    }

    /// Counts what is saved, until the entry is dropped.
    pub(crate) fn record(self: &Arc<Self>, held: u64, exact: u64) -> Entry {
        self.held.fetch_add(held, Ordering::Relaxed);
        self.exact.fetch_add(exact, Ordering::Relaxed);
        Entry { saved_bytes: self.clone(), held, exact }
    }
}

/// The bytes of one saved tensor, counted while it lives.
#[derive(Debug)]
pub(crate) struct Entry {
    saved_bytes: Arc<SavedBytes>,
    pub(crate) held: u64,
    pub(crate) exact: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.saved_bytes.held.fetch_sub(self.held, Ordering::Relaxed);
        self.saved_bytes.exact.fetch_sub(self.exact, Ordering::Relaxed);
    }
}
