use std::cell::RefCell;

use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use tempfile::TempDir;

use super::*;
use crate::options::LossOn;
use crate::source::Source;
use crate::template::tests::SMOLLM2;
use crate::tokenizer::tests::bytes_only;

mod conversations;
mod overflow;

struct Desk {
    folder: TempDir,
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl Desk {
    fn new() -> Self {
        let template = ChatTemplate::new(SMOLLM2, None, None).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), tokenizer: bytes_only(), template }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn prepare(&self, sources: &Sources, options: &Options) -> Result<Prepared> {
        Dataset::prepare(sources, &self.tokenizer, Some(&self.template), options, &|_, _| ())
    }

    fn text(&self, dataset: &Dataset) -> Vec<String> {
        samples(dataset)
            .iter()
            .map(|sample| self.tokenizer.decode(&sample.tokens, true).unwrap())
            .collect()
    }

    fn message(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let sources = Sources::train([self.file(name, content)]);
        self.prepare(&sources, &Options::default()).unwrap_err().to_string()
    }
}

fn samples(dataset: &Dataset) -> Vec<Sample> {
    (0..dataset.len()).map(|index| dataset.sample(index).unwrap()).collect()
}

const GOOD: &str =
    r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}]}"#;

fn story(paragraphs: usize) -> String {
    (0..paragraphs).map(|i| format!("{}\n\n", "x".repeat(i % 7 + 1) + &i.to_string())).collect()
}

fn ready_batches(
    name: &str,
    desk: &Desk,
    shape: [usize; 3],
    ids: &[i64],
    labels: Option<&[i64]>,
) -> PathBuf {
    let bytes =
        |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let (ids, labels) = (bytes(ids), labels.map(bytes));
    let mut tensors = vec![("batches", TensorView::new(Dtype::I64, shape.to_vec(), &ids).unwrap())];
    if let Some(labels) = &labels {
        tensors.push(("labels", TensorView::new(Dtype::I64, shape.to_vec(), labels).unwrap()));
    }
    desk.file(name, serialize(tensors, None).unwrap())
}

#[test]
fn reads_every_kind_of_source_in_order() {
    let desk = Desk::new();
    let array = r#"[{"text":"two"}, {"prompt":"th","completion":"ree"}]"#;
    let sources = Sources::train([
        desk.file("a.txt", "zero\n\none\n"),
        desk.file("b.json", array),
        desk.file("c.jsonl", format!("{GOOD}\n\n{{\"text\":\"four\"}}\n")),
    ]);
    let prepared = desk.prepare(&sources, &Options::default()).unwrap();
    let text = desk.text(&prepared.train);
    assert_eq!(text[..4], ["zero", "one", "two", "three"]);
    assert!(text[4].ends_with("user\nHi\nassistant\nHello\n"));
    assert_eq!(text[5..], ["four"]);
    assert_eq!(prepared.train.report().records, 6);
    assert!(prepared.eval.is_none() && !prepared.train.is_ordered());
}

