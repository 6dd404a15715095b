//! A folder with a folder of images for each class.

use crate::error::{Error, Result};
use crate::file;
use image::{DynamicImage, ImageError, ImageReader, Limits};
use rayon::prelude::*;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

const ENDINGS: [&str; 6] = ["bmp", "gif", "jpeg", "jpg", "png", "webp"];

pub(super) struct Found {
    pub files: Vec<PathBuf>,
    /// The number of each file's class.
    pub classes: Vec<u32>,
    pub labels: Vec<String>,
}

/// The images in the folders of `path`, class after class, each in the order of their names.
pub(super) fn read(path: &Path, labels: Option<&[String]>) -> Result<Found> {
    let folders: Vec<PathBuf> = sorted(path)?.into_iter().filter(|entry| entry.is_dir()).collect();
    let name =
        |folder: &Path| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let labels: Vec<String> = match labels {
        Some(labels) => labels.to_vec(),
        None => folders.iter().map(|folder| name(folder)).collect(),
    };
    let (mut files, mut classes) = (Vec::new(), Vec::new());
    for folder in folders {
        let class = labels.iter().position(|label| *label == name(&folder)).ok_or_else(|| {
            let problem =
                format!("the folder is named after no class; there are {}", labels.join(", "));
            Error::file(&folder, problem, "rename it, or add its name to the labels")
        })?;
        let images = sorted(&folder)?.into_iter().filter(|file| is_image(file));
        let before = files.len();
        files.extend(images);
        classes.resize(classes.len() + files.len() - before, class as u32);
    }
    if files.is_empty() {
        let problem = format!(
            "it holds no images in folders that are named after classes (as {})",
            ENDINGS.join(", ")
        );
        return Err(Error::file(
            path,
            problem,
            "put the images of each class into a folder of its name, or give an IDX file",
        ));
    }
    files.par_iter().try_for_each(|file| check(file))?;
    Ok(Found { files, classes, labels })
}

/// Whether a file begins as an image does, so that one that is none is found before anything is
/// trained.
fn check(path: &Path) -> Result<()> {
    let mut beginning = Vec::new();
    files::open(path)
        .map_err(file::error(path))?
        .take(64)
        .read_to_end(&mut beginning)
        .map_err(Error::io("read", path))?;
    begins_as_image(&beginning).map_err(|problem| Error::file(path, problem, REMEDY))
}

/// What is wrong with the first bytes of a file, if it is no image.
pub(super) fn begins_as_image(bytes: &[u8]) -> std::result::Result<(), String> {
    image::guess_format(bytes).map(|_| ()).map_err(unreadable)
}

fn unreadable(why: ImageError) -> String {
    format!("it is no image that can be read ({})", why.to_string().replace('\n', " "))
}

fn is_image(file: &Path) -> bool {
    let ending = file.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    ENDINGS.contains(&ending.as_str()) && !file.is_dir()
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("open", folder))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(Error::io("open", folder))?;
    paths.sort_unstable();
    Ok(paths)
}

/// What to do about an image that cannot be read.
pub(super) const REMEDY: &str = "save it again as PNG or JPEG, or remove it";

/// Reads an image file, by what is in it, whatever it is called.
pub(super) fn decode(path: &Path) -> Result<DynamicImage> {
    let bytes = files::read_whole(path).map_err(file::error(path))?;
    decoded(&bytes).map_err(|problem| Error::file(path, problem, REMEDY))
}

/// The image in the bytes of a file, or what is wrong with them.
pub(super) fn decoded(bytes: &[u8]) -> std::result::Result<DynamicImage, String> {
    let open = || ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let of_memory = |why: std::io::Error| why.to_string();
    // Before anything is unpacked.
    let (width, height) = open().map_err(of_memory)?.into_dimensions().map_err(unreadable)?;
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(format!("it has {width} × {height} pixels, more than {MOST_PIXELS}"));
    }
    let mut reader = open().map_err(of_memory)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_PIXELS * BYTES_OF_PIXEL);
    reader.limits(limits);
    reader.decode().map_err(unreadable)
}

/// Pixels of an image; on its way to the model there are several copies of it.
const MOST_PIXELS: u64 = 50_000_000;
/// Red, green, blue and alpha of two bytes.
const BYTES_OF_PIXEL: u64 = 8;
