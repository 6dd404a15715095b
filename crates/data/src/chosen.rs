//! Documents on their way into rows: which are trained on, how often, and where they are cut.

use std::ops::Range;
use std::sync::Arc;

use crate::dataset::{Dataset, Facts, Index};
use crate::error::{Error, Result};
use crate::hold_out::hold_out_samples;
use crate::lengths::Lengths;
use crate::options::{Options, Overflow};
use crate::packing::pack;
use crate::parts::{Documents, flag};
use crate::source::Source;
use crate::split::{fill, pieces};
use crate::store::Store;
use crate::weight;

/// Documents out of which data sets are made.
pub(crate) struct Chosen<'a> {
    pub(crate) documents: Documents,
    /// The entries with which documents begin, and the number of entries.
    starts: Vec<usize>,
    store: Arc<Store>,
    batch_size: Option<usize>,
    options: &'a Options,
}

/// An entry of [`Documents`], or a piece of it, in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    entry: usize,
    start: u32,
    length: u32,
}

/// A row of pieces, and its place: that of its first piece.
type Row = ((usize, u32), Vec<Piece>);

impl<'a> Chosen<'a> {
    pub(crate) fn new(
        mut documents: Documents,
        batch_size: Option<usize>,
        options: &'a Options,
    ) -> Self {
        let store = Arc::new(std::mem::take(&mut documents.store));
        Self { starts: documents.document_starts(), documents, store, batch_size, options }
    }

    /// All documents.
    pub(crate) fn all(&self) -> Vec<usize> {
        (0..self.documents.len()).collect()
    }

    fn entries(&self, document: usize) -> Range<usize> {
        self.starts[document]..self.starts[document + 1]
    }

    /// How many of these documents lost their end.
    pub(crate) fn truncated(&self, documents: &[usize]) -> usize {
        documents
            .iter()
            .filter(|&&document| self.documents.is(self.starts[document], flag::TRUNCATED))
            .count()
    }

    /// The documents that are trained on, and those for validation: whole ones, drawn until they
    /// make `eval_samples` samples.
    pub(crate) fn hold_out(&self) -> Result<(Vec<usize>, Vec<usize>)> {
        let refuse = |problem: String, remedy: &str| {
            Err(Error::Options { option: "eval_samples", problem, remedy: remedy.into() })
        };
        let (count, all) = (self.options.eval_samples, self.all());
        if count == 0 {
            return Ok((all, Vec::new()));
        }
        if self.batch_size.is_some() {
            return refuse(
                "ready batches are taken as they are, none of their samples can be taken for validation".into(),
                "set it to 0, and give an evaluation source of its own",
            );
        }
        let samples =
            |&document: &usize| self.entries(document).map(|entry| self.cut(entry).count()).sum();
        let (kept, drawn) = hold_out_samples(all, samples, count, self.options.seed);
        if !kept.is_empty() || drawn.is_empty() {
            return Ok((kept, drawn));
        }
        let split = drawn.iter().map(samples).sum::<usize>() > drawn.len();
        let what = if split { "documents, and whole ones are drawn" } else { "" };
        let problem = format!(
            "{count} samples are to be taken for validation, but there are only {} {what}",
            drawn.len()
        );
        refuse(problem.trim_end().into(), "take fewer, or give more data")
    }

    /// Repeats the documents of each source as its weight says.
    pub(crate) fn weigh(&self, kept: Vec<usize>, sources: &[Source]) -> Result<Vec<usize>> {
        if sources.iter().all(|source| source.weight == 1.0) {
            return Ok(kept);
        }
        let mut weighed = Vec::new();
        let mut rest = &kept[..];
        for (index, source) in sources.iter().enumerate() {
            let end =
                self.documents.source_ends.get(index).copied().unwrap_or(self.documents.len());
            let (mine, others) = rest.split_at(rest.partition_point(|&document| document < end));
            weighed.extend(weight::repeat(mine, source.weight, self.options.seed, index));
            rest = others;
        }
        if weighed.is_empty() {
            let remedy = "raise the weights".into();
            return Err(Error::Empty {
                role: "train",
                reason: "the weights leave no sample".into(),
                remedy,
            });
        }
        Ok(weighed)
    }

    /// A data set of these documents: each piece in a row of its own, or packed.
    pub(crate) fn dataset(&self, documents: &[usize], packing: bool, facts: Facts) -> Dataset {
        let facts = Facts {
            batch_size: self.batch_size,
            documents: documents.len(),
            lengths: self.lengths(documents),
            ..facts
        };
        let entries = documents.iter().flat_map(|&document| self.entries(document));
        if packing && self.batch_size.is_none() {
            let rows = self.packed(&entries.collect::<Vec<_>>());
            return self.of_rows(rows.iter().map(|(_, row)| row), facts);
        }
        self.of_rows(entries.flat_map(|entry| self.cut(entry)).map(|piece| [piece]), facts)
    }

