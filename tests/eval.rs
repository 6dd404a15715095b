//! `loract eval` repeats what training wrote down: the validation loss of the model alone, of each
//! checkpoint, and of the adapter, to the last digit on one rank; and it refuses what it cannot
//! evaluate.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{Ended, Place};
use serde_json::Value;
use std::fs;

/// A run that holds six sequences of several lengths out, evaluates itself after every second step
/// and saves then.
fn place() -> Place {
    let place = Place::new();
    let ids: Vec<i64> = (0..3 * 2 * 16)
        .map(|index: i64| 3 + (index * index * 7 + index) % (program::VOCABULARY - 3))
        .collect();
    let held_out = place.write_batches("held_out.safetensors", [3, 2, 16], &ids);
    place.edit("eval_samples = 0", &format!("eval = {held_out:?}"));
    place.edit("threads = 1", "threads = 1\neval_every = 2");
    place.edit("sequence_length = 16", "sequence_length = 16\n[checkpoint]\nevery = 2\nkeep = 9\n[optimizer]\nlearning_rate = 1e-2");
    place
}

fn eval(place: &Place, arguments: &[&str]) -> Ended {
    let config = place.config();
    place.run(place.loract(&["eval"]).arg(config).args(arguments))
}

fn answer(place: &Place, arguments: &[&str]) -> Value {
    let ended = eval(place, &[&["--json"], arguments].concat());
    assert!(ended.status.success(), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// (step, validation loss) as `metrics.jsonl` has them, where there is one.
fn written(place: &Place) -> Vec<(u64, f64)> {
    let metrics = fs::read_to_string(place.metrics()).unwrap();
    let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| Some((line["step"].as_u64()?, line["eval_loss"].as_f64()?))).collect()
}

fn summary(place: &Place) -> Value {
    serde_json::from_slice(&fs::read(place.run_dir().join("summary.json")).unwrap()).unwrap()
}

#[test]
fn every_loss_of_one_rank_is_repeated_to_the_last_digit() {
    // PiSSA takes from the weights what its pairs begin with.
    for keys in
        ["rank = 2", "rank = 2\ninit = \"pissa\"\nuse_dora = true\nmodules_to_save = [\"lm_head\"]"]
    {
        let place = place();
        place.edit("rank = 2", keys);
        let ended = place.run(&mut place.train());
        assert!(ended.status.success(), "{}", ended.stderr);
        let losses = written(&place);
        assert_eq!(losses.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4, 6, 8]);
        assert!(
            losses[0].1 != losses[1].1 && losses[1].1 != losses[2].1,
            "training changes nothing: {losses:?}"
        );

        for (step, loss) in &losses[..3] {
            let folder = place.run_dir().join(format!("checkpoints/step-{step:08}"));
            let found = answer(&place, &["--checkpoint", folder.to_str().unwrap()]);
            assert_eq!(
                (found["loss"].as_f64(), found["step"].as_u64()),
                (Some(*loss), Some(*step)),
                "{keys}"
            );
        }
        let best = losses[..3].iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        assert_eq!(answer(&place, &["--checkpoint", "best"])["loss"].as_f64(), Some(best.1));
        assert_eq!(answer(&place, &["--checkpoint", "latest"])["step"], 6);

        let base = answer(&place, &["--base"]);
        assert_eq!((&base["weights"], &base["path"]), (&Value::from("base"), &Value::Null));
        let before = summary(&place)["eval_loss_before"].as_f64().unwrap();
        let adapter = answer(&place, &[]);
        assert_eq!(adapter["weights"], "adapter");
        let loss = adapter["loss"].as_f64().unwrap();
        if keys.contains("pissa") {
            // Written as the plain adapter that does the same: other numbers with the same sum.
            assert!((loss - losses[3].1).abs() < 1e-5, "{loss} for {}", losses[3].1);
            assert!((base["loss"].as_f64().unwrap() - before).abs() < 1e-5);
        } else {
            assert_eq!((base["loss"].as_f64(), loss), (Some(before), losses[3].1));
        }
        assert!((adapter["perplexity"].as_f64().unwrap() / loss.exp() - 1.0).abs() < 1e-12);
        // Each token of a sequence but the first is a target.
        assert_eq!(
            (adapter["samples"].as_u64(), adapter["targets"].as_u64()),
            (Some(6), Some(6 * 15))
        );
    }
}

