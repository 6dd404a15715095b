//! IDX files, as MNIST and Fashion-MNIST are: a magic number that says type and dimensions, the
//! sizes, the bytes.

use crate::error::{Error, Result};
use crate::file;
use flate2::read::GzDecoder;
use std::io::{BufReader, Read};
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
    let (file, content) = files::open_told(path).map_err(file::error(path))?;
    let is_compressed = content == files::Content::Gzip;
    let mut bytes: Box<dyn Read> =
        if is_compressed { Box::new(GzDecoder::new(BufReader::new(file))) } else { Box::new(file) };
    let unreadable = |why: std::io::Error| {
        if is_compressed {
            let problem = format!("it is compressed, and cannot be unpacked ({why})");
            Error::file(path, problem, "fetch it again")
        } else {
            Error::io("read", path)(why)
        }
    };
    let mut header = Vec::new();
    bytes.by_ref().take(4 + 4 * D as u64).read_to_end(&mut header).map_err(unreadable)?;
    if header.len() < 4 + 4 * D || header[..4] != [0, 0, 8, D as u8] {
        let problem = format!("it is no IDX file of bytes in {D} dimensions");
        return Err(Error::file(
            path,
            problem,
            "give the images file of MNIST's kind, or a folder with a folder of images for each class",
        ));
    }
    let mut sizes = [0; D];
    for (size, bytes) in sizes.iter_mut().zip(header[4..].as_chunks::<4>().0) {
        *size = u32::from_be_bytes(*bytes);
    }
    let expected = sizes.iter().fold(1_u64, |product, size| product.saturating_mul((*size).into()));
    if expected > LARGEST {
        let problem =
            format!("it says that it holds {expected} bytes, and at most {LARGEST} are read");
        return Err(Error::file(path, problem, "fetch it again, or save the images as Parquet"));
    }
    // No more than it says, whatever it may become when it is unpacked.
    let mut array = Vec::new();
    bytes.take(expected + 1).read_to_end(&mut array).map_err(unreadable)?;
    if array.len() as u64 != expected {
        let holds = match array.len() as u64 {
            more if more > expected => "more".to_owned(),
            bytes => bytes.to_string(),
        };
        let problem = format!("it says that it holds {expected} bytes, and holds {holds}");
        return Err(Error::file(path, problem, "fetch it again"));
    }
    Ok((sizes, array))
}

/// Bytes of an array: 2 GiB, four times those of the largest data set of this kind (EMNIST).
const LARGEST: u64 = 2 << 30;
