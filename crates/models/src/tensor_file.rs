//! Safetensors files, read and written as tch tensors.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;
use safetensors::{Dtype, View};
use tch::{Device, Kind, TchError, Tensor};

use crate::file_range::{self, FileRange};
use crate::{Error, Result};

/// The header's size is the first eight bytes of the file.
const LENGTH_BYTES: u64 = 8;
/// The same limit as the `safetensors` crate's: a longer header is a damaged one.
const MAX_HEADER: u64 = 100_000_000;

/// An open safetensors file. Its header is validated; tensors are read one by one, from any number
/// of threads.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    data_offset: u64,
    header: Metadata,
    shapes: HashMap<String, Vec<i64>>,
}

impl TensorFile {
    /// Opens `path` and checks that its header describes exactly the bytes that follow.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::Io`], [`Error::WrongFile`], or [`Error::Corrupt`] for a
    /// truncated or damaged file.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = crate::file::open(path)?;
        let bytes = file.metadata().map_err(Error::io(path, "read"))?.len();
        if bytes < LENGTH_BYTES {
            return Err(Error::corrupt(
                path,
                format!("{bytes} bytes are too few for a safetensors file"),
            ));
        }
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length).map_err(Error::io(path, "read"))?;
        let length = u64::from_le_bytes(length);
        let room = bytes - LENGTH_BYTES;
        if length > MAX_HEADER.min(room) {
            return Err(Error::corrupt(
                path,
                format!("it declares a header of {length} bytes and {room} follow"),
            ));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(Error::io(path, "read"))?;
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|why| Error::corrupt(path, format!("its header is not valid: {why}")))?;
        let (declared, found) = (header.data_len() as u64, room - length);
        if declared != found {
            return Err(Error::corrupt(
                path,
                format!("its tensors need {declared} bytes and {found} are there"),
            ));
        }
        let mut shapes = HashMap::new();
        for (name, info) in header.tensors() {
            let shape: std::result::Result<Vec<i64>, _> =
                info.shape.iter().map(|&n| i64::try_from(n)).collect();
            let shape =
                shape.map_err(|_| Error::corrupt(path, format!("{name} is of impossible size")))?;
            shapes.insert(name, shape);
        }
        let path = path.to_owned();
        Ok(TensorFile { path, file, bytes, data_offset: LENGTH_BYTES + length, header, shapes })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names, in the order in which the file holds them.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// The shape of `name`, if the file holds it.
    pub fn shape(&self, name: &str) -> Option<&[i64]> {
        self.shapes.get(name).map(Vec::as_slice)
    }

    /// The kind in which `name` is stored.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], or [`Error::Dtype`] if tch has no such kind.
    pub fn kind(&self, name: &str) -> Result<Kind> {
        let dtype = self.info(name)?.dtype;
        kind_of(dtype).ok_or_else(|| Error::Dtype {
            tensor: name.to_owned(),
            file: self.path.clone(),
            expected: "F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL",
            got: format!("{dtype:?}"),
        })
    }

    /// The text that the writer attached (`{"format": "pt"}` for files of PyTorch).
    pub fn metadata(&self) -> Option<&HashMap<String, String>> {
        self.header.metadata().as_ref()
    }

    /// The size of the whole file, header included.
    pub fn bytes_on_disk(&self) -> u64 {
        self.bytes
    }

    /// Reads `name` as it is stored, on the CPU.
    ///
    /// # Errors
    /// As [`TensorFile::tensor_as`].
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.tensor_as(name, self.kind(name)?, Device::Cpu)
    }

    /// Reads `name` as `kind` on `device`: a contiguous tensor with a storage of its own.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Dtype`], [`Error::Io`], or [`Error::Torch`] (no memory on
    /// `device`).
    pub fn tensor_as(&self, name: &str, kind: Kind, device: Device) -> Result<Tensor> {
        let stored = self.kind(name)?;
        let info = self.info(name)?;
        let file_range = FileRange {
            offset: self.data_offset + info.data_offsets.0 as u64,
            block_bytes: stored.elt_size_in_bytes(),
            block_elements: 1,
        };
        let decode = |bytes: &[u8]| {
            let elements = (bytes.len() / file_range.block_bytes) as i64;
            Tensor::f_from_data_size(bytes, &[elements], stored)
                .map_err(Error::torch(name, &self.path))
        };
        file_range::read(
            &self.file,
            &self.path,
            name,
            file_range,
            &self.shapes[name],
            kind,
            device,
            decode,
        )
    }

    fn info(&self, name: &str) -> Result<&safetensors::tensor::TensorInfo> {
        self.header.info(name).ok_or_else(|| Error::MissingTensor {
            tensor: name.to_owned(),
            file: self.path.clone(),
        })
    }
}