#[test]
fn bad_records_name_file_line_and_remedy() {
    let desk = Desk::new();
    let broken = desk.message("broken.jsonl", format!("{GOOD}\n\n{{\"text\": \n"));
    assert!(
        broken.contains("broken JSON") && broken.contains("broken.jsonl:3; write one whole record"),
        "{broken}"
    );
    let array = desk.message("array.json", "[\n{\"text\":\"a\"}\n");
    assert!(array.contains("array.json:3"), "{array}");
    let shape = desk.message("shape.jsonl", "{\"query\":\"a\"}");
    assert!(shape.contains("`query`") && shape.contains("shape.jsonl:1"), "{shape}");
    let empty = desk.message("empty.jsonl", format!("{GOOD}\n{{\"messages\":[]}}"));
    assert!(
        empty.contains("conversation is empty, at") && empty.contains("empty.jsonl:2"),
        "{empty}"
    );
    let silent = desk.message("silent.jsonl", r#"{"messages":[{"role":"user","content":"a"}]}"#);
    assert!(silent.contains("no assistant turn") && silent.contains("silent.jsonl:1"), "{silent}");
    let latin = desk.message("latin.txt", b"fine\n\ncaf\xE9");
    assert!(latin.contains("UTF-8") && latin.contains("latin.txt:3"), "{latin}");
}

#[test]
fn the_first_bad_record_is_the_one_that_is_named() {
    let desk = Desk::new();
    let lines: String =
        (0..2000).map(|i| if i >= 700 { "x\n".into() } else { format!("{GOOD}\n") }).collect();
    assert!(desk.message("many.jsonl", lines).contains("many.jsonl:701;"));
}

#[test]
fn bad_records_can_be_skipped_and_are_counted() {
    let desk = Desk::new();
    let sources = Sources::train([desk.file("mixed.jsonl", format!("{GOOD}\nx\n{GOOD}\n{{}}\n"))]);
    let options = Options { bad_lines: BadLines::Skip, ..Options::default() };
    let train = desk.prepare(&sources, &options).unwrap().train;
    assert_eq!((train.len(), train.report().records, train.report().skipped), (2, 4, 2));
}

#[test]
fn nothing_left_is_an_error() {
    let desk = Desk::new();
    assert!(
        desk.message("blank.txt", "\n \n").contains("train data set is empty: it has no records")
    );
    let sources = Sources::train([desk.file("bad.jsonl", "x\n")]);
    let options = Options { bad_lines: BadLines::Skip, ..Options::default() };
    let message = desk.prepare(&sources, &options).unwrap_err().to_string();
    assert!(message.contains("records: 1, of them bad: 1"), "{message}");
    // The answer lies after the end of what is kept.
    let sources = Sources::train([desk.file("good.jsonl", GOOD)]);
    let message = desk
        .prepare(&sources, &Options { sequence_length: 20, ..Options::default() })
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("without a trained token: 1") && message.contains("sequence_length"),
        "{message}"
    );
}

#[test]
fn missing_and_unknown_files_are_named() {
    let desk = Desk::new();
    let message = |path: PathBuf| {
        desk.prepare(&Sources::train([path]), &Options::default()).unwrap_err().to_string()
    };
    assert!(message(desk.path("absent.jsonl")).contains("cannot open"));
    assert!(message(desk.file("table.xls", "a,b")).contains("\"xls\""));
    assert!(
        desk.prepare(&Sources::default(), &Options::default())
            .unwrap_err()
            .to_string()
            .contains("no training source")
    );
}

#[test]
fn truncated_samples_keep_their_start() {
    let desk = Desk::new();
    let sources = Sources::train([desk.file("a.txt", "abcdef\n\nxy")]);
    let options =
        Options { sequence_length: 4, overflow: Some(Overflow::Truncate), ..Options::default() };
    let train = desk.prepare(&sources, &options).unwrap().train;
    assert_eq!(desk.text(&train), ["abcd", "xy"]);
    assert_eq!((train.report().truncated, train.longest()), (1, 4));
}

#[test]
fn held_out_samples_are_disjoint_and_do_not_depend_on_packing() {
    let desk = Desk::new();
    let sources = Sources::train([desk.file("a.txt", story(60))]);
    let options = Options { eval_samples: 9, seed: 5, sequence_length: 32, ..Options::default() };
    let plain = desk.prepare(&sources, &options).unwrap();
    let packed = desk.prepare(&sources, &Options { packing: true, ..options.clone() }).unwrap();
    let (train, eval) = (desk.text(&plain.train), desk.text(plain.eval.as_ref().unwrap()));
    assert_eq!((train.len(), eval.len(), plain.train.report().held_out), (51, 9, 9));
    let mut all = [train, eval.clone()].concat();
    all.sort();
    let mut expected: Vec<String> = story(60).split_terminator("\n\n").map(str::to_owned).collect();
    expected.sort();
    assert_eq!(all, expected);
    assert_eq!(desk.text(packed.eval.as_ref().unwrap()), eval);
    assert!(packed.train.len() < 51 && packed.train.documents() == 51);
    assert_eq!(packed.train.tokens(), plain.train.tokens());
    assert_eq!(packed.train.targets(), plain.train.targets());
}

