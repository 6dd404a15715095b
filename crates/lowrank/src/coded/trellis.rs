//! Trellis-coded quantisation (Marcellin and Fischer 1990) of one component along its tokens.
//!
//! A scalar quantiser of `W` bits wastes what a box wastes against a ball. A trellis has twice the levels, in four classes by their place
//! modulo 4, and a state that admits two of the classes, every other level: so a code is still `W` bits, but the levels that a token may
//! take depend on the tokens before it, and the best path (Viterbi) has a quarter less error, at no cost to the decoder. The eight states
//! are the last three path bits; a path bit is the lowest bit of a code, so decoding needs three codes back and nothing else (the
//! feed-forward form of Ungerboeck's 8-state code, parity checks 13 and 04 in octal).
//!
//! Token `8 g + l` is step `g` of stream `l`: eight streams run side by side, each from a history of zeros.

use super::pack::{LANES, pack, read, unpack};
use super::quantizer::{MOST_LEVELS, Quantizer};

const STATES: usize = 8;

/// The class of levels to which four path bits lead, the newest lowest.
const CLASS: [usize; 2 * STATES] = {
    let mut classes = [0; 2 * STATES];
    let mut window = 0;
    while window < 2 * STATES {
        classes[window] = 2 * ((window ^ (window >> 1) ^ (window >> 3)) & 1) + ((window >> 2) & 1);
        window += 1;
    }
    classes
};

/// What the way back along the best path needs to know; kept from one component to the next for its storage.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// The first of the four levels around each token.
    starts: Vec<[u16; LANES]>,
    /// For each token, bit `s`: the oldest path bit before state `s`.
    from: Vec<[u8; LANES]>,
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
    #[inline]
    pub(crate) fn add(&mut self, token: usize, coded: f32, exact: f32) {
        self.energies[token] += coded * coded;
        self.along[token] += coded * exact;
    }
}

/// Of four consecutive levels, that of this class.
#[inline]
fn level_of(start: usize, class: usize) -> usize {
    start.wrapping_add(class.wrapping_sub(start) & 3)
}

/// Up to eight values, the rest zeros.
#[inline]
pub(crate) fn lanes(values: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..values.len()].copy_from_slice(values);
    lanes
}

/// Codes one component `y` `[tokens]` in units of `step` into `codes`, `W` bytes for every eight tokens.
pub(crate) fn encode<const W: usize>(
    quantizer: &Quantizer,
    step: f32,
    y: &[f32],
    codes: &mut [u8],
    trace: &mut Trace,
    sums: &mut Sums<'_>,
) {
    let inverse = 1.0 / step;
    trace.starts.clear();
    trace.from.clear();
    let mut costs = [[f32::INFINITY; LANES]; STATES];
    costs[0] = [0.0; LANES];
    for group in y.chunks(LANES) {
        let values = lanes(group).map(|value| value * inverse);
        let starts = values.map(|value| quantizer.start(value));
        let mut near = [[0.0; LANES]; 4];
        for (class, near) in near.iter_mut().enumerate() {
            for ((near, &value), &start) in near.iter_mut().zip(&values).zip(&starts) {
                let off = value - quantizer.levels[level_of(usize::from(start), class) % MOST_LEVELS];
                *near = off * off;
            }
        }
        trace.starts.push(starts);
        trace.from.push(advance(&mut costs, &near));
    }

    let mut states: [usize; LANES] = std::array::from_fn(|lane| {
        let mut best = 0;
        for state in 1..STATES {
            if costs[state][lane] < costs[best][lane] {
                best = state;
            }
        }
        best
    });
    let levels = quantizer.scaled(step);
    for (group, codes) in codes.as_chunks_mut::<W>().0.iter_mut().enumerate().rev() {
        let first = group * LANES;
        let here = &y[first..y.len().min(first + LANES)];
        let mut coded = [0; LANES];
        for lane in 0..LANES {
            let (state, from) = (states[lane], usize::from(trace.from[group][lane]));
            let window = state | (((from >> state) & 1) << 3);
            let level = level_of(usize::from(trace.starts[group][lane]), CLASS[window % (2 * STATES)]) % MOST_LEVELS;
            coded[lane] = ((level >> 2 << 1) | (state & 1)) as u32;
            states[lane] = window >> 1;
            if let Some(&exact) = here.get(lane) {
                sums.add(first + lane, levels[level], exact);
            }
        }
        *codes = pack::<W>(coded);
    }
}

/// One step of the Viterbi algorithm: of the two ways into each state, the cheaper.
#[inline]
fn advance(costs: &mut [[f32; LANES]; STATES], near: &[[f32; LANES]; 4]) -> [u8; LANES] {
    let mut next = [[0.0; LANES]; STATES];
    let mut from = [0u32; LANES];
    for state in 0..STATES {
        let (zero, one) = (&costs[state >> 1], &costs[(state >> 1) | 4]);
        let (near_zero, near_one) = (&near[CLASS[state]], &near[CLASS[state | 8]]);
        for lane in 0..LANES {
            let (a, b) = (zero[lane] + near_zero[lane], one[lane] + near_one[lane]);
            next[state][lane] = if b < a { b } else { a };
            from[lane] |= u32::from(b < a) << state;
        }
    }
    *costs = next;
    from.map(|bits| bits as u8)
}

/// Decodes one component into `y` `[tokens]`: the level, times `step`, times the token's gain.
pub(crate) fn decode<const W: usize>(quantizer: &Quantizer, step: f32, codes: &[u8], gains: &[f32], y: &mut [f32]) {
    let levels = quantizer.scaled(step);
    let mut before = [[0; LANES]; 3];
    for ((codes, gains), y) in codes.as_chunks::<W>().0.iter().zip(gains.chunks(LANES)).zip(y.chunks_mut(LANES)) {
        let codes = unpack::<W>(read(codes));
        let places: [u32; LANES] = std::array::from_fn(|lane| {
            let class = (((codes[lane] ^ before[0][lane] ^ before[2][lane]) & 1) << 1) | (before[1][lane] & 1);
            ((codes[lane] >> 1) << 2) | class
        });
        before = [codes, before[0], before[1]];
        for ((y, &place), &gain) in y.iter_mut().zip(&places).zip(gains) {
            *y = levels[place as usize % MOST_LEVELS] * gain;
        }
    }
}
