use std::sync::LazyLock;

use super::levels::{SCALAR, TRELLIS, WIDEST};

/// Levels of a quantizer, most of them: the trellis of 8 bits has twice 256.
pub(crate) const MOST_LEVELS: usize = 2 << WIDEST;

/// Cells of the grid by which levels are found: 16 units each, over 6 standard deviations on either
/// side, of which the last level of any quantizer keeps clear. The closest two levels are 34 units
/// apart.
const CELLS: usize = 3072;
const CELL: f32 = 16.0;
const REACH: f32 = CELL * (CELLS / 2) as f32;

/// The levels of one width, and where to look for those near a value. All numbers in units of
/// [`UNIT`](super::levels::UNIT).
#[derive(Debug)]
pub(crate) struct Quantizer {
    /// Ascending; the rest of the array repeats the last one.
    pub levels: [f32; MOST_LEVELS],
    /// How many levels there are.
    pub count: usize,
    /// For each cell, the first of the `near` consecutive levels that lie around it.
    starts: [u16; CELLS],
    /// For each cell, the four levels from there, in the order of their place modulo 4.
    classes: [[f32; 4]; CELLS],
}

/// Scalar quantizers of 1 to 8 bits: a code is the place of its level.
pub(crate) static SCALARS: LazyLock<Vec<Quantizer>> = LazyLock::new(|| tables(&SCALAR, 2));

/// Trellis quantizers of 1 to 8 bits: twice the levels, of which [a state](super::trellis) offers
/// every other one.
pub(crate) static TRELLISES: LazyLock<Vec<Quantizer>> = LazyLock::new(|| tables(&TRELLIS, 4));

/// One quantizer for each of these lists of positive levels. All together are half a MiB: on the
/// heap, as an array of them would fill the stack of a thread in a debug build.
fn tables(positive: &[&[i16]; WIDEST], near: usize) -> Vec<Quantizer> {
    let mut tables = Vec::with_capacity(WIDEST);
    for levels in positive {
        tables.push(Quantizer::new(levels, near));
    }
    tables
}

impl Quantizer {
    fn new(positive: &[i16], near: usize) -> Self {
        let count = 2 * positive.len();
        let level = |at: usize| {
            let place = at.min(count - 1);
            if place < count / 2 {
                -f32::from(positive[count / 2 - 1 - place])
            } else {
                f32::from(positive[place - count / 2])
            }
        };
        let levels = std::array::from_fn(level);
        let starts = std::array::from_fn(|cell| {
            // The left edge, for two levels: then the upper one is never too low by more than one
            // place.
            let within = if near == 2 { 0.0 } else { 0.5 };
            let value = (cell as f32 + within) * CELL - REACH;
            let below = levels[..count].partition_point(|&level| level <= value);
            below.saturating_sub(near / 2).min(count - near) as u16
        });
        let classes = starts.map(|start| {
            std::array::from_fn(|class| {
                levels[of_class(start, class as u32) as usize % MOST_LEVELS]
            })
        });
        Self { levels, count, starts, classes }
    }

    /// The first of the consecutive levels around `value`.
    #[inline(always)]
    pub(crate) fn start(&self, value: f32) -> u16 {
        self.starts[usize::from(cell(value)) % CELLS]
    }

    /// The first of the consecutive levels around a cell.
    #[inline(always)]
    pub(crate) fn start_of(&self, cell: u16) -> u16 {
        self.starts[usize::from(cell) % CELLS]
    }

    /// The four levels around a cell, in the order of their place modulo 4.
    #[inline(always)]
    pub(crate) fn classes(&self, cell: u16) -> [f32; 4] {
        self.classes[usize::from(cell) % CELLS]
    }

    /// The levels times the size of a unit.
    #[inline(always)]
    pub(crate) fn scaled(&self, step: f32) -> [f32; MOST_LEVELS] {
        let mut scaled = [0.0; MOST_LEVELS];
        for (scaled, level) in scaled.iter_mut().zip(&self.levels[..self.count]) {
            *scaled = level * step;
        }
        scaled
    }

    /// For each cell, the place of the first level around it.
    pub(crate) fn starts(&self) -> &[u16; CELLS] {
        &self.starts
    }

    /// For each cell, the four levels around it, in the order of their place modulo 4.
    pub(crate) fn class_levels(&self) -> &[[f32; 4]; CELLS] {
        &self.classes
    }

    /// The places of the levels around each cell, the cells to a unit, and the magnitude of the
    /// first cell's left edge.
    #[cfg(test)]
    pub(crate) fn grid(&self) -> (&[u16], f32, f32) {
        (&self.starts, 1.0 / CELL, REACH)
    }
}

/// The cell of the grid in which a value lies.
#[inline(always)]
pub(crate) fn cell(value: f32) -> u16 {
    ((value + REACH) * (1.0 / CELL)).clamp(0.0, (CELLS - 1) as f32) as u16
}

/// Of four consecutive places from `start`, that of this class modulo 4.
#[inline(always)]
pub(crate) fn of_class(start: u16, class: u32) -> u32 {
    let start = u32::from(start);
    start.wrapping_add(class.wrapping_sub(start) & 3)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// In a debug build an array of tables took more than the 2 MiB of a thread.
    #[test]
    fn tables_are_made_on_a_small_stack() {
        let made = || tables(&SCALAR, 2).len() + tables(&TRELLIS, 4).len();
        let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(made).unwrap();
        assert_eq!(thread.join().unwrap(), 2 * WIDEST);
    }

    #[test]
    fn levels_mirror_and_ascend_and_their_neighbours_are_found() {
        for (quantizers, near) in [(&SCALARS, 2), (&TRELLISES, 4)] {
            for (width, quantizer) in (1..).zip(quantizers.iter()) {
                let levels = &quantizer.levels[..quantizer.count];
                assert_eq!(quantizer.count, (near / 2) << width);
                assert!(
                    levels.windows(2).all(|pair| pair[0] < pair[1])
                        && levels[quantizer.count - 1] < REACH
                );
                assert!(
                    (0..quantizer.count).all(|at| levels[at] == -levels[quantizer.count - 1 - at])
                );
                for value in (-300..=300).map(|hundredth| hundredth as f32 * 100.0) {
                    let nearest = (0..quantizer.count).min_by(|&a, &b| {
                        (levels[a] - value).abs().total_cmp(&(levels[b] - value).abs())
                    });
                    let start = usize::from(quantizer.start(value));
                    assert!(
                        (start..start + near).contains(&nearest.unwrap_or(0)),
                        "{width} bits: {value}"
                    );
                }
            }
        }
    }
}
