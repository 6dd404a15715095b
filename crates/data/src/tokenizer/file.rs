//! Reading the files of a tokenizer: each is what its name says, or the message says what it is
//! instead.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// The bytes of a file; `None` where there is none.
///
/// # Errors
/// If it cannot be read, is no regular file, or is a Git LFS pointer or a web page in the place of
/// one.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match files::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(files::Error::Io(why)) if why.kind() == ErrorKind::NotFound => Ok(None),
        Err(why) => Err(crate::file::error(path)(why)),
    }
}

/// A JSON object; `Null` where there is no such file.
///
/// # Errors
/// Those of [`read`], and if it is no JSON object.
pub(super) fn read_table(path: &Path) -> Result<Value> {
    let Some(bytes) = read(path)? else { return Ok(Value::Null) };
    let remedy = "give the file that came with the model";
    match serde_json::from_slice(without_bom(&bytes)) {
        Ok(table @ Value::Object(_)) => Ok(table),
        Ok(_) => Err(Error::file(path, "it is JSON, but not an object", remedy)),
        Err(error) => Err(Error::file(path, format!("broken JSON ({error})"), remedy)),
    }
}

/// Some editors begin a file with a byte order mark.
pub(super) fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer_config.json");
        std::fs::write(&path, content).unwrap();
        read_table(&path).unwrap_err().to_string()
    }

    #[test]
    fn says_what_a_file_is_instead() {
        assert!(
            message(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
                .contains("git lfs pull")
        );
        assert!(message(b"\n<!DOCTYPE html><html>").contains("web page"));
        assert!(message(b"<HTML>").contains("web page"));
        assert!(message(b"{\"a\": ").contains("broken JSON"));
        assert!(message(b"[]").contains("not an object"));
    }

    #[test]
    fn a_missing_file_is_no_error_and_a_directory_is() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_table(&folder.path().join("no.json")).unwrap(), Value::Null);
        assert!(read(folder.path()).unwrap_err().to_string().contains("directory"));
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_not_read() {
        assert!(read("/dev/zero".as_ref()).unwrap_err().to_string().contains("device"));
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        std::fs::write(&path, "\u{feff}{}").unwrap();
        assert!(read_table(&path).unwrap().is_object());
    }
}
