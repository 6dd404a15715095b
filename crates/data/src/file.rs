//! Files opened as what they are.

use std::path::Path;

use crate::error::{Error, Result};

/// Why a file was not opened, as an error of this crate.
pub(crate) fn error(path: &Path) -> impl FnOnce(files::Error) -> Error {
    move |why| match why {
        files::Error::Io(why) => Error::io("open", path)(why),
        files::Error::Refused(refusal) => {
            Error::file(path, format!("it is {}", refusal.what), refusal.remedy)
        }
    }
}

/// Reads a whole file, unless it is something that stands in its place.
///
/// # Errors
/// If it cannot be read, or is no regular file, or a pointer, a web page, an archive.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    files::read(path).map_err(error(path))
}
