//! A run that is interrupted, however and as often as it may be, ends as the one that nothing has
//! disturbed: the same adapter and the same metrics, bit for bit. What is compared remembers as
//! much as a run can: dropout, PowerSGD's errors and warm starts, and two methods whose sites
//! remember their last matrices.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{Ended, Paused, Place, Running};
use rustix::process::Signal;
use serde_json::Value;
use setup::INJECT_FAULT_VARIABLE;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

const STEPS: u64 = 60;
const KILLS: u64 = 25;
/// Exit code of a run that was stopped by a signal after a checkpoint.
const STOPPED: Option<i32> = Some(75);

/// 24 sequences of 48 tokens in batches of eight, so that 60 steps see each of them twenty times. A
/// rank computes one at a time, so that a step takes some time.
fn place(steps: u64) -> Place {
    let place = Place::new();
    let ids: Vec<i64> = (0..3 * 8 * 48)
        .map(|index: i64| 3 + (index * index * 17 + index * 31) % (program::VOCABULARY - 3))
        .collect();
    place.write_batches("batches.safetensors", [3, 8, 48], &ids);
    place.edit(
        "steps = 8\nbatch_size = 2",
        &format!("steps = {steps}\nbatch_size = 8\nmicro_batch_size = 1"),
    );
    place.edit(
        "sequence_length = 16",
        "sequence_length = 48\n[checkpoint]\nevery = 2\n[optimizer]\nlearning_rate = 1e-2",
    );
    place.edit("rank = 2", "rank = 2\ndropout = 0.1");
    place.edit(
        "sites = \"none\"",
        "sites = \"layer\"\nmethod = \"coded\"\nbits = 4\n[[activations.overrides]]\nlayers = \"1..\"\nmethod = \"rowspace\"\n\
         sketch = \"warm\"\nrank = 8",
    );
    place.edit(
        "method = \"exact\"",
        "method = \"powersgd\"\nrank = 1\nstart_step = 3\nmin_ratio = 1.0",
    );
    place
}

/// What a run came to.
#[derive(Debug, PartialEq)]
struct Result {
    adapter: Vec<u8>,
    /// Step, loss and gradient norm, as they are written.
    lines: Vec<[String; 3]>,
}

fn result(place: &Place) -> Result {
    let adapter = fs::read(place.run_dir().join("adapter/adapter_model.safetensors")).unwrap();
    let text = fs::read_to_string(place.metrics()).unwrap();
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        ["step", "loss", "grad_norm"].map(|key| line[key].to_string())
    });
    Result { adapter, lines: lines.collect() }
}

fn done(ended: &Ended) {
    assert!(ended.status.success(), "{}", ended.stderr);
}

/// What nothing has disturbed.
fn undisturbed() -> &'static Result {
    static RESULT: OnceLock<Result> = OnceLock::new();
    RESULT.get_or_init(|| {
        let place = place(STEPS);
        done(&place.run(&mut place.launch()));
        let result = result(&place);
        assert_eq!(result.lines.len() as u64, STEPS);
        result
    })
}

/// Both are the same, and every step is there once.
fn assert_same(disturbed: &Result, undisturbed: &Result) {
    let steps: Vec<&str> = disturbed.lines.iter().map(|line| line[0].as_str()).collect();
    let expected: Vec<String> =
        (1..=undisturbed.lines.len()).map(|step| step.to_string()).collect();
    assert_eq!(steps, expected, "each step once");
    if let Some((ours, theirs)) =
        disturbed.lines.iter().zip(&undisturbed.lines).find(|(ours, theirs)| ours != theirs)
    {
        panic!("{ours:?} instead of {theirs:?}");
    }
    assert!(disturbed.adapter == undisturbed.adapter, "the adapter differs");
}

/// The last step in `metrics.jsonl`.
fn last_step(place: &Place) -> u64 {
    let text = fs::read_to_string(place.metrics()).unwrap_or_default();
    let last = text.split_inclusive('\n').rfind(|line| line.ends_with('\n'));
    last.map_or(0, |line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap())
}

