//! The words of the repository are those of PyTorch, transformers, PEFT and MPI: sources,
//! documentation and scripts use none of the words that once stood in their place. A fault is
//! reported with its place and with the word to write.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Phrases that are wrong wherever they stand, in any case, also across lines; and what to write.
const PHRASES: &[(&str, &str)] = &[
    ("held-out", "validation"),
    ("goes on after", "resumes from"),
    ("goes on from", "resumes from"),
    ("goes on where", "resumes where"),
    ("going on after", "resuming from"),
    ("going on with", "resuming"),
    ("go on from", "resume from"),
    ("begins anew", "starts over"),
    ("begin anew", "start over"),
    ("begun anew", "started over"),
    ("from nothing", "from scratch"),
    ("in few bits", "quantized"),
    ("foretold", "predicted"),
    ("foretell", "predict"),
    ("foretells", "predicts"),
    ("tokens a second", "tokens/s"),
    ("bytes a second", "bytes/s"),
    ("seconds a step", "seconds per step"),
    ("ms a step", "ms per step"),
    ("MB a step", "MB per step"),
    ("bytes a step", "bytes per step"),
    ("tokens a step", "tokens per step"),
    ("kept for backward", "saved for backward"),
    ("exact keeping", "exact activations"),
    ("learnt", "learned"),
    ("oftener", "more often"),
    ("would else", "would otherwise"),
    ("so do differ", "also different"),
    ("whose mpirun it is", "which MPI it is"),
    ("over the wire", "gradient communication"),
    ("are the matter of", "say it with a verb"),
    ("is the matter of", "say it with a verb"),
];

/// Names in code, as they are written, where they are wrong (`""`: everywhere), and the name to
/// use. Prose is not searched for them: its sentences may begin with `Packed` or `Following`.
const IDENTIFIERS: &[(&str, &str, &str)] = &[
    ("", "Way", "TrainSetup (of a run) or BucketMethod (of a bucket)"),
    ("", "Learner", "Task"),
    ("", "Stepper", "Trainer"),
    ("", "Surroundings", "BlockContext"),
    ("", "Joining", "Residual"),
    ("", "ByScores", "EagerAttention"),
    ("", "Handover", "SavedContext"),
    ("", "SharedKeep", "SharedSave"),
    ("", "Ledger", "SavedBytes"),
    ("", "Pulled", "OutputGrads"),
    ("", "Law", "Distribution"),
    ("", "PartialForm", "CompressionOverrides"),
    ("", "Keeping", "CompressionMethod"),
    ("", "Drill", "FaultInjection"),
    ("", "LORACT_DRILL", "LORACT_INJECT_FAULT"),
    ("", "Saver", "Checkpointer"),
    ("", "LOOK_EVERY", "POLL_INTERVAL"),
    ("", "Beginning", "RunStart"),
    ("", "GoingOn", "Resume"),
    ("", "Carrier", "ReduceWorkers"),
    ("", "Lane", "Worker"),
    ("", "GradientReducer::knowing", "GradientReducer::with_hints"),
    ("", "Invitation", "Endpoint"),
    ("", "Door", "Listener"),
    ("", "ranks: usize", "world_size: usize"),
    ("", "::of(", "new, from_…, open, load or parse"),
    ("crates/collective", "Station", "Server"),
    ("crates/compression", "Memory", "SiteState"),
    ("crates/compression", "Following", "AdaptiveBasis"),
    ("crates/config", "Form", "CompressionConfig"),
    ("crates/config", "Places", "SourceMap"),
    ("crates/config", "misfit", "error_at"),
    ("crates/layers", "Place", "SiteId"),
    ("crates/layers", "Keep", "SavePolicy"),
    ("crates/layers", "Kept", "SavedActivation"),
    ("crates/layers", "Source", "SavedInput"),
    ("crates/layers", "Sites", "ActivationStore"),
    ("crates/layers", "Chain", "DeltaChain"),
    ("crates/layers", "Packed", "QuantizedWeight"),
    ("crates/layers", "Pair", "LoraSlots"),
    ("crates/layers", "Saving", "SavedContext"),
    ("crates/layers", "Stretch", "QueryChunk"),
    ("crates/models", "Keep", "SavePolicy"),
    ("crates/models", "Packed", "QuantizedWeight"),
    ("crates/models/src", "Seen", "KvCache"),
    ("crates/models", "Tail", "LmHead"),
    ("crates/models", "Done", "Result<Tensor>"),
    ("crates/models", "of_attended", "mlp_residual"),
    ("crates/reduce", "Unit", "BucketReducer"),
    ("crates/reduce", "Known", "ParamHints"),
    ("crates/reduce", "Answer", "ReducedBucket"),
    ("crates/reduce", "Order", "ReduceJob"),
    ("crates/estimate", "Room", "Allocation"),
    ("crates/estimate", "Bench", "MemorySim"),
    ("crates/estimate", "Course", "StepEstimate"),
    ("crates/estimate", "Meter", "MemoryTracker"),
    ("crates/analysis", "Division", "BitAllocation"),
    ("crates/analysis", "Choice", "Candidate"),
    ("crates/checkpoint", "Moment", "TrainState"),
    ("crates/trainer", "Keep", "SavePolicy"),
    ("crates/trainer", "Sites", "ActivationStore"),
    ("crates/trainer", "Share", "RankBatch"),
    ("crates/trainer", "Outcome", "StepOutput"),
    ("crates/trainer", "Language", "CausalLmTask"),
    ("crates/trainer", "Classes", "ClassificationTask"),
    ("crates/trainer", "Form", "CompressionConfig"),
    ("crates/trainer", "Room", "Allocation"),
    ("crates/trainer", "Bench", "MemorySim"),
    ("crates/trainer", "Course", "StepEstimate"),
    ("crates/trainer", "Meter", "MemoryTracker"),
    ("crates/trainer", "Division", "BitAllocation"),
    ("crates/trainer", "Reader", "SharedBasisParam"),
    ("crates/trainer", "Moment", "TrainState"),
    ("crates/trainer", "Probe", "GradientProbe"),
    ("crates/trainer", "Taken", "ProbeResult"),
    ("launcher", "Follow", "RunMonitor"),
    ("launcher", "Ladder", "Shutdown"),
    ("launcher", "Rung", "Stage"),
    ("launcher", "GRACE", "TERM_AFTER"),
    ("launcher", "PATIENCE", "KILL_AFTER"),
    ("launcher", "Anew", "Fresh"),
];

