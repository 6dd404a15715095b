//! Columns of an Arrow IPC file or stream, as the caches of Hugging Face's datasets and Feather
//! files are.
//!
//! Both are read as a stream of messages
//! (<https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc>):
//! a file is one between its mark and its footer. One batch of rows is in memory at a time.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::FileDecoder;
use arrow_ipc::{Block, Endianness, Message, MessageHeader, MetadataVersion, root_as_message};
use arrow_schema::Schema;
use files::Content;
use serde_json::Map;

use crate::arrow_value;
use crate::error::{Error, Result};
use crate::file;
use crate::guard::guarded;
use crate::label;
use crate::records::{self, Raw, Rows};

/// What a batch may have, compressed or not.
const BATCH_LIMIT: u64 = 1 << 30;

/// What stands before the messages of a file, and after its footer: the length of the footer, and
/// its mark.
const MARK: &[u8] = b"ARROW1";
const BEFORE: u64 = 8;
const AFTER: u64 = 10;

/// An open table, of some of its columns.
pub(crate) struct ArrowRows {
    messages: Messages,
    decoder: FileDecoder,
    schema: Arc<Schema>,
    /// The places of the columns that are read.
    chosen: Vec<usize>,
    batch: Option<RecordBatch>,
    /// The next row in the batch, and in the file.
    row: usize,
    number: u64,
}

impl ArrowRows {
    /// Opens those of `columns` that a file has.
    ///
    /// # Errors
    /// If the file is broken, is none, or has a column of a type that is not read.
    pub(crate) fn open(path: &Path, columns: &[&str]) -> Result<Self> {
        let mut messages = Messages::open(path)?;
        let Some(first) = messages.next()? else { return Err(messages.broken("it has no schema")) };
        let (schema, version) = first.schema().map_err(|why| messages.broken(&why))?;
        let schema = Arc::new(schema);
        let chosen: Vec<usize> = (0..schema.fields().len())
            .filter(|&at| columns.contains(&schema.field(at).name().as_str()))
            .collect();
        for &at in &chosen {
            let field = schema.field(at);
            if let Some(unread) = arrow_value::unread_type(field.data_type()) {
                let problem = format!(
                    "its column `{}` has values of the type {unread}, which is not read",
                    field.name()
                );
                return Err(Error::file(path, problem, "write them as strings or numbers"));
            }
        }
        let decoder =
            FileDecoder::new(Arc::clone(&schema), version).with_projection(chosen.clone());
        Ok(Self { messages, decoder, schema, chosen, batch: None, row: 0, number: 0 })
    }

    /// The names of all columns.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.schema.fields().iter().map(|field| field.name().as_str())
    }

    /// The names of the classes of a column, if the file has them.
    pub(crate) fn class_names(&self, column: &str) -> Option<Vec<String>> {
        label::described(self.schema.metadata().get("huggingface")?, column)
    }

    /// Goes over the next `count` rows; batches that have no others are not read.
    ///
    /// # Errors
    /// If the file is broken there.
    pub(crate) fn skip(&mut self, count: u64) -> Result<()> {
        let end = self.number + count;
        while self.number < end && self.advance(end - self.number)? {
            let there = self.batch.as_ref().map_or(0, |batch| batch.num_rows() - self.row);
            let skipped = there.min((end - self.number) as usize);
            self.row += skipped;
            self.number += skipped as u64;
        }
        Ok(())
    }

    /// Makes sure that there is a row, past batches with at most `skip` of them.
    fn advance(&mut self, mut skip: u64) -> Result<bool> {
        while self.batch.as_ref().is_none_or(|batch| self.row >= batch.num_rows()) {
            self.batch = None;
            let Some(message) = self.messages.next()? else { return Ok(false) };
            match message.kind().map_err(|why| self.messages.broken(&why))? {
                Kind::Dictionary => {
                    let (block, bytes) = self.messages.body(&message)?;
                    let decoder = &mut self.decoder;
                    guarded(|| decoder.read_dictionary(&block, &bytes))
                        .map_err(|why| self.messages.broken(&why))?;
                }
                Kind::Batch(rows) if rows <= skip => {
                    self.messages.skip(&message)?;
                    self.number += rows;
                    skip -= rows;
                }
                Kind::Batch(rows) => {
                    let (block, bytes) = self.messages.body(&message)?;
                    let decoder = &self.decoder;
                    self.batch = guarded(|| decoder.read_record_batch(&block, &bytes))
                        .map_err(|why| self.messages.broken(&why))?;
                    // By the number that its header says, a batch is passed over.
                    let found = self.batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
                    if found != rows {
                        let problem =
                            format!("a batch has {found} rows, and says that it has {rows}");
                        return Err(self.messages.broken(&problem));
                    }
                    self.row = 0;
                }
            }
        }
        Ok(true)
    }
}

