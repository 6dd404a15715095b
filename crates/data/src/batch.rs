use crate::error::{Error, Result};
use crate::sample::Sample;

/// The target where nothing is to be predicted; what losses call `ignore_index`.
pub const IGNORED: i64 = -100;

/// How long the rows of a batch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// As the longest sample.
    Longest,
    /// As this many tokens.
    To(usize),
}

/// A rectangle of samples, all `[rows, columns]`, row after row. Padding stands at the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Number of samples.
    pub rows: usize,
    /// Tokens per row.
    pub columns: usize,
    /// Token ids; the pad token in padding.
    pub input_ids: Vec<i64>,
    /// The token to be predicted **at** each place, already shifted: the id of the next token where
    /// that is trained and of the same segment, else [`IGNORED`]. The last column is always
    /// ignored.
    pub targets: Vec<i64>,
    /// Position within the segment, from 0; 0 in padding.
    pub positions: Vec<i64>,
    /// The segment each token belongs to, from 0 in each row; -1 in padding. Present only if a row
    /// has more than one: a token may then see those of its own segment only.
    pub segments: Option<Vec<i64>>,
}

impl Batch {
    /// Puts samples into one rectangle.
    ///
    /// # Errors
    /// If there is no sample, or one is longer than the rows shall be.
    pub fn collate(samples: &[Sample], pad_id: u32, padding: Padding) -> Result<Self> {
        let longest = samples.iter().map(Sample::len).max().unwrap_or(0);
        if longest == 0 {
            return Err(Error::Batch {
                problem: "there are no tokens".into(),
                remedy: "give at least one sample".into(),
            });
        }
        let columns = match padding {
            Padding::Longest => longest,
            Padding::To(columns) if longest <= columns => columns,
            Padding::To(columns) => {
                return Err(Error::Batch {
                    problem: format!(
                        "a sample has {longest} tokens, but rows shall have {columns}"
                    ),
                    remedy: "prepare the data with that sequence_length, or pad to the longest"
                        .into(),
                });
            }
        };

        let size = samples.len() * columns;
        let mut batch = Self {
            rows: samples.len(),
            columns,
            input_ids: vec![i64::from(pad_id); size],
            targets: vec![IGNORED; size],
            positions: vec![0; size],
            segments: samples
                .iter()
                .any(|sample| sample.segments.len() > 1)
                .then(|| vec![-1; size]),
        };
        for (row, sample) in samples.iter().enumerate() {
            batch.fill(row * columns, sample);
        }
        Ok(batch)
    }

    fn fill(&mut self, row_start: usize, sample: &Sample) {
        let mut start = 0;
        for (number, &length) in (0..).zip(&sample.segments) {
            let end = start + length as usize;
            for (position, index) in (0..).zip(start..end) {
                let place = row_start + index;
                self.input_ids[place] = i64::from(sample.tokens[index]);
                self.positions[place] = position;
                if index + 1 < end && sample.trained[index + 1] {
                    self.targets[place] = i64::from(sample.tokens[index + 1]);
                }
                if let Some(segments) = &mut self.segments {
                    segments[place] = number;
                }
            }
            start = end;
        }
    }

    /// How many tokens are predicted; the divisor of a mean loss.
    pub fn target_count(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORED).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed() -> Sample {
        Sample {
            tokens: vec![10, 11, 12, 20, 21],
            trained: vec![true, false, true, true, true],
            segments: vec![3, 2],
        }
    }

    #[test]
    fn shifts_targets_within_segments() {
        let single = Sample::single(vec![30, 31], vec![false, true]);
        let batch = Batch::collate(&[packed(), single], 7, Padding::To(6)).unwrap();
        assert_eq!((batch.rows, batch.columns), (2, 6));
        assert_eq!(batch.input_ids, [10, 11, 12, 20, 21, 7, 30, 31, 7, 7, 7, 7]);
        // 12 does not predict 20, the first of the next segment, though 20 is marked as trained.
        assert_eq!(
            batch.targets,
            [-100, 12, -100, 21, -100, -100, 31, -100, -100, -100, -100, -100]
        );
        assert_eq!(batch.positions, [0, 1, 2, 0, 1, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(batch.segments.as_deref(), Some(&[0, 0, 0, 1, 1, -1, 0, 0, -1, -1, -1, -1][..]));
        assert_eq!(batch.target_count(), 3);
    }

    #[test]
    fn single_documents_need_no_segments() {
        let batch =
            Batch::collate(&[Sample::single(vec![1, 2], vec![true; 2])], 0, Padding::Longest)
                .unwrap();
        assert_eq!((batch.columns, batch.segments), (2, None));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert!(Batch::collate(&[], 0, Padding::Longest).is_err());
        let message = Batch::collate(&[packed()], 0, Padding::To(4)).unwrap_err().to_string();
        assert!(message.contains("5 tokens") && message.contains('4'), "{message}");
    }

    fn sample() -> impl Strategy<Value = Sample> {
        prop::collection::vec(prop::collection::vec((1_u32..100, any::<bool>()), 1..6), 1..4)
            .prop_map(|segments| Sample {
                segments: segments.iter().map(|segment| segment.len() as u32).collect(),
                tokens: segments.iter().flatten().map(|&(token, _)| token).collect(),
                trained: segments.iter().flatten().map(|&(_, trained)| trained).collect(),
            })
    }

    proptest! {
        #[test]
        fn every_target_is_the_next_token_of_the_same_document(samples in prop::collection::vec(sample(), 1..5)) {
            let batch = Batch::collate(&samples, 0, Padding::Longest).unwrap();
            prop_assert_eq!(batch.target_count(), samples.iter().map(Sample::target_count).sum::<usize>());
            for (row, sample) in samples.iter().enumerate() {
                for column in 0..batch.columns {
                    let place = row * batch.columns + column;
                    if batch.targets[place] == IGNORED {
                        continue;
                    }
                    prop_assert!(column + 1 < batch.columns);
                    prop_assert_eq!(batch.targets[place], batch.input_ids[place + 1]);
                    prop_assert_eq!(batch.positions[place] + 1, batch.positions[place + 1]);
                    prop_assert!(sample.trained[column + 1]);
                }
            }
        }
    }
}
