//! Where documents are cut that are longer than a row.

use std::ops::Range;

/// The pieces of a document of `length` tokens, none longer than `limit`: whole rows, and the rest.
///
/// No token is lost and none repeated, so the first token of a piece is no target. A rest of one
/// token would have no target at all: it takes another one from the piece before, where a row has
/// three tokens or more.
pub(crate) fn pieces(length: usize, limit: usize) -> impl Iterator<Item = Range<usize>> {
    let borrows = length > limit && length % limit == 1 && limit > 2;
    let count = length.div_ceil(limit);
    let start = move |piece: usize| match piece {
        piece if piece == count => length,
        piece if borrows && piece + 1 == count => piece * limit - 1,
        piece => piece * limit,
    };
    (0..count).map(move |piece| start(piece)..start(piece + 1))
}

/// A piece of the document with this index.
pub(crate) type Piece = (usize, Range<usize>);

/// Fills rows with documents, told by their lengths, one after the other: each is cut where the row
/// is full, and the next row begins with its rest. All rows but the last have `limit` tokens.
pub(crate) fn fill(lengths: &[usize], limit: usize) -> Vec<Vec<Piece>> {
    let (mut rows, mut row, mut used) = (Vec::new(), Vec::new(), 0);
    for (document, &length) in lengths.iter().enumerate() {
        let mut start = 0;
        while start < length {
            let end = length.min(start + limit - used);
            row.push((document, start..end));
            used += end - start;
            start = end;
            if used == limit {
                rows.push(std::mem::take(&mut row));
                used = 0;
            }
        }
    }
    if used > 0 {
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rest_of_one_token_takes_another() {
        assert_eq!(pieces(9, 4).collect::<Vec<_>>(), [0..4, 4..7, 7..9]);
        assert_eq!(pieces(8, 4).collect::<Vec<_>>(), [0..4, 4..8]);
        assert_eq!(pieces(1, 4).count(), 1);
        assert_eq!(pieces(3, 2).collect::<Vec<_>>(), [0..2, 2..3]);
    }

    #[test]
    fn documents_are_cut_where_a_row_is_full() {
        assert_eq!(
            fill(&[3, 6, 1], 4),
            [vec![(0, 0..3), (1, 0..1)], vec![(1, 1..5)], vec![(1, 5..6), (2, 0..1)]]
        );
        assert!(fill(&[], 4).is_empty());
    }

    proptest! {
        #[test]
        fn pieces_make_up_the_document(length in 1_usize..200, limit in 2_usize..40) {
            let pieces: Vec<_> = pieces(length, limit).collect();
            prop_assert_eq!(pieces.iter().cloned().flatten().collect::<Vec<_>>(), (0..length).collect::<Vec<_>>());
            prop_assert!(pieces.iter().all(|piece| piece.len() <= limit));
            prop_assert_eq!(pieces.len(), length.div_ceil(limit));
            prop_assert!(limit == 2 || length == 1 || pieces.iter().all(|piece| piece.len() > 1));
        }

        #[test]
        fn rows_are_full_but_the_last_and_lose_nothing(lengths in prop::collection::vec(1_usize..60, 0..40), limit in 2_usize..40) {
            let rows = fill(&lengths, limit);
            let tokens = |row: &Vec<Piece>| row.iter().map(|(_, piece)| piece.len()).sum::<usize>();
            if let Some((last, full)) = rows.split_last() {
                prop_assert!(full.iter().all(|row| tokens(row) == limit));
                prop_assert!((1..=limit).contains(&tokens(last)));
            }
            let seen: Vec<_> = rows.concat().into_iter().flat_map(|(document, piece)| piece.map(move |token| (document, token))).collect();
            let all: Vec<_> = lengths.iter().enumerate().flat_map(|(document, &length)| (0..length).map(move |token| (document, token))).collect();
            prop_assert_eq!(seen, all);
        }
    }
}
