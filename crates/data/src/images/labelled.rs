use super::{folder, idx, table};
use crate::error::{Error, Place, Result};
use crate::fingerprint::Fingerprint;
use image::{DynamicImage, GrayImage};
use std::path::{Path, PathBuf};

/// Images and their classes. Those of a folder are decoded when they are asked for.
#[derive(Debug)]
pub struct LabelledImages {
    content: Content,
    classes: Vec<u32>,
    labels: Vec<String>,
    fingerprint: String,
}

/// Where the images are.
#[derive(Debug)]
enum Content {
    Files(Vec<PathBuf>),
    /// Grey ones of one size, one after the other.
    Idx {
        path: PathBuf,
        size: [u32; 2],
        pixels: Vec<u8>,
    },
    /// As a table holds them: image files.
    Table {
        path: PathBuf,
        files: Vec<Vec<u8>>,
    },
}

/// The columns of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageKeys {
    /// That of the image: its file's bytes, alone or with its path.
    pub image: String,
    /// That of the class.
    pub label: String,
}

impl Default for ImageKeys {
    fn default() -> Self {
        Self { image: "image".into(), label: "label".into() }
    }
}

impl LabelledImages {
    /// Opens a folder with a folder of images for each class, which is called like it; or the
    /// images file of a pair of IDX files (`train-images-idx3-ubyte`, with
    /// `train-labels-idx1-ubyte` next to it), either of which may end in `.gz`; or a `.parquet`
    /// file with columns of the names `keys`. The classes are `labels` where they are given, else
    /// the folders' names in their order, those that a Parquet file names, or those that occur.
    ///
    /// # Errors
    /// If a file cannot be read or is cut off, or a class is not among `labels`, with its place.
    pub fn open(path: &Path, keys: &ImageKeys, labels: Option<&[String]>) -> Result<Self> {
        let facts = std::fs::metadata(path).map_err(Error::io("open", path))?;
        let mut fingerprint = Fingerprint::new("images");
        let (content, classes, labels) = if facts.is_dir() {
            let found = folder::read(path, labels)?;
            fingerprint.add_all(found.files.iter().map(|file| {
                file.strip_prefix(path).unwrap_or(file).to_string_lossy().into_owned()
            }));
            (Content::Files(found.files), found.classes, found.labels)
        } else if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet")) {
            let table::Found { files, classes, labels } = table::read(path, keys, labels)?;
            fingerprint.add_all(files.iter());
            fingerprint.add_all(classes.iter().map(|class| class.to_le_bytes()));
            (Content::Table { path: path.to_owned(), files }, classes, labels)
        } else {
            let idx::Pair { size, pixels, classes, largest } = idx::read(path)?;
            fingerprint.add(&pixels);
            fingerprint.add(&classes);
            let labels = match labels {
                Some(labels) => labels.to_vec(),
                None => (0..=largest).map(|number| number.to_string()).collect(),
            };
            if usize::from(largest) >= labels.len() && !classes.is_empty() {
                let index = classes.iter().position(|class| *class == largest).unwrap_or(0);
                let problem = format!(
                    "image {index} is of class {largest}, and there are {} labels",
                    labels.len()
                );
                return Err(Error::file(
                    path,
                    problem,
                    "name all the classes as labels, in the order of their numbers",
                ));
            }
            (
                Content::Idx { path: path.to_owned(), size, pixels },
                classes.into_iter().map(u32::from).collect(),
                labels,
            )
        };
        fingerprint.add_all(labels.iter());
        Ok(Self { content, classes, labels, fingerprint: fingerprint.finish() })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// The number of an image's class.
    pub fn class(&self, index: usize) -> u32 {
        self.classes[index]
    }

    /// The names of the classes, in the order of their numbers.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// A hash of what is there, and of the labels; of files in folders, of their names.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// An image.
    ///
    /// # Errors
    /// If it cannot be read, with the name of its file.
    pub fn image(&self, index: usize) -> Result<DynamicImage> {
        match &self.content {
            Content::Files(files) => folder::decode(&files[index]),
            Content::Table { path, files } => {
                folder::decoded(&files[index]).map_err(|problem| Error::Record {
                    place: Place { path: path.clone(), line: index + 1 },
                    problem,
                    remedy: folder::REMEDY.into(),
                })
            }
            Content::Idx { path, size: [height, width], pixels } => {
                let bytes = *height as usize * *width as usize;
                let image =
                    GrayImage::from_raw(*width, *height, pixels[index * bytes..][..bytes].to_vec());
                image
                    .map(DynamicImage::ImageLuma8)
                    .ok_or_else(|| Error::file(path, "its images have no pixels", "fetch it again"))
            }
        }
    }

    /// An image that can be read, and cannot be used.
    pub(super) fn unfit(&self, index: usize, problem: String) -> Error {
        let remedy = "remove it, or let the processor resize";
        match &self.content {
            Content::Files(files) => Error::file(&files[index], problem, remedy),
            Content::Table { path, .. } => Error::Record {
                place: Place { path: path.clone(), line: index + 1 },
                problem,
                remedy: remedy.into(),
            },
            Content::Idx { path, .. } => {
                Error::file(path, format!("image {index}: {problem}"), remedy)
            }
        }
    }
}
