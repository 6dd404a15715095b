//! Two columns of a Parquet file, as Hugging Face's datasets write them.

use crate::error::{Error, Place, Result};
use crate::record::Fault;
use parquet::errors::ParquetError;
use parquet::file::metadata::FileMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use serde_json::Value;
use std::fs::File;
use std::path::Path;

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
    let broken = |why: ParquetError| {
        Error::file(path, format!("it is no whole Parquet file ({})", why.to_string().replace('\n', " ")), "write or fetch it again")
    };
    let reader = SerializedFileReader::new(File::open(path).map_err(Error::io("open", path))?).map_err(broken)?;
    let facts = reader.metadata().file_metadata().clone();
    let schema = facts.schema();
    for column in columns {
        if !schema.get_fields().iter().any(|field| field.name() == column) {
            let names = schema.get_fields().iter().map(|field| field.name()).collect::<Vec<_>>().join(", ");
            return Err(Error::file(path, format!("it has no column `{column}`, but {names}"), "give the names of its columns"));
        }
    }
    let chosen = schema.get_fields().iter().filter(|field| columns.contains(&field.name())).cloned().collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(chosen).build().map_err(broken)?;
    let rows = RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(broken)?;
    for (index, found) in rows.enumerate() {
        let mut found = found.map_err(broken)?.into_columns();
        let taken = columns.map(|column| {
            let place = found.iter().position(|(name, _)| name == column);
            place.map_or(Field::Null, |place| found.swap_remove(place).1)
        });
        row(index + 1, taken).map_err(|Fault { problem, remedy }| Error::Record {
            place: Place { path: path.to_owned(), line: index + 1 },
            problem,
            remedy,
        })?;
    }
    Ok(class_names(&facts, columns[1]))
}

/// `ClassLabel` of Hugging Face's datasets.
fn class_names(facts: &FileMetaData, column: &str) -> Option<Vec<String>> {
    let entry = facts.key_value_metadata()?.iter().find(|entry| entry.key == "huggingface")?;
    let described: Value = serde_json::from_str(entry.value.as_deref()?).ok()?;
    let names = described["info"]["features"][column]["names"].as_array()?;
    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}
