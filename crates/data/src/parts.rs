//! Documents on their way to a data set: in memory, or in part files from which an interrupted
//! preparation resumes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::columns::{self, Column, ColumnFile};
use crate::error::{Error, Result};
use crate::records::Cursor;
use crate::report::Report;
use crate::sample::Sample;
use crate::store::{Store, TokenFile};

/// Tokens of a part: 40 MB with their marks. What is not in a part yet is lost with the process.
const PART_TOKENS: usize = 8 << 20;

/// All documents of a role, in the order of the sources. A document is one entry, or several where
/// only some of its pieces are of use.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    pub(crate) store: Store,
    /// Of each entry: where it begins in the store, its tokens, how many of them are targets, the
    /// largest id, and [`flag`]s.
    pub(crate) starts: Vec<u64>,
    pub(crate) lengths: Vec<u32>,
    pub(crate) targets: Vec<u32>,
    pub(crate) largest: Vec<u32>,
    pub(crate) flags: Vec<u8>,
    /// How many documents there are of each source and those before it.
    pub(crate) source_ends: Vec<usize>,
    pub(crate) report: Report,
}

/// What is known of an entry.
pub(crate) mod flag {
    /// It may be cut anywhere: all of its tokens are trained.
    pub(crate) const TEXT: u8 = 1;
    /// It lost its end.
    pub(crate) const TRUNCATED: u8 = 2;
    /// It is a piece of a document that was cut before.
    pub(crate) const PIECE: u8 = 4;
    /// It belongs to the document of the entry before it.
    pub(crate) const CONTINUES: u8 = 8;
}

impl Documents {
    /// How many documents there are.
    pub(crate) fn len(&self) -> usize {
        self.source_ends.last().copied().unwrap_or(0)
    }

    /// Whether `flag` is set for an entry.
    pub(crate) fn is(&self, entry: usize, flag: u8) -> bool {
        self.flags[entry] & flag != 0
    }

    /// The entries with which documents begin, and the number of entries after the last.
    pub(crate) fn document_starts(&self) -> Vec<usize> {
        (0..self.flags.len())
            .filter(|&entry| !self.is(entry, flag::CONTINUES))
            .chain([self.flags.len()])
            .collect()
    }

    /// Adds an entry of `source`, in memory.
    pub(crate) fn push(&mut self, sample: Sample, flags: u8, source: usize) {
        self.starts.push(self.store.count());
        self.lengths.push(sample.len() as u32);
        self.targets.push(sample.target_count() as u32);
        self.largest.push(sample.tokens.iter().copied().max().unwrap_or(0));
        self.flags.push(flags);
        self.store.push(sample);
        let before = self.len();
        self.source_ends.resize(self.source_ends.len().max(source + 1), before);
        self.source_ends[source] = before + usize::from(flags & flag::CONTINUES == 0);
    }
}

/// What a part says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    /// Of the data set it belongs to.
    fingerprint: String,
    /// Its number, from 0.
    part: usize,
    /// The record after its last.
    next: Cursor,
    /// What happened up to there, the parts before included, and how many documents of each source
    /// there are.
    report: Report,
    source_ends: Vec<usize>,
}

/// The parts of a role. They are written one after the other; the first that is not whole ends
/// them.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    aside: Option<Aside<'a>>,
    role: &'static str,
    fingerprint: &'a str,
}

/// Where parts are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aside<'a> {
    pub(crate) folder: &'a Path,
    /// Tokens that are enough for one.
    pub(crate) tokens: usize,
}

impl<'a> Aside<'a> {
    pub(crate) fn new(folder: &'a Path) -> Self {
        Self { folder, tokens: PART_TOKENS }
    }
}

impl<'a> Parts<'a> {
    /// Parts `aside`; without that, everything stays in memory.
    pub(crate) fn new(aside: Option<Aside<'a>>, role: &'static str, fingerprint: &'a str) -> Self {
        Self { aside, role, fingerprint }
    }

    fn path(&self, folder: &Path, part: usize) -> PathBuf {
        folder.join(format!("{}-{part:05}.safetensors", self.role))
    }

    /// What an earlier preparation of the same data has left, and where to resume.
    pub(crate) fn resume(&self) -> (Documents, Cursor) {
        let (mut documents, mut next) = (Documents::default(), Cursor::default());
        let Some(Aside { folder, .. }) = self.aside else { return (documents, next) };
        for part in 0.. {
            // Whatever is wrong with it: it is made again.
            let Ok(facts) = self.take(&self.path(folder, part), part, &mut documents) else {
                break;
            };
            next = facts.next;
            documents.report = facts.report;
            documents.source_ends = facts.source_ends;
        }
        if documents.len() > 0 {
            tracing::info!(
                "resuming the {} data after {} records",
                self.role,
                documents.report.records
            );
        }
        (documents, next)
    }

    fn take(&self, path: &Path, part: usize, documents: &mut Documents) -> Result<Facts> {
        let file = ColumnFile::open(path)?;
        let facts: Facts = file.facts()?;
        if facts.fingerprint != self.fingerprint || facts.part != part {
            return Err(file.broken("it is a part of other data"));
        }
        file.verify()?;
        let (lengths, targets, largest) =
            (file.u32s("lengths")?, file.u32s("targets")?, file.u32s("largest")?);
        let flags = file.u8s("flags")?;
        let mut start = documents.store.in_files();
        for &length in &lengths {
            documents.starts.push(start);
            start += u64::from(length);
        }
        documents.lengths.extend(lengths);
        documents.targets.extend(targets);
        documents.largest.extend(largest);
        documents.flags.extend(flags);
        documents.store.add(TokenFile::new(file)?);
        Ok(facts)
    }

    /// Moves what is in memory into a part, if it is enough for one. `next` is the record after it.
    pub(crate) fn flush(&self, documents: &mut Documents, next: Cursor) -> Result<()> {
        let Some(Aside { folder, .. }) =
            self.aside.filter(|aside| documents.store.tokens.len() >= aside.tokens)
        else {
            return Ok(());
        };
        let part = documents.store.files().len();
        let path = self.path(folder, part);
        let first = documents.starts.partition_point(|&start| start < documents.store.in_files());
        let facts = Facts {
            fingerprint: self.fingerprint.to_owned(),
            part,
            next,
            report: documents.report.clone(),
            source_ends: documents.source_ends.clone(),
        };
        let columns = vec![
            Column::u32s("lengths", &documents.lengths[first..]),
            Column::u32s("targets", &documents.targets[first..]),
            Column::u32s("largest", &documents.largest[first..]),
            Column::u32s("tokens", &documents.store.tokens),
            Column::u8s("flags", &documents.flags[first..]),
            Column::bools("trained", &documents.store.trained),
        ];
        columns::write(&path, &facts, columns)?;
        documents.store.clear_memory();
        documents.store.add(TokenFile::new(ColumnFile::open(&path)?)?);
        Ok(())
    }
}

/// Removes a folder of parts, if there is one.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Whether a file in `folder` belongs to the data with this fingerprint: else nothing there is of
/// use.
pub(crate) fn belong(folder: &Path, fingerprint: &str) -> bool {
    let of = |path: &Path| {
        Some(ColumnFile::open(path).ok()?.facts::<Facts>().ok()?.fingerprint == fingerprint)
    };
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.into_iter().any(|entry| of(&entry.path()) == Some(true))
}
