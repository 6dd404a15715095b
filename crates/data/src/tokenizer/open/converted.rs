//! Vocabularies of other formats, against the references that `tests/fixtures/tokenizers/make.py`
//! has recorded.

use std::path::Path;

use serde_json::{Value, json};

use super::super::Tokenizer;

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A folder with the fixture under a name that models give it.
fn folder(file: &str, name: &str, config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(file), folder.path().join(name)).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

fn compare(key: &str, tokenizer: &Tokenizer, texts: &Value, expected: &Value, special: bool) {
    for (text, expected) in texts.as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
        let text = text.as_str().unwrap();
        assert_eq!(tokenizer.encode(text, special).unwrap(), ids(expected), "{key} {text:?}");
    }
}

#[test]
fn sentencepiece_models_are_converted_as_transformers_does() {
    let expected = expected();
    for key in ["llama_legacy", "llama", "llama_without_prefix", "gemma", "t5"] {
        let case = &expected[key];
        let folder =
            folder(case["file"].as_str().unwrap(), case["name"].as_str().unwrap(), &case["config"]);
        let tokenizer = Tokenizer::from_model_dir(folder.path()).unwrap().unwrap();
        compare(key, &tokenizer, &expected["texts"], &case["ids"], true);
    }
}

#[test]
fn a_sentencepiece_model_alone_is_llamas() {
    let tokenizer = Tokenizer::from_file(&fixture("llama.model")).unwrap();
    compare("alone", &tokenizer, &expected()["texts"], &expected()["llama_legacy"]["ids"], true);
    assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(1), Some(2)));
}

#[test]
fn a_class_that_is_told_of_the_prefix_space_is_made_from_its_model() {
    let folder =
        folder("llama.model", "tokenizer.model", &json!({"tokenizer_class": "LlamaTokenizer"}));
    let legacy = Tokenizer::from_file(folder.path()).unwrap();
    legacy.write(&folder.path().join("tokenizer.json")).unwrap();
    let case = &expected()["llama_without_prefix"];
    std::fs::write(folder.path().join("tokenizer_config.json"), case["config"].to_string())
        .unwrap();
    let tokenizer = Tokenizer::from_model_dir(folder.path()).unwrap().unwrap();
    compare("from slow", &tokenizer, &expected()["texts"], &case["ids"], true);
}

#[test]
fn tiktoken_files_are_read() {
    let expected = expected();
    let listed = json!({"added_tokens_decoder": {"300": {"content": "<|end|>", "special": true}}, "eos_token": "<|end|>"});
    let open = |config: &Value| {
        Tokenizer::from_model_dir(folder("ranks.tiktoken", "tokenizer.model", config).path())
            .map(Option::unwrap)
    };
    let tokenizer = open(&listed).unwrap();
    compare("gpt4", &tokenizer, &expected["gpt4"]["texts"], &expected["gpt4"]["ids"], true);
    assert_eq!(
        (tokenizer.eos_token_id(), tokenizer.encode("<|end|>", false).unwrap()),
        (Some(300), vec![300])
    );
    let qwen = open(&json!({"tokenizer_class": "QWenTokenizer"})).unwrap();
    compare("qwen", &qwen, &expected["qwen"]["texts"], &expected["qwen"]["ids"], true);
    let (last, count) = (qwen.token_to_id("<|extra_204|>").unwrap() as usize, qwen.vocab_size());
    assert_eq!(last + 1, count);
    assert!(open(&json!({})).unwrap_err().to_string().contains("no file lists its special tokens"));
    let unknown = open(&json!({"tokenizer_class": "TikTokenTokenizer"})).unwrap_err().to_string();
    assert!(
        unknown.contains("of a TikTokenTokenizer") && unknown.contains("save_pretrained"),
        "{unknown}"
    );
}

#[test]
fn a_tekken_file_has_its_special_tokens_first() {
    let expected = expected();
    let tokenizer = Tokenizer::from_file(&fixture("tekken.json")).unwrap();
    compare("tekken", &tokenizer, &expected["tekken"]["texts"], &expected["tekken"]["ids"], false);
    let first = tokenizer.encode("[INST]a<SPECIAL_29>", true).unwrap();
    assert_eq!(first, [1, 3, 30 + u32::from(b'a'), 29]);
    assert_eq!(
        (tokenizer.bos_token_id(), tokenizer.eos_token_id(), tokenizer.vocab_size()),
        (Some(1), Some(2), 300)
    );
}

#[test]
fn a_model_that_would_be_cut_differently_is_refused_by_name() {
    let message = |file: &str, class: &str| {
        let folder = folder(file, "tokenizer.model", &json!({"tokenizer_class": class}));
        Tokenizer::from_model_dir(folder.path()).unwrap_err().to_string()
    };
    let roberta = message("t5.model", "XLMRobertaTokenizer");
    assert!(
        roberta.contains("the SentencePiece model of a XLMRobertaTokenizer")
            && roberta.contains("save_pretrained"),
        "{roberta}"
    );
    assert!(message("t5.model", "LlamaTokenizer").contains("LlamaTokenizer"));
    let garbage = tempfile::tempdir().unwrap();
    std::fs::write(garbage.path().join("tokenizer.model"), "not a model").unwrap();
    assert!(
        Tokenizer::from_model_dir(garbage.path())
            .unwrap_err()
            .to_string()
            .contains("neither a SentencePiece model")
    );
}
