use proptest::prelude::*;

use super::*;

/// GPT-2's printable character for a byte: itself where it is printable, else one from U+0100 on.
fn printable(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !is_printable(byte)).count() as u32;
    char::from_u32(0x100 + before).unwrap()
}

/// Tokens 0..3 are control tokens, 3..259 the bytes, then one per merge.
pub(crate) fn parts(pre: &str, merges: &[&str]) -> BpeParts {
    let control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let mut tokens: Vec<String> = control.iter().map(|&token| token.to_owned()).collect();
    tokens.extend((0..=255).map(|byte| printable(byte).to_string()));
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    BpeParts {
        special: (0..tokens.len()).map(|id| id < control.len()).collect(),
        tokens,
        merges: merges.iter().map(|&merge| merge.to_owned()).collect(),
        pre: pre.into(),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        pad: Some(2),
        add_bos: false,
    }
}

/// A byte-level tokenizer of the SmolLM2 kind.
pub(crate) fn bytes_only() -> Tokenizer {
    Tokenizer::from_bpe(parts("smollm", &[])).unwrap()
}

fn words(pre: &str, text: &str) -> Vec<String> {
    // Merges that join whatever the splitter leaves together among the characters in use.
    let merges = ["Ġ a", "Ġ !", "a b", "ab c", "1 2", "12 3", "Ċ Ċ", "Ġ Ġ", "3 1", "! !"];
    let tokenizer = Tokenizer::from_bpe(parts(pre, &merges)).unwrap();
    let ids = tokenizer.encode(text, false).unwrap();
    ids.into_iter().map(|id| tokenizer.id_to_token(id).unwrap()).collect()
}

#[test]
fn merges_apply_in_their_order() {
    // `b c` comes before `a b`, so `abc` becomes a + bc, though a + b would come first in the text.
    let tokenizer = Tokenizer::from_bpe(parts("smollm", &["b c", "a b"])).unwrap();
    assert_eq!(tokenizer.encode("abc", false).unwrap(), [3 + u32::from(b'a'), 259]);
    assert_eq!(tokenizer.encode("ab", false).unwrap(), [260]);
    assert_eq!(tokenizer.vocab_size(), 261);
}

#[test]
fn each_pre_tokenizer_cuts_as_published() {
    // Digits stand alone; GPT-2 leaves them together, but apart from letters; a space goes with the
    // word after it.
    assert_eq!(words("smollm", "abc 123"), ["abc", "Ġ", "1", "2", "3"]);
    assert_eq!(words("gpt-2", "abc 123"), ["abc", "Ġ", "123"]);
    assert_eq!(words("gpt-2", "  abc"), ["Ġ", "Ġa", "b", "c"]);
    // Llama 3 takes digits by three, and newlines together; Qwen 2 takes them alone.
    assert_eq!(words("llama-bpe", "123123\n\nab"), ["123", "123", "ĊĊ", "ab"]);
    assert_eq!(words("qwen2", "123\n\nab"), ["1", "2", "3", "ĊĊ", "ab"]);
    // GPT-2 does not let the last newline go with those before it.
    assert_eq!(words("gpt-2", "\n\nab"), ["Ċ", "Ċ", "ab"]);
    // The default takes punctuation away first, so that a space before it stands alone.
    assert_eq!(words("default", "ab !!123"), ["ab", "Ġ", "!!", "123"]);
}

#[test]
fn control_tokens_are_matched_first_and_can_be_left_out_of_the_text() {
    let tokenizer = bytes_only();
    let ids = tokenizer.encode("<|im_start|>a<|im_end|>", true).unwrap();
    assert_eq!(ids, [1, 3 + u32::from(b'a'), 2]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<|im_start|>a<|im_end|>");
    assert!(tokenizer.is_special(2) && !tokenizer.is_special(3));
    assert_eq!(tokenizer.stop_token_ids(), [0, 2]);
    assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(2));
    assert_eq!(
        (tokenizer.bos_token_id(), tokenizer.eos_token_id(), tokenizer.pad_token_id()),
        (Some(1), Some(2), 2)
    );
}

#[test]
fn a_bos_token_is_added_where_the_model_wants_one() {
    let tokenizer =
        Tokenizer::from_bpe(BpeParts { add_bos: true, ..parts("smollm", &[]) }).unwrap();
    assert_eq!(tokenizer.encode("a", true).unwrap(), [1, 3 + u32::from(b'a')]);
    assert_eq!(tokenizer.encode("a", false).unwrap(), [3 + u32::from(b'a')]);
}

