//! The header of a GGUF file, checked before candle parses it.
//!
//! candle bounds every length by the size of the file. Three things remain that a damaged or
//! hostile file can do, and that are excluded here: an alignment of zero (a division by zero),
//! arrays of single bytes (each becomes a 32-byte value in memory), and two entries of one name
//! (the first would silently vanish).

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};

use crate::{Error, Result};

/// Elements in all arrays of the metadata together. The largest vocabularies have 260,000 tokens,
/// in up to four arrays; this many take 512 MiB while candle holds them.
const MAX_ARRAY_ELEMENTS: u64 = 1 << 24;
/// Tensors or metadata entries; real files have some thousands.
const MAX_ENTRIES: u64 = 1 << 20;
/// Arrays in arrays in arrays: none in real files.
const MAX_DEPTH: usize = 4;
const ALIGNMENT: &str = "general.alignment";

/// Checks and parses the header of `file`.
pub(super) fn read(file: &File, path: &Path) -> Result<Content> {
    let bytes = file.metadata().map_err(Error::io(path, "read"))?.len();
    let mut reader = BufReader::new(file);
    let scan = Scan { reader: &mut reader, left: bytes, elements: 0 };
    let counts = scan.header().map_err(|why| Error::corrupt(path, why))?;
    reader.seek(SeekFrom::Start(0)).map_err(Error::io(path, "read"))?;
    let content = Content::read(&mut reader)
        .map_err(|why| Error::corrupt(path, format!("its header: {why}")))?;
    if let Some(value) = content.metadata.get(ALIGNMENT) {
        let whole = matches!(value, Value::U8(_) | Value::U16(_) | Value::U32(_) | Value::U64(_));
        if !whole {
            return Err(Error::corrupt(path, format!("{ALIGNMENT} is not an unsigned integer")));
        }
    }
    if (content.metadata.len() as u64, content.tensor_infos.len() as u64)
        != (counts.metadata, counts.tensors)
    {
        return Err(Error::corrupt(path, "its header has two entries of one name"));
    }
    Ok(content)
}

/// How many entries the header declares.
struct Counts {
    tensors: u64,
    metadata: u64,
}

/// A walk over the metadata that keeps nothing.
struct Scan<'a, 'file> {
    reader: &'a mut BufReader<&'file File>,
    left: u64,
    elements: u64,
}

type Scanned<T> = std::result::Result<T, String>;

impl Scan<'_, '_> {
    fn header(mut self) -> Scanned<Counts> {
        if &self.array::<4>()? != b"GGUF" {
            return Err("it does not begin with GGUF".into());
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!(
                "it is in version {version} of the format, and 2 and 3 can be read"
            ));
        }
        let counts = Counts { tensors: self.u64()?, metadata: self.u64()? };
        if counts.tensors > MAX_ENTRIES || counts.metadata > MAX_ENTRIES {
            return Err(format!(
                "it declares {} tensors and {} metadata entries",
                counts.tensors, counts.metadata
            ));
        }
        for _ in 0..counts.metadata {
            let key = self.string()?;
            let kind = self.u32()?;
            match fixed_bytes(kind) {
                Some(length) if key == ALIGNMENT.as_bytes() => {
                    if self.bytes(length)?.iter().all(|&byte| byte == 0) {
                        return Err(format!("{ALIGNMENT} is zero"));
                    }
                }
                _ => self.value(kind, 0)?,
            }
        }
        Ok(counts)
    }

    fn value(&mut self, kind: u32, depth: usize) -> Scanned<()> {
        const STRING: u32 = 8;
        const ARRAY: u32 = 9;
        match (fixed_bytes(kind), kind) {
            (Some(bytes), _) => self.skip(bytes),
            (None, STRING) => {
                let length = self.u64()?;
                self.skip(length)
            }
            (None, ARRAY) if depth < MAX_DEPTH => {
                let (kind, count) = (self.u32()?, self.u64()?);
                self.elements = self.elements.saturating_add(count);
                if self.elements > MAX_ARRAY_ELEMENTS {
                    return Err(format!(
                        "its metadata declare more than {MAX_ARRAY_ELEMENTS} array elements"
                    ));
                }
                match fixed_bytes(kind) {
                    Some(bytes) => self.skip(count * bytes),
                    None => (0..count).try_for_each(|_| self.value(kind, depth + 1)),
                }
            }
            (None, ARRAY) => Err(format!("its metadata nest arrays more than {MAX_DEPTH} deep")),
            _ => Err(format!("its metadata use the unknown type {kind}")),
        }
    }

    fn string(&mut self) -> Scanned<Vec<u8>> {
        let length = self.u64()?;
        self.bytes(length)
    }

    fn u32(&mut self) -> Scanned<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Scanned<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Scanned<[u8; N]> {
        let mut bytes = [0; N];
        self.take(N as u64)?;
        self.reader.read_exact(&mut bytes).map_err(|why| why.to_string())?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: u64) -> Scanned<Vec<u8>> {
        self.take(length)?;
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes).map_err(|why| why.to_string())?;
        Ok(bytes)
    }

    fn skip(&mut self, length: u64) -> Scanned<()> {
        self.take(length)?;
        let length = i64::try_from(length).map_err(|why| why.to_string())?;
        // Relative, so that the reader keeps its buffer.
        self.reader.seek_relative(length).map_err(|why| why.to_string())
    }

    fn take(&mut self, length: u64) -> Scanned<()> {
        match self.left.checked_sub(length) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err("it ends within its header".into()),
        }
    }
}

/// The size of a value of a metadata type, if all its values have the same.
fn fixed_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
