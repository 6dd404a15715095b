//! The operations of `layers` as their allocations: each follows its original line by line, so that it allocates and frees
//! in the same order.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use compression::Rank;
use layers::{RmsWeight, SavePolicy, Site};
use models::config::NormKind;

use crate::memory_tracker::{Allocation, MemoryTracker};

/// A linear layer from `[rows, inputs]` to `[rows, outputs]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearShape {
    pub outputs: u64,
    pub inputs: u64,
    /// The rank of its LoRA pair.
    pub lora: Option<u64>,
    pub dora: bool,
    /// Whether elements of the pair's input are dropped.
    pub dropout: bool,
    /// Whether A is frozen.
    pub frozen_a: bool,
    /// Whether its weight is trained.
    pub weight_trained: bool,
    /// Whether its weight is quantized.
    pub quantized: bool,
}

impl LinearShape {
    pub fn is_trained(&self) -> bool {
        self.lora.is_some() || self.weight_trained
    }

    /// With A frozen, the narrow projection is saved instead of the input (LoRA-FA).
    fn saves_projection(&self) -> bool {
        self.frozen_a && self.lora.is_some_and(|rank| rank < self.inputs) && !self.dora && !self.weight_trained
    }

    pub fn reads_input(&self) -> bool {
        self.is_trained() && !self.saves_projection()
    }
}

/// Heads as attention sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub batch: u64,
    pub tokens: u64,
    pub queries: u64,
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

/// A tensor saved for backward.
pub(crate) struct SavedTensor {
    alloc: Allocation,
    /// Bytes of the tensor that comes back; `None` if it was saved exactly.
    restored: Option<u64>,
}

/// Simulates operations by what they allocate.
pub(crate) struct MemorySim {
    pub tracker: Rc<MemoryTracker>,
    /// Bytes of an element of hidden states.
    pub element: u64,
    /// Bytes saved at each site.
    pub sites: RefCell<BTreeMap<Site, u64>>,
    pub is_counting: Cell<bool>,
}

/// f32, in which norms and scores are computed.
const WIDE: u64 = 4;
/// Elements of a weight that are dequantized at a time on the CPU.
const CHUNK: u64 = 1 << 18;

impl MemorySim {
    /// A tensor of the model's dtype.
    pub fn tensor(&self, elements: u64) -> Allocation {
        self.tracker.take(elements * self.element)
    }

    fn wide(&self, elements: u64) -> Allocation {
        self.tracker.take(elements * WIDE)
    }

    /// A tensor as f32: itself, if it is.
    fn widened(&self, x: &Allocation, elements: u64) -> Allocation {
        if self.element == WIDE { x.clone() } else { self.wide(elements) }
    }

    /// An f32 tensor in the model's dtype: itself, if it has it.
    fn narrowed(&self, x: Allocation, elements: u64) -> Allocation {
        if self.element == WIDE { x } else { self.tensor(elements) }
    }

    /// Saves `[rows, width]` as `keep` says.
    pub fn save(&self, keep: &SavePolicy, x: &Allocation, (rows, width): (u64, u64), site: Site) -> SavedTensor {
        let exact = rows * width * self.element;
        let code = match keep {
            SavePolicy::Exact => None,
            SavePolicy::Code(options) | SavePolicy::Delta(options) => {
                let bytes = options.bytes(rows as i64, width as i64).ok();
                bytes.filter(|bytes| *bytes < exact || matches!(options.rank, Rank::Auto { .. })).map(|bytes| bytes.min(exact))
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
                // The sum of what was saved before this block, from which the next one is taken, in f32.
                let sum = if matches!(keep, SavePolicy::Delta(_)) { rows * width * WIDE } else { 0 };
                SavedTensor { alloc: self.tracker.take(bytes), restored: Some(exact + sum) }
            }
        }
    }

    pub fn restore(&self, saved: &SavedTensor) -> Allocation {
        saved.restored.map_or_else(|| saved.alloc.clone(), |bytes| self.tracker.take(bytes))
    }

