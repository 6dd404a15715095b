//! The operations of `layers`, as what they hold while they run: each follows its original line by line, so that it takes and gives back
//! room in the same order.

use super::meter::{Meter, Room};
use compression::Rank;
use layers::{RmsWeight, SavePolicy, Site};
use models::config::NormKind;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A map `[rows, inputs]` to `[rows, outputs]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map {
    pub outputs: u64,
    pub inputs: u64,
    /// The rank of its pair.
    pub lora: Option<u64>,
    pub dora: bool,
    /// Whether elements of the pair's input are dropped.
    pub dropout: bool,
    /// Whether A is frozen.
    pub frozen_a: bool,
    /// Whether its own weight is trained.
    pub weight_trained: bool,
    /// Whether its own weight is held in few bits.
    pub packed: bool,
}

impl Map {
    pub fn is_trained(&self) -> bool {
        self.lora.is_some() || self.weight_trained
    }

    /// With A frozen, the narrow projection is kept instead of the input (LoRA-FA).
    fn keeps_projection(&self) -> bool {
        self.frozen_a && self.lora.is_some_and(|rank| rank < self.inputs) && !self.dora && !self.weight_trained
    }

    pub fn reads_input(&self) -> bool {
        self.is_trained() && !self.keeps_projection()
    }
}

/// Heads as attention sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub batch: u64,
    pub tokens: u64,
    pub queries: u64,
    pub keys: u64,
    /// Width of a query or key.
    pub width: u64,
    /// Width of a value.
    pub value: u64,
    /// Whether scores are capped or weights dropped, so that they are written out.
    pub by_scores: bool,
    /// Threads of the processor, of which each has room of its own.
    pub threads: u64,
    /// Whether a kernel for GPUs computes it.
    pub on_gpu: bool,
}

/// Something kept for backward.
pub(super) struct Kept {
    room: Room,
    /// Bytes of the tensor that comes back; none where it was kept as it is.
    restored: Option<u64>,
}

/// Where operations run: the dtype, and what is counted.
pub(super) struct Bench {
    pub meter: Rc<Meter>,
    /// Bytes of an element of hidden states.
    pub element: u64,
    /// What is kept at each site, now.
    pub sites: RefCell<BTreeMap<Site, u64>>,
    pub is_counting: std::cell::Cell<bool>,
}

/// f32, in which norms and scores are computed.
const WIDE: u64 = 4;
/// Numbers of a weight that are expanded at a time on the CPU.
const PIECE: u64 = 1 << 18;

impl Bench {
    /// A tensor of the model's dtype.
    pub fn tensor(&self, elements: u64) -> Room {
        self.meter.take(elements * self.element)
    }

    fn wide(&self, elements: u64) -> Room {
        self.meter.take(elements * WIDE)
    }

    /// A tensor as f32: itself, if it is.
    fn widened(&self, x: &Room, elements: u64) -> Room {
        if self.element == WIDE { x.clone() } else { self.wide(elements) }
    }

    /// An f32 tensor in the model's dtype: itself, if it has it.
    fn narrowed(&self, x: Room, elements: u64) -> Room {
        if self.element == WIDE { x } else { self.tensor(elements) }
    }

    /// `[rows, width]` as `keep` says.
    pub fn keep(&self, keep: &SavePolicy, x: &Room, (rows, width): (u64, u64), site: Site) -> Kept {
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
            None => Kept { room: x.clone(), restored: None },
            Some(bytes) => {
                // While it is coded: a copy in f32, and what is computed from it, of the same size.
                let (_copy, _work) = (self.wide(rows * width), self.wide(rows * width));
                // The sum of what was kept before this block, from which the next one is taken, in f32.
                let sum = if matches!(keep, SavePolicy::Delta(_)) { rows * width * WIDE } else { 0 };
                Kept { room: self.meter.take(bytes), restored: Some(exact + sum) }
            }
        }
    }

    pub fn restore(&self, kept: &Kept) -> Room {
        kept.restored.map_or_else(|| kept.room.clone(), |bytes| self.meter.take(bytes))
    }

    /// A norm of `elements` elements.
    pub fn norm(&self, x: &Room, elements: u64, kind: NormKind) -> Room {
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
    pub fn norm_backward(&self, kept: &Kept, dy: &Room, elements: u64, weight_trained: bool) -> Room {
        let dx = {
            let restored = self.restore(kept);
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

    /// Maps of one input; the outputs.
    pub fn project(&self, rows: u64, maps: &[Map]) -> Vec<Room> {
        maps.iter().map(|map| self.map(rows, map)).collect()
    }

    /// A weight that is expanded if it is held in few bits; pieces of it pass through f32.
    pub fn expanded(&self, packed: bool, elements: u64) -> Option<Room> {
        packed.then(|| {
            let whole = self.tensor(elements);
            drop(self.wide(2 * elements.min(PIECE)));
            whole
        })
    }

    fn map(&self, rows: u64, map: &Map) -> Room {
        let _weight = self.expanded(map.packed, map.outputs * map.inputs);
        let Some(rank) = map.lora else { return self.tensor(rows * map.outputs) };
        // A and B in the dtype of the rows.
        let _pair = (self.element != WIDE).then(|| self.tensor((map.inputs + map.outputs) * rank));
        let _dropped = map.dropout.then(|| self.drop_elements(rows * map.inputs));
        let small = {
            let _product = self.tensor(rows * rank);
            self.tensor(rows * rank)
        };
        let y = self.tensor(rows * map.outputs);
        let _small = small;
        if !map.dora {
            return y;
        }
        // The rows' norms, then the output at its magnitudes, in f32.
        let scaled = self.wide(rows * map.outputs);
        let _y = y;
        self.narrowed(scaled, rows * map.outputs)
    }

    /// A tensor with elements dropped: the mask is drawn, and multiplied, before it is applied.
    fn drop_elements(&self, elements: u64) -> Room {
        let mask = {
            let _drawn = self.tensor(elements);
            self.tensor(elements)
        };
        let _mask = mask;
        self.tensor(elements)
    }

    /// From the outputs' gradients that of the input, if it is wanted; `kept` is the input.
    pub fn project_backward(&self, rows: u64, maps: &[Map], kept: Option<&Kept>, dys: &[Room], wants_input: bool) -> Option<Room> {
        let (mut sum, mut answers) = (None, Vec::new());
        for (map, _dy) in maps.iter().zip(dys) {
            let _weight = self.expanded(map.packed && (wants_input || map.dora), map.outputs * map.inputs);
            let pulled = map.dora.then(|| {
                let scaled = self.wide(rows * map.outputs);
                self.narrowed(scaled, rows * map.outputs)
            });
            if wants_input && sum.is_none() {
                sum = Some(self.tensor(rows * map.inputs));
            }
            let restored = kept.filter(|kept| map.reads_input() && kept.restored.is_some()).map(|kept| self.restore(kept));
            let _dropped = map.dropout.then(|| self.drop_elements(rows * map.inputs));
            if map.weight_trained {
                answers.push(self.tensor(map.outputs * map.inputs));
            }
            if let Some(rank) = map.lora {
                let _pair = (self.element != WIDE).then(|| self.tensor((map.inputs + map.outputs) * rank));
                let small = {
                    let _product = self.tensor(rows * rank);
                    self.tensor(rows * rank)
                };
                answers.push(self.tensor(rank * map.inputs));
                let projected = {
                    let _product = self.tensor(rows * rank);
                    self.tensor(rows * rank)
                };
                answers.push(self.tensor(map.outputs * rank));
                if map.dora {
                    let _unscaled = self.tensor(rows * map.outputs);
                    drop(self.wide(rows * map.outputs));
                }
                if wants_input && map.dropout {
                    let _through = self.tensor(rows * map.inputs);
                    drop(self.drop_elements(rows * map.inputs));
                }
                drop((small, projected));
            }
            drop((restored, pulled));
        }
        sum
    }

    /// Turned queries or keys.
    pub fn rotary(&self, elements: u64) -> Room {
        let out = self.tensor(elements);
        drop(self.tensor(elements / 2));
        out
    }

    /// The output, and its log sums.
    pub fn attention(&self, heads: Heads) -> (Room, Room) {
        let rows = heads.batch * heads.tokens;
        let width = heads.width.max(heads.value);
        let _spread = if heads.on_gpu && !heads.by_scores { None } else { self.spread(heads, width) };
        let log_sums = self.wide(rows * heads.queries);
        if heads.by_scores {
            let _scores = self.scores(heads, 5);
            let _parts = self.tensor(rows * heads.queries * heads.value);
            return (self.tensor(rows * heads.queries * heads.value), log_sums);
        }
        let _buffers = (!heads.on_gpu).then(|| self.kernel_buffers(heads, width));
        let out = self.tensor(rows * heads.queries * width);
        if width == heads.value { (out, log_sums) } else { (self.tensor(rows * heads.queries * heads.value), log_sums) }
    }

    /// The gradients of queries, keys and values.
    pub fn attention_backward(&self, heads: Heads) -> [Room; 3] {
        let rows = heads.batch * heads.tokens;
        let width = heads.width.max(heads.value);
        let all = |width: u64| self.tensor(rows * heads.queries * width);
        if heads.on_gpu && !heads.by_scores {
            // The gradient of queries is summed in f32; those of keys and values are made for each head.
            let _sums = self.wide(rows * heads.queries * (width + 1));
            let [dq, dk, dv] = [all(width), all(width), all(width)];
            return self.by_group(heads, [dq, dk, dv]);
        }
        let _spread = self.spread(heads, width);
        let _scores = heads.by_scores.then(|| self.scores(heads, 7));
        let _buffers = self.kernel_buffers(heads, width);
        self.by_group(heads, [all(width), all(width), all(width)])
    }

    /// The gradients of keys and values, summed over the heads of each group.
    fn by_group(&self, heads: Heads, [dq, dk, dv]: [Room; 3]) -> [Room; 3] {
        if heads.queries == heads.keys {
            return [dq, dk, dv];
        }
        let rows = heads.batch * heads.tokens;
        [dq, self.tensor(rows * heads.keys * heads.width), self.tensor(rows * heads.keys * heads.value)]
    }

    /// Keys and values with a copy for each head of a group, and all of one width.
    fn spread(&self, heads: Heads, width: u64) -> Option<[Room; 2]> {
        let is_grouped = heads.queries != heads.keys || heads.width != heads.value;
        is_grouped.then(|| [0; 2].map(|_| self.tensor(heads.batch * heads.tokens * heads.queries * width)))
    }

    /// Scores of a stretch of queries, written out so many times.
    fn scores(&self, heads: Heads, times: u64) -> Room {
        let all = heads.batch * heads.queries * heads.tokens * heads.tokens;
        self.wide(times * all.min(1 << 24))
    }

    /// Room of libtorch's kernel for each thread: a block of scores, of 256 queries by 512 keys, and the output of those queries.
    fn kernel_buffers(&self, heads: Heads, width: u64) -> Room {
        let (queries, keys) = (heads.tokens.min(256), heads.tokens.min(512));
        self.wide(if heads.by_scores { 0 } else { heads.threads * queries * (keys + 2 + width) })
    }

    /// `f(gate) · up`, or `f(x)`.
    pub fn gated(&self, elements: u64) -> Room {
        self.tensor(elements)
    }

    /// The gradients of both.
    pub fn gated_backward(&self, gate: &Kept, up: &Kept, elements: u64) -> [Room; 2] {
        let _gate = self.restore(gate);
        let d_gate = {
            let _up = self.restore(up);
            let _product = self.tensor(elements);
            self.tensor(elements)
        };
        [d_gate, self.tensor(elements)]
    }

    /// The gradient of `f(x)`.
    pub fn activate_backward(&self, kept: &Kept, elements: u64) -> Room {
        let _x = self.restore(kept);
        self.tensor(elements)
    }
}
