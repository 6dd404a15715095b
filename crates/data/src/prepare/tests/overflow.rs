//! Records that are longer than a row.

use super::*;
use crate::Overflow;

/// One text on each line of a JSONL file.
fn texts(desk: &Desk, texts: &[String]) -> Sources {
    let lines: String =
        texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect();
    Sources::train([desk.file("texts.jsonl", lines)])
}

fn tokens(dataset: &Dataset) -> Vec<u32> {
    samples(dataset).into_iter().flat_map(|sample| sample.tokens).collect()
}

/// As many letters, none like the one before.
fn letters(count: usize) -> String {
    ('a'..='z').cycle().take(count).collect()
}

fn of(overflow: Overflow, sequence_length: usize) -> Options {
    Options { overflow: Some(overflow), sequence_length, ..Options::default() }
}

proptest! {
    #[test]
    fn split_texts_lose_and_repeat_nothing(
        lengths in prop::collection::vec(1_usize..70, 1..12), sequence_length in 3_usize..24, packing in any::<bool>(), asked in any::<bool>()
    ) {
        let desk = Desk::new();
        let sources = texts(&desk, &lengths.iter().map(|&length| letters(length)).collect::<Vec<_>>());
        let whole = desk.prepare(&sources, &Options::default()).unwrap().train;
        let options = Options { packing, overflow: asked.then_some(Overflow::Split), sequence_length, ..Options::default() };
        let train = desk.prepare(&sources, &options).unwrap().train;
        let rows = samples(&train);
        prop_assert!(rows.iter().all(|row| row.len() <= sequence_length && !row.is_empty()));
        let fills = packing && (asked || whole.longest() > sequence_length);
        if fills || !packing {
            prop_assert_eq!(tokens(&train), tokens(&whole));
        }
        if let Some((_, full)) = rows.split_last().filter(|_| fills) {
            prop_assert!(full.iter().all(|row| row.len() == sequence_length));
        }
        // What the facts say is what the samples have.
        prop_assert_eq!(train.tokens(), whole.tokens());
        prop_assert_eq!(train.targets(), rows.iter().map(|row| row.target_count() as u64).sum::<u64>());
        let segments: usize = rows.iter().map(|row| row.segments.len()).sum();
        let report = train.report();
        prop_assert_eq!((train.documents(), segments), (lengths.len(), lengths.len() - report.split + report.pieces));
        // Each piece but the first of its document loses one target.
        prop_assert_eq!(train.targets(), whole.targets() - (report.pieces - report.split) as u64);
        prop_assert_eq!(train.lengths().iter().map(|bin| bin.documents).sum::<u64>(), lengths.len() as u64);
        prop_assert!(report.split == 0 || train.facts.lengths.last().unwrap().to.unwrap() as usize >= whole.longest());
    }

    #[test]
    fn no_piece_of_a_validation_document_is_trained_on(
        lengths in prop::collection::vec(1_usize..40, 4..20), eval_samples in 1_usize..4, packing in any::<bool>(), seed in any::<u64>()
    ) {
        let desk = Desk::new();
        // Document n repeats one letter, so that each token tells its document.
        let texts_of: Vec<String> = lengths.iter().zip('a'..).map(|(&length, letter)| letter.to_string().repeat(length)).collect();
        let options = Options { eval_samples, packing, seed, sequence_length: 8, ..Options::default() };
        let prepared = desk.prepare(&texts(&desk, &texts_of), &options).unwrap();
        let eval = prepared.eval.unwrap();
        let letters = |dataset: &Dataset| desk.text(dataset).concat();
        let (trained, held) = (letters(&prepared.train), letters(&eval));
        prop_assert!(held.chars().all(|letter| !trained.contains(letter)));
        prop_assert_eq!(trained.len() + held.len(), lengths.iter().sum::<usize>());
        prop_assert!(eval.len() >= eval_samples && samples(&eval).iter().all(|sample| sample.len() <= 8));
        prop_assert_eq!((prepared.train.report().held_out, eval.report().records), (eval.documents(), eval.documents()));
    }
}