    /// A norm of `elements` elements.
    pub fn norm(&self, x: &Allocation, elements: u64, kind: NormKind) -> Allocation {
        let precise = self.widened(x, elements);
        drop(self.wide(elements)); // squares
        let normed = self.wide(elements);
        match kind {
            NormKind::Rms(RmsWeight::Rounded) => {
                drop(precise);
                let _rounded = self.narrowed(normed, elements);
                self.tensor(elements)
            }
            _ => {
                let weighted = self.wide(elements);
                let _alive = (precise, normed);
                self.narrowed(weighted, elements)
            }
        }
    }

    /// The gradient of its input, from that of its output.
    pub fn norm_backward(&self, saved: &SavedTensor, dy: &Allocation, elements: u64, weight_trained: bool) -> Allocation {
        let dx = {
            let restored = self.restore(saved);
            let (_x, _dy) = (self.widened(&restored, elements), self.widened(dy, elements));
            drop(self.wide(elements)); // squares
            let _normed = self.wide(elements);
            if weight_trained {
                drop(self.wide(elements));
            }
            let _g = self.wide(elements);
            drop(self.wide(elements)); // g · n
            let (_scaled, _difference) = (self.wide(elements), self.wide(elements));
            self.wide(elements)
        };
        // The engine makes it what the input is.
        self.narrowed(dx, elements)
    }

    /// Linear layers of one input; the outputs.
    pub fn project(&self, rows: u64, linears: &[LinearShape]) -> Vec<Allocation> {
        linears.iter().map(|linear| self.linear(rows, linear)).collect()
    }

    /// The dequantized weight, if it is quantized; chunks of it pass through f32.
    pub fn dequantized(&self, quantized: bool, elements: u64) -> Option<Allocation> {
        quantized.then(|| {
            let whole = self.tensor(elements);
            drop(self.wide(2 * elements.min(CHUNK)));
            whole
        })
    }

    fn linear(&self, rows: u64, linear: &LinearShape) -> Allocation {
        let _weight = self.dequantized(linear.quantized, linear.outputs * linear.inputs);
        let Some(rank) = linear.lora else { return self.tensor(rows * linear.outputs) };
        // A and B in the dtype of the rows.
        let _pair = (self.element != WIDE).then(|| self.tensor((linear.inputs + linear.outputs) * rank));
        let _dropped = linear.dropout.then(|| self.drop_elements(rows * linear.inputs));
        let small = {
            let _product = self.tensor(rows * rank);
            self.tensor(rows * rank)
        };
        let y = self.tensor(rows * linear.outputs);
        let _small = small;
        if !linear.dora {
            return y;
        }
        // The rows' norms, then the output at its magnitudes, in f32.
        let scaled = self.wide(rows * linear.outputs);
        let _y = y;
        self.narrowed(scaled, rows * linear.outputs)
    }

    /// A tensor with elements dropped: the mask is drawn, and multiplied, before it is applied.
    fn drop_elements(&self, elements: u64) -> Allocation {
        let mask = {
            let _drawn = self.tensor(elements);
            self.tensor(elements)
        };
        let _mask = mask;
        self.tensor(elements)
    }

    /// From the outputs' gradients that of the input, if it is wanted; `saved` is the input.
    pub fn project_backward(
        &self,
        rows: u64,
        linears: &[LinearShape],
        saved: Option<&SavedTensor>,
        dys: &[Allocation],
        wants_input: bool,
    ) -> Option<Allocation> {
        let (mut sum, mut gradients) = (None, Vec::new());
        for (linear, _dy) in linears.iter().zip(dys) {
            let _weight = self.dequantized(linear.quantized && (wants_input || linear.dora), linear.outputs * linear.inputs);
            let scaled_dy = linear.dora.then(|| {
                let scaled = self.wide(rows * linear.outputs);
                self.narrowed(scaled, rows * linear.outputs)
            });
            if wants_input && sum.is_none() {
                sum = Some(self.tensor(rows * linear.inputs));
            }
            let restored = saved.filter(|saved| linear.reads_input() && saved.restored.is_some()).map(|saved| self.restore(saved));
            let _dropped = linear.dropout.then(|| self.drop_elements(rows * linear.inputs));
            if linear.weight_trained {
                gradients.push(self.tensor(linear.outputs * linear.inputs));
            }
            if let Some(rank) = linear.lora {
                let _pair = (self.element != WIDE).then(|| self.tensor((linear.inputs + linear.outputs) * rank));
                let small = {
                    let _product = self.tensor(rows * rank);
                    self.tensor(rows * rank)
                };
                gradients.push(self.tensor(rank * linear.inputs));
                let projected = {
                    let _product = self.tensor(rows * rank);
                    self.tensor(rows * rank)
                };
                gradients.push(self.tensor(linear.outputs * rank));
                if linear.dora {
                    let _unscaled = self.tensor(rows * linear.outputs);
                    drop(self.wide(rows * linear.outputs));
                }
                if wants_input && linear.dropout {
                    let _through = self.tensor(rows * linear.inputs);
                    drop(self.drop_elements(rows * linear.inputs));
                }
                drop((small, projected));
            }
            drop((restored, scaled_dy));
        }
        sum
    }

