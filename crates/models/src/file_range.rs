//! A tensor filled from a range of a file, a few MiB at a time.
//!
//! Positioned reads instead of a memory map: they need no `unsafe`, a file cut short under us is an
//! error and not a SIGBUS, any number of threads may read at once, and no more than one piece
//! exists in addition to the tensor itself.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// Bytes read at a time: enough to amortise the calls, little enough to stay in the cache while
/// converted.
const PIECE: usize = 4 << 20;

/// Where a tensor's bytes lie, and in which blocks of whole elements they are stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileRange {
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Bytes of one block.
    pub block_bytes: usize,
    /// Elements of one block.
    pub block_elements: usize,
}

/// Reads the tensor `name` of shape `shape` as `kind` on `device`; `decode` turns the bytes of
/// whole blocks into a one-dimensional tensor of their elements.
#[allow(clippy::too_many_arguments)]
pub(crate) fn read(
    file: &File,
    path: &Path,
    name: &str,
    file_range: FileRange,
    shape: &[i64],
    kind: Kind,
    device: Device,
    decode: impl Fn(&[u8]) -> Result<Tensor>,
) -> Result<Tensor> {
    let FileRange { offset, block_bytes, block_elements } = file_range;
    let elements = shape.iter().product::<i64>();
    let blocks = elements as usize / block_elements;
    let whole = Tensor::f_empty(shape, (kind, device)).map_err(Error::torch(name, path))?;
    // Shares the storage of `whole`, so that the pieces land in it.
    let flat = whole.f_view([elements]).map_err(Error::torch(name, path))?;
    let per_piece = (PIECE / block_bytes).max(1);
    let mut bytes = vec![0u8; per_piece.min(blocks) * block_bytes];
    let mut done = 0;
    while done < blocks {
        let now = per_piece.min(blocks - done);
        let piece = &mut bytes[..now * block_bytes];
        file.read_exact_at(piece, offset + (done * block_bytes) as u64)
            .map_err(Error::io(path, "read"))?;
        let piece = decode(piece)?;
        flat.f_narrow(0, (done * block_elements) as i64, (now * block_elements) as i64)
            .and_then(|mut place| place.f_copy_(&piece))
            .map_err(Error::torch(name, path))?;
        done += now;
    }
    Ok(whole)
}
