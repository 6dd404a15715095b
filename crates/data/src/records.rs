//! The records of files, in blocks that fit into memory, from any place on.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::csv_rows::CsvRows;
use crate::error::{Error, Result};
use crate::parquet_rows::ParquetRows;
use crate::read;
use crate::record::{Fault, READ, Read, Reader, SHAPES, fault};
use crate::source::{Kind, SourceFile};

/// A record that is not parsed yet.
pub(crate) struct Raw {
    pub(crate) line: usize,
    content: Content,
    /// What it takes in memory, about.
    bytes: usize,
}

enum Content {
    Json(Vec<u8>),
    Text(Vec<u8>),
    Row(Map<String, Value>),
    Bad(Fault),
}

/// A place between two records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Which file.
    file: usize,
    /// Records, bytes and lines before it in that file.
    records: u64,
    byte: u64,
    line: u64,
}

/// Reads files one behind the other.
pub(crate) struct Records<'a> {
    files: &'a [SourceFile],
    sizes: Vec<u64>,
    cursor: Cursor,
    open: Option<Rows>,
}

/// Records of one file.
pub(crate) struct Block<'a> {
    pub(crate) file: &'a SourceFile,
    pub(crate) records: Vec<Raw>,
}

/// What a block holds at most, unless one record alone is larger: enough for all cores, and little beside the tokenizer's vocabulary.
const BLOCK_RECORDS: usize = 4096;
const BLOCK_BYTES: usize = 2 << 20;

impl<'a> Records<'a> {
    /// The records of `files` from `cursor` on.
    ///
    /// # Errors
    /// If a file is not there.
    pub(crate) fn new(files: &'a [SourceFile], cursor: Cursor) -> Result<Self> {
        let size = |file: &SourceFile| Ok(std::fs::metadata(&file.path).map_err(Error::io("open", &file.path))?.len());
        Ok(Self { files, sizes: files.iter().map(size).collect::<Result<_>>()?, cursor, open: None })
    }

    /// Where the next block begins.
    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.sizes.iter().sum()
    }

    /// Bytes before the cursor.
    pub(crate) fn bytes_before(&self) -> u64 {
        let within = self.sizes.get(self.cursor.file).map_or(0, |&size| size.min(self.cursor.byte));
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
                None => self.open.insert(Rows::open(file, &mut self.cursor)?),
            };
            let (mut records, mut bytes) = (Vec::new(), 0);
            while records.len() < most.min(BLOCK_RECORDS)
                && bytes < BLOCK_BYTES
                && let Some(record) = rows.next(&file.path, self.sizes[self.cursor.file], &mut self.cursor)?
            {
                bytes += record.bytes;
                records.push(record);
            }
            if !records.is_empty() {
                return Ok(Some(Block { file, records }));
            }
            self.open = None;
            self.cursor = Cursor { file: self.cursor.file + 1, ..Cursor::default() };
        }
        Ok(None)
    }
}

impl Raw {
    fn new(line: u64, content: Content) -> Self {
        let bytes = match &content {
            Content::Json(bytes) | Content::Text(bytes) => bytes.len(),
            Content::Row(fields) => fields.values().map(|value| value.as_str().map_or(1024, str::len)).sum(),
            Content::Bad(_) => 0,
        };
        Self { line: line as usize, content, bytes }
    }

    /// Parses it.
    pub(crate) fn record(&self, file: &SourceFile, reader: &Reader) -> Result<Read, Fault> {
        match &self.content {
            Content::Json(bytes) => reader.from_fields(object(bytes)?, file.format),
            Content::Text(bytes) => reader.from_text(bytes),
            Content::Row(fields) => reader.from_row(fields.clone(), file.format),
            Content::Bad(fault) => Err(fault.clone()),
        }
    }
}

/// A record in JSON.
fn object(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => fault(format!("a record is {} and not an object", crate::record::kind(&other)), SHAPES),
        Err(error) => fault(format!("broken JSON ({error})"), "write one whole record on each line, or one array of records"),
    }
}

/// An open file.
enum Rows {
    Lines(BufReader<File>),
    Paragraphs(BufReader<File>),
    /// The elements of an array that are left, with their lines, and how many there were. It is read as a whole: it ends only where its bracket closes.
    Elements(VecDeque<(usize, Vec<u8>)>, u64),
    Csv(Box<CsvRows>),
    Parquet(Box<ParquetRows>),
}

impl Rows {
    fn open(file: &SourceFile, cursor: &mut Cursor) -> Result<Self> {
        let path = file.path.as_path();
        Ok(match file.kind {
            Kind::Json => {
                let mut reader = bytes(path)?;
                if begins_array(&mut reader).map_err(Error::io("read", path))? {
                    let elements = elements(path)?;
                    let count = elements.len() as u64;
                    Self::Elements(elements.into_iter().skip(cursor.records as usize).collect(), count)
                } else {
                    Self::Lines(from(path, reader, cursor)?)
                }
            }
            Kind::Paragraphs | Kind::Ready => Self::Paragraphs(from(path, bytes(path)?, cursor)?),
            Kind::Csv => {
                let mut rows = CsvRows::open(path)?;
                check_columns(path, &rows.header().iter().collect::<Vec<_>>())?;
                if cursor.records > 0 {
                    rows.seek(cursor.byte, cursor.line)?;
                }
                Self::Csv(Box::new(rows))
            }
            Kind::Parquet => {
                let mut rows = ParquetRows::open(path, &READ)?;
                check_columns(path, &rows.names())?;
                for _ in 0..cursor.records {
                    rows.next()?;
                }
                Self::Parquet(Box::new(rows))
            }
        })
    }

