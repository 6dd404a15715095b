use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::dataset_file::TokenFile;
use crate::error::{Error, Result};
use crate::prepare::Report;
use crate::sample::Sample;

/// Prepared samples, in memory or in a file.
///
/// A file holds the tensors `tokens` U32 `[N]`, `trained` U8 `[N]`, `sample_starts` U64 `[S + 1]`,
/// `segment_lengths` U32 and `segment_starts` U64 `[S + 1]`, and the facts about them as JSON in its metadata. Opening
/// reads and checks everything but tokens; those are read as samples are asked for, so that a data set may be larger
/// than memory. They are read and not mapped: a file that is cut off under a run is an error, not a signal.
#[derive(Debug)]
pub struct Dataset {
    pub(crate) rows: Rows,
    pub(crate) index: Index,
    pub(crate) facts: Facts,
}

#[derive(Debug)]
pub(crate) enum Rows {
    Memory { tokens: Vec<u32>, trained: Vec<bool> },
    File(TokenFile),
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
    pub(crate) report: Report,
}

impl Dataset {
    /// A data set of these samples, which must not be empty.
    pub(crate) fn from_samples(samples: Vec<Sample>, mut facts: Facts) -> Self {
        let mut index = Index { sample_starts: vec![0], segment_lengths: Vec::new(), segment_starts: vec![0] };
        let size = samples.iter().map(Sample::len).sum();
        let (mut tokens, mut trained) = (Vec::with_capacity(size), Vec::with_capacity(size));
        facts.samples = samples.len();
        for sample in samples {
            facts.targets += sample.target_count() as u64;
            facts.longest = facts.longest.max(sample.len());
            tokens.extend_from_slice(&sample.tokens);
            trained.extend_from_slice(&sample.trained);
            index.segment_lengths.extend_from_slice(&sample.segments);
            index.sample_starts.push(tokens.len() as u64);
            index.segment_starts.push(index.segment_lengths.len() as u64);
        }
        facts.documents = index.segment_lengths.len();
        facts.tokens = tokens.len() as u64;
        facts.largest_token = tokens.iter().copied().max().unwrap_or(0);
        Self { rows: Rows::Memory { tokens, trained }, index, facts }
    }

    /// Opens a prepared file and checks its structure.
    ///
    /// # Errors
    /// If it cannot be read, was cut off, or contradicts itself.
    pub fn open(path: &Path) -> Result<Self> {
        crate::dataset_file::open(path)
    }

    /// Writes it: aside as `.part`, synced, then renamed, so that a file of that name is always whole.
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
        let (start, end) = (self.index.sample_starts[index], self.index.sample_starts[index + 1]);
        let (tokens, trained) = match &self.rows {
            Rows::Memory { tokens, trained } => {
                let range = start as usize..end as usize;
                (tokens[range.clone()].to_vec(), trained[range].to_vec())
            }
            Rows::File(file) => file.read(start, end)?,
        };
        let segments = self.index.segment_starts[index] as usize..self.index.segment_starts[index + 1] as usize;
        Ok(Sample { tokens, trained, segments: self.index.segment_lengths[segments].to_vec() })
    }

    /// A hash of everything that shaped it; compare with [`Dataset::fingerprint_of`] to see whether it is still valid.
    pub fn fingerprint(&self) -> &str {
        &self.facts.fingerprint
    }

    /// Documents: conversations, completions or paragraphs. More than samples where they are packed.
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