#[test]
fn offsets_are_bytes_of_the_text() {
    let encoded = bytes_only().encode_with_offsets("é<|im_end|>x", false).unwrap();
    assert_eq!(encoded.offsets, [(0, 2), (0, 2), (2, 12), (12, 13)]);
}

#[test]
fn an_unknown_pre_tokenizer_names_the_known() {
    let message = Tokenizer::from_bpe(parts("tekken", &[])).unwrap_err().to_string();
    assert!(
        message.contains("\"tekken\"")
            && message.contains("smollm, gpt-2, llama-bpe, qwen2, default"),
        "{message}"
    );
}

#[test]
fn contradicting_parts_are_refused() {
    let message = |parts: BpeParts| Tokenizer::from_bpe(parts).unwrap_err().to_string();
    let good = parts("smollm", &[]);
    assert!(message(BpeParts { eos: Some(9999), ..good.clone() }).contains("eos token is 9999"));
    assert!(message(BpeParts { special: vec![], ..good.clone() }).contains("0 types"));
    assert!(message(BpeParts { merges: vec!["ab".into()], ..good.clone() }).contains("merge 0"));
    assert!(message(BpeParts { merges: vec!["a b".into()], ..good.clone() }).contains("ab"));
    assert!(message(BpeParts { add_bos: true, bos: None, ..good.clone() }).contains("bos"));
    let mut twice = good;
    twice.tokens[4] = twice.tokens[3].clone();
    assert!(message(twice).contains("twice"));
}

#[test]
fn fingerprints_tell_tokenizers_apart() {
    let (plain, merged) = (bytes_only(), Tokenizer::from_bpe(parts("smollm", &["a b"])).unwrap());
    assert_eq!(plain.fingerprint(), bytes_only().fingerprint());
    assert_ne!(plain.fingerprint(), merged.fingerprint());
}

#[test]
fn the_stream_never_shows_half_a_character() {
    let tokenizer = bytes_only();
    let mut stream = tokenizer.stream(true);
    let mut shown = Vec::new();
    for id in tokenizer.encode("aé😀<|im_end|>b", false).unwrap() {
        shown.push(stream.push(id).unwrap());
    }
    assert_eq!(shown, ["a", "", "é", "", "", "", "😀", "", "b"]);
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn the_stream_shows_broken_bytes_at_the_end() {
    let tokenizer = bytes_only();
    let mut stream = tokenizer.stream(true);
    assert_eq!(stream.push(3 + u32::from(b'a')).unwrap(), "a");
    assert_eq!(stream.push(3 + 0xC3).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
}

#[test]
fn reads_a_tokenizer_json_with_its_config() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut inner = bytes_only().inner;
    // Settings that would cut and pad every text, as some files carry them.
    inner
        .with_truncation(Some(tokenizers::TruncationParams { max_length: 2, ..Default::default() }))
        .unwrap();
    inner.save(&path, false).unwrap();
    let without = Tokenizer::from_file(&path).unwrap();
    assert_eq!(without.eos_token_id(), None);
    let config = r#"{"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>", "pad_token": null}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    assert_eq!(
        (tokenizer.bos_token_id(), tokenizer.eos_token_id(), tokenizer.pad_token_id()),
        (Some(1), Some(2), 2)
    );
    assert_eq!(tokenizer.encode("abcd", true).unwrap().len(), 4);
    assert_ne!(tokenizer.fingerprint(), without.fingerprint());
}

#[test]
fn a_broken_tokenizer_json_is_an_error_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    assert!(Tokenizer::from_file(&path).unwrap_err().to_string().contains("tokenizer.json"));
    std::fs::write(&path, "{").unwrap();
    assert!(Tokenizer::from_file(&path).unwrap_err().to_string().contains("does not parse"));
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(text in any::<String>(), pre in prop::sample::select(pre::SUPPORTED.to_vec())) {
        let tokenizer = Tokenizer::from_bpe(parts(pre, &["a b", "Ġ a", "Ã ©"])).unwrap();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }

    #[test]
    fn the_stream_says_what_decoding_says(text in "[a-c é😀\u{FFFD}日\n]{0,30}") {
        let tokenizer = Tokenizer::from_bpe(parts("smollm", &["a b", "Ġ a", "Ã ©"])).unwrap();
        let ids = tokenizer.encode(&text, false).unwrap();
        let mut stream = tokenizer.stream(false);
        let mut shown: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        shown.push_str(&stream.finish().unwrap());
        prop_assert_eq!(shown, text);
    }
}
