use serde_json::{Value, json};

use super::super::tests::bytes_only;
use super::super::{BpeParts, Tokenizer};

/// A folder with the byte-level tokenizer of the tests, whose tokens 0 to 2 are `<|endoftext|>`,
/// `<|im_start|>` and `<|im_end|>`, and these files.
fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    bytes_only().write(&folder.path().join("tokenizer.json")).unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    folder
}

fn open(files: &[(&str, Value)]) -> Tokenizer {
    Tokenizer::from_model_dir(folder(files).path()).unwrap().unwrap()
}

fn named(tokenizer: &Tokenizer) -> [Option<u32>; 2] {
    [tokenizer.bos_token_id(), tokenizer.eos_token_id()]
}

const A: u32 = 3 + b'a' as u32;

#[test]
fn the_class_names_what_no_file_does() {
    let gpt2 = open(&[
        ("config.json", json!({"model_type": "gpt2"})),
        ("tokenizer_config.json", json!({"model_max_length": 9})),
    ]);
    assert_eq!(named(&gpt2), [Some(0), Some(0)]);
    assert_eq!(gpt2.special_tokens().unk.as_deref(), Some("<|endoftext|>"));
    let qwen = open(&[("tokenizer_config.json", json!({"tokenizer_class": "Qwen2Tokenizer"}))]);
    assert_eq!(named(&qwen), [None, Some(0)]);
    assert_eq!(qwen.pad_token_id(), 0);
    // What a file says wins, even that there is none; and a default that the vocabulary lacks is no
    // token of the model.
    let config = json!({"tokenizer_class": "GPT2TokenizerFast", "eos_token": "<|im_end|>", "bos_token": null});
    assert_eq!(named(&open(&[("tokenizer_config.json", config)])), [None, Some(2)]);
    let llama = open(&[("config.json", json!({"model_type": "llama"}))]);
    assert_eq!((named(&llama), llama.vocab_size()), ([None, None], 259));
    assert_eq!(llama.encode("a", true).unwrap(), [A]);
}

#[test]
fn older_files_name_them_too() {
    let map = json!({"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>", "lstrip": false}, "unk_token": "<|endoftext|>"});
    let plain = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"});
    let old = open(&[("special_tokens_map.json", map.clone()), ("tokenizer_config.json", plain)]);
    assert_eq!(named(&old), [Some(1), Some(2)]);
    // They are not read where `tokenizer_config.json` lists the added tokens.
    let modern = json!({"eos_token": "<|endoftext|>", "added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": true}}});
    let modern = open(&[("special_tokens_map.json", map), ("tokenizer_config.json", modern)]);
    assert_eq!(named(&modern), [None, Some(0)]);
}

#[test]
fn the_model_names_the_end_where_the_tokenizer_does_not() {
    let generation = ("generation_config.json", json!({"bos_token_id": 1, "eos_token_id": [2, 0]}));
    let tokenizer = open(&[generation.clone(), ("config.json", json!({"eos_token_id": 0}))]);
    assert_eq!(named(&tokenizer), [Some(1), Some(2)]);
    assert_eq!(tokenizer.special_tokens().eos.as_deref(), Some("<|im_end|>"));
    assert_ne!(tokenizer.fingerprint(), open(&[]).fingerprint());
    // The tokenizer's own word wins, and all of the model's end generation.
    let own = open(&[generation, ("tokenizer_config.json", json!({"eos_token": "<|endoftext|>"}))]);
    assert_eq!(named(&own), [None, Some(0)]);
    assert_eq!(own.stop_token_ids(), [0, 2]);
    let text = open(&[("config.json", json!({"text_config": {"eos_token_id": 2}}))]);
    assert_eq!(named(&text), [None, Some(2)]);
    assert_eq!(named(&open(&[])), [None, None]);
    assert_eq!(named(&open(&[("config.json", json!({"eos_token_id": 9999}))])), [None, None]);
}

#[test]
fn ids_of_another_model_count_if_they_are_added_tokens_here() {
    let lone = || open(&[]);
    assert_eq!(named(&lone().with_model_ids(Some(1), &[2])), [Some(1), Some(2)]);
    assert_eq!(named(&lone().with_model_ids(None, &[A])), [None, None]);
    let model = folder(&[("config.json", json!({"eos_token_id": 2}))]);
    assert_eq!(named(&lone().with_model_dir(model.path()).unwrap()), [None, Some(2)]);
    assert!(lone().is_added(0) && !lone().is_added(A));
}

