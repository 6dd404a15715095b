//! The safetensors file of a data set.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, View};

use crate::dataset::{Dataset, Facts, Index, Rows};
use crate::error::{Error, Result};

/// Changes whenever a file of before can no longer be read.
pub(crate) const VERSION: u32 = 1;

/// The key of the facts in the metadata. There is one only, because several would be written in any order, and the same
/// data should give the same file.
const FACTS: &str = "dataset";

const REMEDY: &str = "delete it and prepare the data again";

/// Where the tokens of an open file are.
#[derive(Debug)]
pub(crate) struct TokenFile {
    file: File,
    path: PathBuf,
    tokens: u64,
    trained: u64,
}

impl TokenFile {
    /// Tokens `start..end` of the whole data set.
    pub(crate) fn read(&self, start: u64, end: u64) -> Result<(Vec<u32>, Vec<bool>)> {
        let count = (end - start) as usize;
        let mut bytes = vec![0; 4 * count];
        self.file.read_exact_at(&mut bytes, self.tokens + 4 * start).map_err(Error::io("read", &self.path))?;
        let tokens = numbers(&bytes, u32::from_le_bytes);
        bytes.truncate(count);
        self.file.read_exact_at(&mut bytes, self.trained + start).map_err(Error::io("read", &self.path))?;
        Ok((tokens, bytes.iter().map(|&byte| byte != 0).collect()))
    }
}

fn numbers<const WIDTH: usize, T>(bytes: &[u8], from: fn([u8; WIDTH]) -> T) -> Vec<T> {
    bytes.as_chunks::<WIDTH>().0.iter().map(|&chunk| from(chunk)).collect()
}

/// Reads and checks all but the tokens.
pub(crate) fn open(path: &Path) -> Result<Dataset> {
    let broken = |problem: String| Error::file(path, problem, REMEDY);
    let file = File::open(path).map_err(Error::io("open", path))?;
    let file_length = file.metadata().map_err(Error::io("read", path))?.len();
    let read = |start: u64, length: u64| -> Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, start).map_err(Error::io("read", path))?;
        Ok(bytes)
    };

    if file_length < 8 {
        return Err(broken(format!("no data set: {file_length} bytes")));
    }
    let header_length = numbers(&read(0, 8)?, u64::from_le_bytes)[0];
    let Some(data_start) = header_length.checked_add(8).filter(|&start| start <= file_length) else {
        return Err(broken("its header is cut off, or it is no data set".into()));
    };
    let header: Metadata =
        serde_json::from_slice(&read(8, header_length)?).map_err(|error| broken(format!("its header is broken ({error})")))?;
    let expected = data_start + header.data_len() as u64;
    if expected != file_length {
        return Err(broken(format!("it should have {expected} bytes, but has {file_length}")));
    }
    let facts = header
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get(FACTS))
        .ok_or_else(|| broken("a safetensors file, but no data set of this program".into()))?;
    let facts: Facts = serde_json::from_str(facts).map_err(|error| broken(format!("its description is broken ({error})")))?;
    if facts.version != VERSION {
        return Err(broken(format!("its format is version {}, not {VERSION}", facts.version)));
    }

    let column = |name: &str, dtype: Dtype| -> Result<(u64, u64, u64)> {
        match header.info(name) {
            Some(TensorInfo { dtype: found, shape, data_offsets: (start, end) }) if *found == dtype && shape.len() == 1 => {
                Ok((data_start + *start as u64, (end - start) as u64, shape[0] as u64))
            }
            _ => Err(broken(format!("`{name}` is not there as {dtype:?}"))),
        }
    };
    let (tokens_start, _, token_count) = column("tokens", Dtype::U32)?;
    let (trained_start, _, trained_count) = column("trained", Dtype::U8)?;
    let bytes = |name: &str, dtype: Dtype| column(name, dtype).and_then(|(start, length, _)| read(start, length));
    let index = Index {
        sample_starts: numbers(&bytes("sample_starts", Dtype::U64)?, u64::from_le_bytes),
        segment_lengths: numbers(&bytes("segment_lengths", Dtype::U32)?, u32::from_le_bytes),
        segment_starts: numbers(&bytes("segment_starts", Dtype::U64)?, u64::from_le_bytes),
    };
    if trained_count != token_count || facts.tokens != token_count {
        return Err(broken(format!("{token_count} tokens, {trained_count} marks, {} announced", facts.tokens)));
    }
    check(&index, &facts).map_err(broken)?;
    let rows = Rows::File(TokenFile { file, path: path.to_owned(), tokens: tokens_start, trained: trained_start });
    Ok(Dataset { rows, index, facts })
}

