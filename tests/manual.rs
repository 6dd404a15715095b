//! The manual in `docs/`: what its pages tell a reader to type is typed here, and what else they name exists.
#![allow(clippy::unwrap_used)]

mod program;

use program::{Place, fixture};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Pages whose commands are run, in a folder that has a model in `model/`. Of the others it is seen to that their commands are the program's.
const RUN: [&str; 3] = ["own-model.md", "multi-node.md", "troubleshooting.md"];

fn docs() -> PathBuf {
    fixture("../../docs")
}

/// A fenced block: what stands behind the fence, and its lines.
struct Block {
    words: Vec<String>,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let text = fs::read_to_string(docs().join(page)).unwrap();
    let parts: Vec<&str> = text.split("```").collect();
    assert!(parts.len() % 2 == 1, "{page}: a fence is not closed");
    let block = |part: &&str| {
        let (words, text) = part.split_once('\n').unwrap_or((part, ""));
        Block { words: words.split_whitespace().map(str::to_owned).collect(), text: text.to_owned() }
    };
    parts.iter().skip(1).step_by(2).map(block).collect()
}

/// The tiny Llama with a tokenizer that knows the letters of ASCII, and a chat template.
fn model(place: &Place) {
    let folder = place.at("model");
    fs::create_dir(&folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("hf/llama").join(name), folder.join(name)).unwrap();
    }
    // As GPT-2 prints bytes: the visible ones as themselves, the space and the end of a line moved up.
    let letters = ('!'..='~').chain(['\u{120}', '\u{10a}']).map(String::from);
    let vocabulary: BTreeMap<String, usize> = letters.chain(["<end>".into()]).zip(0..).collect();
    assert_eq!(vocabulary.len(), 97, "as many as the model knows");
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let end =
        json!({"id": 96, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "added_tokens": [end],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for message in messages %}{{ message.role }}: {{ message.content }}<end>{% endfor %}\
                    {% if add_generation_prompt %}assistant: {% endif %}";
    fs::write(folder.join("tokenizer_config.json"), json!({"eos_token": "<end>", "chat_template": template}).to_string()).unwrap();
}

/// Follows a page: writes the files that it shows, and types what it says.
fn follow(page: &str) {
    let place = Place::new();
    fs::remove_file(place.config()).unwrap();
    model(&place);
    let program = PathBuf::from(env!("CARGO_BIN_EXE_loract"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut typed = 0;
    for Block { words, text } in blocks(page) {
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["sh"] => {
                let mut shell = place.command("bash");
                shell.args(["-euo", "pipefail", "-c", &text]).env("PATH", &path).env("OMP_NUM_THREADS", "1");
                for (name, value) in [
                    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
                    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
                    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
                    ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
                ] {
                    shell.env(name, value);
                }
                let ended = place.run(&mut shell);
                assert!(ended.status.success(), "{page}:\n{text}\n{}\n{}", ended.stdout, ended.stderr);
                typed += 1;
            }
            [_, file] => fs::write(place.at(file), text).unwrap(),
            _ => {}
        }
    }
    assert!(typed > 0, "{page} has nothing to type");
}

#[test]
fn an_own_model_and_data() {
    follow(RUN[0]);
}

#[test]
fn several_machines() {
    follow(RUN[1]);
}

#[test]
fn troubleshooting() {
    follow(RUN[2]);
}

/// The pages of the book, in their order.
fn pages() -> Vec<String> {
    let summary = fs::read_to_string(docs().join("SUMMARY.md")).unwrap();
    summary.lines().filter_map(|line| Some(line.split_once("](")?.1.split_once(')')?.0.to_owned())).collect()
}

#[test]
fn the_book_has_every_page_once_and_every_link_leads_somewhere() {
    let mut pages = pages();
    for page in &pages {
        let text = fs::read_to_string(docs().join(page)).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let file = link.split('#').next().unwrap();
            assert!(docs().join(file).exists(), "{page} links to {link}");
        }
    }
    pages.push("SUMMARY.md".into());
    pages.sort();
    let names = |folder: &str| {
        let entries = fs::read_dir(docs().join(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        entries.filter(|name| name.ends_with(".md")).map(|name| format!("{folder}{name}")).collect::<Vec<_>>()
    };
    let mut files: Vec<String> = [names(""), names("reference/")].concat();
    files.sort();
    assert_eq!(pages, files);
}

/// Every `loract` in a block of any page, and in backticks of the table of symptoms, is a command with options that it has.
#[test]
fn commands_that_are_only_shown_are_the_programs() {
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = 0;
    for page in pages() {
        let text = fs::read_to_string(docs().join(&page)).unwrap();
        let shown = blocks(&page).into_iter().filter(|block| matches!(block.words.first().map(String::as_str), Some("sh" | "text")));
        let mut lines: Vec<String> = shown.flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        lines.extend(text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("loract ")).map(str::to_owned));
        for line in lines {
            // What follows another command, or a comment, is not ours.
            let Some((_, ours)) = line.split_once("loract ") else { continue };
            let ours = ours.split(['|', '&', ';', '#', '>']).next().unwrap();
            let mut words = ours.split_whitespace();
            let Some(command) = words.next().filter(|word| word.chars().all(|letter| letter.is_ascii_lowercase())) else { continue };
            let help = helps.entry(command.to_owned()).or_insert_with(|| {
                let output = Command::new(env!("CARGO_BIN_EXE_loract")).args([command, "--help"]).output().unwrap();
                assert!(output.status.success(), "{page}: loract {command} is no command ({line})");
                String::from_utf8(output.stdout).unwrap()
            });
            for option in words.filter(|word| word.starts_with("--")) {
                let name = option.split('=').next().unwrap();
                assert!(help.contains(name), "{page}: loract {command} has no {name} ({line})");
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} commands were found");
}
