//! Files to records that are not parsed yet.

use std::path::Path;

use crate::error::{Error, Place, Result};
use crate::options::Options;
use crate::read::{self, Slice};
use crate::record::{Fault, Record};
use crate::source::{Format, Source};

/// A file in memory; ready batches are left where they are.
pub(crate) struct Loaded<'a> {
    source: &'a Source,
    kind: Kind,
}

enum Kind {
    Json(Vec<u8>),
    Paragraphs(Vec<u8>),
    Ready,
}

/// A file cut into records.
pub(crate) struct Cut<'a> {
    pub(crate) path: &'a Path,
    pub(crate) slices: Vec<Slice<'a>>,
    format: Format,
    kind: &'a Kind,
}

/// Reads the files.
pub(crate) fn read(sources: &[Source]) -> Result<Vec<Loaded<'_>>> {
    sources.iter().map(|source| Ok(Loaded { source, kind: kind(source)? })).collect()
}

/// Cuts them.
pub(crate) fn cut<'a>(files: &'a [Loaded<'_>]) -> Result<Vec<Cut<'a>>> {
    let cut = |file: &'a Loaded<'_>| {
        let path = file.source.path.as_path();
        let slices = match &file.kind {
            Kind::Json(bytes) => read::json(bytes).map_err(|(line, problem)| Error::Record {
                place: Place { path: path.to_owned(), line },
                problem: format!("broken JSON ({problem})"),
                remedy: "write one array of records, or one whole record on each line".into(),
            })?,
            Kind::Paragraphs(bytes) => read::paragraphs(bytes),
            Kind::Ready => Vec::new(),
        };
        Ok(Cut { path, slices, format: file.source.format, kind: &file.kind })
    };
    files.iter().map(cut).collect()
}

fn kind(source: &Source) -> Result<Kind> {
    let path = source.path.as_path();
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    let bytes = || std::fs::read(path).map_err(Error::io("open", path));
    match (source.format, ending.as_str()) {
        (Format::Batches, _) | (Format::Auto, "safetensors") => Ok(Kind::Ready),
        (Format::Auto | Format::Text, "json" | "jsonl" | "ndjson") | (Format::Conversations, _) => bytes().map(Kind::Json),
        (Format::Auto, "txt") | (Format::Text, _) => bytes().map(Kind::Paragraphs),
        (Format::Auto, _) => Err(Error::file(
            path,
            format!("the ending {ending:?} does not tell what is inside"),
            "set the source's format to conversations, text or batches, or name it .jsonl, .json, .txt or .safetensors",
        )),
    }
}

impl Cut<'_> {
    /// Whether it holds ready batches instead of records.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.kind, Kind::Ready)
    }

    /// Parses one of its slices.
    pub(crate) fn record(&self, slice: &Slice<'_>, options: &Options) -> Result<Record, Fault> {
        match self.kind {
            Kind::Json(_) => Record::from_json(slice.bytes, self.format, options.loss_on),
            Kind::Paragraphs(_) | Kind::Ready => Record::from_text(slice.bytes),
        }
    }
}
