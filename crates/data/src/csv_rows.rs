//! The rows of a CSV file with a header (RFC 4180), separated by commas, semicolons or tabs.

use std::io::{self, Read};
use std::path::Path;

use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder, StringRecord};
use serde_json::Value;

use crate::error::{Error, Place, Result};
use crate::input::{Input, RECORD_LIMIT, too_long};
use crate::record::{Fault, fault};
use crate::records::{Content, Cursor, Raw, Rows};

/// An open table.
pub(crate) struct CsvRows {
    reader: Reader<Bounded>,
    header: StringRecord,
    /// The columns that are read, with their places.
    columns: Vec<(String, usize)>,
    /// Bytes and lines before the first one that the reader saw.
    before: (u64, u64),
    /// Whether lines end in `\r\n`: the reader takes the first for the end of a row, and counts the
    /// second with the next one.
    has_pairs: bool,
}

/// A row with its line, or why it is none.
pub(crate) type Row = (usize, Result<StringRecord, Fault>);

/// What a row may have: half of another record, as the reader doubles its room for a row, and fills
/// it.
const ROW_LIMIT: u64 = RECORD_LIMIT / 2;

const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];

impl CsvRows {
    /// Opens a file and reads its header, which says what separates the fields: what gives the most
    /// of `columns`, or else the most fields. A name that differs from that of a column by blanks
    /// or by capitals is that column's, unless another one has it.
    ///
    /// # Errors
    /// If the file cannot be read or has no header, or one that names a column twice.
    pub(crate) fn open(path: &Path, columns: &[&str]) -> Result<Self> {
        let mut input = Input::open(path)?;
        let head = input.head()?;
        if head.trim_ascii().is_empty() {
            return Err(Error::file(path, "it is empty", "name the columns in its first row"));
        }
        let rank = |separator: &u8| {
            let header = header_of(head, *separator).unwrap_or_default();
            let known = header
                .iter()
                .filter(|name| columns.iter().any(|column| column.eq_ignore_ascii_case(name)))
                .count();
            (known, header.len())
        };
        // Of equals the last one wins.
        let separator = SEPARATORS.into_iter().rev().max_by_key(rank).unwrap_or(b',');
        let has_pairs =
            head.split(|&byte| byte == b'\n').next().is_some_and(|line| line.ends_with(b"\r"));
        let before = (input.position(), 0);
        let mut rows = Self {
            reader: reader(input, separator),
            header: StringRecord::new(),
            columns: Vec::new(),
            before,
            has_pairs,
        };
        rows.header = match rows.read()? {
            Some((_, Ok(header))) => named(&header, columns),
            Some((_, Err(Fault { problem, remedy }))) => {
                return Err(Error::Record { place: rows.at(1), problem, remedy });
            }
            None => StringRecord::new(),
        };
        for &column in columns {
            let mut places = (0..rows.header.len()).filter(|&at| rows.header[at] == *column);
            rows.columns.extend(places.next().map(|at| (column.to_owned(), at)));
            if places.next().is_some() {
                let problem = format!("the header names `{column}` twice");
                return Err(Error::Record {
                    place: rows.at(1),
                    problem,
                    remedy: "rename one of the columns".into(),
                });
            }
        }
        Ok(rows)
    }

    /// The same, from a row on.
    ///
    /// # Errors
    /// As [`CsvRows::open`], and if the file has become shorter.
    pub(crate) fn open_at(path: &Path, columns: &[&str], from: Cursor) -> Result<Self> {
        let mut rows = Self::open(path, columns)?;
        if from.records > 0 {
            let mut input = Input::open(path)?;
            input.skip_to(from.byte)?;
            rows.before = (from.byte, from.line.saturating_sub(1));
            rows.reader = reader(input, rows.reader.get_ref().separator);
        }
        Ok(rows)
    }

    /// The names of its columns.
    pub(crate) fn header(&self) -> &StringRecord {
        &self.header
    }

