use std::sync::Arc;

use tch::{Kind, Tensor};

use super::{Basis, Coded, Coding};
use crate::Error;

/// Rows that a basis remembers of each of the sites that share it, in widths: below that number it
/// is the plain mean over all rows seen, and from there on it forgets old rows as new ones come.
const HORIZON: u64 = 16;

/// An update pays if the error shrinks by this factor; one that does not is the last for a while.
const WORTHWHILE: f64 = 1.01;

/// The most rounds in which an update is judged, while the error is above what the basis promises.
const MOST_PATIENCE: u64 = 64;

/// A basis that follows the matrices coded in it, no more often than it pays.
///
/// A *round* lasts as long as some code holds the basis: as a rule a step, in which each of the
/// sites that share it codes once. All codes of a round are made in the same basis. If the basis
/// follows in this round, a second one gathers what is seen; it takes over when the last code of
/// the round is gone, so that there are never more than two. The first round of several sharers
/// always follows, as the basis was made of the first of them alone.
#[derive(Debug)]
pub(crate) struct AdaptiveBasis {
    current: Arc<Basis>,
    next: Option<Basis>,
    /// Sites that share it.
    sharers: u64,
    /// Rows that went into the newest basis.
    rows: u64,
    follows: bool,
    /// Of the rounds since the last update.
    period: Period,
    /// The mean error of the period before the last update, until that is judged.
    before: Option<f64>,
    /// Rounds after which an update is judged, and those of them that are left.
    patience: u64,
    left: u64,
}

/// Sums over codes.
#[derive(Debug, Default)]
struct Period {
    codes: f64,
    error: f64,
    drift: f64,
}

impl AdaptiveBasis {
    /// The principal basis of the first matrix, held in `kind`.
    pub(crate) fn from_matrix(matrix: &Tensor, kind: Kind, sharers: u64) -> Result<Self, Error> {
        let mut adaptive =
            Self::from_basis(Arc::new(Basis::from_matrix(matrix)?.rounded(kind)?), sharers);
        adaptive.rows = matrix.size2()?.0 as u64;
        adaptive.follows = sharers > 1;
        Ok(adaptive)
    }

    /// From a basis that is there already.
    pub(crate) fn from_basis(current: Arc<Basis>, sharers: u64) -> Self {
        let rows = HORIZON * current.columns() as u64 * sharers;
        Self {
            current,
            next: None,
            sharers,
            rows,
            follows: false,
            period: Period::default(),
            before: None,
            patience: 1,
            left: 0,
        }
    }

    pub(crate) fn basis(&self) -> &Arc<Basis> {
        &self.current
    }

    /// The basis that is being made to replace it.
    pub(crate) fn next(&self) -> Option<&Basis> {
        self.next.as_ref()
    }

    /// Sites that share it.
    pub(crate) fn sharers(&self) -> u64 {
        self.sharers
    }

    /// All of it but the bases, in numbers that [`AdaptiveBasis::from_numbers`] reads.
    pub(crate) fn numbers(&self) -> [f64; 9] {
        let Period { codes, error, drift } = self.period;
        let (patience, left) = (self.patience as f64, self.left as f64);
        let follows = f64::from(u8::from(self.follows));
        [
            self.sharers as f64,
            self.rows as f64,
            follows,
            codes,
            error,
            drift,
            self.before.unwrap_or(-1.0),
            patience,
            left,
        ]
    }

    /// `None` for anything but nine numbers.
    pub(crate) fn from_numbers(
        current: Arc<Basis>,
        next: Option<Basis>,
        numbers: &[f64],
    ) -> Option<Self> {
        let &[sharers, rows, follows, codes, error, drift, before, patience, left] = numbers else {
            return None;
        };
        Some(Self {
            current,
            next,
            sharers: sharers as u64,
            rows: rows as u64,
            follows: follows != 0.0,
            period: Period { codes, error, drift },
            before: (before >= 0.0).then_some(before),
            patience: patience as u64,
            left: left as u64,
        })
    }

    /// Bytes of both bases.
    pub(crate) fn bytes(&self) -> u64 {
        self.current.bytes() + self.next.as_ref().map_or(0, Basis::bytes)
    }

    /// Codes a matrix in the basis of this round. `drift` is the error, in multiples of what the
    /// basis promises, from which it follows; `first`: this is the matrix that it was made of.
    pub(crate) fn code(
        &mut self,
        matrix: &Tensor,
        coding: &Coding,
        drift: f64,
        seed: u64,
        first: bool,
    ) -> Result<Coded, Error> {
        if self.period.codes > 0.0 && Arc::strong_count(&self.current) == 1 {
            self.turn(drift);
        }
        let coded = Coded::new(matrix, &self.current, coding, seed)?;
        self.period.codes += 1.0;
        self.period.error += coded.error();
        self.period.drift += coded.drift()?;
        if self.follows && !first {
            let rows = matrix.size2()?.0 as u64;
            let remembered = self.rows.min(HORIZON * self.current.columns() as u64 * self.sharers);
            let memory = remembered as f64 / (remembered + rows) as f64;
            self.next = Some(self.next.as_ref().unwrap_or(&self.current).update(matrix, memory)?);
            self.rows = self.rows.saturating_add(rows);
        }
        Ok(coded)
    }

    /// Ends a round: the next basis takes over, or the last update is judged, and whether to follow
    /// is decided.
    fn turn(&mut self, drift: f64) {
        let Period { codes, error, drift: drifted } = self.period;
        let (error, drifted) = (error / codes, drifted / codes);
        if let Some(next) = self.next.take() {
            self.current = Arc::new(next);
            self.period = Period::default();
            self.before = Some(error);
            self.left = self.patience;
            let young = self.rows < HORIZON * self.current.columns() as u64 * self.sharers;
            self.follows = drift == 0.0 || (young && drifted >= drift);
            return;
        }
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return;
        }
        if let Some(before) = self.before.take() {
            self.patience = if before > WORTHWHILE * error {
                1
            } else {
                (2 * self.patience).min(MOST_PATIENCE)
            };
        }
        self.follows = drifted >= drift;
        // What was long ago counts less and less.
        self.period =
            Period { codes: codes / 2.0, error: error * codes / 2.0, drift: drifted * codes / 2.0 };
    }
}