#[test]
fn texts_are_split_and_conversations_truncated_where_nothing_is_asked_for() {
    let desk = Desk::new();
    let sources = Sources::train([
        desk.file("a.jsonl", format!("{{\"text\":\"{}\"}}\n{GOOD}\n", letters(399)))
    ]);
    // Of the conversation, the answer's first letters are left.
    let whole = desk
        .prepare(&Sources::train([desk.file("b.jsonl", GOOD)]), &Options::default())
        .unwrap()
        .train;
    let options = Options { sequence_length: whole.longest() - 4, ..Options::default() };
    let train = desk.prepare(&sources, &options).unwrap().train;
    let pieces = 400_usize.div_ceil(options.sequence_length);
    let report = train.report();
    assert_eq!(
        (train.len(), report.split, report.pieces, report.truncated),
        (pieces + 1, 1, pieces, 1)
    );
    assert_eq!(train.lengths().last().unwrap().to, None);
    assert_eq!(train.documents(), 2);

    // A short text changes nothing, not even the fingerprint, which a run that resumes compares.
    let short = Sources::train([desk.file("c.txt", "abc")]);
    let train = desk.prepare(&short, &options).unwrap().train;
    assert_eq!(
        train.fingerprint(),
        Dataset::fingerprint_of(&short, &desk.tokenizer, Some(&desk.template), &options).unwrap()
    );
}

#[test]
fn split_conversations_lose_pieces_without_a_trained_token() {
    let desk = Desk::new();
    let pair = serde_json::json!({ "prompt": letters(25), "completion": letters(12) }).to_string();
    let sources = Sources::train([
        desk.file("a.jsonl", format!("{pair}\n{{\"prompt\":\"a\",\"completion\":\"b\"}}\n"))
    ]);
    for packing in [false, true] {
        let options = Options { packing, ..of(Overflow::Split, 10) };
        let train = desk.prepare(&sources, &options).unwrap().train;
        let report = train.report();
        // 38 tokens: two pieces of prompt alone, and two that have some of the completion.
        assert_eq!((report.split, report.pieces, report.dropped, train.documents()), (1, 2, 2, 2));
        assert_eq!((train.len(), train.tokens(), train.targets()), (3, 18 + 3, 5 + 7 + 2));
        assert!(
            samples(&train).iter().all(|sample| sample.len() <= 10 && sample.target_count() > 0)
        );
    }
    // Both pieces are taken together.
    let held =
        desk.prepare(&sources, &Options { eval_samples: 1, ..of(Overflow::Split, 10) }).unwrap();
    assert_eq!(held.train.documents() + held.eval.as_ref().unwrap().documents(), 2);
    assert_eq!(held.train.len() + held.eval.unwrap().len(), 3);
}

#[test]
fn drop_leaves_out_what_is_too_long_and_counts_it() {
    let desk = Desk::new();
    let sources = texts(&desk, &[letters(30), letters(9), letters(10), "a".into()]);
    let train = desk.prepare(&sources, &of(Overflow::Drop, 10)).unwrap().train;
    // With the token that ends it, the second has ten tokens.
    assert_eq!(desk.text(&train), [letters(9), "a".into()]);
    assert_eq!(
        (train.report().too_long, train.report().records, train.report().truncated),
        (2, 4, 0)
    );
    let message =
        desk.prepare(&sources, &of(Overflow::Drop, 2)).map(|prepared| prepared.train.len());
    assert_eq!(message.unwrap(), 1);
    let message = desk
        .prepare(&texts(&desk, &[letters(30)]), &of(Overflow::Drop, 9))
        .unwrap_err()
        .to_string();
    assert!(message.contains("too long: 1; raise sequence_length, or set overflow"), "{message}");
}

#[test]
fn packed_texts_that_all_fit_are_cut_only_if_that_is_asked_for() {
    let desk = Desk::new();
    let sources = texts(&desk, &(0..40).map(|index| letters(5 + index % 7)).collect::<Vec<_>>());
    let packed = |overflow| {
        desk.prepare(
            &sources,
            &Options { packing: true, overflow, sequence_length: 16, ..Options::default() },
        )
        .unwrap()
    };
    let (plain, split) = (packed(None).train, packed(Some(Overflow::Split)).train);
    assert_eq!(plain.report().split, 0);
    assert!(split.report().split > 0 && split.len() <= plain.len());
    assert_eq!(split.len(), (split.tokens() as usize).div_ceil(16));
}

