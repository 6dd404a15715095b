//! Columns of a Parquet file, as Hugging Face's datasets write them.

use crate::error::{Error, Place, Result};
use crate::record::Fault;
use parquet::errors::ParquetError;
use parquet::file::metadata::FileMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};

/// An open table, of some of its columns.
pub(crate) struct ParquetRows {
    path: PathBuf,
    rows: RowIter<'static>,
    facts: FileMetaData,
}

impl ParquetRows {
    /// Opens those of `columns` that a file has.
    ///
    /// # Errors
    /// If the file is broken.
    pub(crate) fn open(path: &Path, columns: &[&str]) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let reader = SerializedFileReader::new(file).map_err(|why| broken(path, &why))?;
        let facts = reader.metadata().file_metadata().clone();
        let schema = facts.schema();
        let chosen = schema.get_fields().iter().filter(|field| columns.contains(&field.name())).cloned().collect();
        let projection = Type::group_type_builder(schema.name()).with_fields(chosen).build().map_err(|why| broken(path, &why))?;
        let rows = RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(|why| broken(path, &why))?;
        Ok(Self { path: path.to_owned(), rows, facts })
    }

    /// The names of all columns.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.facts.schema().get_fields().iter().map(|field| field.name()).collect()
    }

    /// The number of rows.
    pub(crate) fn count(&self) -> u64 {
        self.facts.num_rows().try_into().unwrap_or(0)
    }

    /// The next row, unless there is none.
    ///
    /// # Errors
    /// If the file is broken there.
    pub(crate) fn next(&mut self) -> Result<Option<Row>> {
        self.rows.next().transpose().map_err(|why| broken(&self.path, &why))
    }
}

fn broken(path: &Path, why: &ParquetError) -> Error {
    Error::file(path, format!("it is no whole Parquet file ({})", why.to_string().replace('\n', " ")), "write or fetch it again")
}

/// Gives `row` each row: its number, from 1, and what it has in the two `columns`. The result is the names of the classes of the second, if the file has
/// them.
///
/// # Errors
/// If the file is broken or has no such columns, or at the first row that `row` refuses, with its number as the line.
pub(crate) fn read(
    path: &Path,
    columns: [&str; 2],
    mut row: impl FnMut(usize, [Field; 2]) -> std::result::Result<(), Fault>,
) -> Result<Option<Vec<String>>> {
    let mut rows = ParquetRows::open(path, &columns)?;
    let names = rows.names();
    if let Some(column) = columns.iter().find(|column| !names.contains(column)) {
        return Err(Error::file(path, format!("it has no column `{column}`, but {}", names.join(", ")), "give the names of its columns"));
    }
    let mut number = 0;
    while let Some(found) = rows.next()? {
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

/// `ClassLabel` of Hugging Face's datasets.
fn class_names(facts: &FileMetaData, column: &str) -> Option<Vec<String>> {
    let entry = facts.key_value_metadata()?.iter().find(|entry| entry.key == "huggingface")?;
    let described: Value = serde_json::from_str(entry.value.as_deref()?).ok()?;
    let names = described["info"]["features"][column]["names"].as_array()?;
    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}
