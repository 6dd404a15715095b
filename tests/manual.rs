//! The manual in `docs/` and the pages at the repository's root: the commands of three pages are
//! run here; every other command, link and heading that a page names exists.
#![allow(clippy::unwrap_used)]

mod program;

use program::{Place, fixture};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Pages whose commands are run, in a folder that has a model in `model/`.
const RUN: [&str; 3] = ["docs/own-model.md", "docs/multi-node.md", "docs/troubleshooting.md"];

fn root() -> PathBuf {
    fixture("../..")
}

/// A file of the repository.
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A fenced block: the words after the fence, and its lines.
struct Block {
    words: Vec<String>,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let text = read(page);
    let parts: Vec<&str> = text.split("```").collect();
    assert!(parts.len() % 2 == 1, "{page}: a fence is not closed");
    let block = |part: &&str| {
        let (words, text) = part.split_once('\n').unwrap_or((part, ""));
        Block {
            words: words.split_whitespace().map(str::to_owned).collect(),
            text: text.to_owned(),
        }
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
    // As GPT-2 prints bytes: the visible ones as themselves, the space and the end of a line moved
    // up.
    let letters = ('!'..='~').chain(['\u{120}', '\u{10a}']).map(String::from);
    let vocabulary: BTreeMap<String, usize> = letters.chain(["<end>".into()]).zip(0..).collect();
    assert_eq!(vocabulary.len(), 97, "the size of the model's vocabulary");
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let end = json!({"id": 96, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "added_tokens": [end],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for message in messages %}{{ message.role }}: {{ message.content }}<end>{% endfor %}\
                    {% if add_generation_prompt %}assistant: {% endif %}";
    fs::write(
        folder.join("tokenizer_config.json"),
        json!({"eos_token": "<end>", "chat_template": template}).to_string(),
    )
    .unwrap();
}

/// Does what a page says: writes the files that it shows, and runs its commands.
fn run_page(page: &str) {
    let place = Place::new();
    fs::remove_file(place.config()).unwrap();
    model(&place);
    let program = PathBuf::from(env!("CARGO_BIN_EXE_loract"));
    let path =
        format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut ran = 0;
    for Block { words, text } in blocks(page) {
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["sh"] => {
                let mut shell = place.command("bash");
                shell
                    .args(["-euo", "pipefail", "-c", &text])
                    .env("PATH", &path)
                    .env("OMP_NUM_THREADS", "1");
                for (name, value) in [
                    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
                    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
                    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
                    ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
                ] {
                    shell.env(name, value);
                }
                let ended = place.run(&mut shell);
                assert!(
                    ended.status.success(),
                    "{page}:\n{text}\n{}\n{}",
                    ended.stdout,
                    ended.stderr
                );
                ran += 1;
            }
            [_, file] => fs::write(place.at(file), text).unwrap(),
            _ => {}
        }
    }
    assert!(ran > 0, "{page} has no command to run");
}

#[test]
fn own_model_and_data() {
    run_page(RUN[0]);
}

#[test]
fn several_machines() {
    run_page(RUN[1]);
}

#[test]
fn troubleshooting() {
    run_page(RUN[2]);
}

/// The pages of the book in their order, as paths from the repository's root.
fn pages() -> Vec<String> {
    let summary = read("docs/SUMMARY.md");
    links(&summary).into_iter().map(|link| format!("docs/{link}")).collect()
}

/// Pages outside the book.
const REPOSITORY_PAGES: [&str; 4] =
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"];

/// A page without its code, where brackets and headings mean something else.
fn prose(text: &str) -> String {
    let outside: String = text.split("```").step_by(2).collect();
    outside.split('`').step_by(2).collect()
}

/// The targets of a page's links and images.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let starts = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    starts.map(|(link, _)| link.split_whitespace().collect()).collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let outside: String = text.split("```").step_by(2).collect();
    let mut anchors = BTreeSet::new();
    for heading in outside.lines().filter(|line| line.starts_with('#')) {
        let kept = |letter: &char| letter.is_alphanumeric() || " -_".contains(*letter);
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let slug = heading.chars().filter(kept).collect::<String>().replace(' ', "-");
        let repeated = (1..).map(|count| format!("{slug}-{count}"));
        let mut names = std::iter::once(slug.clone()).chain(repeated);
        anchors.extend(names.find(|name| !anchors.contains(name)));
    }
    anchors
}

/// Why a link of `page` leads nowhere, if it does.
fn broken(page: &str, link: &str) -> Option<String> {
    if link.contains("://") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let file = match path {
        "" => page.into(),
        path => Path::new(page).parent().unwrap().join(path),
    };
    if !root().join(&file).exists() {
        return Some(format!("{page} links to {link}: there is no such file"));
    }
    let missing = !anchor.is_empty() && !anchors(&read(file.to_str().unwrap())).contains(anchor);
    missing.then(|| format!("{page} links to {link}: there is no such heading"))
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let all = pages().into_iter().chain(REPOSITORY_PAGES.map(str::to_owned));
    let mut faults = Vec::new();
    for page in all.chain(["docs/SUMMARY.md".to_owned()]) {
        faults.extend(links(&read(&page)).iter().filter_map(|link| broken(&page, link)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The Markdown files below a folder of the repository, but for the book that mdBook writes.
fn markdown(folder: &str) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let path = format!("{folder}/{}", entry.unwrap().file_name().into_string().unwrap());
        if root().join(&path).is_dir() && path != "docs/book" {
            files.extend(markdown(&path));
        } else if path.ends_with(".md") {
            files.push(path);
        }
    }
    files
}

#[test]
fn the_summary_names_every_page_once() {
    let mut pages = pages();
    pages.push("docs/SUMMARY.md".into());
    pages.sort();
    let mut files = markdown("docs");
    files.sort();
    assert_eq!(pages, files);
}

/// The lines of a page's blocks that are typed in a shell, and its code that begins with `loract`.
fn shown(page: &str) -> Vec<String> {
    let is_shell =
        |block: &Block| matches!(block.words.first().map(String::as_str), Some("sh" | "text"));
    let blocks = blocks(page).into_iter().filter(is_shell);
    let mut lines: Vec<String> = blocks
        .flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let text = read(page);
    lines.extend(
        text.split('`')
            .skip(1)
            .step_by(2)
            .filter(|code| code.starts_with("loract "))
            .map(str::to_owned),
    );
    lines
}

/// Every `loract` in a block of any page, and in backticks, is a command with options that it has.
#[test]
fn commands_that_are_only_shown_are_the_programs() {
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = 0;
    // The reference is printed by the program itself.
    let written = pages().into_iter().filter(|page| !page.starts_with("docs/reference/"));
    for page in written.chain(REPOSITORY_PAGES.map(str::to_owned)) {
        for line in shown(&page) {
            // What follows another command, or a comment, is not ours.
            let Some((_, ours)) = line.split_once("loract ") else { continue };
            let ours = ours.split(['|', '&', ';', '#', '>']).next().unwrap();
            let mut words = ours.split_whitespace();
            let is_name = |word: &&str| word.chars().all(|letter| letter.is_ascii_lowercase());
            let Some(command) = words.next().filter(is_name) else { continue };
            let help = helps.entry(command.to_owned()).or_insert_with(|| {
                let mut program = Command::new(env!("CARGO_BIN_EXE_loract"));
                let output = program.args([command, "--help"]).output().unwrap();
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