impl Rows for ArrowRows {
    fn next(&mut self) -> Result<Option<Raw>> {
        if !self.advance(0)? {
            return Ok(None);
        }
        let Some(batch) = &self.batch else { return Ok(None) };
        let mut fields = Map::new();
        let mut fault = None;
        for (&at, column) in self.chosen.iter().zip(batch.columns()) {
            let name = self.schema.field(at).name();
            match arrow_value::value(column, self.row, name) {
                Ok(value) if value.is_null() => {}
                Ok(value) => drop(fields.insert(name.clone(), value)),
                Err(found) => fault = Some(found),
            }
        }
        self.row += 1;
        self.number += 1;
        let content = fault.map_or(records::Content::Row(fields), records::Content::Bad);
        Ok(Some(Raw::new(self.number, content)))
    }

    fn bytes_read(&self) -> u64 {
        self.messages.position
    }

    fn unread_columns(&self) -> Vec<String> {
        (0..self.schema.fields().len())
            .filter(|at| !self.chosen.contains(at))
            .map(|at| self.schema.field(at).name().clone())
            .collect()
    }
}

/// The messages of a file, one after the other.
struct Messages {
    path: PathBuf,
    reader: BufReader<File>,
    position: u64,
    end: u64,
}

/// The bytes of a message before its body.
struct Header {
    bytes: Vec<u8>,
    body: u64,
}

enum Kind {
    Dictionary,
    /// With its number of rows.
    Batch(u64),
}

impl Messages {
    fn open(path: &Path) -> Result<Self> {
        let (mut file, content) = files::open_told(path).map_err(file::error(path))?;
        let length = file.metadata().map_err(Error::io("open", path))?.len();
        let broken = |problem: &str| Err(broken(path, problem));
        let (position, end) = match content {
            Content::ArrowFile if length < BEFORE + AFTER => {
                return broken("it begins as one and does not end as one");
            }
            Content::ArrowFile => {
                let mut tail = [0; AFTER as usize];
                file.seek(SeekFrom::Start(length - AFTER))
                    .and_then(|_| file.read_exact(&mut tail))
                    .map_err(Error::io("read", path))?;
                let (footer, mark) = tail.split_at(4);
                let footer = footer.try_into().map_or(0, u32::from_le_bytes);
                match (length - AFTER).checked_sub(u64::from(footer)) {
                    Some(end) if mark == MARK && end >= BEFORE => (BEFORE, end),
                    _ => return broken("it begins as one and does not end as one"),
                }
            }
            // Without the first four bytes it is one as well, of a time before they were agreed
            // upon.
            Content::ArrowStream | Content::Unknown => (0, length),
            other => {
                let what = other.name().unwrap_or("something else");
                let remedy = other
                    .refusal()
                    .map_or("name it by what it is, or unpack it", |refusal| refusal.remedy);
                return Err(Error::file(path, format!("it is {what}, and no Arrow file"), remedy));
            }
        };
        file.seek(SeekFrom::Start(position)).map_err(Error::io("read", path))?;
        Ok(Self {
            path: path.to_owned(),
            reader: BufReader::with_capacity(1 << 16, file),
            position,
            end,
        })
    }

    /// The next message; none at the end, whether it is marked or not.
    fn next(&mut self) -> Result<Option<Header>> {
        if self.position >= self.end {
            return Ok(None);
        }
        let mut length = self.number()?;
        if length == u32::MAX {
            length = self.number()?;
        }
        if length == 0 {
            // For good: whoever asks again must not read on behind the mark.
            self.position = self.end;
            return Ok(None);
        }
        let mut bytes = vec![0; self.bounded(u64::from(length))?];
        self.read(&mut bytes)?;
        let message = message(&bytes).map_err(|why| self.broken(&why))?;
        let body = u64::try_from(message.bodyLength())
            .map_err(|_| self.broken("a message has a negative length"))?;
        Ok(Some(Header { body, bytes }))
    }

    /// A message with its body, as the decoder wants it.
    fn body(&mut self, header: &Header) -> Result<(Block, Buffer)> {
        let body = self.bounded(header.body)?;
        let before = 8 + header.bytes.len();
        let mut bytes = MutableBuffer::from_len_zeroed(before + body);
        bytes[..4].fill(0xFF);
        bytes[4..8].copy_from_slice(&(header.bytes.len() as u32).to_le_bytes());
        bytes[8..before].copy_from_slice(&header.bytes);
        self.read(&mut bytes[before..])?;
        header.check(&bytes[before..]).map_err(|why| self.broken(&why))?;
        Ok((Block::new(0, before as i32, body as i64), bytes.into()))
    }

