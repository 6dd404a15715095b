//! Files opened as what they are: a pointer, a web page or an archive in the place of a model's
//! file is called so.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;

use files::{Content, Refusal};

use crate::{Error, Result};

/// Opens a regular file of tensors.
///
/// # Errors
/// [`Error::MissingFile`], [`Error::Io`], or [`Error::WrongFile`].
pub(crate) fn open(path: &Path) -> Result<File> {
    match files::open_told(path) {
        Ok((_, Content::Wrong(refusal))) => Err(wrong(path, refusal)),
        Ok((file, _)) => Ok(file),
        Err(why) => Err(error(path, "open")(why)),
    }
}

/// Reads a text, if there is one.
///
/// # Errors
/// [`Error::Io`], [`Error::WrongFile`], or [`Error::Corrupt`] for what is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>> {
    let bytes = match files::read(path) {
        Err(files::Error::Io(why)) if why.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(error(path, "read"))?,
    };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|why| Error::corrupt(path, format!("it is not UTF-8 ({})", why.utf8_error())))
}

/// [`std::fs::read_to_string`], which says so if the file is something else.
pub(crate) fn read_to_string(path: &Path) -> io::Result<String> {
    files::read_text(path)
}

fn error(path: &Path, action: &'static str) -> impl FnOnce(files::Error) -> Error {
    move |why| match why {
        files::Error::Io(why) if why.kind() == ErrorKind::NotFound => {
            Error::MissingFile { path: path.to_owned(), remedy: "check the path".into() }
        }
        files::Error::Io(source) => Error::Io { path: path.to_owned(), action, source },
        files::Error::Refused(refusal) => wrong(path, refusal),
    }
}

fn wrong(path: &Path, Refusal { what, remedy }: Refusal) -> Error {
    Error::WrongFile { file: path.to_owned(), what, remedy }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Checkpoint, TensorFile};

    #[test]
    fn what_stands_in_the_place_of_a_file_of_a_model_is_called_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf/llama");
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        let page = "<!DOCTYPE html>\n<html><body>Sign in</body></html>";
        let utf16: Vec<u8> = "\u{feff}{\"model_type\": \"llama\"}"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        for (name, content, says) in [
            ("model.safetensors", pointer.as_bytes(), "is a pointer of Git LFS, not the file; run `git lfs pull`"),
            ("model.safetensors", page.as_bytes(), "is a web page (HTML); fetch the file itself"),
            (
                "model.safetensors",
                b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0archive/data.pkl",
                "is a pickle of PyTorch",
            ),
            ("config.json", pointer.as_bytes(), "is a pointer of Git LFS"),
            ("config.json", page.as_bytes(), "is a web page"),
            ("config.json", b"Entry not found", "is an error message of the hub"),
            ("config.json", &utf16, "is UTF-16; save the file as UTF-8"),
            ("config.json", b"{\"model_type\": \"\xFF\"}", "it is not UTF-8"),
            ("tokenizer_config.json", pointer.as_bytes(), "is a pointer of Git LFS"),
            ("chat_template.jinja", page.as_bytes(), "is a web page"),
        ] {
            for file in ["config.json", "model.safetensors"] {
                std::fs::copy(recorded.join(file), dir.path().join(file)).unwrap();
            }
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            let refused = Checkpoint::open(dir.path()).unwrap_err().to_string();
            assert!(refused.contains(says) && refused.contains(name), "{name}: {refused}");
            std::fs::remove_file(path).unwrap();
        }
        let gguf = dir.path().join("model.gguf");
        std::fs::write(&gguf, pointer).unwrap();
        assert!(Checkpoint::open(&gguf).unwrap_err().to_string().contains("Git LFS"));
    }

    #[test]
    #[cfg(unix)]
    fn pipes_and_devices_are_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("model.safetensors");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(TensorFile::open(&pipe).unwrap_err().to_string().contains("is a pipe"));
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("config.json")).unwrap();
        assert!(Checkpoint::open(dir.path()).unwrap_err().to_string().contains("is a device"));
    }
}
