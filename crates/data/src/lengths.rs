//! How long the documents of a data set are.

use serde::{Deserialize, Serialize};

/// How many documents have `from` to `to` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthBin {
    /// The shortest that counts.
    pub from: u64,
    /// The longest; none where the rest of longer documents was not tokenised.
    pub to: Option<u64>,
    /// How many there are.
    pub documents: u64,
}

/// Counts documents by their lengths, between powers of two and the sequence length.
#[derive(Debug)]
pub(crate) struct Lengths {
    sequence_length: u64,
    /// Of 1 token, 2, 3–4, 5–8, …; the one with the sequence length in it is counted in two parts.
    bins: Vec<[u64; 2]>,
    truncated: u64,
}

/// The number of the bin: the exponent of the power of two that is not smaller.
fn bin(length: u64) -> usize {
    length.max(1).next_power_of_two().trailing_zeros() as usize
}

impl Lengths {
    pub(crate) fn new(sequence_length: usize) -> Self {
        Self { sequence_length: sequence_length as u64, bins: Vec::new(), truncated: 0 }
    }

    /// Counts a document of this many tokens.
    pub(crate) fn add(&mut self, length: u64) {
        let bin = bin(length);
        self.bins.resize(self.bins.len().max(bin + 1), [0; 2]);
        self.bins[bin][usize::from(length > self.sequence_length)] += 1;
    }

    /// Counts one that was longer than the sequence length, nobody knows how much.
    pub(crate) fn add_truncated(&mut self) {
        self.truncated += 1;
    }

    /// From the shortest to the longest document, empty bins between them included.
    pub(crate) fn bins(&self) -> Vec<LengthBin> {
        let mut found = Vec::new();
        for (exponent, &[within, beyond]) in self.bins.iter().enumerate() {
            let (from, to) =
                (if exponent == 0 { 1 } else { (1 << (exponent - 1)) + 1 }, 1_u64 << exponent);
            let limit = self.sequence_length.clamp(from - 1, to);
            for (from, to, documents) in [(from, limit, within), (limit + 1, to, beyond)] {
                if from <= to {
                    found.push(LengthBin { from, to: Some(to), documents });
                }
            }
        }
        let shortest = found.iter().position(|bin| bin.documents > 0).unwrap_or(found.len());
        let longest = found.iter().rposition(|bin| bin.documents > 0).map_or(0, |last| last + 1);
        found.truncate(longest);
        found.drain(..shortest.min(longest));
        if self.truncated > 0 {
            found.push(LengthBin {
                from: self.sequence_length + 1,
                to: None,
                documents: self.truncated,
            });
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bins(sequence_length: usize, lengths: &[u64]) -> Vec<(u64, Option<u64>, u64)> {
        let mut counted = Lengths::new(sequence_length);
        lengths.iter().for_each(|&length| counted.add(length));
        counted.bins().into_iter().map(|bin| (bin.from, bin.to, bin.documents)).collect()
    }

    #[test]
    fn bins_end_at_powers_of_two_and_at_the_sequence_length() {
        assert_eq!(
            bins(8, &[2, 5, 8, 9]),
            [(2, Some(2), 1), (3, Some(4), 0), (5, Some(8), 2), (9, Some(16), 1)]
        );
        assert_eq!(bins(6, &[5, 7, 8]), [(5, Some(6), 1), (7, Some(8), 2)]);
        assert!(bins(6, &[]).is_empty());
        let mut truncated = Lengths::new(6);
        truncated.add_truncated();
        assert_eq!(truncated.bins(), [LengthBin { from: 7, to: None, documents: 1 }]);
    }

    proptest! {
        #[test]
        fn every_document_is_in_its_bin(lengths in prop::collection::vec(1_u64..5000, 1..50), sequence_length in 2_usize..3000) {
            let found = bins(sequence_length, &lengths);
            for &(from, to, documents) in &found {
                let to = to.unwrap();
                prop_assert_eq!(lengths.iter().filter(|&&length| from <= length && length <= to).count() as u64, documents);
                prop_assert!(from > sequence_length as u64 || to <= sequence_length as u64);
            }
            prop_assert!(found.windows(2).all(|pair| pair[0].1.unwrap() + 1 == pair[1].0));
            prop_assert_eq!(found.iter().map(|bin| bin.2).sum::<u64>(), lengths.len() as u64);
        }
    }
}
