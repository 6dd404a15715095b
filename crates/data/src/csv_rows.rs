//! The rows of a CSV file with a header (RFC 4180).

use std::fs::File;
use std::path::{Path, PathBuf};

use csv::{ErrorKind, Position, Reader, ReaderBuilder, StringRecord};

use crate::error::{Error, Place, Result};
use crate::record::Fault;

/// An open table.
#[derive(Debug)]
pub(crate) struct CsvRows {
    path: PathBuf,
    reader: Reader<File>,
    header: StringRecord,
}

/// A row with its line, or why it is none.
pub(crate) type Row = (usize, Result<StringRecord, Fault>);

impl CsvRows {
    /// Opens a file and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let mut reader = ReaderBuilder::new().buffer_capacity(1 << 20).from_reader(file);
        let header = match reader.headers() {
            Ok(header) => header.iter().map(str::trim).collect(),
            Err(error) => {
                let Fault { problem, remedy } = fault(path, error)?;
                return Err(Error::Record { place: Place { path: path.to_owned(), line: 1 }, problem, remedy });
            }
        };
        Ok(Self { path: path.to_owned(), reader, header })
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
    pub(crate) fn next(&mut self) -> Result<Option<Row>> {
        let mut row = StringRecord::new();
        match self.reader.read_record(&mut row) {
            Ok(false) => Ok(None),
            Ok(true) => Ok(Some((row.position().map_or(0, |position| position.line() as usize), Ok(row)))),
            Err(error) => {
                let line = error.position().map_or(0, |position| position.line() as usize);
                Ok(Some((line, Err(fault(&self.path, error)?))))
            }
        }
    }

    /// The byte and the number of lines before the next row.
    pub(crate) fn position(&self) -> (u64, u64) {
        (self.reader.position().byte(), self.reader.position().line())
    }

    /// Goes to the row that begins there.
    ///
    /// # Errors
    /// If the file cannot be read there.
    pub(crate) fn seek(&mut self, byte: u64, line: u64) -> Result<()> {
        let mut position = Position::new();
        position.set_byte(byte).set_line(line);
        self.reader.seek(position).map_err(|error| match error.into_kind() {
            ErrorKind::Io(error) => Error::io("read", &self.path)(error),
            other => Error::file(&self.path, format!("its rows cannot be found again ({other:?})"), "prepare the data anew"),
        })
    }
}

/// What is wrong with a row; what is wrong with the file is an error.
fn fault(path: &Path, error: csv::Error) -> Result<Fault> {
    let problem = format!("broken CSV ({})", error.to_string().replace('\n', " "));
    match error.into_kind() {
        ErrorKind::Io(error) => Err(Error::io("read", path)(error)),
        _ => Ok(Fault { problem, remedy: "save the table as UTF-8, with as many fields in each row as in the header".into() }),
    }
}
