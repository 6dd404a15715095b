//! Columns of a Parquet file, as Hugging Face's datasets write them.

use crate::error::{Error, Place, Result};
use crate::file;
use crate::guard::guarded;
use crate::json;
use crate::label;
use crate::page_guard::GuardedFile;
use crate::record::Fault;
use crate::records::{Content, Raw, Rows};
use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, ParquetMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// An open table, of some of its columns.
pub(crate) struct ParquetRows {
    path: PathBuf,
    rows: RowIter<'static>,
    facts: FileMetaData,
    unread: Vec<String>,
    size: u64,
    /// How many rows were read.
    done: u64,
}

impl ParquetRows {
    /// Opens those of `columns` that a file has.
    ///
    /// # Errors
    /// If the file is broken, is none, or is compressed or encrypted in a way that is not read.
    pub(crate) fn open(path: &Path, columns: &[&str]) -> Result<Self> {
        let (mut file, content) = files::open_told(path).map_err(file::error(path))?;
        match content {
            files::Content::Parquet | files::Content::Unknown => {}
            other => {
                let what = other.name().unwrap_or("something else");
                let remedy = match other {
                    files::Content::EncryptedParquet => "write it without encryption",
                    other => other
                        .refusal()
                        .map_or("name it by what it is, or unpack it", |refusal| refusal.remedy),
                };
                return Err(Error::file(
                    path,
                    format!("it is {what}, and no plain Parquet file"),
                    remedy,
                ));
            }
        }
        let size = file.metadata().map_err(Error::io("open", path))?.len();
        let footer = check_end(path, &mut file, size)?;
        let reader = guarded(|| SerializedFileReader::new(GuardedFile::new(file)))
            .map_err(|why| broken(path, &why))?;
        check_chunks(path, reader.metadata(), columns, footer)?;
        let facts = reader.metadata().file_metadata().clone();
        let schema = facts.schema();
        let (chosen, others): (Vec<_>, Vec<_>) =
            schema.get_fields().iter().cloned().partition(|field| columns.contains(&field.name()));
        let unread = others.iter().map(|field| field.name().to_owned()).collect();
        let rows = guarded(|| {
            let projection = Type::group_type_builder(schema.name()).with_fields(chosen).build()?;
            RowIter::from_file_into(Box::new(reader)).project(Some(projection))
        });
        let rows = rows.map_err(|why| broken(path, &why))?;
        Ok(Self { path: path.to_owned(), rows, facts, unread, size, done: 0 })
    }

    /// The names of all columns.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.facts.schema().get_fields().iter().map(|field| field.name()).collect()
    }

    /// Goes over the next `count` rows.
    ///
    /// # Errors
    /// If the file is broken there.
    pub(crate) fn skip(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.next_row()?;
        }
        Ok(())
    }

    /// The next row, unless there is none.
    ///
    /// # Errors
    /// If the file is broken there.
    fn next_row(&mut self) -> Result<Option<Row>> {
        let row =
            guarded(|| self.rows.next().transpose()).map_err(|why| broken(&self.path, &why))?;
        self.done += u64::from(row.is_some());
        Ok(row)
    }
}

impl Rows for ParquetRows {
    fn next(&mut self) -> Result<Option<Raw>> {
        let Some(row) = self.next_row()? else { return Ok(None) };
        let fields = row.into_columns().into_iter().map(|(name, field)| Ok((name, value(field)?)));
        let fields = fields
            .filter(|field| !matches!(field, Ok((_, Value::Null))))
            .collect::<Result<_, Fault>>();
        Ok(Some(Raw::new(self.done, fields.map_or_else(Content::Bad, Content::Row))))
    }

    fn bytes_read(&self) -> u64 {
        let rows = self.facts.num_rows().max(1);
        (self.size as f64 * self.done as f64 / rows as f64) as u64
    }

    fn unread_columns(&self) -> Vec<String> {
        self.unread.clone()
    }
}

/// A value as JSON. Bytes are text: writers of old leave out that they are.
fn value(field: Field) -> std::result::Result<Value, Fault> {
    Ok(match field {
        Field::Str(text) => Value::String(text),
        Field::Bytes(bytes) => Value::from(json::utf8(bytes.data())?),
        Field::Group(row) => {
            let fields =
                row.into_columns().into_iter().map(|(name, field)| Ok((name, value(field)?)));
            fields.collect::<std::result::Result<serde_json::Map<_, _>, Fault>>()?.into()
        }
        Field::ListInternal(list) => {
            let elements = list.elements().iter().map(|field| value(field.clone()));
            elements.collect::<std::result::Result<Vec<_>, Fault>>()?.into()
        }
        other => other.to_json_value(),
    })
}

