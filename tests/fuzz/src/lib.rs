//! What the targets share: a folder in memory, in which each input becomes the file that the reader
//! under test opens.

use data::{BpeParts, Tokenizer};
use std::path::PathBuf;
use std::sync::LazyLock;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let memory = "/dev/shm";
    let folder = if std::path::Path::new(memory).is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a temporary folder can be made")
});

/// Writes `bytes` as `name`, which may be in a folder, and gives the path.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.path().join(name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).expect("the folder can be made");
    }
    std::fs::write(&path, bytes).expect("the file can be written");
    path
}

/// One token for each byte, and the end.
pub static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 256_u32..;
    let letter = |byte: u32| if printable(byte) { byte } else { others.next().unwrap_or_default() };
    let mut tokens: Vec<String> = (0..256).map(letter).filter_map(char::from_u32).map(String::from).collect();
    tokens.push("<end>".into());
    let special = (0..257).map(|id| id == 256).collect();
    let parts =
        BpeParts { tokens, special, eos: Some(256), pre: "gpt-2".into(), merges: vec![], bos: None, unk: None, pad: None, add_bos: false };
    Tokenizer::from_bpe(parts).expect("a byte-level tokenizer")
});

/// The `config.json` of a Llama with 97 tokens, hidden 16 and two layers, like that in
/// `tests/fixtures/hf/llama`.
pub const LLAMA: &[u8] = include_bytes!("../../fixtures/hf/llama/config.json");
