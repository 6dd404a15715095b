//! The footprint of attention.

use super::eager::AT_A_TIME;
use crate::footprint::{Allocation, MemorySim};

/// Heads as attention sees them.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Sequences.
    pub batch: u64,
    /// Tokens of a sequence.
    pub tokens: u64,
    /// Heads of queries.
    pub queries: u64,
    /// Heads of keys and values.
    pub keys: u64,
    /// Width of a query or key.
    pub width: u64,
    /// Width of a value.
    pub value: u64,
    /// Whether eager attention computes it, as scores are capped or weights dropped.
    pub is_eager: bool,
    /// CPU threads, each with buffers of its own.
    pub threads: u64,
    /// Whether a kernel for GPUs computes it.
    pub on_gpu: bool,
}

impl MemorySim {
    /// The output, and its log sums.
    pub fn attention(&self, heads: Heads) -> (Allocation, Allocation) {
        let rows = heads.batch * heads.tokens;
        let width = heads.width.max(heads.value);
        let _repeated =
            if heads.on_gpu && !heads.is_eager { None } else { self.repeat_kv(heads, width) };
        let log_sums = self.wide(rows * heads.queries);
        if heads.is_eager {
            let _scores = self.scores(heads, 5);
            let _parts = self.tensor(rows * heads.queries * heads.value);
            return (self.tensor(rows * heads.queries * heads.value), log_sums);
        }
        let _buffers = (!heads.on_gpu).then(|| self.kernel_buffers(heads, width));
        let out = self.tensor(rows * heads.queries * width);
        if width == heads.value {
            (out, log_sums)
        } else {
            (self.tensor(rows * heads.queries * heads.value), log_sums)
        }
    }

    /// The gradients of queries, keys and values.
    pub fn attention_backward(&self, heads: Heads) -> [Allocation; 3] {
        let rows = heads.batch * heads.tokens;
        let width = heads.width.max(heads.value);
        let all = |width: u64| self.tensor(rows * heads.queries * width);
        if heads.on_gpu && !heads.is_eager {
            // The gradient of queries is summed in f32; those of keys and values are made for each
            // head.
            let _sums = self.wide(rows * heads.queries * (width + 1));
            let [dq, dk, dv] = [all(width), all(width), all(width)];
            return self.by_group(heads, [dq, dk, dv]);
        }
        let _repeated = self.repeat_kv(heads, width);
        let _scores = heads.is_eager.then(|| self.scores(heads, 7));
        let _buffers = self.kernel_buffers(heads, width);
        self.by_group(heads, [all(width), all(width), all(width)])
    }

    /// The gradients of keys and values, summed over the heads of each group.
    fn by_group(&self, heads: Heads, [dq, dk, dv]: [Allocation; 3]) -> [Allocation; 3] {
        if heads.queries == heads.keys {
            return [dq, dk, dv];
        }
        let rows = heads.batch * heads.tokens;
        [
            dq,
            self.tensor(rows * heads.keys * heads.width),
            self.tensor(rows * heads.keys * heads.value),
        ]
    }

    /// Keys and values repeated for each head of a group, and padded to one width.
    fn repeat_kv(&self, heads: Heads, width: u64) -> Option<[Allocation; 2]> {
        let is_grouped = heads.queries != heads.keys || heads.width != heads.value;
        is_grouped.then(|| {
            [0; 2].map(|_| self.tensor(heads.batch * heads.tokens * heads.queries * width))
        })
    }

    /// The scores of a chunk of queries, `times` copies of them.
    fn scores(&self, heads: Heads, times: u64) -> Allocation {
        let all = heads.batch * heads.queries * heads.tokens * heads.tokens;
        self.wide(times * all.min(AT_A_TIME as u64))
    }

    /// Buffers of libtorch's kernel for each thread: a block of scores, of 256 queries by 512 keys,
    /// and the output of those queries.
    fn kernel_buffers(&self, heads: Heads, width: u64) -> Allocation {
        let (queries, keys) = (heads.tokens.min(256), heads.tokens.min(512));
        self.wide(if heads.is_eager { 0 } else { heads.threads * queries * (keys + 2 + width) })
    }
}