/// Reads every tensor of the safetensors file `path` as it is stored, in the file's order, on the
/// CPU.
///
/// # Errors
/// As [`TensorFile::open`] and [`TensorFile::tensor`].
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = TensorFile::open(path)?;
    file.names().into_iter().map(|name| file.tensor(&name).map(|tensor| (name, tensor))).collect()
}

/// Writes `tensors` to the safetensors file `path`: aside, synced, then renamed, so that it is
/// whole or absent. Tensors may lie on any device and need not be contiguous; one at a time is
/// copied.
///
/// # Errors
/// [`Error::Io`], [`Error::Dtype`] for a kind that safetensors lacks, or [`Error::Torch`].
pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &[(&str, &str)]) -> Result<()> {
    let fault = RefCell::new(None);
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let kind = tensor.f_kind().map_err(Error::torch(name, path))?;
        let dtype = dtype_of(kind).ok_or_else(|| Error::Dtype {
            tensor: name.clone(),
            file: path.to_owned(),
            expected: "Double, Float, Half, BFloat16, Int64, Int, Int16, Int8, Uint8 or Bool",
            got: format!("{kind:?}"),
        })?;
        let shape = tensor.size().iter().map(|&n| n as usize).collect();
        views.push((name.as_str(), OnDisk { name, tensor, dtype, shape, fault: &fault }));
    }
    let metadata = (!metadata.is_empty())
        .then(|| metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect());
    files::replace(path, |aside| {
        safetensors::serialize_to_file(views, metadata, aside).map_err(|why| match why {
            safetensors::SafeTensorError::IoError(source) => {
                Error::Io { path: path.to_owned(), action: "write", source }
            }
            why => Error::Io {
                path: path.to_owned(),
                action: "write",
                source: std::io::Error::other(why),
            },
        })?;
        match fault.take() {
            None => Ok(()),
            Some((name, source)) => {
                Err(Error::Torch { tensor: name, file: path.to_owned(), source })
            }
        }
    })
}

/// A tensor as `safetensors` wants to see it. [`View::data`] cannot fail, so that a fault (a device
/// that is gone) is put down here, and the file is thrown away.
struct OnDisk<'a> {
    name: &'a str,
    tensor: &'a Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
    fault: &'a RefCell<Option<(String, TchError)>>,
}

impl View for OnDisk<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; self.data_len()];
        if let Err(source) = self.tensor.f_copy_data_u8(&mut bytes, self.tensor.numel()) {
            self.fault.borrow_mut().get_or_insert((self.name.to_owned(), source));
        }
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

/// The pairs of one number format and its two names.
const KINDS: [(Dtype, Kind); 10] = [
    (Dtype::F64, Kind::Double),
    (Dtype::F32, Kind::Float),
    (Dtype::F16, Kind::Half),
    (Dtype::BF16, Kind::BFloat16),
    (Dtype::I64, Kind::Int64),
    (Dtype::I32, Kind::Int),
    (Dtype::I16, Kind::Int16),
    (Dtype::I8, Kind::Int8),
    (Dtype::U8, Kind::Uint8),
    (Dtype::BOOL, Kind::Bool),
];

fn kind_of(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(d, _)| *d == dtype).map(|&(_, kind)| kind)
}

