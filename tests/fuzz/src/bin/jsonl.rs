//! Training data: records of any shape, one a line.
#![no_main]

use data::{BadLines, ChatTemplate, Dataset, Options, Sources};
use loract_fuzz::TOKENIZER;
use std::sync::LazyLock;

static TEMPLATE: LazyLock<ChatTemplate> = LazyLock::new(|| {
    let source = "{% for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}";
    ChatTemplate::new(source, None, Some("<end>")).expect("a template")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = loract_fuzz::file("train.jsonl", bytes);
    for bad_lines in [BadLines::Error, BadLines::Skip] {
        let options = Options { sequence_length: 32, bad_lines, ..Options::default() };
        let prepared = Dataset::prepare(&Sources::train([&path]), &*TOKENIZER, Some(&*TEMPLATE), &options, &|_, _| ());
        if let Ok(prepared) = prepared {
            (0..prepared.train.len()).for_each(|index| assert!(prepared.train.sample(index).expect("a sample").tokens.len() <= 32));
        }
    }
});
