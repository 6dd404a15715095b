//! The records of files, in blocks that fit into memory, from any place on.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::arrow_rows::ArrowRows;
use crate::csv_rows::CsvRows;
use crate::error::{Error, Place, Result};
use crate::file;
use crate::input::Input;
use crate::json;
use crate::json_rows;
use crate::lines::Paragraphs;
use crate::parquet_rows::ParquetRows;
use crate::record::{Fault, Read, Reader, SHAPES, fault};
use crate::source::{Kind, SourceFile};

/// A record that is not parsed yet.
pub(crate) struct Raw {
    pub(crate) line: usize,
    content: Content,
    /// What it takes in memory, about.
    bytes: usize,
}

/// What a record is before it is parsed.
pub(crate) enum Content {
    Json(Vec<u8>),
    Text(Vec<u8>),
    Row(Map<String, Value>),
    Bad(Fault),
}

/// A place between two records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Which file.
    pub(crate) file: usize,
    /// Records, bytes and lines before it in that file; the bytes are those of the text where the
    /// file is compressed.
    pub(crate) records: u64,
    pub(crate) byte: u64,
    pub(crate) line: u64,
    /// Bytes of the file, as it is on disk, that were read for them, about.
    #[serde(default)]
    pub(crate) read: u64,
}

/// An open file that gives its records one by one.
pub(crate) trait Rows {
    /// The next record, unless there is none.
    ///
    /// # Errors
    /// If the file cannot be read, or is broken in a way that hides where the next record begins.
    fn next(&mut self) -> Result<Option<Raw>>;

    /// The bytes and lines before the next record, as [`Cursor`] has them; of a table, which is
    /// found again by the number of its rows, nothing.
    fn place(&self) -> (u64, u64) {
        (0, 0)
    }

    /// How many bytes of the file have been read, about.
    fn bytes_read(&self) -> u64;

    /// The columns of a table that are not read.
    fn unread_columns(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Reads files one after the other.
pub(crate) struct Records<'a> {
    files: &'a [SourceFile],
    reader: &'a Reader,
    columns: Vec<String>,
    sizes: Vec<u64>,
    cursor: Cursor,
    open: Option<Box<dyn Rows>>,
}

/// Records of one file.
pub(crate) struct Block<'a> {
    pub(crate) file: &'a SourceFile,
    pub(crate) records: Vec<Raw>,
    /// The columns of a table that are not read.
    pub(crate) unread: Vec<String>,
}

/// What a block holds at most, unless one record alone is larger: enough for all cores, and little
/// next to the tokenizer's vocabulary.
const BLOCK_RECORDS: usize = 4096;
const BLOCK_BYTES: usize = 2 << 20;

impl<'a> Records<'a> {
    /// The records of `files` from `cursor` on; of tables, the columns that `reader` reads.
    ///
    /// # Errors
    /// If a file is not there, or is no regular file.
    pub(crate) fn new(files: &'a [SourceFile], reader: &'a Reader, cursor: Cursor) -> Result<Self> {
        let sizes = files.iter().map(|file| size(&file.path)).collect::<Result<_>>()?;
        Ok(Self { files, reader, columns: reader.columns(), sizes, cursor, open: None })
    }

    /// Where the next block begins.
    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Bytes before the cursor.
    pub(crate) fn bytes_before(&self) -> u64 {
        let within = self.sizes.get(self.cursor.file).map_or(0, |&size| size.min(self.cursor.read));
        self.sizes.iter().take(self.cursor.file).sum::<u64>() + within
    }

    /// The next records, `most` of them at most; none at the end.
    ///
    /// # Errors
    /// If a file cannot be read, or is no such file at all.
    pub(crate) fn block(&mut self, most: usize) -> Result<Option<Block<'a>>> {
        while let Some(file) = self.files.get(self.cursor.file).filter(|_| most > 0) {
            let rows = match &mut self.open {
                Some(rows) => rows,
                None => self.open.insert(open(file, self.reader, &self.columns, self.cursor)?),
            };
            let (mut records, mut bytes) = (Vec::new(), 0);
            while records.len() < most.min(BLOCK_RECORDS)
                && bytes < BLOCK_BYTES
                && let Some(record) = rows.next()?
            {
                bytes += record.bytes;
                records.push(record);
            }
            if !records.is_empty() {
                (self.cursor.byte, self.cursor.line) = rows.place();
                self.cursor.records += records.len() as u64;
                self.cursor.read = rows.bytes_read();
                let unread = rows.unread_columns();
                return Ok(Some(Block { file, records, unread }));
            }
            self.open = None;
            self.cursor = Cursor { file: self.cursor.file + 1, ..Cursor::default() };
        }
        Ok(None)
    }
}