#[test]
fn packed_texts_and_conversations_keep_to_rows_of_their_own() {
    let desk = Desk::new();
    let pair = "{\"prompt\":\"ab\",\"completion\":\"cd\"}\n";
    let lines = format!(
        "{pair}{{\"text\":\"{}\"}}\n{pair}{{\"text\":\"{}\"}}\n{pair}",
        letters(30),
        letters(3)
    );
    let sources = Sources::train([desk.file("a.jsonl", lines)]);
    let train = desk
        .prepare(&sources, &Options { packing: true, sequence_length: 16, ..Options::default() })
        .unwrap()
        .train;
    let segments: Vec<Vec<u32>> =
        samples(&train).into_iter().map(|sample| sample.segments).collect();
    assert_eq!(segments, [vec![5, 5, 5], vec![16], vec![15, 1], vec![3]]);
    assert_eq!((train.documents(), train.report().split, train.report().pieces), (5, 2, 4));
}

#[test]
fn weights_repeat_whole_documents() {
    let desk = Desk::new();
    let mut sources = texts(&desk, &[letters(24)]);
    sources.train[0].weight = 2.0;
    let train = desk.prepare(&sources, &of(Overflow::Split, 10)).unwrap().train;
    assert_eq!((train.documents(), train.len(), train.tokens()), (2, 6, 50));
    assert_eq!((train.report().records, train.report().split, train.report().pieces), (1, 2, 6));
}

#[test]
fn the_only_document_is_not_held_out() {
    let desk = Desk::new();
    let message = desk.prepare(
        &texts(&desk, &[letters(500)]),
        &Options { eval_samples: 2, ..of(Overflow::Split, 10) },
    );
    let message = message.unwrap_err().to_string();
    assert!(message.contains("only 1 documents, and whole ones are drawn"), "{message}");
}

#[test]
fn ready_batches_have_their_own_length() {
    let desk = Desk::new();
    let path = ready_batches("ready.safetensors", &desk, [1, 1, 3], &[1, 2, 3], None);
    let message =
        desk.prepare(&Sources::train([path]), &of(Overflow::Split, 2)).unwrap_err().to_string();
    assert!(message.contains("overflow") && message.contains("leave it out"), "{message}");
}

#[test]
fn split_data_come_to_the_same_bytes_after_an_interruption_at_any_part() {
    let desk = Desk::new();
    let pair = |index: usize| {
        serde_json::json!({ "prompt": letters(index % 50), "completion": letters(5 + index % 90) })
            .to_string()
    };
    let text =
        |index: usize| serde_json::json!({ "text": letters(1 + index * 31 % 400) }).to_string();
    let lines: String = (0..9000)
        .map(|index| if index % 3 == 0 { pair(index) } else { text(index) } + "\n")
        .collect();
    let sources = Sources::train([desk.file("a.jsonl", lines)]);
    let folder = desk.path("data/train.parts");
    let aside = Aside { folder: &folder, tokens: 1000 };
    for (packing, overflow) in
        [(false, Some(Overflow::Split)), (true, Some(Overflow::Split)), (true, None)]
    {
        let options = Options {
            packing,
            overflow,
            sequence_length: 32,
            eval_samples: 50,
            ..Options::default()
        };
        let prepare = |aside, most: usize| {
            let calls = RefCell::new(0);
            let progress = |done, total| {
                *calls.borrow_mut() += 1;
                assert!(*calls.borrow() <= most || done == total, "interrupted");
            };
            let template = Some(&desk.template);
            let all = || {
                crate::prepare::prepare(
                    aside,
                    &sources,
                    Some(&desk.tokenizer),
                    template,
                    &options,
                    &progress,
                )
            };
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(all)).map(Result::unwrap)
        };
        let bytes = |prepared: Prepared, name: &str| {
            let path = desk.path(name);
            prepared.write(&path).unwrap();
            (std::fs::read(eval_path(&path)).unwrap(), std::fs::read(path).unwrap())
        };
        let expected = bytes(prepare(None, usize::MAX).unwrap(), "plain.safetensors");
        let mut interruptions = 0;
        let resumed = loop {
            match prepare(Some(aside), 0) {
                Ok(prepared) => break prepared,
                Err(_) => interruptions += 1,
            }
        };
        assert!(interruptions > 1, "{interruptions}");
        assert!(
            bytes(resumed, "data/train.safetensors") == expected,
            "packing {packing}, {overflow:?}"
        );
    }
}