/// A whole file ends with its footer, the length of that, and a mark: where the footer begins.
fn check_end(path: &Path, file: &mut File, size: u64) -> Result<u64> {
    let mut tail = [0; 8];
    if size >= 12 {
        let end = file
            .seek(SeekFrom::End(-8))
            .and_then(|_| file.read_exact(&mut tail))
            .and_then(|()| file.rewind());
        end.map_err(Error::io("read", path))?;
    }
    let [a, b, c, d, mark @ ..] = tail;
    match &mark {
        b"PAR1" => Ok((size - 8).saturating_sub(u32::from_le_bytes([a, b, c, d]).into())),
        b"PARE" => {
            Err(Error::file(path, "it is an encrypted Parquet file", "write it without encryption"))
        }
        _ => Err(Error::file(
            path,
            "it is no whole Parquet file (its end is missing, where the footer stands)",
            "it may be truncated: write or fetch it again",
        )),
    }
}

/// The chunks of the columns must lie before the footer, in a codec that is read.
fn check_chunks(
    path: &Path,
    metadata: &ParquetMetaData,
    columns: &[&str],
    footer: u64,
) -> Result<()> {
    let chunks = metadata.row_groups().iter().flat_map(|group| group.columns());
    for chunk in chunks.filter(|chunk| {
        chunk.column_path().parts().first().is_some_and(|name| columns.contains(&name.as_str()))
    }) {
        if let Some(other) = chunk.file_path() {
            let problem = format!(
                "it is the index of other files ({other}, ...), and has no rows of its own"
            );
            return Err(Error::file(path, problem, "give the files that it names"));
        }
        if chunk.compression() == Compression::LZO {
            return Err(Error::file(
                path,
                "it is compressed with LZO, which is not read",
                "write it with zstd or snappy",
            ));
        }
        if end(chunk).is_none_or(|end| end > footer) {
            let problem = "it is no whole Parquet file (its footer names rows that are not there)";
            return Err(Error::file(path, problem, "it may be cut off: write or fetch it again"));
        }
    }
    Ok(())
}

/// Where the bytes of a chunk end.
fn end(chunk: &ColumnChunkMetaData) -> Option<u64> {
    let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
    u64::try_from(start).ok()?.checked_add(chunk.compressed_size().try_into().ok()?)
}

fn broken(path: &Path, why: &str) -> Error {
    Error::file(path, format!("it is no whole Parquet file ({why})"), "write or fetch it again")
}

/// Gives `row` each row: its number, from 1, and what it has in the two `columns`. The result is
/// the names of the classes of the second, if the file has them.
///
/// # Errors
/// If the file is broken or has no such columns, or at the first row that `row` refuses, with its
/// number as the line.
pub(crate) fn read(
    path: &Path,
    columns: [&str; 2],
    mut row: impl FnMut(usize, [Field; 2]) -> std::result::Result<(), Fault>,
) -> Result<Option<Vec<String>>> {
    let mut rows = ParquetRows::open(path, &columns)?;
    let names = rows.names();
    if let Some(column) = columns.iter().find(|column| !names.contains(column)) {
        return Err(Error::file(
            path,
            format!("it has no column `{column}`, but {}", names.join(", ")),
            "give the names of its columns",
        ));
    }
    let mut number = 0;
    while let Some(found) = rows.next_row()? {
        number += 1;
        let mut found = found.into_columns();
        let taken = columns.map(|column| {
            let place = found.iter().position(|(name, _)| name == column);
            place.map_or(Field::Null, |place| found.swap_remove(place).1)
        });
        row(number, taken).map_err(|Fault { problem, remedy }| Error::Record {
            place: Place { path: path.to_owned(), line: number },
            problem,
            remedy,
        })?;
    }
    Ok(class_names(&rows.facts, columns[1]))
}

fn class_names(facts: &FileMetaData, column: &str) -> Option<Vec<String>> {
    let entry = facts.key_value_metadata()?.iter().find(|entry| entry.key == "huggingface")?;
    label::described(entry.value.as_deref()?, column)
}
