use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::columns::ColumnFile;
use crate::error::{Error, Result};
use crate::lengths::{LengthBin, Lengths};
use crate::report::Report;
use crate::sample::Sample;
use crate::store::Store;

/// Prepared samples: in a file, or not written yet.
///
/// A file holds the tensors `sample_starts` U64 `[S + 1]`, `segment_starts` U64 `[S + 1]`,
/// `segment_lengths` U32, `tokens` U32 `[N]`, `trained` U8 `[N]` and `sha256` U8 `[32]`, a checksum
/// of all before it, and the facts about them as JSON in its metadata. Opening reads and checks
/// everything but tokens; those are read as samples are asked for, so that a data set may be larger
/// than memory. They are read and not mapped: a file that is cut off under a run is an error, not a
/// signal.
#[derive(Debug)]
pub struct Dataset {
    pub(crate) store: Arc<Store>,
    /// Where in the store each segment begins; none where they stand there in order.
    pub(crate) documents: Option<Vec<u64>>,
    pub(crate) index: Index,
    pub(crate) facts: Facts,
}

/// Where each sample's tokens and segments begin.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) sample_starts: Vec<u64>,
    pub(crate) segment_lengths: Vec<u32>,
    pub(crate) segment_starts: Vec<u64>,
}

/// What is known of a data set without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) version: u32,
    /// Of the sources and the options.
    pub(crate) fingerprint: String,
    pub(crate) samples: usize,
    pub(crate) documents: usize,
    pub(crate) tokens: u64,
    pub(crate) targets: u64,
    pub(crate) largest_token: u32,
    pub(crate) longest: usize,
    /// Samples per ready batch.
    pub(crate) batch_size: Option<usize>,
    /// Whether an evaluation set was made with it.
    pub(crate) has_eval: bool,
    /// How long documents are.
    #[serde(default)]
    pub(crate) lengths: Vec<LengthBin>,
    pub(crate) report: Report,
}

/// The rules by which records become samples. It is part of every fingerprint: a change of them
/// prepares all data again.
pub(crate) const RULES: u32 = 2;

impl Dataset {
    /// Opens a prepared file and checks its structure.
    ///
    /// # Errors
    /// If it cannot be read, was cut off, or contradicts itself.
    pub fn open(path: &Path) -> Result<Self> {
        crate::dataset_file::open(path)
    }

    /// Reads a prepared file as a whole, and compares it with its checksum.
    ///
    /// # Errors
    /// If it cannot be read, or a byte of it has changed.
    pub fn verify(path: &Path) -> Result<()> {
        ColumnFile::open(path)?.verify()
    }

    /// Writes it: aside as `.part`, synced, then renamed, so that a file of that name is always
    /// whole.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        crate::dataset_file::write(self, path)
    }

    /// Number of samples: rows, where documents are packed.
    pub fn len(&self) -> usize {
        self.facts.samples
    }

    /// Whether it has no sample; none that was prepared or opened is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One sample.
    ///
    /// # Errors
    /// If there are not so many, or the file can no longer be read.
    pub fn sample(&self, index: usize) -> Result<Sample> {
        if index >= self.len() {
            return Err(Error::Batch {
                problem: format!("sample {index} was asked for, but there are {}", self.len()),
                remedy: "make the order for this data set".into(),
            });
        }
        let segments = self.index.segment_starts[index] as usize
            ..self.index.segment_starts[index + 1] as usize;
        let mut sample = Sample {
            segments: self.index.segment_lengths[segments.clone()].to_vec(),
            ..Sample::default()
        };
        for (start, count) in self.runs(segments) {
            sample.tokens.extend(self.store.tokens(start, count)?);
            sample.trained.extend(self.store.trained(start, count)?);
        }
        Ok(sample)
    }

    /// Where the tokens of `segments` stand in the store, and how many: runs that can be read at
    /// once, of at most a million tokens unless a segment has more.
    pub(crate) fn runs(&self, segments: Range<usize>) -> impl Iterator<Item = (u64, usize)> + '_ {
        const LONGEST: usize = 1 << 20;
        let (mut next, end) = (segments.start, segments.end);
        let mut in_order = self.documents.is_none().then(|| {
            let sample =
                self.index.segment_starts.partition_point(|&first| first <= segments.start as u64)
                    - 1;
            let before = self.index.segment_starts[sample] as usize..segments.start;
            self.index.sample_starts[sample]
                + self.index.segment_lengths[before]
                    .iter()
                    .map(|&length| u64::from(length))
                    .sum::<u64>()
        });
        std::iter::from_fn(move || {
            if next == end {
                return None;
            }
            let length = |segment: usize| self.index.segment_lengths[segment] as usize;
            let Some(start) = &mut in_order else {
                next += 1;
                return self
                    .documents
                    .as_ref()
                    .map(|documents| (documents[next - 1], length(next - 1)));
            };
            let (first, mut count) = (*start, length(next));
            next += 1;
            while next < end && count + length(next) <= LONGEST {
                count += length(next);
                next += 1;
            }
            *start += count as u64;
            Some((first, count))
        })
    }

    /// A hash of everything that shaped it.
    pub fn fingerprint(&self) -> &str {
        &self.facts.fingerprint
    }

    /// How many documents have which length in tokens, before they were split, from the shortest to
    /// the longest.
    pub fn lengths(&self) -> Vec<LengthBin> {
        if !self.facts.lengths.is_empty() {
            return self.facts.lengths.clone();
        }
        // A file of a time when documents had one piece each.
        let mut lengths = Lengths::new(self.longest());
        self.index.segment_lengths.iter().for_each(|&length| lengths.add(u64::from(length)));
        lengths.bins()
    }

    /// Documents: conversations, completions or paragraphs. More than samples where they are
    /// packed, fewer where they are split.
    pub fn documents(&self) -> usize {
        self.facts.documents
    }

    /// Tokens of all samples.
    pub fn tokens(&self) -> u64 {
        self.facts.tokens
    }

    /// Tokens that are predicted.
    pub fn targets(&self) -> u64 {
        self.facts.targets
    }

    /// Tokens of the longest sample.
    pub fn longest(&self) -> usize {
        self.facts.longest
    }

    /// The largest id, which the model's embedding must have.
    pub fn largest_token(&self) -> u32 {
        self.facts.largest_token
    }

    /// Whether it was made of ready batches, whose order is part of the data and is not shuffled.
    pub fn is_ordered(&self) -> bool {
        self.facts.batch_size.is_some()
    }

    /// Samples per ready batch, where it was made of those.
    pub fn ready_batch_size(&self) -> Option<usize> {
        self.facts.batch_size
    }

    /// What happened to the records it was made of.
    pub fn report(&self) -> &Report {
        &self.facts.report
    }
}