#[test]
fn add_bos_token_counts_for_the_classes_that_read_it() {
    let ids = |config: Value| open(&[("tokenizer_config.json", config)]).encode("a", true).unwrap();
    let tokens = json!({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"});
    let with = |more: Value| {
        let mut config = tokens.as_object().unwrap().clone();
        config.extend(more.as_object().unwrap().clone());
        Value::Object(config)
    };
    assert_eq!(ids(with(json!({"tokenizer_class": "LlamaTokenizerFast"}))), [1, A]);
    assert_eq!(
        ids(with(
            json!({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false, "add_eos_token": true})
        )),
        [A, 2]
    );
    assert_eq!(
        ids(with(json!({"tokenizer_class": "GemmaTokenizer", "add_eos_token": true}))),
        [1, A, 2]
    );
    assert_eq!(ids(with(json!({"tokenizer_class": "GPTNeoXTokenizer"}))), [A]);
    assert_eq!(
        ids(with(json!({"tokenizer_class": "GPTNeoXTokenizerFast", "add_bos_token": true}))),
        [1, A]
    );
    assert_eq!(
        ids(with(json!({"tokenizer_class": "CohereTokenizerFast", "add_bos_token": null}))),
        [A]
    );
    for class in ["PreTrainedTokenizerFast", "GPT2Tokenizer", "Qwen2Tokenizer"] {
        assert_eq!(
            ids(with(
                json!({"tokenizer_class": class, "add_bos_token": true, "add_eos_token": true})
            )),
            [A],
            "{class}"
        );
    }
    let nameless = json!({"tokenizer_class": "LlamaTokenizer", "add_bos_token": true});
    let error = Tokenizer::from_model_dir(folder(&[("tokenizer_config.json", nameless)]).path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("add_bos_token is true, but bos_token is not given"), "{error}");
}

#[test]
fn a_class_that_rebuilds_it_takes_bos_away() {
    let folder = folder(&[]);
    let with_bos = BpeParts { add_bos: true, ..super::super::tests::parts("smollm", &[]) };
    Tokenizer::from_bpe(with_bos).unwrap().write(&folder.path().join("tokenizer.json")).unwrap();
    assert_eq!(Tokenizer::from_file(folder.path()).unwrap().encode("a", true).unwrap(), [1, A]);
    let config = json!({"tokenizer_class": "LlamaTokenizer", "bos_token": "<|im_start|>", "add_bos_token": false});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    assert_eq!(Tokenizer::from_file(folder.path()).unwrap().encode("a", true).unwrap(), [A]);
}

#[test]
fn tokens_that_only_other_files_have_are_added() {
    let config = json!({"added_tokens_decoder": {
        "259": {"content": "<tool>", "special": false, "normalized": false},
        "1": {"content": "<|im_start|>", "special": false, "lstrip": false},
    }, "pad_token": "[PAD]", "additional_special_tokens": ["<extra>"]});
    let tokenizer = open(&[("tokenizer_config.json", config)]);
    assert_eq!(tokenizer.encode("a<tool>[PAD]<extra>", false).unwrap(), [A, 259, 260, 261]);
    assert_eq!(
        [259, 260, 261].map(|id| (tokenizer.is_added(id), tokenizer.is_special(id))),
        [(true, false), (true, true), (true, true)]
    );
    // The flags of `tokenizer_config.json` win.
    assert!(!tokenizer.is_special(1) && tokenizer.is_added(1));
    let older = [
        ("added_tokens.json", json!({"[PAD]": 259})),
        ("special_tokens_map.json", json!({"pad_token": "[PAD]"})),
    ];
    let older = open(&older);
    assert_eq!((older.pad_token_id(), older.encode("[PAD]", false).unwrap()), (259, vec![259]));
    assert!(older.is_special(259));
}

#[test]
fn white_space_keeps_its_bytes() {
    let folder = folder(&[]);
    let path = folder.path().join("tokenizer.json");
    let mut inner = bytes_only().inner;
    inner.with_post_processor(Some(tokenizers::pre_tokenizers::byte_level::ByteLevel::new(
        false, true, true,
    )));
    inner.save(&path, false).unwrap();
    let encoded = Tokenizer::from_file(&path).unwrap().encode_with_offsets("a\n b", true).unwrap();
    assert_eq!(encoded.offsets, [(0, 1), (1, 2), (2, 3), (3, 4)]);
}

#[test]
fn bytes_that_a_normalizer_takes_away_belong_to_the_token_before() {
    let folder = folder(&[]);
    let path = folder.path().join("tokenizer.json");
    let mut inner = bytes_only().inner;
    inner.with_normalizer(Some(tokenizers::normalizers::unicode::NFC));
    inner.save(&path, false).unwrap();
    let encoded =
        Tokenizer::from_file(&path).unwrap().encode_with_offsets("e\u{301}x", true).unwrap();
    assert_eq!(encoded.offsets.last(), Some(&(3, 4)));
    assert_eq!(encoded.offsets[1].1, 3);
}

#[test]
fn a_prefix_space_is_what_the_configuration_says() {
    let folder = folder(&[]);
    let path = folder.path().join("tokenizer.json");
    let mut inner = bytes_only().inner;
    inner.with_pre_tokenizer(Some(tokenizers::pre_tokenizers::byte_level::ByteLevel::new(
        true, true, true,
    )));
    inner.save(&path, false).unwrap();
    let count = || Tokenizer::from_file(&path).unwrap().encode("a", true).unwrap().len();
    assert_eq!(count(), 1);
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"add_prefix_space": true}"#)
        .unwrap();
    assert_eq!(count(), 2);
}

#[test]
fn a_folder_without_a_tokenizer_is_none_and_an_unread_kind_is_named() {
    let empty = tempfile::tempdir().unwrap();
    assert!(Tokenizer::from_model_dir(empty.path()).unwrap().is_none());
    assert!(
        Tokenizer::from_file(empty.path()).unwrap_err().to_string().contains("has no tokenizer")
    );
    std::fs::write(empty.path().join("vocab.txt"), "[UNK]").unwrap();
    let error = Tokenizer::from_model_dir(empty.path()).unwrap_err().to_string();
    assert!(error.contains("WordPiece") && error.contains("save_pretrained"), "{error}");
}

#[test]
fn a_pointer_in_the_place_of_the_file_is_named() {
    let folder = folder(&[]);
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        .unwrap();
    assert!(Tokenizer::from_file(&path).unwrap_err().to_string().contains("Git LFS"));
}
