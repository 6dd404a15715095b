//! Named columns of numbers in one safetensors file: written as they come, and read by parts, so
//! that a file may be larger than memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The key of the facts in the metadata. There is one only, because several would be written in any
/// order, and the same data should give the same file.
const FACTS: &str = "dataset";

/// The last column: the SHA-256 of every byte of the file before it.
const CHECKSUM: &str = "sha256";
const CHECKSUM_BYTES: usize = 32;

pub(crate) const REMEDY: &str = "delete it and prepare the data again";

/// A column that is to be written.
pub(crate) struct Column<'a> {
    pub(crate) name: &'static str,
    pub(crate) dtype: Dtype,
    pub(crate) length: usize,
    /// Writes its `length` values.
    pub(crate) values: Box<Values<'a>>,
}

type Values<'a> = dyn FnOnce(&mut dyn Write) -> Result<(), Fault> + 'a;

/// Why a column could not be written: its values could not be had, or the file not be written.
pub(crate) enum Fault {
    Read(Error),
    Write(std::io::Error),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Write(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Read(error)
    }
}

impl<'a> Column<'a> {
    pub(crate) fn u64s(name: &'static str, values: &'a [u64]) -> Self {
        Self::new(name, Dtype::U64, values.len(), move |out| {
            write_numbers(values, u64::to_le_bytes, out)
        })
    }

    pub(crate) fn u32s(name: &'static str, values: &'a [u32]) -> Self {
        Self::new(name, Dtype::U32, values.len(), move |out| {
            write_numbers(values, u32::to_le_bytes, out)
        })
    }

    pub(crate) fn u8s(name: &'static str, values: &'a [u8]) -> Self {
        Self::new(name, Dtype::U8, values.len(), move |out| Ok(out.write_all(values)?))
    }

    pub(crate) fn bools(name: &'static str, values: &'a [bool]) -> Self {
        Self::new(name, Dtype::U8, values.len(), move |out| {
            write_numbers(values, |mark| [u8::from(mark)], out)
        })
    }

    pub(crate) fn new(
        name: &'static str,
        dtype: Dtype,
        length: usize,
        values: impl FnOnce(&mut dyn Write) -> Result<(), Fault> + 'a,
    ) -> Self {
        Self { name, dtype, length, values: Box::new(values) }
    }
}

/// Values as bytes, a few thousand at a time.
pub(crate) fn write_numbers<T: Copy, const WIDTH: usize>(
    values: &[T],
    bytes: impl Fn(T) -> [u8; WIDTH],
    out: &mut dyn Write,
) -> Result<(), Fault> {
    for values in values.chunks(1 << 14) {
        out.write_all(&values.iter().flat_map(|&value| bytes(value)).collect::<Vec<u8>>())?;
    }
    Ok(())
}

/// Values out of bytes.
pub(crate) fn numbers<const WIDTH: usize, T>(bytes: &[u8], from: fn([u8; WIDTH]) -> T) -> Vec<T> {
    bytes.as_chunks::<WIDTH>().0.iter().map(|&chunk| from(chunk)).collect()
}

/// Hashes what passes.
struct Hashed<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Writes a file of these columns, in this order, and a checksum; whole or not at all. No other
/// process may write it at the same time.
pub(crate) fn write(path: &Path, facts: &impl Serialize, columns: Vec<Column<'_>>) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    files::remove_leftovers(path)?;
    let header = header(path, facts, &columns)?;
    files::replace(path, |aside| {
        write_to(aside, &header, columns).map_err(|fault| match fault {
            Fault::Read(error) => error,
            Fault::Write(error) => Error::io("write", path)(error),
        })
    })
}

fn write_to(path: &Path, header: &[u8], columns: Vec<Column<'_>>) -> Result<(), Fault> {
    let mut out =
        Hashed { out: BufWriter::with_capacity(1 << 20, File::create(path)?), hash: Sha256::new() };
    out.write_all(header)?;
    for column in columns {
        (column.values)(&mut out)?;
    }
    let Hashed { mut out, hash } = out;
    out.write_all(&hash.finalize())?;
    out.flush()?;
    Ok(())
}