fn dtype_of(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(_, k)| *k == kind).map(|&(dtype, _)| dtype)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pairs() -> Vec<(String, Tensor)> {
        KINDS
            .iter()
            .map(|&(_, kind)| {
                let tensor =
                    Tensor::from_slice(&[0i64, 1, 1, 0, 1, 0]).reshape([2, 3]).to_kind(kind);
                (format!("{kind:?}"), tensor)
            })
            .collect()
    }

    #[test]
    fn every_kind_survives_the_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let mut tensors = pairs();
        tensors.push(("empty".into(), Tensor::zeros([0, 4], (Kind::Float, Device::Cpu))));
        tensors.push(("scalar".into(), Tensor::from(2.5f32)));
        // Columns of a larger matrix: neither contiguous nor at the start of their storage.
        tensors.push((
            "strided".into(),
            Tensor::arange(12, (Kind::Int64, Device::Cpu)).view([3, 4]).narrow(1, 1, 2),
        ));
        write(&path, &tensors, &[("format", "pt")]).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.metadata().unwrap()["format"], "pt");
        assert_eq!(file.bytes_on_disk(), std::fs::metadata(&path).unwrap().len());
        let back = read(&path).unwrap();
        assert_eq!(back.len(), tensors.len());
        for (name, tensor) in &tensors {
            let (_, got) = back.iter().find(|(n, _)| n == name).unwrap();
            assert_eq!((got.kind(), got.size()), (tensor.kind(), tensor.size()), "{name}");
            assert_eq!(file.shape(name).unwrap(), tensor.size(), "{name}");
            assert!(got.equal(tensor), "{name}");
        }
    }

    #[test]
    fn a_tensor_larger_than_a_piece_is_read_whole_and_converted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large.safetensors");
        // 3 million int32: 12 MB, three pieces, the last one partial.
        let large = Tensor::arange(3_000_000, (Kind::Int, Device::Cpu)).view([3, 1_000_000]);
        write(&path, &[("x".into(), large.shallow_clone())], &[]).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert!(file.metadata().is_none());
        assert!(
            file.tensor_as("x", Kind::Double, Device::Cpu)
                .unwrap()
                .equal(&large.to_kind(Kind::Double))
        );
    }

    #[test]
    fn a_file_cut_short_anywhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        write(&path, &pairs(), &[]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let refused = TensorFile::open(&path).unwrap_err();
            assert!(
                matches!(&refused, Error::Corrupt { file, .. } if *file == path),
                "{length}: {refused}"
            );
        }
        // Trailing bytes mean that the header does not belong to the data.
        std::fs::write(&path, [whole.as_slice(), &[0]].concat()).unwrap();
        assert!(matches!(TensorFile::open(&path), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_damaged_header_is_refused_or_harmless_and_never_panics() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        write(&path, &pairs(), &[]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        for at in 0..header {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x15;
            std::fs::write(&path, &damaged).unwrap();
            // A changed letter of a name or a dtype of the same width is still a valid file.
            let _ = read(&path);
        }
        for length in [u64::MAX, u64::MAX - 8, MAX_HEADER + 1, whole.len() as u64] {
            let mut damaged = whole.clone();
            damaged[..8].copy_from_slice(&length.to_le_bytes());
            std::fs::write(&path, &damaged).unwrap();
            assert!(matches!(TensorFile::open(&path), Err(Error::Corrupt { .. })), "{length}");
        }
    }

    #[test]
    fn what_is_absent_or_not_a_tch_kind_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        assert!(matches!(TensorFile::open(&path), Err(Error::MissingFile { .. })));
        let header = r#"{"x":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0, 0]].concat();
        std::fs::write(&path, bytes).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert!(
            matches!(file.tensor("y"), Err(Error::MissingTensor { tensor, .. }) if tensor == "y")
        );
        assert!(matches!(file.tensor("x"), Err(Error::Dtype { got, .. }) if got == "F8_E4M3"));
    }
}