/// Whether samples and segments cover all tokens, in order, without gap or overlap.
fn check(index: &Index, facts: &Facts) -> Result<(), String> {
    let cover = |name: &str, starts: &[u64], count: u64| {
        let whole = starts.len() == facts.samples + 1
            && starts.first() == Some(&0)
            && starts.last() == Some(&count)
            && starts.is_sorted_by(|a, b| a < b);
        if whole { Ok(()) } else { Err(format!("`{name}` does not divide {count} entries into {} samples", facts.samples)) }
    };
    if facts.samples == 0 {
        return Err("it has no samples".into());
    }
    cover("sample_starts", &index.sample_starts, facts.tokens)?;
    cover("segment_starts", &index.segment_starts, index.segment_lengths.len() as u64)?;
    for sample in 0..facts.samples {
        let segments = index.segment_starts[sample] as usize..index.segment_starts[sample + 1] as usize;
        let length: u64 = index.segment_lengths[segments].iter().map(|&length| u64::from(length)).sum();
        if length != index.sample_starts[sample + 1] - index.sample_starts[sample] {
            return Err(format!("the segments of sample {sample} have {length} tokens, the sample another number"));
        }
    }
    Ok(())
}

/// Writes aside, syncs, renames, and syncs the folder, without which a power cut could undo the rename.
pub(crate) fn write(dataset: &Dataset, path: &Path) -> Result<()> {
    let bytes = serialise(dataset, path)?;
    let mut aside = path.as_os_str().to_owned();
    aside.push(".part");
    let aside = PathBuf::from(aside);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(&bytes)?;
        file.sync_all()
    };
    write().map_err(Error::io("write", &aside))?;
    std::fs::rename(&aside, path).map_err(Error::io("rename to", path))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))
}

fn serialise(dataset: &Dataset, path: &Path) -> Result<Vec<u8>> {
    let (tokens, trained) = match &dataset.rows {
        Rows::Memory { tokens, trained } => (Cow::Borrowed(tokens), Cow::Borrowed(trained)),
        Rows::File(file) => {
            let (tokens, trained) = file.read(0, dataset.facts.tokens)?;
            (Cow::Owned(tokens), Cow::Owned(trained))
        }
    };
    let marks: Vec<u8> = trained.iter().map(|&trained| u8::from(trained)).collect();
    let index = &dataset.index;
    let columns = [
        ("sample_starts", Column::new(Values::U64(&index.sample_starts))),
        ("segment_starts", Column::new(Values::U64(&index.segment_starts))),
        ("segment_lengths", Column::new(Values::U32(&index.segment_lengths))),
        ("tokens", Column::new(Values::U32(&tokens))),
        ("trained", Column::new(Values::U8(&marks))),
    ];
    let facts =
        serde_json::to_string(&dataset.facts).map_err(|error| Error::file(path, format!("cannot describe it ({error})"), "report this"))?;
    safetensors::serialize(columns, Some(HashMap::from([(FACTS.to_owned(), facts)])))
        .map_err(|error| Error::file(path, format!("cannot serialise it ({error})"), "report this"))
}

/// One tensor of one dimension, turned into bytes when it is its turn, so that no two are there as bytes at once.
struct Column<'a> {
    values: Values<'a>,
    shape: [usize; 1],
}

enum Values<'a> {
    U64(&'a [u64]),
    U32(&'a [u32]),
    U8(&'a [u8]),
}

impl<'a> Column<'a> {
    fn new(values: Values<'a>) -> Self {
        let length = match values {
            Values::U64(values) => values.len(),
            Values::U32(values) => values.len(),
            Values::U8(values) => values.len(),
        };
        Self { values, shape: [length] }
    }
}

impl View for Column<'_> {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::U64(_) => Dtype::U64,
            Values::U32(_) => Dtype::U32,
            Values::U8(_) => Dtype::U8,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.values {
            Values::U64(values) => Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Values::U32(values) => Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Values::U8(values) => Cow::Borrowed(values),
        }
    }

    fn data_len(&self) -> usize {
        self.shape[0] * self.dtype().bitsize() / 8
    }
}