    /// Queries or keys with rotary embeddings.
    pub fn rotary(&self, elements: u64) -> Allocation {
        let out = self.tensor(elements);
        drop(self.tensor(elements / 2));
        out
    }

    /// The output, and its log sums.
    pub fn attention(&self, heads: Heads) -> (Allocation, Allocation) {
        let rows = heads.batch * heads.tokens;
        let width = heads.width.max(heads.value);
        let _repeated = if heads.on_gpu && !heads.is_eager { None } else { self.repeat_kv(heads, width) };
        let log_sums = self.wide(rows * heads.queries);
        if heads.is_eager {
            let _scores = self.scores(heads, 5);
            let _parts = self.tensor(rows * heads.queries * heads.value);
            return (self.tensor(rows * heads.queries * heads.value), log_sums);
        }
        let _buffers = (!heads.on_gpu).then(|| self.kernel_buffers(heads, width));
        let out = self.tensor(rows * heads.queries * width);
        if width == heads.value { (out, log_sums) } else { (self.tensor(rows * heads.queries * heads.value), log_sums) }
    }

    /// The gradients of queries, keys and values.
    pub fn attention_backward(&self, heads: Heads) -> [Allocation; 3] {
        let rows = heads.batch * heads.tokens;
        let width = heads.width.max(heads.value);
        let all = |width: u64| self.tensor(rows * heads.queries * width);
        if heads.on_gpu && !heads.is_eager {
            // The gradient of queries is summed in f32; those of keys and values are made for each head.
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
        [dq, self.tensor(rows * heads.keys * heads.width), self.tensor(rows * heads.keys * heads.value)]
    }

    /// Keys and values repeated for each head of a group, and padded to one width.
    fn repeat_kv(&self, heads: Heads, width: u64) -> Option<[Allocation; 2]> {
        let is_grouped = heads.queries != heads.keys || heads.width != heads.value;
        is_grouped.then(|| [0; 2].map(|_| self.tensor(heads.batch * heads.tokens * heads.queries * width)))
    }

    /// The scores of a chunk of queries, `times` copies of them.
    fn scores(&self, heads: Heads, times: u64) -> Allocation {
        let all = heads.batch * heads.queries * heads.tokens * heads.tokens;
        self.wide(times * all.min(1 << 24))
    }

    /// Buffers of libtorch's kernel for each thread: a block of scores, of 256 queries by 512 keys, and the output of those queries.
    fn kernel_buffers(&self, heads: Heads, width: u64) -> Allocation {
        let (queries, keys) = (heads.tokens.min(256), heads.tokens.min(512));
        self.wide(if heads.is_eager { 0 } else { heads.threads * queries * (keys + 2 + width) })
    }

    /// `f(gate) · up`, or `f(x)`.
    pub fn gated(&self, elements: u64) -> Allocation {
        self.tensor(elements)
    }

    /// The gradients of both.
    pub fn gated_backward(&self, gate: &SavedTensor, up: &SavedTensor, elements: u64) -> [Allocation; 2] {
        let _gate = self.restore(gate);
        let d_gate = {
            let _up = self.restore(up);
            let _product = self.tensor(elements);
            self.tensor(elements)
        };
        [d_gate, self.tensor(elements)]
    }

    /// The gradient of `f(x)`.
    pub fn activate_backward(&self, saved: &SavedTensor, elements: u64) -> Allocation {
        let _x = self.restore(saved);
        self.tensor(elements)
    }
}