    /// Goes over the body of a message.
    fn skip(&mut self, header: &Header) -> Result<()> {
        if header.body > self.end - self.position {
            return Err(self.broken("it ends within a message"));
        }
        self.reader.seek_relative(header.body as i64).map_err(Error::io("read", &self.path))?;
        self.position += header.body;
        Ok(())
    }

    fn number(&mut self) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn read(&mut self, into: &mut [u8]) -> Result<()> {
        self.reader.read_exact(into).map_err(|why| match why.kind() {
            io::ErrorKind::UnexpectedEof => self.broken("it ends within a message"),
            _ => Error::io("read", &self.path)(why),
        })?;
        self.position += into.len() as u64;
        Ok(())
    }

    /// A length, if there is as much left, and not too much at once.
    fn bounded(&self, length: u64) -> Result<usize> {
        if length > self.end.saturating_sub(self.position) {
            return Err(self.broken("it ends within a message"));
        }
        if length > BATCH_LIMIT {
            let problem = format!(
                "a batch of rows has {} MiB, and at most {} are read at once",
                length >> 20,
                BATCH_LIMIT >> 20
            );
            return Err(Error::file(
                &self.path,
                problem,
                "write it in smaller batches: write_table(table, max_chunksize=1000)",
            ));
        }
        Ok(length as usize)
    }

    fn broken(&self, problem: &str) -> Error {
        broken(&self.path, problem)
    }
}

impl Header {
    fn schema(&self) -> std::result::Result<(Schema, MetadataVersion), String> {
        let message = message(&self.bytes)?;
        let schema = message.header_as_schema().ok_or("it does not begin with a schema")?;
        if schema.endianness() != Endianness::Little {
            return Err("its numbers are big-endian, which is not read".into());
        }
        Ok((guarded(|| try_fb_to_schema(schema))?, message.version()))
    }

    fn kind(&self) -> std::result::Result<Kind, String> {
        let message = message(&self.bytes)?;
        match message.header_type() {
            MessageHeader::DictionaryBatch => Ok(Kind::Dictionary),
            MessageHeader::RecordBatch => {
                let batch = message.header_as_record_batch().ok_or("a batch has no header")?;
                Ok(Kind::Batch(
                    batch
                        .length()
                        .try_into()
                        .map_err(|_| "a batch has a negative number of rows")?,
                ))
            }
            other => Err(format!("it has a message of the kind {other:?}")),
        }
    }

    /// Checks what the decoder takes on trust: where buffers lie, and how long they say they will
    /// be when they are unpacked.
    fn check(&self, body: &[u8]) -> std::result::Result<(), String> {
        let message = message(&self.bytes)?;
        let dictionary =
            message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
        let batch =
            message.header_as_record_batch().or(dictionary).ok_or("a batch has no header")?;
        let is_count = |count: i64| (0..=i64::from(u32::MAX)).contains(&count);
        let nodes = batch.nodes().unwrap_or_default();
        if !is_count(batch.length())
            || nodes.iter().any(|node| {
                !is_count(node.length()) || !(0..=node.length()).contains(&node.null_count())
            })
        {
            return Err("a column has an impossible number of values".into());
        }
        let mut unpacked = 0_u64;
        for buffer in batch.buffers().unwrap_or_default() {
            let range =
                usize::try_from(buffer.offset()).ok().zip(usize::try_from(buffer.length()).ok());
            let bytes = range
                .and_then(|(start, length)| body.get(start..start.checked_add(length)?))
                .ok_or("a column lies outside its batch")?;
            if batch.compression().is_some() && !bytes.is_empty() {
                let length = bytes.first_chunk::<8>().ok_or("a compressed column has no length")?;
                unpacked = unpacked
                    .saturating_add(u64::try_from(i64::from_le_bytes(*length)).unwrap_or(0));
            }
        }
        match unpacked {
            0..=BATCH_LIMIT => Ok(()),
            _ => Err(format!(
                "a batch would have {} MiB when unpacked, and at most {} are read at once",
                unpacked >> 20,
                BATCH_LIMIT >> 20
            )),
        }
    }
}

fn message(bytes: &[u8]) -> std::result::Result<Message<'_>, String> {
    root_as_message(bytes).map_err(|why| {
        format!("a message is damaged: {}", why.to_string().lines().next().unwrap_or_default())
    })
}

fn broken(path: &Path, problem: &str) -> Error {
    Error::file(path, format!("it is no whole Arrow file ({problem})"), "write or fetch it again")
}
