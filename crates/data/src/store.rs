//! Tokenised documents one after the other: in files, and the last of them in memory.

use crate::columns::ColumnFile;
use crate::error::Result;
use crate::sample::Sample;
use safetensors::Dtype;

/// The tokens of documents and their marks. Documents are told by where they begin and how long
/// they are; none lies in two files.
#[derive(Debug, Default)]
pub(crate) struct Store {
    files: Vec<TokenFile>,
    /// Where each file begins, `[files + 1]`; after the last, what is in memory.
    starts: Vec<u64>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) trained: Vec<bool>,
}

/// A file with `tokens` U32 and `trained` U8.
#[derive(Debug)]
pub(crate) struct TokenFile {
    file: ColumnFile,
    tokens: u64,
    trained: u64,
    count: u64,
}

impl TokenFile {
    /// Finds the two columns.
    pub(crate) fn new(file: ColumnFile) -> Result<Self> {
        let (tokens, count) = file.column("tokens", Dtype::U32)?;
        let (trained, marks) = file.column("trained", Dtype::U8)?;
        if marks != count {
            return Err(file.broken(format!("{count} tokens, {marks} marks")));
        }
        Ok(Self { file, tokens, trained, count })
    }

    fn tokens(&self, start: u64, count: usize) -> Result<Vec<u32>> {
        Ok(crate::columns::numbers(
            &self.file.read(self.tokens + 4 * start, 4 * count)?,
            u32::from_le_bytes,
        ))
    }

    fn trained(&self, start: u64, count: usize) -> Result<Vec<bool>> {
        Ok(self.file.read(self.trained + start, count)?.iter().map(|&byte| byte != 0).collect())
    }
}

impl Store {
    /// What is in one file.
    pub(crate) fn from_file(file: TokenFile) -> Self {
        let mut store = Self::default();
        store.add(file);
        store
    }

    /// Adds a file after those that are there; nothing may be in memory.
    pub(crate) fn add(&mut self, file: TokenFile) {
        let start = self.in_files();
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        self.starts.push(start + file.count);
        self.files.push(file);
    }

    /// Tokens that are in files.
    pub(crate) fn in_files(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// All tokens.
    pub(crate) fn count(&self) -> u64 {
        self.in_files() + self.tokens.len() as u64
    }

    /// Adds a document in memory.
    pub(crate) fn push(&mut self, sample: Sample) {
        if self.tokens.is_empty() && sample.len() > self.tokens.capacity() {
            // One that fills a part alone is not copied.
            (self.tokens, self.trained) = (sample.tokens, sample.trained);
        } else {
            self.tokens.extend_from_slice(&sample.tokens);
            self.trained.extend_from_slice(&sample.trained);
        }
    }

    /// Forgets what is in memory. Of a very large document the memory is given back.
    pub(crate) fn clear_memory(&mut self) {
        const USUAL: usize = 16 << 20;
        self.tokens.clear();
        self.trained.clear();
        self.tokens.shrink_to(USUAL);
        self.trained.shrink_to(USUAL);
    }

    /// The files, in order.
    pub(crate) fn files(&self) -> &[TokenFile] {
        &self.files
    }

    /// The `count` tokens from `start` on, all of the same file.
    pub(crate) fn tokens(&self, start: u64, count: usize) -> Result<Vec<u32>> {
        match self.find(start) {
            Place::File(file, start) => file.tokens(start, count),
            Place::Memory(start) => Ok(self.tokens[start..start + count].to_vec()),
        }
    }

    /// Their marks.
    pub(crate) fn trained(&self, start: u64, count: usize) -> Result<Vec<bool>> {
        match self.find(start) {
            Place::File(file, start) => file.trained(start, count),
            Place::Memory(start) => Ok(self.trained[start..start + count].to_vec()),
        }
    }

    fn find(&self, start: u64) -> Place<'_> {
        if start >= self.in_files() {
            return Place::Memory((start - self.in_files()) as usize);
        }
        let file = self.starts.partition_point(|&first| first <= start) - 1;
        Place::File(&self.files[file], start - self.starts[file])
    }
}

/// A file and a place in it, or a place in memory.
enum Place<'a> {
    File(&'a TokenFile, u64),
    Memory(usize),
}