#[test]
fn an_evaluation_source_stands_alone() {
    let desk = Desk::new();
    let mut sources = Sources::train([desk.file("a.txt", "one\n\ntwo")]);
    sources.eval = vec![desk.file("b.txt", "three").into()];
    let prepared = desk.prepare(&sources, &Options::default()).unwrap();
    assert_eq!(desk.text(prepared.eval.as_ref().unwrap()), ["three"]);
    let both = desk.prepare(&sources, &Options { eval_samples: 1, ..Options::default() });
    assert!(both.unwrap_err().to_string().contains("eval_samples"));
    sources.eval.clear();
    let all = desk.prepare(&sources, &Options { eval_samples: 2, ..Options::default() });
    assert!(all.unwrap_err().to_string().contains("only 2"));
}

#[test]
fn progress_reaches_the_total() {
    let desk = Desk::new();
    let mut sources = Sources::train([desk.file("a.txt", story(1300))]);
    sources.eval = vec![desk.file("b.txt", story(3)).into()];
    let seen = RefCell::new(Vec::new());
    let progress = |done, total| seen.borrow_mut().push((done, total));
    Dataset::prepare(&sources, &desk.tokenizer, None, &Options::default(), &progress).unwrap();
    let seen = seen.into_inner();
    let total = (story(1300).len() + story(3).len()) as u64;
    assert!(seen.is_sorted() && seen.iter().all(|&(_, of)| of == total), "{seen:?}");
    assert_eq!(seen.last(), Some(&(total, total)));
}

#[test]
fn a_fault_of_the_template_names_the_record_that_showed_it() {
    let mut desk = Desk::new();
    desk.template = ChatTemplate::new("{{ messages | length }}", None, None).unwrap();
    let sources = Sources::train([desk.file("a.jsonl", format!("\n{GOOD}"))]);
    let message = desk.prepare(&sources, &Options::default()).unwrap_err().to_string();
    assert!(message.contains("a.jsonl:2") && message.contains("chat template"), "{message}");
}

#[test]
fn ready_batches_keep_order_and_labels() {
    let desk = Desk::new();
    let ids: Vec<i64> = (0..12).collect();
    let labels: Vec<i64> = ids.iter().map(|&id| if id % 3 == 0 { -100 } else { id }).collect();
    let path = ready_batches("ready.safetensors", &desk, [2, 2, 3], &ids, Some(&labels));
    let options = Options { packing: true, ..Options::default() };
    let train =
        Dataset::prepare(&Sources::train([path]), None, None, &options, &|_, _| ()).unwrap().train;
    assert_eq!((train.len(), train.ready_batch_size(), train.is_ordered()), (4, Some(2), true));
    assert_eq!(train.sample(1).unwrap().tokens, [3, 4, 5]);
    assert_eq!(train.sample(1).unwrap().trained, [false, true, true]);
    let path = ready_batches("plain.safetensors", &desk, [2, 2, 3], &ids, None);
    let train =
        Dataset::prepare(&Sources::train([path]), None, None, &options, &|_, _| ()).unwrap().train;
    assert_eq!(train.targets(), 8);
}

#[test]
fn bad_ready_batches_are_refused() {
    let desk = Desk::new();
    let message = |path: PathBuf| {
        desk.prepare(&Sources::train([path]), &Options::default()).unwrap_err().to_string()
    };
    let shifted =
        ready_batches("shifted.safetensors", &desk, [1, 1, 3], &[1, 2, 3], Some(&[2, 3, -100]));
    assert!(message(shifted).contains("a label is 2, its token 1, at step 0, row 0, token 0"));
    let negative = ready_batches("negative.safetensors", &desk, [1, 2, 2], &[1, 2, 3, -4], None);
    assert!(message(negative).contains("-4 is no token id, at step 0, row 1, token 1"));
    assert!(message(desk.file("cut.safetensors", [9, 0, 0])).contains("no whole safetensors file"));
    let text = Sources::train([
        ready_batches("good.safetensors", &desk, [1, 1, 2], &[1, 2], None),
        desk.file("a.txt", "a"),
    ]);
    assert!(
        desk.prepare(&text, &Options::default()).unwrap_err().to_string().contains("another kind")
    );
    let good = Sources::train([desk.path("good.safetensors")]);
    let held = desk.prepare(&good, &Options { eval_samples: 1, ..Options::default() });
    assert!(held.unwrap_err().to_string().contains("taken as they are"));
}

