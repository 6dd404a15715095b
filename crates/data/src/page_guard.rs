//! A Parquet file whose pages are not larger than they may be.
//!
//! The `parquet` crate makes room for as many bytes as the header of a page says that it will have,
//! before it unpacks it: up to 2 GiB, for a number that may be damaged.

use std::fs::File;
use std::io::{BufRead, BufReader};

use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use crate::input::RECORD_LIMIT;

/// The file, for [`parquet::file::reader::SerializedFileReader`].
pub(crate) struct GuardedFile(File);

impl GuardedFile {
    pub(crate) fn new(file: File) -> Self {
        Self(file)
    }
}

impl Length for GuardedFile {
    fn len(&self) -> u64 {
        Length::len(&self.0)
    }
}

impl ChunkReader for GuardedFile {
    type T = BufReader<File>;

    /// A place is read from without a length only where a page begins, or the footer.
    fn get_read(&self, start: u64) -> Result<Self::T> {
        let mut reader = self.0.get_read(start)?;
        match unpacked_size(reader.fill_buf()?) {
            Some(size) if size > RECORD_LIMIT => Err(ParquetError::General(format!(
                "a page has {} MiB, and at most {} are read",
                size >> 20,
                RECORD_LIMIT >> 20
            ))),
            _ => Ok(reader),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes> {
        self.0.get_bytes(start, length)
    }
}

/// The second field of a page header:
/// <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>, in
/// Thrift's compact protocol, where the first two fields are numbers of 32 bits, each after a byte
/// 0x15.
fn unpacked_size(header: &[u8]) -> Option<u64> {
    let (_kind, rest) = number(header)?;
    let (size, _) = number(rest)?;
    // Signs are in the lowest bit.
    Some(size >> 1)
}

fn number(field: &[u8]) -> Option<(u64, &[u8])> {
    let rest = field.strip_prefix(&[0x15])?;
    let length = rest.iter().take(5).position(|byte| byte & 0x80 == 0)? + 1;
    let (digits, rest) = rest.split_at(length);
    Some((
        digits.iter().rev().fold(0, |number, &digit| number << 7 | u64::from(digit & 0x7F)),
        rest,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_page_is_read_from_its_header() {
        assert_eq!(unpacked_size(&[0x15, 0, 0x15, 0x14, 0x15, 0x14]), Some(10));
        assert_eq!(
            unpacked_size(&[0x15, 4, 0x15, 0xFE, 0xFF, 0xFF, 0xFF, 0x0F, 0x15]),
            Some(i32::MAX as u64)
        );
        assert_eq!(unpacked_size(b"PAR1"), None);
    }
}