/// The steps of the complete checkpoints, oldest first.
fn checkpoints(place: &Place) -> Vec<u64> {
    let entries = fs::read_dir(place.run_dir().join("checkpoints")).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<u64> =
        names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

fn newest(place: &Place) -> u64 {
    checkpoints(place).last().copied().unwrap_or(0)
}

fn folder_of(place: &Place, step: u64) -> PathBuf {
    place.run_dir().join(format!("checkpoints/step-{step:08}"))
}

/// Starts `command`, and gives what `act` makes of it while rank 1 waits at the beginning of the
/// step after `step`. What it did before is in `metrics.jsonl`.
fn after_step<'a>(
    place: &'a Place,
    command: &mut Command,
    step: u64,
    act: impl FnOnce(&mut Running<'a>, Paused),
) -> Ended {
    let pause = place.pause(command, 1, step + 1);
    let mut job = place.start(command);
    let paused = pause.reached(&mut job);
    job.until("the metrics of that step", || last_step(place) >= step);
    act(&mut job, paused);
    job.wait()
}

/// Has the run stopped by `signal` in the step after `step`, and sees that it saves.
fn stopped_after(place: &Place, command: &mut Command, step: u64, signal: Signal) -> Ended {
    let ended = after_step(place, command, step, |job, paused| job.stop(signal, paused));
    assert_eq!(ended.status.code(), STOPPED, "{}", ended.stderr);
    assert_eq!((newest(place), last_step(place)), (step + 1, step + 1), "what was done is saved");
    ended
}

/// Numbers that look random and are the same in every run of the test.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn killed_at_random_moments_it_ends_as_if_undisturbed() {
    let place = place(STEPS);
    let mut random = Random(20);
    for kill in 0..KILLS {
        let saved = newest(&place);
        // Each kill comes a little later than the one before, so that the run advances.
        let next = saved.max(2 * kill) / 2 * 2 + 2;
        let mut command = place.launch();
        let ended = match kill % 5 {
            // A rank, and the one that finishes a checkpoint, while it is written.
            1 if next < STEPS => place.run(
                command
                    .env(INJECT_FAULT_VARIABLE, format!("kill-in-save:{}:{next}", random.below(2))),
            ),
            3 if next < STEPS => {
                place.run(command.env(INJECT_FAULT_VARIABLE, format!("kill-in-commit:0:{next}")))
            }
            // While it starts, or wherever it may be; in some step; and one rank alone. A rank that
            // waits in the last step keeps the run from ending before.
            how => {
                let _keeps_it_running = place.pause(&mut command, 1, STEPS);
                // A resumed run replaces the file, which has the steps of the one before.
                let metrics = || fs::metadata(place.metrics()).map(|file| file.ino()).ok();
                let before = metrics();
                let mut job = place.start(&mut command);
                let mut wait = if saved + 20 > STEPS { 300 } else { 800 };
                if how != 4 && saved + 8 <= STEPS {
                    job.until("that step", || {
                        metrics() != before && last_step(&place) >= (saved + 1).max(2 * kill)
                    });
                    wait = 40;
                }
                std::thread::sleep(Duration::from_millis(random.below(wait)));
                if how == 2 && wait == 40 {
                    place.signal_rank(1, Signal::KILL)
                } else {
                    place.kill_all()
                }
                job.wait()
            }
        };
        let is_running =
            !place.run_dir().join("summary.json").exists() && ended.status.code() != Some(2);
        assert!(
            is_running && !ended.status.success(),
            "kill {kill} after step {saved}: {}",
            ended.stderr
        );
        println!(
            "kill {kill}: from step {saved} to {}, last line {}",
            newest(&place),
            last_step(&place)
        );
    }
    done(&place.run(&mut place.launch()));
    assert_same(&result(&place), undisturbed());
    assert!(checkpoints(&place).len() <= 2, "older ones are removed");
}

#[test]
fn every_optimiser_goes_on_with_what_it_remembers() {
    for name in ["adamw8bit", "lion", "sgd", "muon"] {
        let place = || {
            let place = place(8);
            place.edit(
                "learning_rate = 1e-2",
                &format!("learning_rate = 1e-3\nmethod = \"{name}\""),
            );
            place.edit("every = 2", "every = 2\nbackground = false");
            place
        };
        let (undisturbed, disturbed) = (place(), place());
        done(&undisturbed.run(&mut undisturbed.train()));
        let ended = disturbed.run(disturbed.train().env(INJECT_FAULT_VARIABLE, "kill:0:6"));
        assert!(
            !ended.status.success() && newest(&disturbed) == 4,
            "{name}: {:?}",
            checkpoints(&disturbed)
        );
        done(&disturbed.run(&mut disturbed.train()));
        assert_same(&result(&disturbed), &result(&undisturbed));
    }
}

