//! What can be wrong with a model, a checkpoint or an adapter that a user gives.

use std::path::{Path, PathBuf};

/// A fault in the user's files or options. Every message says what happened, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that must be there is not.
    #[error("missing file {}; {remedy}", path.display())]
    MissingFile {
        /// Where the file was looked for.
        path: PathBuf,
        /// What the user can do about it.
        remedy: String,
    },
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: `open`, `read`, `write`, …
        action: &'static str,
        /// The system's own reason.
        source: std::io::Error,
    },
    /// A path that is neither a Hugging Face directory nor a GGUF file.
    #[error("{} is not a model: {why}; give a directory with config.json and model.safetensors, or a .gguf file", path.display())]
    NotAModel {
        /// The path given.
        path: PathBuf,
        /// What was found instead.
        why: String,
    },
    /// An architecture this crate does not implement.
    #[error("model_type {model_type:?} in {} is not supported; supported: {}", file.display(), supported.join(", "))]
    UnsupportedModel {
        /// `model_type` of `config.json`, or `general.architecture` of a GGUF file.
        model_type: String,
        /// The file that says so.
        file: PathBuf,
        /// The names that are accepted.
        supported: &'static [&'static str],
    },
    /// An option of a known architecture or adapter that changes the mathematics and is not
    /// implemented.
    #[error("{option} = {value} in {} is not supported; supported: {supported}", file.display())]
    UnsupportedOption {
        /// The file that sets it.
        file: PathBuf,
        /// The option's own name.
        option: String,
        /// The value given, as JSON.
        value: String,
        /// The values that are accepted.
        supported: String,
    },
    /// A model that is not for what it is wanted for.
    #[error("model_type {model_type:?} in {} cannot {wanted}; it can {given}: choose another model, or another task", file.display())]
    Task {
        /// Its name.
        model_type: String,
        /// The file or folder that says so.
        file: PathBuf,
        /// What it should do.
        wanted: &'static str,
        /// What it does.
        given: &'static str,
    },
    /// A configuration value that is absent, of the wrong type, or impossible.
    #[error("{key} in {} is not valid: {why}; correct it, or fetch the file again", file.display())]
    InvalidConfig {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A tensor that the model needs is not in the checkpoint.
    #[error("tensor {tensor} is missing from {}; fetch the checkpoint again, or check that config.json belongs to it", file.display())]
    MissingTensor {
        /// The tensor's name.
        tensor: String,
        /// The checkpoint.
        file: PathBuf,
    },
    /// A tensor that the model does not know.
    #[error("{} holds {tensor}, which this model has no place for; check that the configuration belongs to it", file.display())]
    UnexpectedTensor {
        /// The tensor's name.
        tensor: String,
        /// The file or checkpoint that holds it.
        file: PathBuf,
    },
    /// A tensor of another shape than the configuration says.
    #[error("{tensor} in {} has shape {got:?}, expected {expected:?}; check that the configuration belongs to it", file.display())]
    Shape {
        /// The tensor's name.
        tensor: String,
        /// The file or checkpoint that holds it.
        file: PathBuf,
        /// The shape that the configuration asks for.
        expected: Vec<i64>,
        /// The shape found.
        got: Vec<i64>,
    },
    /// A tensor stored in a number format that cannot be used.
    #[error("{tensor} in {} is stored as {got}, expected {expected}; convert the file", file.display())]
    Dtype {
        /// The tensor's name.
        tensor: String,
        /// The file that holds it.
        file: PathBuf,
        /// The formats that are accepted.
        expected: &'static str,
        /// The format found.
        got: String,
    },
    /// A file that is truncated, damaged, or in a version of its format that cannot be read.
    #[error("{} cannot be read: {why}; it may be truncated or damaged: fetch it again", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What does not add up.
        why: String,
    },
    /// A file that is something else than its name says: a pointer, a web page, an archive, a
    /// device.
    #[error("{} is {what}; {remedy}", file.display())]
    WrongFile {
        /// The file.
        file: PathBuf,
        /// What it is.
        what: &'static str,
        /// What the user can do about it.
        remedy: &'static str,
    },
    /// An adapter whose configuration and weights do not agree.
    #[error("the adapter {} is not usable: {why}", path.display())]
    Adapter {
        /// The adapter's directory.
        path: PathBuf,
        /// What does not agree, and what to do.
        why: String,
    },
    /// libtorch refused an operation on a tensor being read or written (most often: no memory).
    #[error("libtorch refused {tensor} of {}: {source}", file.display())]
    Torch {
        /// The tensor's name.
        tensor: String,
        /// The file it comes from or goes to.
        file: PathBuf,
        /// libtorch's own message.
        source: tch::TchError,
    },
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<files::Unwritten> for Error {
    fn from(files::Unwritten { path, action, source }: files::Unwritten) -> Self {
        Self::Io { path, action, source }
    }
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, action, source }
    }

    pub(crate) fn corrupt(file: &Path, why: impl Into<String>) -> Error {
        Error::Corrupt { file: file.to_owned(), why: why.into() }
    }

    pub(crate) fn torch(tensor: &str, file: &Path) -> impl FnOnce(tch::TchError) -> Error {
        let (tensor, file) = (tensor.to_owned(), file.to_owned());
        move |source| Error::Torch { tensor, file, source }
    }
}
