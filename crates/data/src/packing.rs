/// Packs samples, told by their lengths, into rows of at most `sequence_length` tokens: first-fit
/// decreasing, which needs at most 11/9 of the fewest rows possible. A row is a list of samples.
///
/// The result depends on the lengths and their order only: of equally long samples the earlier is
/// placed first, within a row samples stand in their first order, and rows in the order of their
/// first samples. No sample may be longer than `sequence_length`; one that is gets a row of its
/// own.
pub fn pack(lengths: &[usize], sequence_length: usize) -> Vec<Vec<usize>> {
    let mut rows = first_fit_decreasing(lengths, sequence_length);
    for row in &mut rows {
        row.sort_unstable();
    }
    rows.sort_unstable();
    rows
}

/// Rows of indices.
fn first_fit_decreasing(lengths: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(lengths[index]), index));
    let mut room = Room::new(lengths.len(), limit);
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); lengths.len()];
    for index in order {
        // What is too long for any row takes the whole of an empty one.
        let row = room.take(lengths[index].min(limit));
        rows[row].push(index);
    }
    rows.retain(|row| !row.is_empty());
    rows
}

/// The free tokens of every row in a tree of maxima, so that the first row with enough room is
/// found in log(rows) steps: a million documents would take hours row by row.
struct Room {
    leaves: usize,
    maxima: Vec<usize>,
}

impl Room {
    fn new(rows: usize, limit: usize) -> Self {
        let leaves = rows.next_power_of_two();
        Self { leaves, maxima: vec![limit; 2 * leaves] }
    }

    /// Takes `length` from the first row that has it. There are as many rows as samples, so one
    /// always has.
    fn take(&mut self, length: usize) -> usize {
        let mut node = 1;
        while node < self.leaves {
            node = if self.maxima[2 * node] >= length { 2 * node } else { 2 * node + 1 };
        }
        let row = node - self.leaves;
        self.maxima[node] -= length;
        while node > 1 {
            node /= 2;
            self.maxima[node] = self.maxima[2 * node].max(self.maxima[2 * node + 1]);
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain_first_fit_decreasing(lengths: &[usize], limit: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&index| (std::cmp::Reverse(lengths[index]), index));
        let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
        for index in order {
            match rows.iter_mut().find(|(used, _)| used + lengths[index] <= limit) {
                Some((used, row)) => {
                    *used += lengths[index];
                    row.push(index);
                }
                None => rows.push((lengths[index], vec![index])),
            }
        }
        rows.into_iter().map(|(_, row)| row).collect()
    }

    #[test]
    fn fills_rows_and_keeps_the_order_of_the_samples() {
        assert_eq!(pack(&[3, 6, 4, 2, 5], 10), [vec![0, 3, 4], vec![1, 2]]);
    }

    #[test]
    fn nothing_packs_to_nothing() {
        assert!(pack(&[], 8).is_empty());
    }

    proptest! {
        #[test]
        fn loses_no_sample_and_fits(lengths in prop::collection::vec(1_usize..=16, 0..60), limit in 16_usize..40) {
            let rows = pack(&lengths, limit);
            for row in &rows {
                prop_assert!(!row.is_empty() && row.is_sorted());
                prop_assert!(row.iter().map(|&sample| lengths[sample]).sum::<usize>() <= limit);
            }
            let mut seen = rows.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        }

        #[test]
        fn the_tree_finds_what_a_plain_search_finds(
            lengths in prop::collection::vec(1_usize..=20, 0..60), limit in 20_usize..50
        ) {
            prop_assert_eq!(first_fit_decreasing(&lengths, limit), plain_first_fit_decreasing(&lengths, limit));
        }
    }
}