    fn next(&mut self, path: &Path, size: u64, cursor: &mut Cursor) -> Result<Option<Raw>> {
        let found = match self {
            Self::Lines(reader) => line(reader, cursor).map_err(Error::io("read", path))?,
            Self::Paragraphs(reader) => paragraph(reader, cursor).map_err(Error::io("read", path))?,
            Self::Elements(elements, count) => {
                let found = elements.pop_front().map(|(line, bytes)| Raw::new(line as u64, Content::Json(bytes)));
                cursor.byte = share(size, *count - elements.len() as u64, *count);
                found
            }
            Self::Csv(rows) => {
                let found = rows.next()?.map(|(line, row)| Raw::new(line as u64, csv_row(rows, row)));
                (cursor.byte, cursor.line) = rows.position();
                found
            }
            Self::Parquet(rows) => {
                let found = rows.next()?.map(|row| {
                    let fields = row.into_columns().into_iter().map(|(name, field)| (name, field.to_json_value()));
                    Raw::new(cursor.records + 1, Content::Row(fields.filter(|(_, value)| !value.is_null()).collect()))
                });
                cursor.byte = share(size, cursor.records, rows.count());
                found
            }
        };
        cursor.records += u64::from(found.is_some());
        Ok(found)
    }
}

fn share(size: u64, part: u64, whole: u64) -> u64 {
    (size as f64 * part as f64 / whole.max(1) as f64) as u64
}

fn bytes(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::with_capacity(1 << 20, File::open(path).map_err(Error::io("open", path))?))
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Whether the first byte that is no white space opens an array.
fn begins_array(reader: &mut BufReader<File>) -> std::io::Result<bool> {
    let head = reader.fill_buf()?;
    let head = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
    Ok(head.trim_ascii_start().first() == Some(&b'['))
}

/// Goes to the cursor; at the beginning, past a byte order mark.
fn from(path: &Path, mut reader: BufReader<File>, cursor: &mut Cursor) -> Result<BufReader<File>> {
    let mut go = || -> std::io::Result<()> {
        if cursor.byte == 0 && reader.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
            cursor.byte = BYTE_ORDER_MARK.len() as u64;
        }
        reader.seek(SeekFrom::Start(cursor.byte)).map(|_| ())
    };
    go().map_err(Error::io("read", path))?;
    Ok(reader)
}

fn elements(path: &Path) -> Result<VecDeque<(usize, Vec<u8>)>> {
    let bytes = std::fs::read(path).map_err(Error::io("open", path))?;
    let slices = read::json(&bytes).map_err(|broken| read::error(path, broken))?;
    Ok(slices.into_iter().map(|slice| (slice.line, slice.bytes.to_vec())).collect())
}

/// The next line, without its end; false behind the last.
fn read_line(reader: &mut BufReader<File>, cursor: &mut Cursor, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let count = reader.read_until(b'\n', line)?;
    cursor.byte += count as u64;
    cursor.line += u64::from(count > 0);
    line.pop_if(|last| *last == b'\n');
    Ok(count > 0)
}

/// The next line that is not blank.
fn line(reader: &mut BufReader<File>, cursor: &mut Cursor) -> std::io::Result<Option<Raw>> {
    let mut found = Vec::new();
    while read_line(reader, cursor, &mut found)? {
        if !found.trim_ascii().is_empty() {
            return Ok(Some(Raw::new(cursor.line, Content::Json(found))));
        }
    }
    Ok(None)
}

/// The next run of lines that are not blank.
fn paragraph(reader: &mut BufReader<File>, cursor: &mut Cursor) -> std::io::Result<Option<Raw>> {
    let (mut text, mut first, mut next) = (Vec::new(), 0, Vec::new());
    while read_line(reader, cursor, &mut next)? {
        if !next.trim_ascii().is_empty() {
            if text.is_empty() {
                first = cursor.line;
            } else {
                text.push(b'\n');
            }
            text.extend_from_slice(&next);
        } else if !text.is_empty() {
            break;
        }
    }
    text.truncate(text.trim_ascii_end().len());
    Ok((!text.is_empty()).then(|| Raw::new(first, Content::Text(text))))
}

/// A table must have the columns of one shape at least.
fn check_columns(path: &Path, names: &[&str]) -> Result<()> {
    let has = |name: &str| names.contains(&name);
    let _ = has;
    if Reader::default().knows(names) {
        return Ok(());
    }
    Err(Error::file(path, format!("no columns of a known shape: it has {}", names.join(", ")), format!("name its columns: {SHAPES}")))
}

fn csv_row(rows: &CsvRows, row: Result<csv::StringRecord, Fault>) -> Content {
    let row = match row {
        Ok(row) => row,
        Err(fault) => return Content::Bad(fault),
    };
    // A table has no other way to leave a field out.
    let value = |name: &str| rows.column(name).and_then(|column| row.get(column)).filter(|value| !value.is_empty());
    Content::Row(READ.iter().filter_map(|&name| Some((name.to_owned(), value(name)?.into()))).collect())
}

#[cfg(test)]
mod tests;