#[test]
fn what_is_written_is_what_is_opened() {
    let desk = Desk::new();
    let sources = Sources::train([desk.file("a.txt", story(60)), desk.file("b.jsonl", GOOD)]);
    let options =
        Options { eval_samples: 5, sequence_length: 160, packing: true, ..Options::default() };
    let prepared = desk.prepare(&sources, &options).unwrap();
    let path = desk.path("cache/train.safetensors");
    prepared.write(&path).unwrap();
    let opened = Prepared::open(&path).unwrap();
    for (opened, made) in [
        (&opened.train, &prepared.train),
        (opened.eval.as_ref().unwrap(), prepared.eval.as_ref().unwrap()),
    ] {
        assert_eq!(samples(opened), samples(made));
        assert_eq!(opened.facts, made.facts);
        assert!(opened.sample(opened.len()).is_err());
    }
    let expected =
        Dataset::fingerprint_of(&sources, &desk.tokenizer, Some(&desk.template), &options).unwrap();
    assert_eq!(opened.train.fingerprint(), expected);
    assert!(!desk.path("cache/train.safetensors.part").exists());

    // An opened set can be written again, and the same data give the same bytes.
    let copy = desk.path("copy.safetensors");
    opened.train.write(&copy).unwrap();
    assert_eq!(std::fs::read(copy).unwrap(), std::fs::read(&path).unwrap());
}

#[test]
fn fingerprints_follow_everything_that_shapes_the_data() {
    let desk = Desk::new();
    let sources = Sources::train([desk.file("a.txt", "one")]);
    let options = Options::default();
    let of = |options: &Options, template: Option<&ChatTemplate>| {
        Dataset::fingerprint_of(&sources, &desk.tokenizer, template, options).unwrap()
    };
    let before = of(&options, Some(&desk.template));
    assert_eq!(before, of(&options, Some(&desk.template)));
    assert_ne!(before, of(&options, None));
    assert_ne!(
        before,
        of(&Options { loss_on: LossOn::All, ..options.clone() }, Some(&desk.template))
    );
    desk.file("a.txt", "another");
    assert_ne!(before, of(&options, Some(&desk.template)));
}

#[test]
fn files_that_are_cut_off_or_corrupt_are_refused() {
    let desk = Desk::new();
    let sources = Sources::train([desk.file("a.txt", story(20))]);
    let path = desk.path("train.safetensors");
    desk.prepare(&sources, &Options::default()).unwrap().write(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 5, 40, whole.len() / 2, whole.len() - 1] {
        let message =
            Dataset::open(&desk.file("cut.safetensors", &whole[..length])).unwrap_err().to_string();
        assert!(
            message.contains("cut.safetensors; delete it and prepare the data again"),
            "{length}: {message}"
        );
    }
    // The index stands first after the header; every byte of it counts.
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize + 8;
    for position in header..header + 2 * 21 * 8 + 20 * 4 {
        let mut corrupt = whole.clone();
        corrupt[position] ^= 1;
        let opened = Dataset::open(&desk.file("corrupt.safetensors", corrupt));
        assert!(opened.is_err(), "byte {position}");
    }
}

#[test]
fn sets_that_were_not_made_together_are_refused() {
    let desk = Desk::new();
    let sources = Sources::train([desk.file("a.txt", story(20))]);
    let (one, two) = (desk.path("one.safetensors"), desk.path("two.safetensors"));
    for (seed, path) in [(1, &one), (2, &two)] {
        desk.prepare(&sources, &Options { eval_samples: 2, seed, ..Options::default() })
            .unwrap()
            .write(path)
            .unwrap();
    }
    std::fs::copy(eval_path(&one), eval_path(&two)).unwrap();
    assert!(Prepared::open(&two).unwrap_err().to_string().contains("not prepared together"));
    std::fs::remove_file(eval_path(&two)).unwrap();
    assert!(Prepared::open(&two).is_err());
}

