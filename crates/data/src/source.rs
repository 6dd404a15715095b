use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file;
use crate::folder::{self, LeftOut, Listing};

/// What a source holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// By the file's ending: `.jsonl`, `.ndjson` and `.json` hold records of any known shape,
    /// `.csv`, `.tsv`, `.parquet`, `.arrow` and `.feather` the same in columns, `.txt` text,
    /// `.safetensors` ready batches. The first four and `.txt` may be compressed, as `.jsonl.gz` or
    /// `.jsonl.zst`.
    #[default]
    Auto,
    /// Records or tables with `messages`, `conversations`, or `prompt` and `completion`.
    Conversations,
    /// Plain text, whose paragraphs (split at blank lines) are the documents; or, in a file whose
    /// ending is that of records or tables, records with `text`.
    Text,
    /// A safetensors file of ready batches: `batches` I64 `[steps, batch, tokens]`, and perhaps
    /// `labels` of the same shape, where -100 means "not trained".
    Batches,
}

/// A file of training data, or a folder of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file. Of a folder all files with a known ending are taken, at any depth, in the order of
    /// their paths; the others are named in a warning, but for hidden ones.
    pub path: PathBuf,
    /// What it holds.
    #[serde(default)]
    pub format: Format,
    /// How often each of its training samples comes in an epoch. The whole part says how often all
    /// of them do; of the fraction `f` that is left, `f` times their number, rounded, come once
    /// more: a draw that depends on the seed, the source's place in the list and its number of
    /// samples only. So 2.0 is all of them twice, 0.25 a quarter of them once, the same quarter in
    /// every epoch and on any number of ranks. What is taken for validation is drawn before, so
    /// that no sample of it is trained on, and is not weighted.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

impl<P: Into<PathBuf>> From<P> for Source {
    fn from(path: P) -> Self {
        Self { path: path.into(), format: Format::Auto, weight: 1.0 }
    }
}

/// The files of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// What is trained on, in this order.
    pub train: Vec<Source>,
    /// What is evaluated on; empty: nothing, or what [`crate::Options::eval_samples`] holds out of
    /// `train`.
    #[serde(default)]
    pub eval: Vec<Source>,
}

impl Sources {
    /// Sources to train on, with no evaluation file of their own.
    pub fn train<S: Into<Source>>(sources: impl IntoIterator<Item = S>) -> Self {
        Self { train: sources.into_iter().map(Into::into).collect(), eval: Vec::new() }
    }
}

/// One file of the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) kind: Kind,
    /// Which source it belongs to.
    pub(crate) source: usize,
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Paragraphs,
    Csv,
    Parquet,
    Arrow,
    Ready,
}

/// The files of sources, in order. What folders have besides is named in a warning.
pub(crate) fn files(sources: &[Source]) -> Result<Vec<SourceFile>> {
    let mut found = Vec::new();
    for (source, named) in sources.iter().enumerate() {
        let Listing { taken, left_out } = named.listing()?;
        if let Some(left_out) = left_out.told(&named.path) {
            tracing::warn!("{left_out}");
        }
        for path in taken {
            let kind = kind(&path, named.format)?;
            found.push(SourceFile { path, format: named.format, kind, source });
        }
    }
    Ok(found)
}

impl Source {
    /// The file, or those of the folder.
    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>> {
        Ok(self.listing()?.taken)
    }

    fn listing(&self) -> Result<Listing> {
        if !self.path.is_dir() {
            return Ok(Listing { taken: vec![self.path.clone()], left_out: LeftOut::default() });
        }
        let found = folder::list(&self.path, |path| Ending::from_path(path).is_known())?;
        if found.taken.is_empty() {
            let problem = match found.left_out.told(&self.path) {
                None => "a folder without data".into(),
                Some(left_out) => format!("a folder without data ({left_out})"),
            };
            let remedy = format!(
                "put files in it that end in {}, or {} with .gz or .zst",
                TABLES.join(", "),
                TEXTS.join(", ")
            );
            return Err(Error::file(&self.path, problem, remedy));
        }
        Ok(found)
    }
}

/// The endings of text, which may be compressed, and of tables and batches, which compress what
/// they hold themselves.
const TEXTS: [&str; 6] = ["jsonl", "ndjson", "json", "csv", "tsv", "txt"];
const TABLES: [&str; 4] = ["parquet", "arrow", "feather", "safetensors"];
const PACKED: [&str; 4] = ["gz", "gzip", "zst", "zstd"];

/// What a file's name ends in: `jsonl` and `gz` of `a.jsonl.gz`.
struct Ending {
    inner: String,
    packed: Option<String>,
}

impl Ending {
    fn from_path(path: &Path) -> Self {
        let last = folder::ending(path);
        if !PACKED.contains(&last.as_str()) {
            return Self { inner: last, packed: None };
        }
        Self {
            inner: path.file_stem().map(|stem| folder::ending(stem.as_ref())).unwrap_or_default(),
            packed: Some(last),
        }
    }

    fn is_known(&self) -> bool {
        TEXTS.contains(&self.inner.as_str())
            || self.packed.is_none() && TABLES.contains(&self.inner.as_str())
    }
}