#[test]
fn a_signal_saves_and_stops() {
    let place = place(STEPS);
    // By launch, by mpirun, and by launch again with another signal.
    for (mut command, signal) in [
        (place.launch(), Signal::USR1),
        (place.mpirun(), Signal::USR1),
        (place.launch(), Signal::TERM),
    ] {
        let step = newest(&place) + 2;
        let ended = stopped_after(&place, &mut command, step - 1, signal);
        let said = format!(
            "after step {step}; saved {}; run the same command again",
            folder_of(&place, step).display()
        );
        assert!(
            ended.stderr.contains("stopped by signal ") && ended.stderr.contains(&said),
            "{}",
            ended.stderr
        );
        assert!(!ended.stderr.contains("error"), "{}", ended.stderr);
    }
    done(&place.run(&mut place.launch()));
    assert_same(&result(&place), undisturbed());

    let ended = place.run(&mut place.launch());
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("holds a finished run; pass --overwrite"), "{}", ended.stderr);
}

#[test]
fn a_second_signal_does_not_wait() {
    let place = place(STEPS);
    place.edit("every = 2", "every = 0");
    let mut command = place.launch();
    let pause = place.pause(&mut command, 1, 2);
    let mut job = place.start(&mut command);
    // To the end: a rank that waits does not save, however long that takes.
    let _paused = pause.reached(&mut job);
    job.until("the metrics of the first step", || last_step(&place) == 1);
    job.process().signal(Signal::TERM);
    job.until_says("a second signal ends them at once");
    job.process().signal(Signal::TERM);
    let ended = job.wait();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("error: stopped by signal 15 (SIGTERM) at step 2; "),
        "{}",
        ended.stderr
    );
    assert!(checkpoints(&place).is_empty());
}

#[test]
fn launch_restarts_what_failed_and_gives_up_without_progress() {
    let place = place(STEPS);
    // So that it is known which checkpoint is there when a step fails.
    place.edit("every = 2", "every = 2\nbackground = false");
    let restarting = |restarts: &str| {
        let mut command = place.launch();
        command.args(["--restart-wait", "0.1", "--restarts", restarts]);
        command
    };
    // The same step fails each time.
    let ended = place.run(restarting("9").env(INJECT_FAULT_VARIABLE, "kill:1:4"));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    for says in [
        "restart 1 of 9 in ",
        "restart 2 of 9 in ",
        "from its checkpoint of step 2",
        "no further restart after 2 of 9",
    ] {
        assert!(ended.stderr.contains(says), "{says}: {}", ended.stderr);
    }
    assert!(
        ended.stderr.lines().last().unwrap().starts_with("error: rank 1 on host "),
        "{}",
        ended.stderr
    );

    let ended =
        after_step(&place, &mut restarting("3"), 7, |_, _| place.signal_rank(1, Signal::KILL));
    done(&ended);
    assert!(
        ended.stderr.contains("restart 1 of 3 in 100 ms, from its checkpoint of step 6"),
        "{}",
        ended.stderr
    );
    assert_same(&result(&place), undisturbed());
}

#[test]
fn an_unsound_checkpoint_is_skipped_and_named() {
    let place = place(STEPS);
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let cut = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 7]).unwrap();
    };
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);
    let damages: [Damage<'_>; 3] = [
        (
            "rank-0001.safetensors",
            &flip,
            "rank-0001.safetensors has changed since it was written: its checksum differs",
        ),
        ("rank-0000.safetensors", &cut, "rank-0000.safetensors has "),
        (
            "manifest.json",
            &flip,
            "manifest.json has changed since it was written: its checksum differs",
        ),
    ];
    for (file, damage, reason) in damages {
        stopped_after(&place, &mut place.mpirun(), newest(&place) + 3, Signal::USR1);
        let [.., sound, step] = checkpoints(&place)[..] else { panic!("one checkpoint only") };
        damage(&folder_of(&place, step).join(file));
        stopped_after(&place, &mut place.mpirun(), sound + 1, Signal::USR1);
        let log = fs::read_to_string(place.log_of_rank(0)).unwrap();
        let skipped = format!("skipped {}: {reason}", folder_of(&place, step).display());
        assert!(log.contains(&skipped), "{skipped:?} is not in {log}");
        assert!(log.contains(&format!("resuming after step {sound}, ")), "{log}");
        assert!(place.run_dir().join(format!("checkpoints/step-{step:08}.unsound")).is_dir());
    }
    done(&place.run(&mut place.launch()));
    assert_same(&result(&place), undisturbed());
}