#[test]
fn a_file_that_is_cut_under_an_open_set_is_an_error() {
    let desk = Desk::new();
    let path = desk.path("train.safetensors");
    desk.prepare(&Sources::train([desk.file("a.txt", story(20))]), &Options::default())
        .unwrap()
        .write(&path)
        .unwrap();
    let train = Dataset::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert!(train.sample(3).unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn tables_say_what_records_say() {
    let desk = Desk::new();
    let turns =
        r#"[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello, \"you\"\n"}]"#;
    let lines = format!(
        "{{\"messages\":{turns}}}\n{{\"prompt\":\"a\",\"completion\":\"b\"}}\n{{\"text\":\"c\\nü\"}}\n"
    );
    let table = format!(
        "id,completion,prompt,messages,text\n1,,,\"{}\",\n2,b,a,,\n3,,,,\"c\nü\"\n",
        turns.replace('"', "\"\"")
    );
    let parquet = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/parquet/dialogues.parquet");
    let made = |path: PathBuf| {
        samples(&desk.prepare(&Sources::train([path]), &Options::default()).unwrap().train)
    };
    let expected = made(desk.file("a.jsonl", lines));
    assert_eq!(expected.len(), 3);
    assert_eq!(made(desk.file("a.csv", table)), expected);
    assert_eq!(made(parquet.clone()), expected);
    // The same record again after the first two of a table.
    let limited = Options { max_samples: Some(2), ..Options::default() };
    assert_eq!(
        samples(&desk.prepare(&Sources::train([parquet.clone()]), &limited).unwrap().train),
        expected[..2]
    );
    let wrong = Sources {
        train: vec![Source { format: crate::Format::Text, ..parquet.into() }],
        ..Sources::default()
    };
    let message = desk.prepare(&wrong, &Options::default()).unwrap_err().to_string();
    assert!(
        message.contains("dialogues.parquet:1;") && message.contains("source of texts"),
        "{message}"
    );
    let message = desk.message("b.csv", "messages\n[1\n");
    assert!(message.contains("`messages` is no JSON") && message.contains("b.csv:2;"), "{message}");
}

#[test]
fn folders_and_lists_are_one_source_behind_the_other() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("folder")).unwrap();
    desk.file("folder/b.txt", "two");
    desk.file("folder/a.jsonl", "{\"text\":\"one\"}");
    let sources = Sources::train([desk.path("folder"), desk.file("c.txt", "three")]);
    let options = Options::default();
    assert_eq!(
        desk.text(&desk.prepare(&sources, &options).unwrap().train),
        ["one", "two", "three"]
    );
    let before = Dataset::fingerprint_of(&sources, &desk.tokenizer, None, &options).unwrap();
    desk.file("folder/d.txt", "four");
    assert_ne!(Dataset::fingerprint_of(&sources, &desk.tokenizer, None, &options).unwrap(), before);
}