fn header(path: &Path, facts: &impl Serialize, columns: &[Column<'_>]) -> Result<Vec<u8>> {
    let report =
        |what: String| Error::file(path, format!("cannot describe it ({what})"), "report this");
    let mut end = 0;
    let mut info = |name: &str, dtype: Dtype, length: usize| {
        let start = end;
        end += length * dtype.bitsize() / 8;
        (name.to_owned(), TensorInfo { dtype, shape: vec![length], data_offsets: (start, end) })
    };
    let mut tensors: Vec<_> =
        columns.iter().map(|column| info(column.name, column.dtype, column.length)).collect();
    tensors.push(info(CHECKSUM, Dtype::U8, CHECKSUM_BYTES));
    let facts = serde_json::to_string(facts).map_err(|error| report(error.to_string()))?;
    let metadata = Metadata::new(Some(HashMap::from([(FACTS.to_owned(), facts)])), tensors)
        .map_err(|error| report(error.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| report(error.to_string()))?;
    // So that every column begins at a multiple of its width, as the format recommends.
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}

/// An open file of columns.
#[derive(Debug)]
pub(crate) struct ColumnFile {
    file: File,
    path: PathBuf,
    header: Metadata,
    data_start: u64,
}

impl ColumnFile {
    /// Reads the header, and refuses a file that has not the length it announces.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let broken = |problem: String| Error::file(path, problem, REMEDY);
        let file = files::open(path).map_err(crate::file::error(path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        if length < 8 {
            return Err(broken(format!("no data set: {length} bytes")));
        }
        let read = |start, length: u64| read_at(&file, path, start, length as usize);
        let header_length = numbers(&read(0, 8)?, u64::from_le_bytes)[0];
        let Some(data_start) = header_length.checked_add(8).filter(|&start| start <= length) else {
            return Err(broken("its header is cut off, or it is no data set".into()));
        };
        let header: Metadata = serde_json::from_slice(&read(8, header_length)?)
            .map_err(|error| broken(format!("its header is broken ({error})")))?;
        let expected = data_start.saturating_add(header.data_len() as u64);
        if expected != length {
            return Err(broken(format!("it should have {expected} bytes, but has {length}")));
        }
        Ok(Self { file, path: path.to_owned(), header, data_start })
    }

    /// The facts that were written with it.
    pub(crate) fn facts<T: DeserializeOwned>(&self) -> Result<T> {
        let facts = self.header.metadata().as_ref().and_then(|metadata| metadata.get(FACTS));
        let facts = facts
            .ok_or_else(|| self.broken("a safetensors file, but no data set of this program"))?;
        serde_json::from_str(facts)
            .map_err(|error| self.broken(format!("its description is broken ({error})")))
    }

    /// Where a column begins in the file, and how many values it has.
    pub(crate) fn column(&self, name: &str, dtype: Dtype) -> Result<(u64, u64)> {
        match self.header.info(name) {
            Some(info) if info.dtype == dtype && info.shape.len() == 1 => {
                Ok((self.data_start + info.data_offsets.0 as u64, info.shape[0] as u64))
            }
            _ => Err(self.broken(format!("`{name}` is not there as {dtype:?}"))),
        }
    }

    /// All values of a column.
    pub(crate) fn u64s(&self, name: &str) -> Result<Vec<u64>> {
        let (start, length) = self.column(name, Dtype::U64)?;
        Ok(numbers(&self.read(start, 8 * length as usize)?, u64::from_le_bytes))
    }

    /// The same of narrower ones.
    pub(crate) fn u32s(&self, name: &str) -> Result<Vec<u32>> {
        let (start, length) = self.column(name, Dtype::U32)?;
        Ok(numbers(&self.read(start, 4 * length as usize)?, u32::from_le_bytes))
    }

    /// The same of bytes.
    pub(crate) fn u8s(&self, name: &str) -> Result<Vec<u8>> {
        let (start, length) = self.column(name, Dtype::U8)?;
        self.read(start, length as usize)
    }

    /// So many bytes of the file.
    pub(crate) fn read(&self, start: u64, length: usize) -> Result<Vec<u8>> {
        read_at(&self.file, &self.path, start, length)
    }

    /// Reads the whole file, and compares it with its checksum.
    pub(crate) fn verify(&self) -> Result<()> {
        let (start, length) = self.column(CHECKSUM, Dtype::U8)?;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(Error::io("read", &self.path))?;
        let (mut rest, mut hash, mut buffer) = (file.take(start), Sha256::new(), vec![0; 1 << 20]);
        loop {
            match rest.read(&mut buffer).map_err(Error::io("read", &self.path))? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
        if self.read(start, length as usize)? == hash.finalize().as_slice() {
            return Ok(());
        }
        Err(self.broken("it is damaged: its checksum does not fit"))
    }

    pub(crate) fn broken(&self, problem: impl Into<String>) -> Error {
        Error::file(&self.path, problem, REMEDY)
    }
}

fn read_at(file: &File, path: &Path, start: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, start).map_err(Error::io("read", path))?;
    Ok(bytes)
}