    fn lengths(&self, documents: &[usize]) -> Vec<crate::LengthBin> {
        let mut lengths = Lengths::new(self.options.sequence_length);
        for &document in documents {
            match self.documents.is(self.starts[document], flag::TRUNCATED) {
                true => lengths.add_truncated(),
                false => lengths.add(
                    self.entries(document)
                        .map(|entry| u64::from(self.documents.lengths[entry]))
                        .sum(),
                ),
            }
        }
        lengths.bins()
    }

    fn whole(&self, entry: usize) -> Piece {
        Piece { entry, start: 0, length: self.documents.lengths[entry] }
    }

    /// The pieces of an entry that has rows for itself.
    fn cut(&self, entry: usize) -> impl Iterator<Item = Piece> + use<> {
        let length = self.documents.lengths[entry] as usize;
        let limit = if self.documents.is(entry, flag::TEXT) {
            self.options.sequence_length
        } else {
            length.max(1)
        };
        pieces(length, limit).map(move |piece| Piece {
            entry,
            start: piece.start as u32,
            length: piece.len() as u32,
        })
    }

    /// Rows of several entries each, in the order of their first ones. Texts fill their rows, and
    /// are cut where one is full; but where all fit into rows, and nobody has asked for it, none is
    /// cut. What may not be cut is packed whole.
    fn packed(&self, entries: &[usize]) -> Vec<Row> {
        let limit = self.options.sequence_length;
        let asked = self.options.overflow == Some(Overflow::Split);
        let is_text = |&place: &usize| self.documents.is(entries[place], flag::TEXT);
        let (texts, others): (Vec<usize>, Vec<usize>) = (0..entries.len()).partition(is_text);
        let length = |place: usize| self.documents.lengths[entries[place]] as usize;
        if !asked && texts.iter().all(|&place| length(place) <= limit) {
            return self.pack(entries, &(0..entries.len()).collect::<Vec<_>>());
        }
        let mut rows = self.pack(entries, &others);
        let lengths: Vec<usize> = texts.iter().map(|&place| length(place)).collect();
        rows.extend(fill(&lengths, limit).into_iter().map(|row| {
            let first = (texts[row[0].0], row[0].1.start as u32);
            let piece = |(text, range): (usize, Range<usize>)| Piece {
                entry: entries[texts[text]],
                start: range.start as u32,
                length: range.len() as u32,
            };
            (first, row.into_iter().map(piece).collect())
        }));
        rows.sort_unstable_by_key(|&(place, _)| place);
        rows
    }

    /// Packs the entries at `places` as they are.
    fn pack(&self, entries: &[usize], places: &[usize]) -> Vec<Row> {
        let lengths: Vec<usize> =
            places.iter().map(|&place| self.documents.lengths[entries[place]] as usize).collect();
        let row = |row: Vec<usize>| {
            (
                (places[row[0]], 0),
                row.into_iter().map(|index| self.whole(entries[places[index]])).collect(),
            )
        };
        pack(&lengths, self.options.sequence_length).into_iter().map(row).collect()
    }

    fn of_rows(
        &self,
        rows: impl Iterator<Item = impl AsRef<[Piece]>>,
        mut facts: Facts,
    ) -> Dataset {
        let mut index =
            Index { sample_starts: vec![0], segment_lengths: Vec::new(), segment_starts: vec![0] };
        let mut starts = Vec::new();
        for row in rows {
            let before = facts.tokens;
            for piece in row.as_ref() {
                starts.push(self.documents.starts[piece.entry] + u64::from(piece.start));
                index.segment_lengths.push(piece.length);
                self.count(piece, &mut facts);
            }
            facts.longest = facts.longest.max((facts.tokens - before) as usize);
            index.sample_starts.push(facts.tokens);
            index.segment_starts.push(starts.len() as u64);
        }
        facts.samples = index.sample_starts.len() - 1;
        Dataset { store: Arc::clone(&self.store), documents: Some(starts), index, facts }
    }

    fn count(&self, piece: &Piece, facts: &mut Facts) {
        let Documents { lengths, targets, largest, .. } = &self.documents;
        let is_part = piece.length < lengths[piece.entry];
        facts.tokens += u64::from(piece.length);
        // What is cut here is trained as a whole, but for the first token of each piece.
        facts.targets += u64::from(if is_part { piece.length - 1 } else { targets[piece.entry] });
        facts.largest_token = facts.largest_token.max(largest[piece.entry]);
        if is_part || self.documents.is(piece.entry, flag::PIECE) {
            facts.report.pieces += 1;
            facts.report.split +=
                usize::from(piece.start == 0 && !self.documents.is(piece.entry, flag::CONTINUES));
        }
    }
}
