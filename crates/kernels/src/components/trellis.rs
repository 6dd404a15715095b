//! Trellis-coded quantization (Marcellin and Fischer 1990) of one component along its tokens.
//!
//! A scalar quantizer of `W` bits wastes what a box wastes against a ball. A trellis has twice the
//! levels, in four classes by their place modulo 4, and a state that admits two of the classes,
//! every other level: so a code is still `W` bits, but the levels that a token may take depend on
//! the tokens before it, and the best path (Viterbi) has a quarter less error, at no cost to the
//! decoder. The eight states are the last three path bits; a path bit is the lowest bit of a code,
//! so decoding needs three codes back and nothing else (the feed-forward form of Ungerboeck's
//! 8-state code, parity checks 13 and 04 in octal).
//!
//! Token `8 g + l` is step `g` of stream `l`: eight streams run side by side, each from a history
//! of zeros.

use wide::f32x8;

use super::pack::{LANES, pack, read, unpack};
use super::quantizer::{MOST_LEVELS, Quantizer, cell, of_class};

const STATES: usize = 8;

/// The class of levels to which four path bits lead, the newest lowest.
const CLASS: [usize; 2 * STATES] = {
    let mut classes = [0; 2 * STATES];
    let mut window = 0;
    while window < 2 * STATES {
        classes[window] = class_of(window as u32) as usize;
        window += 1;
    }
    classes
};

#[inline(always)]
const fn class_of(window: u32) -> u32 {
    2 * ((window ^ (window >> 1) ^ (window >> 3)) & 1) + ((window >> 2) & 1)
}

/// What the way back along the best path needs to know; kept from one component to the next for its
/// storage.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// The cell of each token, from which its four levels follow.
    cells: Vec<[u16; LANES]>,
    /// For each state, bit `l`: the oldest path bit before it in stream `l`.
    from: Vec<[u8; STATES]>,
}

/// Where the rows' sums over components are gathered.
#[derive(Debug)]
pub(crate) struct Sums<'a> {
    /// `Σ q²`.
    pub energies: &'a mut [f32],
    /// `Σ q y`.
    pub along: &'a mut [f32],
}

impl Sums<'_> {
    #[inline(always)]
    pub(crate) fn add(&mut self, token: usize, coded: f32, exact: f32) {
        self.energies[token] += coded * coded;
        self.along[token] += coded * exact;
    }

    /// The same for eight tokens from `first`, as many of them as there are.
    #[inline(always)]
    pub(crate) fn add_group(&mut self, first: usize, coded: [f32; LANES], exact: [f32; LANES]) {
        if let (Some(energies), Some(along)) = (
            self.energies[first..].first_chunk_mut::<LANES>(),
            self.along[first..].first_chunk_mut::<LANES>(),
        ) {
            for lane in 0..LANES {
                energies[lane] += coded[lane] * coded[lane];
                along[lane] += coded[lane] * exact[lane];
            }
            return;
        }
        for (token, (coded, exact)) in
            (first..self.energies.len()).zip(coded.into_iter().zip(exact))
        {
            self.add(token, coded, exact);
        }
    }
}

/// Up to eight values, the rest zeros.
#[inline(always)]
pub(crate) fn lanes(values: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..values.len()].copy_from_slice(values);
    lanes
}

/// Codes one component `y` `[tokens]` in units of `step` into `codes`, `W` bytes for every eight
/// tokens.
#[inline(always)]
pub(crate) fn encode<const W: usize>(
    quantizer: &Quantizer,
    step: f32,
    y: &[f32],
    codes: &mut [u8],
    trace: &mut Trace,
    sums: &mut Sums<'_>,
) {
    let inverse = 1.0 / step;
    trace.cells.clear();
    trace.from.clear();
    let mut costs = [f32x8::splat(f32::INFINITY); STATES];
    costs[0] = f32x8::ZERO;
    for group in y.chunks(LANES) {
        let mut values = lanes(group);
        let mut cells = [0; LANES];
        for lane in 0..LANES {
            values[lane] *= inverse;
            cells[lane] = cell(values[lane]);
        }
        let levels = cells.map(|cell| quantizer.classes(cell));
        let values = f32x8::from(values);
        let mut near = [f32x8::ZERO; 4];
        for (class, near) in near.iter_mut().enumerate() {
            let off = values - f32x8::from(levels.map(|levels| levels[class]));
            *near = off * off;
        }
        trace.cells.push(cells);
        trace.from.push(advance(&mut costs, &near));
    }

    let costs = costs.map(f32x8::to_array);
    let mut states = [0u32; LANES];
    for (lane, best) in states.iter_mut().enumerate() {
        for state in 1..STATES {
            if costs[state][lane] < costs[*best as usize][lane] {
                *best = state as u32;
            }
        }
    }
    let levels = quantizer.scaled(step);
    for (group, codes) in codes.as_chunks_mut::<W>().0.iter_mut().enumerate().rev() {
        let first = group * LANES;
        let (cells, from) = (trace.cells[group], trace.from[group]);
        let (mut coded, mut values) = ([0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            let state = states[lane];
            let window = state | (((u32::from(from[state as usize % STATES]) >> lane) & 1) << 3);
            let level = of_class(quantizer.start_of(cells[lane]), class_of(window));
            coded[lane] = (level >> 2 << 1) | (state & 1);
            states[lane] = window >> 1;
            values[lane] = levels[level as usize % MOST_LEVELS];
        }
        sums.add_group(first, values, lanes(&y[first..y.len().min(first + LANES)]));
        *codes = pack::<W>(coded);
    }
}

/// One step of the Viterbi algorithm: of the two ways into each state, the cheaper.
#[inline(always)]
fn advance(costs: &mut [f32x8; STATES], near: &[f32x8; 4]) -> [u8; STATES] {
    let mut next = [f32x8::ZERO; STATES];
    let mut from = [0; STATES];
    for state in 0..STATES {
        let zero = costs[state >> 1] + near[CLASS[state]];
        let one = costs[(state >> 1) | 4] + near[CLASS[state | 8]];
        next[state] = zero.fast_min(one);
        from[state] = one.simd_lt(zero).to_bitmask() as u8;
    }
    *costs = next;
    from
}

/// Decodes one component into `y` `[tokens]`: the level, times `step`, times the token's gain.
#[inline(always)]
pub(crate) fn decode<const W: usize>(
    quantizer: &Quantizer,
    step: f32,
    codes: &[u8],
    gains: &[f32],
    y: &mut [f32],
) {
    let levels = quantizer.scaled(step);
    let mut before = [[0; LANES]; 3];
    for ((codes, gains), y) in
        codes.as_chunks::<W>().0.iter().zip(gains.chunks(LANES)).zip(y.chunks_mut(LANES))
    {
        let codes = unpack::<W>(read(codes));
        let places: [u32; LANES] = std::array::from_fn(|lane| {
            let class = (((codes[lane] ^ before[0][lane] ^ before[2][lane]) & 1) << 1)
                | (before[1][lane] & 1);
            ((codes[lane] >> 1) << 2) | class
        });
        before = [codes, before[0], before[1]];
        for ((y, &place), &gain) in y.iter_mut().zip(&places).zip(gains) {
            *y = levels[place as usize % MOST_LEVELS] * gain;
        }
    }
}