impl Raw {
    pub(crate) fn new(line: u64, content: Content) -> Self {
        let bytes = match &content {
            Content::Json(bytes) | Content::Text(bytes) => bytes.len(),
            Content::Row(fields) => {
                fields.values().map(|value| value.as_str().map_or(1024, str::len)).sum()
            }
            Content::Bad(_) => 0,
        };
        Self { line: line as usize, content, bytes }
    }

    /// Parses it.
    pub(crate) fn record(self, file: &SourceFile, reader: &Reader) -> Result<Read, Fault> {
        match self.content {
            Content::Json(bytes) => reader.read_json(&bytes, file.format),
            Content::Text(bytes) => reader.read_text(&bytes),
            Content::Row(fields) => reader.read_row(fields, file.format),
            Content::Bad(fault) => Err(fault),
        }
    }

    /// Its keys or columns, with what they have.
    pub(crate) fn fields(&self) -> Result<Map<String, Value>, Fault> {
        match &self.content {
            Content::Json(bytes) => match json::parse(bytes)? {
                Value::Object(fields) => Ok(fields),
                _ => fault(
                    "a record is not an object",
                    "write an object with keys and values for each",
                ),
            },
            Content::Row(fields) => Ok(fields.clone()),
            Content::Text(_) => {
                fault("a paragraph of text has no columns", "give records or a table")
            }
            Content::Bad(fault) => Err(fault.clone()),
        }
    }

    /// Where it stands.
    pub(crate) fn place(&self, path: &Path) -> Place {
        Place { path: path.to_owned(), line: self.line }
    }
}

fn open(
    file: &SourceFile,
    reader: &Reader,
    columns: &[String],
    from: Cursor,
) -> Result<Box<dyn Rows>> {
    let path = file.path.as_path();
    let columns: &[&str] = &columns.iter().map(String::as_str).collect::<Vec<_>>();
    Ok(match file.kind {
        Kind::Json => json_rows::open(Input::open(path)?, columns, from)?,
        Kind::Paragraphs | Kind::Ready => Box::new(Paragraphs::new(Input::open(path)?, from)?),
        Kind::Csv => {
            let rows = CsvRows::open_at(path, columns, from)?;
            check_columns(path, reader, rows.header().iter())?;
            Box::new(rows)
        }
        Kind::Parquet => {
            let mut rows = ParquetRows::open(path, columns)?;
            check_columns(path, reader, rows.names().into_iter())?;
            rows.skip(from.records)?;
            Box::new(rows)
        }
        Kind::Arrow => {
            let mut rows = ArrowRows::open(path, columns)?;
            check_columns(path, reader, rows.names())?;
            rows.skip(from.records)?;
            Box::new(rows)
        }
    })
}

/// Bytes of all files.
///
/// # Errors
/// If a file is not there, or is no regular file.
pub(crate) fn bytes(files: &[SourceFile]) -> Result<u64> {
    files.iter().map(|file| size(&file.path)).sum()
}

fn size(path: &Path) -> Result<u64> {
    let metadata = std::fs::metadata(path).map_err(Error::io("open", path))?;
    match files::irregular(&metadata) {
        Some(refusal) => Err(file::error(path)(files::Error::Refused(refusal))),
        None => Ok(metadata.len()),
    }
}

/// A table must have the columns of one shape at least.
fn check_columns<'n>(
    path: &Path,
    reader: &Reader,
    names: impl Iterator<Item = &'n str>,
) -> Result<()> {
    let names: Vec<&str> = names.collect();
    if reader.knows(&names) {
        return Ok(());
    }
    let problem = format!("no columns of a known shape: it has {}", names.join(", "));
    Err(Error::file(path, problem, format!("name its columns in [data] columns: {SHAPES}")))
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
