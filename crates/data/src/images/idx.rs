//! IDX files, as MNIST and Fashion-MNIST are: a magic number that says type and dimensions, the
//! sizes, the bytes.

use crate::error::{Error, Result};
use flate2::read::GzDecoder;
use std::io::Read;
use std::path::{Path, PathBuf};

pub(super) struct Pair {
    /// Height and width.
    pub size: [u32; 2],
    pub pixels: Vec<u8>,
    pub classes: Vec<u8>,
    pub largest: u8,
}

/// Reads grey images, and the classes from the file next to theirs.
pub(super) fn read(path: &Path) -> Result<Pair> {
    let ([count, height, width], pixels) = array::<3>(path)?;
    let labels = labels_next_to(path)?;
    let ([labelled], classes) = array::<1>(&labels)?;
    if labelled != count {
        let problem =
            format!("it holds {labelled} labels, and {} holds {count} images", path.display());
        return Err(Error::file(&labels, problem, "fetch both files again, from one place"));
    }
    let largest = classes.iter().max().copied().unwrap_or(0);
    Ok(Pair { size: [height, width], pixels, classes, largest })
}

/// `…images-idx3…` → `…labels-idx1…`, compressed or not.
fn labels_next_to(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let labels = name.replace("images", "labels").replace("idx3", "idx1");
    let plain = labels.strip_suffix(".gz").unwrap_or(&labels);
    let found = [plain.to_owned(), format!("{plain}.gz")]
        .into_iter()
        .map(|name| path.with_file_name(name))
        .find(|file| file.exists());
    found.filter(|file| file != path).ok_or_else(|| {
        let problem = format!("there is no {plain} with the classes of its images next to it");
        Error::file(
            path,
            problem,
            "give an images file such as train-images-idx3-ubyte, with train-labels-idx1-ubyte next to it, or a folder",
        )
    })
}

/// The sizes and bytes of an array of `D` dimensions.
fn array<const D: usize>(path: &Path) -> Result<([u32; D], Vec<u8>)> {
    let mut bytes = std::fs::read(path).map_err(Error::io("open", path))?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).map_err(|why| {
            Error::file(
                path,
                format!("it is compressed, and cannot be unpacked ({why})"),
                "fetch it again",
            )
        })?;
        bytes = unpacked;
    }
    let header = 4 + 4 * D;
    if bytes.len() < header || bytes[..4] != [0, 0, 8, D as u8] {
        let problem = format!("it is no IDX file of bytes in {D} dimensions");
        return Err(Error::file(
            path,
            problem,
            "give the images file of MNIST's kind, or a folder with a folder of images for each class",
        ));
    }
    let mut sizes = [0; D];
    for (size, bytes) in sizes.iter_mut().zip(bytes[4..header].as_chunks::<4>().0) {
        *size = u32::from_be_bytes(*bytes);
    }
    let expected =
        sizes.iter().fold(1_usize, |product, size| product.saturating_mul(*size as usize));
    bytes.drain(..header);
    if bytes.len() != expected {
        let problem = format!("it says that it holds {expected} bytes, and holds {}", bytes.len());
        return Err(Error::file(path, problem, "fetch it again"));
    }
    Ok((sizes, bytes))
}
