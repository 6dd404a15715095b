//! Training data: read, tokenise, template, pack, order, split across ranks, for language models;
//! and texts with their classes ([`read_labelled`]).
//!
//! The way of a sample:
//!
//! 1. [`Sources`] name files and folders, with weights: conversations, completions or texts (JSONL,
//!    JSON, CSV, plain text, each of them perhaps in gzip or zstd; Parquet, Arrow), or ready
//!    batches.
//! 2. [`Dataset::prepare`] renders each conversation with the model's [`ChatTemplate`], tokenises
//!    it with its [`Tokenizer`], marks what is trained ([`LossOn`]), truncates or splits
//!    ([`Overflow`]), holds samples out for evaluation and packs. A bad line is an [`Error`] that
//!    names file and line, or is counted. Nothing is written while it does so, or
//!    ([`Dataset::prepare_for`]) parts from which it resumes after an interruption, in bounded
//!    memory.
//! 3. [`Prepared::write`] puts the result into one safetensors file per data set, and
//!    [`Dataset::open`] reads samples from it as they are asked for.
//! 4. [`Order`] says which samples make up a step, the same for any number of ranks, and which of
//!    them are a rank's.
//! 5. [`Batch::collate`] pads those to a rectangle of ids, shifted targets, positions and segments.
//!
//! ```no_run
//! use loract_data as data;
//! use data::{Batch, Dataset, Options, Order, OrderConfig, Padding, Sources, Tokenizer};
//!
//! # fn main() -> Result<(), data::Error> {
//! let tokenizer = Tokenizer::from_file("model/tokenizer.json".as_ref())?;
//! let sources = Sources::train(["stories.txt"]);
//! let prepared = Dataset::prepare(&sources, &tokenizer, None, &Options::default(), &|_, _| ())?;
//! prepared.write("stories.safetensors".as_ref())?;
//!
//! let train = Dataset::open("stories.safetensors".as_ref())?;
//! let order = Order::new(OrderConfig { samples: train.len(), batch_size: 8, ..Default::default() }, 2)?;
//! let share = order.rank_share(0, 1, 2);
//! let samples = share.into_iter().map(|index| train.sample(index)).collect::<Result<Vec<_>, _>>()?;
//! let batch = Batch::collate(&samples, tokenizer.pad_token_id(), Padding::Longest)?;
//! # let _ = batch; Ok(())
//! # }
//! ```
//!
//! The crate holds no tensors: a [`Batch`] is plain vectors, for any framework.
//! It does not stream from the network, or tokenise images.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod arrow_rows;
mod arrow_value;
mod batch;
mod chosen;
mod columns;
mod csv_rows;
mod dataset;
mod dataset_file;
mod encode;
mod error;
mod file;
mod fingerprint;
mod folder;
mod generator;
mod guard;
mod hold_out;
pub mod images;
mod input;
mod jinja;
mod json;
mod json_layout;
mod json_rows;
mod json_scan;
mod label;
mod labelled;
mod lengths;
mod lines;
mod message;
mod options;
mod order;
mod packing;
mod page_guard;
mod parquet_rows;
mod parts;
mod prepare;
mod ready;
mod record;
mod records;
mod report;
mod sample;
mod shown;
mod source;
mod spans;
mod split;
mod store;
mod template;
mod tokenizer;
mod weight;

pub use batch::{Batch, IGNORED, Padding};
pub use dataset::Dataset;
pub use error::{Error, Place, Result};
pub use hold_out::hold_out;
pub use labelled::{LabelKeys, Labelled, LabelledTexts, read_labelled};
pub use lengths::LengthBin;
pub use message::{Conversation, Message};
pub use options::{BadLines, LossOn, Options, Overflow, Pairs};
pub use order::{Order, OrderConfig};
pub use packing::pack;
pub use prepare::Prepared;
pub use report::{BadFile, BadLine, Report};
pub use sample::Sample;
pub use shown::ShownToken;
pub use source::{Format, Source, Sources};
pub use template::ChatTemplate;
pub use tokenizer::{BpeParts, Encoded, SpecialTokens, StreamDecoder, Tokenizer};