#[test]
fn weights_repeat_training_samples_only() {
    let desk = Desk::new();
    let (a, b) = (desk.file("a.txt", "a\n\nb\n\nc\n\nd"), desk.file("b.txt", story(20)));
    let weighted = |weight, other| {
        let sources =
            [Source { weight, ..a.clone().into() }, Source { weight: other, ..b.clone().into() }];
        Sources { train: sources.into(), eval: Vec::new() }
    };
    let train = desk.prepare(&weighted(2.5, 0.5), &Options::default()).unwrap().train;
    let text = desk.text(&train);
    assert_eq!(text[..8], ["a", "b", "c", "d", "a", "b", "c", "d"]);
    assert_eq!((text.len(), train.report().records), (10 + 10, 24));
    assert_eq!(train.tokens(), text.iter().map(|text| text.len() as u64 + 1).sum::<u64>());
    // What is taken for validation is drawn before, as without weights.
    let options = Options { eval_samples: 6, seed: 3, ..Options::default() };
    let held = |sources: &Sources| desk.prepare(sources, &options).unwrap();
    let (plain, more) = (held(&weighted(1.0, 1.0)), held(&weighted(3.0, 1.0)));
    assert_eq!(samples(more.eval.as_ref().unwrap()), samples(plain.eval.as_ref().unwrap()));
    let held_out = desk.text(plain.eval.as_ref().unwrap());
    assert!(desk.text(&more.train).iter().all(|text| !held_out.contains(text)));
    for (weight, says) in
        [(0.0, "the weight of"), (f64::NAN, "the weight of"), (1e9, "at most 1000")]
    {
        let message = desk.prepare(&weighted(weight, 1.0), &options).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
    let fingerprint =
        |sources| Dataset::fingerprint_of(&sources, &desk.tokenizer, None, &options).unwrap();
    assert_ne!(fingerprint(weighted(2.0, 1.0)), fingerprint(weighted(1.0, 2.0)));
    assert_eq!(fingerprint(weighted(1.0, 1.0)), fingerprint(Sources::train([&a, &b])));
}

#[test]
fn bad_records_are_counted_and_named_by_file() {
    let desk = Desk::new();
    let sources = Sources::train([
        desk.file("a.jsonl", format!("{GOOD}\nx\n{{}}\n")),
        desk.file("b.jsonl", format!("{GOOD}\n{}", "x\n".repeat(7))),
        desk.file("c.csv", "text\na,b\nc\n"),
    ]);
    let options = Options { bad_lines: BadLines::Skip, ..Options::default() };
    let train = desk.prepare(&sources, &options).unwrap().train;
    let seen = |file: &crate::BadFile| {
        let name = file.path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, file.count, file.first.iter().map(|line| line.line).collect::<Vec<_>>())
    };
    let expected =
        [("a.jsonl", 2, vec![2, 3]), ("b.jsonl", 7, vec![2, 3, 4, 5, 6]), ("c.csv", 1, vec![2])];
    assert_eq!(
        train.report().bad.iter().map(seen).collect::<Vec<_>>(),
        expected.map(|(name, count, lines)| (name.to_owned(), count, lines))
    );
    assert!(train.report().bad[0].first[0].problem.contains("broken JSON"));
    assert_eq!((train.len(), train.report().skipped), (3, 10));
}

/// Enough paragraphs for several blocks, and so for several parts.
fn many() -> String {
    (0..20_000).map(|i| format!("{}\n\n", i * 7919)).collect()
}

#[test]
fn an_interrupted_preparation_resumes_to_the_same_bytes() {
    let desk = Desk::new();
    let mut sources = Sources::train([
        desk.file("a.txt", many()),
        desk.file("b.csv", format!("text\n{}", many().replace("\n\n", "\n"))),
    ]);
    sources.train[1].weight = 0.5;
    let options =
        Options { packing: true, sequence_length: 64, eval_samples: 50, ..Options::default() };
    let folder = desk.path("data/train.parts");
    let aside = Aside { folder: &folder, tokens: 1000 };
    let prepare = |aside, progress: &dyn Fn(u64, u64)| {
        super::prepare(
            aside,
            &sources,
            Some(&desk.tokenizer),
            Some(&desk.template),
            &options,
            progress,
        )
    };
    let bytes = |prepared: Prepared, name: &str| {
        let path = desk.path(name);
        prepared.write(&path).unwrap();
        assert!(Prepared::open(&path).unwrap().verify(&path).is_ok());
        (std::fs::read(eval_path(&path)).unwrap(), std::fs::read(path).unwrap())
    };
    let expected = bytes(prepare(None, &|_, _| ()).unwrap(), "plain.safetensors");

    // Interrupted after each of its parts in turn; each time it resumes where it was.
    for done_before in 0.. {
        let (first, calls) = (RefCell::new(None), RefCell::new(0));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            prepare(Some(aside), &|done, total| {
                first.borrow_mut().get_or_insert(done);
                *calls.borrow_mut() += 1;
                assert!(*calls.borrow() < 2 || done == total, "interrupted");
            })
        }));
        assert!(first.into_inner() > Some(done_before));
        if let Ok(prepared) = outcome {
            assert!(done_before > 2, "{done_before}");
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 10);
            assert_eq!(bytes(prepared.unwrap(), "data/train.safetensors"), expected);
            break;
        }
    }
    assert!(!folder.exists());

    // A part that is damaged is made again, and so are those after it; what was left half written
    // does not matter.
    prepare(Some(aside), &|_, _| ()).unwrap();
    let damaged = folder.join("train-00004.safetensors");
    let mut part = std::fs::read(&damaged).unwrap();
    let middle = part.len() / 2;
    part[middle] ^= 1;
    std::fs::write(&damaged, part).unwrap();
    std::fs::write(folder.join("train-00005.safetensors.part"), "half").unwrap();
    let first = RefCell::new(None);
    let resumed = prepare(Some(aside), &|done, total| {
        first.borrow_mut().get_or_insert(done as f64 / total as f64);
    });
    let first = first.into_inner().unwrap();
    assert!((0.3..0.6).contains(&first), "{first}");
    assert_eq!(bytes(resumed.unwrap(), "data/train.safetensors"), expected);

    // Parts of other data are of no use.
    prepare(Some(aside), &|_, _| ()).unwrap();
    let other = Options { sequence_length: 128, ..options.clone() };
    super::prepare(Some(aside), &sources, Some(&desk.tokenizer), None, &other, &|_, _| ()).unwrap();
    let fewer = Options { max_samples: Some(100), ..options.clone() };
    super::prepare(Some(aside), &sources, Some(&desk.tokenizer), None, &fewer, &|_, _| ()).unwrap();
    assert!(!folder.exists());
}