/// What has the field's words already; a place is added when its words are.
const CLEAN: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "deny.toml",
    ".github",
    "docs",
    "configs",
    "ci",
    "examples",
    "launcher",
    "tests",
    "crates/analysis",
    "crates/autograd",
    "crates/checkpoint",
    "crates/collective",
    "crates/compression",
    "crates/config",
    "crates/cuda",
    "crates/data",
    "crates/estimate",
    "crates/files",
    "crates/inference",
    "crates/kernels",
    "crates/layers",
    "crates/models",
    "crates/optim",
    "crates/reduce",
    "crates/setup",
    "crates/trainer",
];

/// Places that need a word: a file or folder, the word, and why.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("tests/glossary.rs", "", "has the list of words"),
    ("crates/config/src/tables/cluster.rs", "ranks: usize", "declares the key of a configuration"),
    ("crates/checkpoint/src/manifest.rs", "ranks: usize", "is a key of manifest.json"),
    ("crates/data/src/prepare/tests.rs", "::of(", "calls proptest's `option::of`"),
    ("crates/estimate/src/plan.rs", "ranks: usize", "is a key of what `loract plan --json` prints"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Whether `path` is `place`, or is in it.
fn is_in(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Sources, pages, settings and scripts below a folder, as paths from the root. Fixtures were
/// written by other programs.
fn files(folder: &str) -> Vec<String> {
    const SKIPPED: [&str; 6] = [".git", ".deps", "target", "runs", "docs/book", "tests/fixtures"];
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if SKIPPED.contains(&path.as_str()) || path.ends_with("__pycache__") {
            continue;
        }
        if entry.path().is_dir() {
            found.extend(files(&path));
        } else if is_in(&path, "ci")
            || [".rs", ".md", ".toml"].iter().any(|ending| path.ends_with(ending))
        {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The code of a file, line by line: of comments and of prose only what stands between backticks.
fn code(path: &str, file: &str) -> String {
    let spans = |line: &str| line.split('`').skip(1).step_by(2).collect::<Vec<_>>().join(" ");
    let mut is_fenced = false;
    let mut code = String::new();
    for line in file.lines() {
        let start = line.trim_start();
        is_fenced ^= start.starts_with("```");
        let is_prose = match path.rsplit_once('.').map(|(_, ending)| ending) {
            Some("rs") => start.starts_with("//"),
            Some("md") => !is_fenced,
            _ => false,
        };
        code += &if is_prose { spans(line) } else { line.to_owned() };
        code.push('\n');
    }
    code
}

/// A file's words with one space between them, so that a phrase is found across lines.
struct Words {
    text: String,
    /// The offset in `text` at which each line of the file begins.
    lines: Vec<usize>,
}

impl Words {
    fn new(file: &str) -> Self {
        const MARKERS: [&str; 6] = ["///", "//!", "//", "#", "*", "|"];
        let mut words = Self { text: String::new(), lines: Vec::new() };
        for line in file.lines() {
            words.lines.push(words.text.len());
            let mut parts = line.split_whitespace().peekable();
            parts.next_if(|first| MARKERS.contains(first));
            parts.for_each(|part| write!(words.text, "{part} ").unwrap());
        }
        words
    }

    /// The lines, from 1, in which `word` stands by itself.
    fn find(&self, word: &str, any_case: bool) -> Vec<usize> {
        let text = if any_case { self.text.to_ascii_lowercase() } else { self.text.clone() };
        let word = if any_case { word.to_ascii_lowercase() } else { word.to_owned() };
        let inner = |letter: char| letter.is_alphanumeric() || letter == '_';
        let alone = |start: usize| {
            let (before, after) =
                (text[..start].chars().next_back(), text[start + word.len()..].chars().next());
            let left = !word.starts_with(inner) || !before.is_some_and(inner);
            let right = !word.ends_with(inner) || !after.is_some_and(inner);
            left && right
        };
        let starts =
            text.match_indices(&word).map(|(start, _)| start).filter(|start| alone(*start));
        starts.map(|start| self.lines.partition_point(|line| *line <= start)).collect()
    }
}

/// Every fault in a file, as `path:line: word`, and what to write.
fn faults(path: &str) -> Vec<String> {
    let Ok(file) = fs::read_to_string(root().join(path)) else { return Vec::new() };
    let (text, code) = (Words::new(&file), Words::new(&code(path, &file)));
    let phrases = PHRASES.iter().map(|(word, instead)| (*word, *instead, text.find(word, true)));
    let here = IDENTIFIERS.iter().filter(|(place, ..)| place.is_empty() || is_in(path, place));
    let names = here.map(|(_, word, instead)| (*word, *instead, code.find(word, false)));
    let is_allowed = |word: &str| {
        ALLOWED
            .iter()
            .any(|(place, only, _)| is_in(path, place) && (only.is_empty() || *only == word))
    };
    let mut found = Vec::new();
    for (word, instead, lines) in phrases.chain(names).filter(|(word, ..)| !is_allowed(word)) {
        found.extend(lines.iter().map(|line| format!("{path}:{line}: `{word}`; write: {instead}")));
    }
    found
}

#[test]
fn the_words_are_those_of_the_field() {
    let checked = files("").into_iter().filter(|path| CLEAN.iter().any(|place| is_in(path, place)));
    let found: Vec<String> = checked.flat_map(|path| faults(&path)).collect();
    assert!(
        found.is_empty(),
        "{} words that are not of the field:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// Lists what is left in the rest: `cargo test --release -p loract --test glossary -- --ignored
/// --nocapture`.
#[test]
#[ignore = "prints what is left to rename"]
fn everywhere() {
    files("").iter().flat_map(|path| faults(path)).for_each(|fault| println!("{fault}"));
}

#[test]
fn every_exception_is_needed() {
    for (place, word, reason) in ALLOWED {
        let has_it = |path: &String| {
            fs::read_to_string(root().join(path))
                .is_ok_and(|file| !Words::new(&file).find(word, true).is_empty())
        };
        let mut there = files("").into_iter().filter(|path| is_in(path, place));
        assert!(
            !reason.is_empty() && there.any(|path| word.is_empty() || has_it(&path)),
            "{place}: {word}"
        );
    }
    for place in CLEAN {
        assert!(root().join(place).exists(), "{place}");
    }
}

#[test]
fn a_phrase_is_found_across_lines_and_only_as_whole_words() {
    let words = Words::new(
        "/// Counts tokens a\n/// second.\nlet seconds_a_step = Waypoint;\nfn x() -> Way {}\n",
    );
    assert_eq!(words.find("tokens a second", true), [1]);
    assert_eq!(words.find("Way", false), [4]);
    assert!(words.find("a step", true).is_empty());
}

#[test]
fn names_are_found_in_code_and_between_backticks_only() {
    let source = code("a.rs", "/// Packed rows.\n/// A [`Packed`].\nstruct Packed;\n");
    assert_eq!(Words::new(&source).find("Packed", false), [2, 3]);
    assert!(!code("a.md", "Packed rows.\n").contains("Packed"));
}