#[test]
fn what_several_ranks_trained_is_evaluated_by_one() {
    let place = place();
    let ended = place.run(&mut place.launch());
    assert!(ended.status.success(), "{}", ended.stderr);
    for (step, loss) in &written(&place)[..3] {
        let folder = place.run_dir().join(format!("checkpoints/step-{step:08}"));
        let found =
            answer(&place, &["--checkpoint", folder.to_str().unwrap()])["loss"].as_f64().unwrap();
        assert!((found - loss).abs() < 1e-6, "{found} for {loss} after step {step}");
    }
    let table = eval(&place, &[]).stdout;
    let loss = format!("{:.4}", summary(&place)["eval_loss_after"].as_f64().unwrap());
    assert!(table.contains("perplexity") && table.contains(&loss), "{table}");
}

#[test]
fn an_interrupted_run_is_evaluated_at_its_newest_checkpoint() {
    let place = place();
    place.edit("keep = 9", "keep = 9\nbackground = false");
    let ended = place.run(place.train().env(setup::INJECT_FAULT_VARIABLE, "error:0:7"));
    assert!(!ended.status.success());
    let found = answer(&place, &[]);
    assert_eq!((&found["weights"], found["step"].as_u64()), (&Value::from("checkpoint"), Some(6)));
    // On other data, but with the same adapter only.
    let other = answer(
        &place,
        &["--set", &format!("data.eval={}", place.at("batches.safetensors").display())],
    );
    assert_eq!(other["samples"], 16);
    refuses(
        &place,
        &["--set", "lora.alpha=4.0"],
        &["--set lora.alpha=4.0: [lora] alpha: is 4.0, and the checkpoint was trained with 16.0"],
    );

    let file = place.run_dir().join("checkpoints/step-00000006/rank-0000.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    refuses(
        &place,
        &[],
        &[
            "step-00000006 is not an intact checkpoint: rank-0000.safetensors has changed since it was written",
        ],
    );
}

#[track_caller]
fn refuses(place: &Place, arguments: &[&str], says: &[&str]) {
    let ended = eval(place, arguments);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(2), ""), "{}", ended.stderr);
    println!("{}", ended.stderr);
    assert!(
        ended.stderr.starts_with("error: ") && ended.stderr.lines().count() == 1,
        "{}",
        ended.stderr
    );
    for words in says {
        assert!(ended.stderr.contains(words), "{words:?} is not said: {}", ended.stderr);
    }
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let place = place();
    let before = place.listing();
    refuses(
        &place,
        &[],
        &[
            "[run] dir: is ",
            "nothing was trained yet; train first, or evaluate the model alone: --base",
        ],
    );
    refuses(&place, &["--checkpoint", "latest"], &["[run] dir: is ", "holds no checkpoint"]);
    refuses(
        &place,
        &["--checkpoint", "no/such/folder"],
        &["there is no checkpoint no/such/folder; give a folder such as"],
    );
    refuses(
        &place,
        &["--adapter", "no/such/folder"],
        &["no/such/folder/adapter_config.json", "give a directory that PEFT or loract wrote"],
    );
    refuses(&place, &["--adapter", "a", "--base"], &["cannot be used with"]);
    assert_eq!(place.listing(), before, "something was written");
    let nothing = Place::new();
    refuses(
        &nothing,
        &["--base"],
        &["run.toml:22: [data] eval_samples: leaves no validation data"],
    );
}