#[test]
fn data_that_are_refused_leave_no_parts() {
    let desk = Desk::new();
    let lines: String = (0..9000)
        .map(|i| if i == 8999 { "x".into() } else { format!("{{\"text\":\"{i}\"}}\n") })
        .collect();
    let sources = Sources::train([desk.file("a.jsonl", lines)]);
    let path = desk.path("data/train.safetensors");
    let message = Dataset::prepare_for(
        &path,
        &sources,
        &desk.tokenizer,
        None,
        &Options::default(),
        &|_, _| (),
    )
    .unwrap_err()
    .to_string();
    assert!(message.contains("a.jsonl:9000;"), "{message}");
    assert!(!desk.path("data/train.parts").exists());
}

proptest! {
    #[test]
    fn a_data_set_with_any_bytes_changed_is_opened_or_refused_without_a_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        header in any::<bool>()
    ) {
        static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let whole = WHOLE.get_or_init(|| {
            let desk = Desk::new();
            let path = desk.path("train.safetensors");
            let options = Options { packing: true, sequence_length: 24, ..Options::default() };
            desk.prepare(&Sources::train([desk.file("a.txt", story(20))]), &options).unwrap().write(&path).unwrap();
            std::fs::read(path).unwrap()
        });
        let mut bytes = whole.clone();
        let header_length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize + 8;
        for (index, byte) in &changes {
            // Half of the time in the header, where most of what can go wrong is.
            let place = index.index(if header { header_length } else { bytes.len() });
            bytes[place] = *byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("changed.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        prop_assert_eq!(Dataset::verify(&path).is_ok(), bytes == *whole);
        if let Ok(opened) = Dataset::open(&path) {
            for index in 0..opened.len() {
                let sample = opened.sample(index).unwrap();
                prop_assert_eq!(sample.segments.iter().sum::<u32>() as usize, sample.len());
            }
        }
    }
}

#[test]
fn variables_of_a_record_win_over_those_of_all_and_reach_the_template() {
    let mut desk = Desk::new();
    let source = format!("{{{{ '[' + (level | string) + ']' }}}}{SMOLLM2}");
    desk.template = ChatTemplate::new(&source, None, None).unwrap();
    let talk = |more: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":"a"}},{{"role":"assistant","content":"b"}}]{more}}}"#
        )
    };
    let lines = [talk(""), talk(r#","chat_template_kwargs":{"level":2}"#)].join("\n");
    let options = Options {
        chat_template_kwargs: [("level".to_owned(), 1.into())].into_iter().collect(),
        ..Options::default()
    };
    let prepared = desk.prepare(&Sources::train([desk.file("a.jsonl", lines)]), &options).unwrap();
    let begins: Vec<String> =
        desk.text(&prepared.train).into_iter().map(|text| text[..3].to_owned()).collect();
    assert_eq!(begins, ["[1]", "[2]"]);
}

#[test]
fn a_call_that_the_template_does_not_write_is_refused() {
    let desk = Desk::new();
    let call = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{}}}]}]}"#;
    let message = desk.message("a.jsonl", call);
    assert!(message.contains("`tool_calls`") && message.contains("a.jsonl:1"), "{message}");
}