#[test]
fn a_full_disk_leaves_the_checkpoint_before() {
    let place = place(STEPS);
    place.edit("every = 2", "every = 25");
    // The run continues without it.
    done(&place.run(place.launch().env(INJECT_FAULT_VARIABLE, "full-disk:1:50")));
    assert_eq!(checkpoints(&place), [25]);
    assert_eq!(
        fs::read_dir(place.run_dir().join("checkpoints")).unwrap().count(),
        1,
        "nothing is left of it"
    );
    let log = fs::read_to_string(place.log_of_rank(0)).unwrap();
    assert!(
        log.contains("step-00000050 was not saved, and the one before it stays: rank 1 (host "),
        "{log}"
    );
    assert_same(&result(&place), undisturbed());
}

#[test]
fn a_stop_that_cannot_be_saved_is_a_failure() {
    let place = place(STEPS);
    place.edit("every = 2", "every = 0");
    let ended = after_step(&place, &mut place.launch(), 2, |job, paused| {
        // Whoever is root may write into any folder, but not into a file.
        fs::write(place.run_dir().join("checkpoints"), "").unwrap();
        job.stop(Signal::TERM, paused);
    });
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    let error = ended.stderr.lines().last().unwrap();
    for says in [
        "error: rank ",
        "asked to stop after step 3",
        "its checkpoint could not be written: rank 0 (host ",
        "cannot make the directory",
    ] {
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn the_checkpoint_with_the_lowest_held_out_loss_stays() {
    const STEPS: u64 = 14;
    let place = place(STEPS);
    // It learns to repeat a token, which helps little elsewhere, and soon harms.
    let same: Vec<i64> = (0..3 * 8 * 48).map(|index| 3 + index / 48).collect();
    place.write_batches("batches.safetensors", [3, 8, 48], &same);
    let ids: Vec<i64> = (0..4 * 48)
        .map(|index: i64| 3 + (index * index * 5 + index * 13) % (program::VOCABULARY - 3))
        .collect();
    let held_out = place.write_batches("eval.safetensors", [1, 4, 48], &ids);
    place.edit("every = 2\n", "every = 5\nkeep = 1\n");
    place.edit("threads = 1", "threads = 1\neval_every = 2");
    place.edit("learning_rate = 1e-2", "learning_rate = 1e-1\n[schedule]\nmethod = \"constant\"");
    place.edit("eval_samples = 0", &format!("eval = {:?}", held_out.to_str().unwrap()));
    let command = || {
        let mut command = place.loract(&["train"]);
        command.arg(place.config());
        command
    };
    done(&place.run(&mut command()));
    let text = fs::read_to_string(place.metrics()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let evaluated = lines
        .filter_map(|line| Some((line["step"].as_u64()?, line["eval_loss"].as_f64()?)))
        .filter(|(step, _)| *step < STEPS);
    let (best, loss) = evaluated.min_by(|one, other| one.1.total_cmp(&other.1)).unwrap();
    println!("the best is step {best} with {loss}");
    assert!(best % 5 != 0 && best < 10, "only its validation loss keeps it: {best}");
    assert_eq!(checkpoints(&place), [best, 10]);
}

/// Four ranks, then two, then three: the batches, and so the losses, are those of two ranks, but
/// for rounding.
#[test]
fn another_number_of_ranks_sees_the_same_batches() {
    const STEPS: u64 = 18;
    let place = |method: &str| {
        let place = Place::new();
        let ids: Vec<i64> = (0..5 * 12 * 16)
            .map(|index: i64| 3 + (index * index * 17 + index * 31) % (program::VOCABULARY - 3))
            .collect();
        place.write_batches("batches.safetensors", [5, 12, 16], &ids);
        place.edit("steps = 8\nbatch_size = 2", &format!("steps = {STEPS}\nbatch_size = 12"));
        place.edit("sequence_length = 16", "sequence_length = 16\n[checkpoint]\nevery = 1");
        place.edit("method = \"exact\"", method);
        place
    };
    let losses = |place: &Place| -> Vec<f64> {
        result(place).lines.iter().map(|line| line[1].parse().unwrap()).collect()
    };
    let on = |place: &Place, ranks: &str| {
        let mut command = place.loract(&["launch", "-n", ranks]);
        command.arg(place.config());
        command
    };
    let changing = |place: &Place| {
        for (ranks, fault, step) in [("4", "stop:3:5", 5), ("2", "stop:1:11", 11)] {
            let ended = place.run(on(place, ranks).env(INJECT_FAULT_VARIABLE, fault));
            assert_eq!(ended.status.code(), STOPPED, "{}", ended.stderr);
            assert_eq!(newest(place), step);
        }
        done(&place.run(&mut on(place, "3")));
        let log = fs::read_to_string(place.log_of_rank(0)).unwrap();
        for says in ["4 ranks wrote it, and 2 resume", "2 ranks wrote it, and 3 resume"] {
            assert!(log.contains(says), "{says}: {log}");
        }
    };
    let (changed, steady) = (place("method = \"exact\""), place("method = \"exact\""));
    changing(&changed);
    done(&steady.run(&mut on(&steady, "2")));
    let (ours, theirs) = (losses(&changed), losses(&steady));
    assert_eq!((ours.len() as u64, theirs.len() as u64), (STEPS, STEPS));
    for (step, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert!(
            (ours / theirs - 1.0).abs() < 1e-4,
            "step {}: {ours} instead of {theirs}",
            step + 1
        );
    }

    // Compressed, the ranks' errors are shared out: it learns on.
    let compressed = place("method = \"powersgd\"\nrank = 1\nstart_step = 1\nmin_ratio = 1.0");
    changing(&compressed);
    assert_eq!(losses(&compressed).len() as u64, STEPS);
}

#[test]
fn another_run_is_refused_in_the_directory_of_an_interrupted_one() {
    let place = place(STEPS);
    stopped_after(&place, &mut place.launch(), 3, Signal::USR1);
    let step = newest(&place);
    let ended = place.run(place.launch().args([
        "--set",
        "run.seed=3",
        "--set",
        "optimizer.learning_rate=0.5",
    ]));
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    for says in [
        "--set optimizer.learning_rate=0.5: [optimizer] learning_rate: is 0.5, and the run in ",
        "run.seed (3, was 0)",
        "--overwrite",
    ] {
        assert!(ended.stderr.contains(says), "{says}: {}", ended.stderr);
    }
    // The data are part of the run.
    let ids: Vec<i64> = (0..3 * 8 * 48).map(|index| 3 + index % 50).collect();
    place.write_batches("batches.safetensors", [3, 8, 48], &ids);
    let ended = place.run(&mut place.launch());
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("[data] train: is not the data that the run in "),
        "{}",
        ended.stderr
    );
    assert_eq!(newest(&place), step, "nothing was touched");
    done(&place.run(place.launch().args([
        "--overwrite",
        "--set",
        "run.seed=3",
        "--set",
        "run.steps=3",
    ])));
    assert_eq!(checkpoints(&place), [2], "the others were those of the run before");
}

#[test]
fn data_are_the_same_wherever_they_come_from_and_the_base_model_is_not_to_change() {
    let place = place(STEPS);
    let model = place.at("model");
    fs::create_dir(&model).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(program::fixture("hf/llama").join(name), model.join(name)).unwrap();
    }
    let launch = || {
        let mut command = place.launch();
        command.args(["--set", &format!("model.path={}", model.display())]);
        command
    };
    stopped_after(&place, &mut launch(), 3, Signal::USR1);

    // Copied away and back: another file with another time.
    let data = place.at("batches.safetensors");
    let bytes = fs::read(&data).unwrap();
    fs::remove_file(&data).unwrap();
    fs::write(&data, bytes).unwrap();

    let weights = model.join("model.safetensors");
    let sound = fs::read(&weights).unwrap();
    let mut changed = sound.clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    fs::write(&weights, changed).unwrap();
    let ended = place.run(&mut launch());
    assert!(!ended.status.success());
    for says in
        ["[model] path: is not the model that the run in ", "model.safetensors", "--overwrite"]
    {
        assert!(ended.stderr.contains(says), "{says}: {}", ended.stderr);
    }
    fs::write(&weights, sound).unwrap();
    done(&place.run(&mut launch()));
}