/// How a file is read.
pub(crate) fn kind(path: &Path, format: Format) -> Result<Kind> {
    let Ending { inner, packed } = Ending::from_path(path);
    if let Some(packed) =
        packed.filter(|_| TABLES.contains(&inner.as_str()) || format == Format::Batches)
    {
        return Err(Error::file(
            path,
            format!("a file that is read at many places is compressed as a whole ({packed})"),
            "unpack it",
        ));
    }
    Ok(match (format, inner.as_str()) {
        (Format::Batches, _) | (Format::Auto, "safetensors") => Kind::Ready,
        (_, "csv" | "tsv") => Kind::Csv,
        (_, "parquet") => Kind::Parquet,
        (_, "arrow" | "feather") => Kind::Arrow,
        (Format::Auto | Format::Text, "json" | "jsonl" | "ndjson") | (Format::Conversations, _) => {
            Kind::Json
        }
        (Format::Auto, "txt") | (Format::Text, _) => Kind::Paragraphs,
        (Format::Auto, _) => return Err(unknown(path)),
    })
}

/// The error for a file whose name does not tell what is inside; its bytes may.
fn unknown(path: &Path) -> Error {
    let ending = folder::ending(path);
    let problem = format!("the ending {ending:?} does not tell what is inside");
    let content = match files::open_told(path) {
        Ok((_, content)) => content,
        Err(why @ files::Error::Refused(_)) => return file::error(path)(why),
        Err(files::Error::Io(_)) => files::Content::Unknown,
    };
    if let Some((name, refusal)) = content.name().zip(content.refusal()) {
        return Error::file(path, format!("it is {name}"), refusal.remedy);
    }
    let remedy = match content.name() {
        Some(name) => format!("it is {name}: name it by that (for example .parquet, .arrow, or .jsonl.gz for compressed JSON lines)"),
        None => {
            "set the source's format to conversations, text or batches, or name it .jsonl, .json, .csv, .tsv, .parquet, .arrow, .txt (the \
                 texts also with .gz or .zst) or .safetensors"
                .into()
        }
    };
    Error::file(path, problem, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn folders_give_their_files_in_order_and_say_what_they_leave_out() {
        let names = [
            "b/2.jsonl",
            "b/10.jsonl.gz",
            "a.TXT",
            "c.csv",
            "README.md",
            ".hidden.jsonl",
            ".git/x.json",
            "b/d/e.parquet",
            "b/f.arrow",
        ];
        let folder = folder_of(
            &[&names[..], &["b/notes.md", "model.bin", "LICENSE", "x.parquet.gz", "y.tsv.ZST"]]
                .concat(),
        );
        let found = files(&[Source::from("first.jsonl"), Source::from(folder.path())]).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|file| {
                file.path.strip_prefix(folder.path()).unwrap_or(&file.path).to_str().unwrap()
            })
            .collect();
        assert_eq!(
            names,
            [
                "first.jsonl",
                "a.TXT",
                "b/10.jsonl.gz",
                "b/2.jsonl",
                "b/d/e.parquet",
                "b/f.arrow",
                "c.csv",
                "y.tsv.ZST"
            ]
        );
        assert_eq!(
            found.iter().map(|file| file.source).collect::<Vec<_>>(),
            [0, 1, 1, 1, 1, 1, 1, 1]
        );
        let left_out = Source::from(folder.path())
            .listing()
            .unwrap()
            .left_out
            .told("runs/data".as_ref())
            .unwrap();
        assert_eq!(
            left_out,
            "left out 5 files of runs/data: .md (2), .bin (1), .gz (1), without an ending (1)"
        );
    }

    #[test]
    fn a_folder_without_data_says_what_it_has() {
        let error = files(&[Source::from(folder_of(&[]).path())]).unwrap_err().to_string();
        assert!(error.contains("a folder without data") && error.contains("jsonl"), "{error}");
        let folder = folder_of(&["a.md"]);
        let error = files(&[Source::from(folder.path())]).unwrap_err().to_string();
        assert!(error.contains("left out 1 file of") && error.contains(".md (1)"), "{error}");
    }

    #[test]
    fn endings_say_how_a_file_is_read() {
        for (name, format, expected) in [
            ("a.jsonl.gz", Format::Auto, Kind::Json),
            ("a.JSON.ZST", Format::Auto, Kind::Json),
            ("a.tsv", Format::Auto, Kind::Csv),
            ("a.csv.gz", Format::Conversations, Kind::Csv),
            ("a.txt.zstd", Format::Auto, Kind::Paragraphs),
            ("a.feather", Format::Text, Kind::Arrow),
            ("a.gz", Format::Conversations, Kind::Json),
            ("a.gz", Format::Text, Kind::Paragraphs),
        ] {
            assert_eq!(kind(name.as_ref(), format).unwrap(), expected, "{name}");
        }
        let refused = |name: &str| kind(name.as_ref(), Format::Auto).unwrap_err().to_string();
        assert!(refused("a.parquet.gz").contains("unpack it"));
        assert!(
            refused("a.md").contains("\"md\" does not tell")
                && refused("a.gz").contains("\"gz\" does not tell")
        );
        let folder = folder_of(&[]);
        for (name, bytes, says) in [
            ("a.xz", &b"\xFD7zXZ\0..."[..], "it is compressed with xz, in"),
            ("a.xlsx", b"PK\x03\x04", "it is a ZIP archive"),
            ("a.data", b"PAR1....", "it is a Parquet file: name it by that"),
        ] {
            std::fs::write(folder.path().join(name), bytes).unwrap();
            let error = refused(folder.path().join(name).to_str().unwrap());
            assert!(error.contains(says), "{error}");
        }
        assert!(refused("/dev/zero").contains("it is a device"), "{}", refused("/dev/zero"));
    }
}
