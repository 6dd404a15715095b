//! Texts of the user in the files that are rendered: a shell and YAML read each as the one word
//! that it is, in a command and in a comment.

use crate::failure::Failure;
use minijinja::{Environment, Error, ErrorKind};
use std::path::Path;

/// Words that YAML takes for something else than text.
const YAML_WORDS: [&str; 14] = [
    "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf", "none", "void", "e",
];

/// Gives templates the filters `word`, for shells and their comments, and `yaml`.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter("word", |text: &str| {
        quoted(text).map_err(|why| Error::new(ErrorKind::InvalidOperation, why))
    });
    environment.add_filter("yaml", |text: &str| yaml(text));
}

/// `text` as one word for bash, on one line whatever is in it.
///
/// # Errors
/// A zero byte, which no argument of a program has.
pub(super) fn word(text: &str) -> Result<String, Failure> {
    quoted(text).map_err(Failure::Input)
}

fn quoted(text: &str) -> Result<String, String> {
    match shlex::try_quote(text) {
        Err(_) => Err(format!("{text:?} has a zero byte, which no shell takes; leave it out")),
        Ok(_) if text.chars().any(breaks_line) => {
            Ok(format!("$'{}'", text.chars().map(escaped).collect::<String>()))
        }
        Ok(quoted) => Ok(quoted.into_owned()),
    }
}

/// The word for a path.
///
/// # Errors
/// A path that is no UTF-8, as the text around it is.
pub(super) fn path(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| {
        let what = format!("{} is not UTF-8, as a job's file is; rename it", path.display());
        Failure::Input(what)
    })
}

/// What ends a line for a shell, a terminal or YAML, or shows in none of them.
fn breaks_line(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// In bash's quotes `$'…'`.
fn escaped(letter: char) -> String {
    match letter {
        '\n' => "\\n".into(),
        '\t' => "\\t".into(),
        '\r' => "\\r".into(),
        '\\' | '\'' => format!("\\{letter}"),
        _ if breaks_line(letter) => {
            let mut bytes = [0; 4];
            letter.encode_utf8(&mut bytes).bytes().map(|byte| format!("\\x{byte:02x}")).collect()
        }
        _ => letter.into(),
    }
}

/// A scalar of YAML that is a text: as it is where it cannot be taken for anything else.
fn yaml(text: &str) -> String {
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-/:@".contains(letter))
        && !text.ends_with(':')
        && !YAML_WORDS.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Request, Scheduler, render};
    use super::*;
    use clap::ValueEnum;
    use config::Run;
    use proptest::prelude::*;
    use std::process::Command;

    /// What bash makes of a word.
    fn read_by_bash(word: &str) -> String {
        let read = Command::new("bash").arg("-c").arg(format!("printf %s {word}")).output();
        String::from_utf8(read.unwrap().stdout).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_word_is_read_as_it_was(text in "([ -~\n\r\t'\"$`\\\\!]|[\u{1}-\u{2029}]){0,24}") {
            let word = word(&text).unwrap();
            prop_assert!(!word.chars().any(breaks_line), "{word:?}");
            prop_assert_eq!(read_by_bash(&word), text);
        }
    }

    #[test]
    fn a_text_stays_a_text_in_yaml() {
        for text in ["llama-7", "true", "No", "12", "1e3", "-", "a:", "a\nb: c", "\"", "~", "1.5.2"]
        {
            let read: serde_json::Value = serde_yaml_ng::from_str(&yaml(text)).unwrap();
            assert_eq!(read, text, "{}", yaml(text));
            let inside = format!("{{name: {}}}", yaml(text));
            let read: serde_json::Value = serde_yaml_ng::from_str(&inside).unwrap();
            assert_eq!(read["name"], text, "{inside}");
        }
        assert_eq!(yaml("registry.example.org/loract:1"), "registry.example.org/loract:1");
    }

    /// Names, keys and programs that hold commands: none of them becomes a line of the job.
    #[test]
    fn nothing_that_is_configured_becomes_a_command() {
        let hostile = "a\ntouch pwned\n# $(touch pwned) `touch pwned` ' \" \\ \u{2028}touch pwned";
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join(format!("{hostile}.toml"));
        let text = format!(
            "[model]\npath = 'm'\n[lora]\n[data]\ntrain = 't'\n[cluster]\nname = 'tune-on'\nvolume = '123'\nmpirun = {mpirun}\nmpirun_args = [{mpirun}]\nsetup = ['''  one\n  two''']\n",
            mpirun = toml_text(hostile)
        );
        std::fs::write(&config, text).unwrap();
        let set = ["cluster.time='01:00:00'".to_owned(), format!("data.train={hostile}")];
        let run = Run::load(&config, &set).unwrap();
        let request = Request {
            run: &run,
            config: &config,
            set: &set,
            directory: folder.path(),
            file: Some(hostile.as_ref()),
        };
        for scheduler in Scheduler::value_variants() {
            let job = render(*scheduler, &request).unwrap();
            let lines = || job.split(['\n', '\r', '\u{2028}', '\u{2029}', '\u{85}']);
            assert!(!lines().any(|line| line.trim_start().starts_with("touch")), "{job}");
            if job.starts_with("#!") {
                let file = folder.path().join("job.sh");
                std::fs::write(&file, &job).unwrap();
                assert!(Command::new("bash").arg("-n").arg(&file).status().unwrap().success());
            } else {
                let documents = serde_yaml_ng::Deserializer::from_str(&job);
                for document in documents {
                    let read = <serde_json::Value as serde::Deserialize>::deserialize(document);
                    assert_eq!(
                        read.unwrap()["metadata"]["name"].as_str().unwrap().find("tune-on"),
                        Some(0)
                    );
                }
            }
        }
    }

    fn toml_text(text: &str) -> String {
        serde_json::Value::from(text).to_string()
    }
}
