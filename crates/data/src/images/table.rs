//! A Parquet file with the bytes of image files, as Hugging Face's datasets write them.

use super::folder;
use super::labelled::ImageKeys;
use crate::error::{Place, Result};
use crate::label::{self, Label};
use crate::parquet_rows;
use crate::record::fault;
use parquet::record::Field;
use std::path::Path;

pub(super) struct Found {
    /// The bytes of image files.
    pub files: Vec<Vec<u8>>,
    pub classes: Vec<u32>,
    pub labels: Vec<String>,
}

pub(super) fn read(path: &Path, keys: &ImageKeys, labels: Option<&[String]>) -> Result<Found> {
    let (mut files, mut found) = (Vec::new(), Vec::new());
    let named = parquet_rows::read(path, [&keys.image, &keys.label], |_, [image, label]| {
        let Some(bytes) = bytes(image) else {
            return fault(
                format!("`{}` has no bytes of an image", keys.image),
                "name a column with the bytes of image files, with or without paths",
            );
        };
        if let Err(problem) = folder::begins_as_image(&bytes) {
            return fault(problem, folder::REMEDY);
        }
        files.push(bytes);
        found.push(Label::of_field(&label, &keys.label)?);
        Ok(())
    })?;
    let labels =
        labels.map(<[String]>::to_vec).or(named).unwrap_or_else(|| label::occurring(found.iter()));
    let number = |(index, label): (usize, &Label)| {
        label.number(&labels, || Place { path: path.to_owned(), line: index + 1 })
    };
    let classes = found.iter().enumerate().map(number).collect::<Result<Vec<_>>>()?;
    Ok(Found { files, classes, labels })
}

/// Bytes alone, or `{bytes, path}`.
fn bytes(field: Field) -> Option<Vec<u8>> {
    match field {
        Field::Bytes(bytes) => Some(bytes.data().to_vec()),
        Field::Group(row) => {
            let (_, bytes) = row.into_columns().into_iter().find(|(name, _)| name == "bytes")?;
            if let Field::Bytes(bytes) = bytes { Some(bytes.data().to_vec()) } else { None }
        }
        _ => None,
    }
}