    /// Which column has a name.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|found| found == name)
    }

    /// The next row, unless there is none.
    ///
    /// # Errors
    /// If the file can no longer be read; a row that is broken is one all the same.
    pub(crate) fn next_row(&mut self) -> Result<Option<Row>> {
        let Some((line, row)) = self.read()? else { return Ok(None) };
        let expected = self.header.len();
        let row = row.and_then(|row| match row.len() {
            fields if fields == expected => Ok(row),
            fields => fault(
                format!("broken CSV (a row of {fields} fields below a header of {expected})"),
                "give each row as many fields as the header, and put fields that hold the separator into quotes",
            ),
        });
        Ok(Some((line, row)))
    }

    fn read(&mut self) -> Result<Option<Row>> {
        let mut row = ByteRecord::new();
        let line = self.before.1 + self.reader.position().line();
        self.reader.get_mut().room = ROW_LIMIT;
        match self.reader.read_byte_record(&mut row) {
            Ok(false) => return Ok(None),
            Ok(true) => {}
            Err(error) => {
                let input = &self.reader.get_ref().input;
                return Err(match error.into_kind() {
                    ErrorKind::Io(why) if why.kind() == io::ErrorKind::FileTooLarge => {
                        too_long(input.path(), line, ROW_LIMIT)
                    }
                    ErrorKind::Io(why) => input.fault(why),
                    other => Error::file(
                        input.path(),
                        format!("it cannot be read ({other:?})"),
                        "save the table again",
                    ),
                });
            }
        }
        let inner: u64 = row
            .iter()
            .map(|field| field.iter().filter(|&&byte| byte == b'\n').count() as u64)
            .sum();
        let past = self.before.1 + self.reader.position().line();
        let line = line.max((past - inner).saturating_sub(u64::from(!self.has_pairs)));
        let ends = self.reader.get_ref();
        let is_open = ends.at_end
            && ends.last != b'"'
            && row.iter().next_back().is_some_and(|field| field.contains(&b'\n'));
        let row = match StringRecord::from_byte_record(row) {
            _ if is_open => fault(
                "broken CSV (a quote opens in this row, and none closes it)",
                "close it, or write quotes within a field twice",
            ),
            Ok(row) => Ok(row),
            Err(error) => fault(
                format!("broken CSV (it is not UTF-8: {})", error.utf8_error()),
                "save the table as UTF-8",
            ),
        };
        Ok(Some((line as usize, row)))
    }

    fn at(&self, line: usize) -> Place {
        Place { path: self.reader.get_ref().input.path().to_owned(), line }
    }
}

impl Rows for CsvRows {
    fn next(&mut self) -> Result<Option<Raw>> {
        let Some((line, row)) = self.next_row()? else { return Ok(None) };
        let content = row.map_or_else(Content::Bad, |row| {
            // A table has no other way to leave a field out.
            let fields = self.columns.iter().filter_map(|(name, at)| {
                Some((name.clone(), Value::from(row.get(*at).filter(|field| !field.is_empty())?)))
            });
            Content::Row(fields.collect())
        });
        Ok(Some(Raw::new(line as u64, content)))
    }

    fn place(&self) -> (u64, u64) {
        let position = self.reader.position();
        (self.before.0 + position.byte(), self.before.1 + position.line())
    }

    fn bytes_read(&self) -> u64 {
        let input = &self.reader.get_ref().input;
        input.bytes_read()
    }

    fn unread_columns(&self) -> Vec<String> {
        (0..self.header.len())
            .filter(|at| self.columns.iter().all(|(_, column)| column != at))
            .map(|at| self.header[at].to_owned())
            .collect()
    }
}

fn reader(input: Input, separator: u8) -> Reader<Bounded> {
    // Lengths are compared here, so that it makes no difference which row a reader begins with.
    let mut builder = ReaderBuilder::new();
    builder.buffer_capacity(64 << 10).delimiter(separator).has_headers(false).flexible(true);
    builder.from_reader(Bounded { input, separator, room: ROW_LIMIT, at_end: false, last: 0 })
}

/// The names in the first row of a text.
fn header_of(head: &[u8], separator: u8) -> Option<StringRecord> {
    let mut reader = ReaderBuilder::new().delimiter(separator).has_headers(false).from_reader(head);
    let mut header = StringRecord::new();
    reader
        .read_record(&mut header)
        .is_ok_and(|is_there| is_there)
        .then(|| header.iter().map(str::trim).collect())
}

/// The names of a header, in the words of `columns` where they mean these.
fn named(header: &StringRecord, columns: &[&str]) -> StringRecord {
    let has = |column: &str| header.iter().any(|name| name.trim() == column);
    let meant = |name: &str| {
        columns.iter().copied().find(|column| column.eq_ignore_ascii_case(name) && !has(column))
    };
    header
        .iter()
        .map(str::trim)
        .map(|name| meant(name).map_or_else(|| name.to_owned(), str::to_owned))
        .collect::<Vec<_>>()
        .into()
}

/// A text that ends with an error where a row has too much.
struct Bounded {
    input: Input,
    separator: u8,
    /// What may still be read for the row.
    room: u64,
    at_end: bool,
    /// The last byte that is not blank.
    last: u8,
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.room == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let count = self.input.read(into)?;
        self.room = self.room.saturating_sub(count as u64);
        self.at_end = count == 0;
        self.last = into[..count].trim_ascii_end().last().copied().unwrap_or(self.last);
        Ok(count)
    }
}
