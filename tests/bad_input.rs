//! Bad input is refused before anything is written: exit code 2, and one line that says what is
//! wrong, where, and what to do.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{Ended, Place, fixture};
use safetensors::{SafeTensors, tensor::TensorView};
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

#[track_caller]
fn assert_refused(place: &Place, command: &mut Command, says: &[&str]) {
    let before = place.listing();
    let ended = place.run(command);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert_says(&error(&ended), says);
    assert_eq!(place.listing(), before, "something was written");
}

/// The one line on stderr.
#[track_caller]
fn error(ended: &Ended) -> String {
    assert_eq!(ended.stdout, "");
    let line = ended.stderr.strip_suffix('\n').unwrap_or(&ended.stderr);
    assert!(
        line.starts_with("error: ") && !line.contains('\n'),
        "not one line of error:\n{}",
        ended.stderr
    );
    line.to_owned()
}

#[track_caller]
fn assert_says(error: &str, says: &[&str]) {
    println!("{error}");
    for words in says {
        assert!(error.contains(words), "{words:?} is not said: {error}");
    }
}

/// `loract launch -n 2 --set …` refuses.
#[track_caller]
fn launch_refuses(place: &Place, set: &[&str], says: &[&str]) {
    assert_refused(place, place.launch().args(set.iter().flat_map(|set| ["--set", set])), says);
}

/// So do `loract train` on one rank, and two ranks under mpirun: none waits for the other.
#[track_caller]
fn train_refuses(place: &Place, says: &[&str]) {
    assert_refused(place, &mut place.train(), says);
    mpirun_refuses(place, says);
}

/// mpirun adds its own notice that a rank has failed.
#[track_caller]
fn mpirun_refuses(place: &Place, says: &[&str]) {
    let before = place.listing();
    let ended = place.run(&mut place.mpirun());
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    let errors: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("error: ")).collect();
    let [error] = errors[..] else { panic!("{} errors:\n{}", errors.len(), ended.stderr) };
    assert!(error.starts_with("error: "), "{error}");
    assert_says(error, says);
    assert_eq!(place.listing(), before, "something was written");
}

// The configuration.

#[test]
fn an_unknown_key() {
    let place = Place::new();
    place.edit("steps = 8", "steps = 8\nwombat = 1");
    let says = ["run.toml:3: [run]", "wombat", "dir, seed, steps"];
    launch_refuses(&place, &[], &says);
    train_refuses(&place, &says);
}

#[test]
fn a_misspelt_key() {
    let place = Place::new();
    place.edit("batch_size", "batchsize");
    launch_refuses(&place, &[], &["run.toml:3: [run]", "batchsize", "did you mean `batch_size`?"]);
}

#[test]
fn a_misspelt_table() {
    let place = Place::new();
    place.edit("[activations]", "[activation]");
    launch_refuses(&place, &[], &["run.toml:13: ", "[activation]", "did you mean [activations]"]);
}

#[test]
fn a_value_of_the_wrong_type() {
    let place = Place::new();
    place.edit("steps = 8", "steps = \"eight\"");
    launch_refuses(
        &place,
        &[],
        &["run.toml:2: [run] steps: cannot be \"eight\"", "valid: a whole number >= 1"],
    );
}

#[test]
fn weights_in_few_bits_that_there_are_not() {
    let place = Place::new();
    let says = [
        "--set model.quantization=gguf: [model] quantization: keeps the blocks of a .gguf file",
        "give \"nf4\", or a .gguf file",
    ];
    launch_refuses(&place, &["model.quantization=gguf"], &says);
    let both = ["model.quantization=nf4", "lora.init=pissa"];
    launch_refuses(
        &place,
        &both,
        &["--set lora.init=pissa: [lora] init: is PiSSA", "leave one out"],
    );
    launch_refuses(
        &place,
        &["model.quantization=int3"],
        &["[model] quantization", "valid: \"none\" | \"nf4\" | \"gguf\""],
    );
}

#[test]
fn broken_toml() {
    let place = Place::new();
    place.edit("[model]", "[model");
    launch_refuses(&place, &[], &["run.toml:7: "]);
}

#[test]
fn a_missing_configuration() {
    let place = Place::new();
    let nowhere = place.at("nowhere.toml");
    let says =
        ["nowhere.toml: ", "No such file", "give its path, relative to the current directory"];
    assert_refused(&place, place.loract(&["launch", "-n", "2"]).arg(&nowhere), &says);
    assert_refused(&place, place.loract(&["train"]).arg(&nowhere), &says);
}

#[test]
fn an_override_that_is_none() {
    let place = Place::new();
    launch_refuses(&place, &["run.steps"], &["--set run.steps: ", "valid: table.key=value"]);
    launch_refuses(
        &place,
        &["run.stepz=3"],
        &["--set run.stepz=3: [run]", "did you mean `steps`?"],
    );
    launch_refuses(
        &place,
        &["run.steps=\"3"],
        &["--set run.steps=\"3: [run] steps: cannot be '\"3'", "valid: a whole number"],
    );
}

#[test]
fn no_ranks() {
    let place = Place::new();
    let command = &mut place.loract(&["launch", "-n", "0"]);
    assert_refused(&place, command.arg(place.config()), &["'0'", "--ranks", "1 or more", "--help"]);
}

#[test]
fn wrong_use() {
    let place = Place::new();
    let says = ["unexpected argument '--rank'", "'--ranks'", "loract launch", "--help"];
    assert_refused(&place, place.launch().args(["--rank", "2"]), &says);
    assert_refused(
        &place,
        &mut place.loract(&["lunch", place.config().to_str().unwrap()]),
        &["'lunch'", "'launch'", "--help"],
    );
    assert_refused(&place, &mut place.loract(&["launch"]), &["<CONFIG>", "--help"]);
}

#[test]
fn a_rank_of_zero() {
    let place = Place::new();
    place.edit("sites = \"none\"", "sites = \"layer\"\nrank = 0");
    launch_refuses(
        &place,
        &[],
        &["run.toml:15: [activations] rank: must be > 0", "valid: a fraction 0 < r <= 1"],
    );
    launch_refuses(
        &place,
        &["activations.rank=0.01"],
        &["--set activations.rank=0.01: ", "rounds to 0 columns", "width of 32; raise it"],
    );
}

#[test]
fn a_rank_that_saves_nothing() {
    let place = Place::new();
    place.edit("sites = \"none\"", "sites = \"layer\"\nrank = 1.0\nfactors = \"f32\"");
    let says = ["run.toml:15: [activations] rank: saves nothing", "lower the rank"];
    launch_refuses(&place, &[], &says);
    train_refuses(&place, &says);
}

#[test]
fn a_gpu_where_none_can_be_used() {
    let place = Place::new();
    // Where there is one: two ranks cannot share their gradients there.
    launch_refuses(
        &place,
        &["run.device=cuda"],
        &["--set run.device=cuda: [run] device: is \"cuda\", but ", "\"cpu\""],
    );
}

#[test]
fn a_lora_target_that_the_model_has_not() {
    let place = Place::new();
    place.edit("rank = 2", "rank = 2\ntarget_modules = [\"q_proj\", \"query\"]");
    let says =
        ["run.toml:12: [lora] target_modules: names \"query\"", "k_proj", "v_proj", "all-linear"];
    launch_refuses(&place, &[], &says);
    train_refuses(&place, &says);
}

#[test]
fn lora_options_that_mean_nothing_here() {
    let place = Place::new();
    launch_refuses(
        &place,
        &["lora.target_modules=.*[.q_proj"],
        &["[lora] target_modules: \".*[.q_proj\" is not a regular expression"],
    );
    launch_refuses(
        &place,
        &["lora.layers_to_transform=[7]"],
        &["[lora] layers_to_transform: names layer 7, and the model has 0 to 1"],
    );
    launch_refuses(
        &place,
        &["lora.modules_to_save=[\"score\"]"],
        &["[lora] modules_to_save: names \"score\"", "lm_head"],
    );
    launch_refuses(&place, &["lora.bias=all"], &["[lora] bias: \"all\" is not available yet"]);
    launch_refuses(
        &place,
        &["optimizer.method=sgd", "optimizer.eps=1e-8"],
        &["[optimizer] eps: is read only if [optimizer] method = \"adamw\""],
    );
    place.edit("rank = 2", "rank = 2\nrank_pattern = { down = 4 }");
    train_refuses(
        &place,
        &["run.toml:12: [lora] rank_pattern: \"down\" fits no layer that is targeted"],
    );
}

#[test]
fn more_ranks_than_sequences_in_a_batch() {
    let place = Place::new();
    place.edit("batch_size = 2", "batch_size = 1");
    let says = ["run.toml:3: [run] batch_size: is 1", "the 2 ranks", "or start fewer ranks"];
    launch_refuses(&place, &[], &says);
    mpirun_refuses(&place, &says);
}

#[test]
fn a_directory_that_holds_an_earlier_run() {
    let place = Place::new();
    fs::create_dir(place.run_dir()).unwrap();
    fs::write(place.metrics(), "{}\n").unwrap();
    let says = ["/run holds the metrics of an earlier run; ", "--overwrite", "--set run.dir=DIR"];
    launch_refuses(&place, &[], &says);
    train_refuses(&place, &says);
}

#[test]
fn an_mpirun_that_is_none() {
    let place = Place::new();
    launch_refuses(
        &place,
        &["cluster.mpirun=/no/mpirun"],
        &["[cluster] mpirun: ", "cannot run /no/mpirun", "install Open MPI or MPICH"],
    );
    launch_refuses(
        &place,
        &["cluster.mpirun=echo"],
        &["[cluster] mpirun: ", "neither Open MPI nor MPICH", "give the path"],
    );
}

// The model.

/// A copy of the tiny Llama that a test may damage; the configuration points there.
fn own_model(place: &Place) -> PathBuf {
    let (from, to) = (fixture("hf/llama"), place.at("model"));
    fs::create_dir(&to).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    place.edit(from.to_str().unwrap(), to.to_str().unwrap());
    to
}

fn change_bytes(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Writes the weights anew, each tensor as `change` says, or not at all.
fn change_tensors(
    model: &Path,
    change: impl for<'a> Fn(&str, TensorView<'a>) -> Option<TensorView<'a>>,
) {
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let changed = tensors
        .tensors()
        .into_iter()
        .filter_map(|(name, view)| Some((name.clone(), change(&name, view)?)));
    fs::write(&path, safetensors::serialize(changed, None).unwrap()).unwrap();
}

#[test]
fn a_missing_model() {
    let place = Place::new();
    place.edit(fixture("hf/llama").to_str().unwrap(), "/nowhere/llama");
    let says = [
        "run.toml:8: [model] path: there is no /nowhere/llama",
        "give another path, relative to the current directory",
    ];
    launch_refuses(&place, &[], &says);
    train_refuses(&place, &says);
}

#[test]
fn a_model_without_its_weights_or_its_configuration() {
    let place = Place::new();
    let model = own_model(&place);
    fs::remove_file(model.join("model.safetensors")).unwrap();
    launch_refuses(
        &place,
        &[],
        &["missing file ", "model/model.safetensors; ", "fetch the model's weights"],
    );
    fs::remove_file(model.join("config.json")).unwrap();
    launch_refuses(
        &place,
        &[],
        &["model is not a model: it has no config.json", "give a directory with config.json"],
    );
}

#[test]
fn truncated_weights() {
    let place = Place::new();
    let model = own_model(&place);
    change_bytes(&model.join("model.safetensors"), |bytes| bytes.truncate(bytes.len() - 100));
    let says = [
        "model.safetensors cannot be read: ",
        "its tensors need ",
        "truncated or damaged: fetch it again",
    ];
    launch_refuses(&place, &[], &says);
    train_refuses(&place, &says);
    change_bytes(&model.join("model.safetensors"), |bytes| bytes.truncate(3));
    launch_refuses(
        &place,
        &[],
        &["model.safetensors cannot be read: ", "3 bytes are too few", "fetch it again"],
    );
}

#[test]
fn a_damaged_header_of_the_weights() {
    let place = Place::new();
    let weights = own_model(&place).join("model.safetensors");
    change_bytes(&weights, |bytes| bytes[8..16].copy_from_slice(b"\xff\xfe??{}[["));
    launch_refuses(
        &place,
        &[],
        &["model.safetensors cannot be read: ", "its header is not valid", "fetch it again"],
    );
    change_bytes(&weights, |bytes| bytes[..8].fill(0xff));
    launch_refuses(
        &place,
        &[],
        &[
            "model.safetensors cannot be read: ",
            "declares a header of 18446744073709551615 bytes",
            "fetch it again",
        ],
    );
}

#[test]
fn a_tensor_of_another_shape() {
    let place = Place::new();
    let model = own_model(&place);
    change_tensors(&model, |name, view| match name {
        "model.norm.weight" => {
            Some(TensorView::new(view.dtype(), vec![4, 8], view.data()).unwrap())
        }
        _ => Some(view),
    });
    let says = ["model.norm.weight in ", "/model has shape [4, 8], expected [32]", "check that "];
    launch_refuses(&place, &[], &says);
    train_refuses(&place, &says);
}

#[test]
fn a_missing_tensor() {
    let place = Place::new();
    let model = own_model(&place);
    change_tensors(&model, |name, view| {
        (name != "model.layers.1.mlp.up_proj.weight").then_some(view)
    });
    launch_refuses(
        &place,
        &[],
        &[
            "model.layers.1.mlp.up_proj.weight is missing from ",
            "/model",
            "fetch the checkpoint again",
        ],
    );
}

#[test]
fn an_unsupported_architecture() {
    let place = Place::new();
    let config = own_model(&place).join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"model_type\": \"llama\"", "\"model_type\": \"mamba\""))
        .unwrap();
    launch_refuses(
        &place,
        &[],
        &["model_type \"mamba\" in ", "config.json is not supported; supported: ", "llama"],
    );
    fs::write(&config, "{ \"model_type\": ").unwrap();
    launch_refuses(
        &place,
        &[],
        &["config.json cannot be read: ", "not a JSON table", "fetch it again"],
    );
}

/// The real model, of which the checks read the header and the tokenizer.
fn gguf() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../.deps/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    path.canonicalize().unwrap_or_else(|_| panic!("there is no {}; run ci/setup", path.display()))
}

/// The first bytes of the real model, as a model of one's own.
fn own_gguf(place: &Place, bytes: u64) -> PathBuf {
    let path = place.at("model.gguf");
    let mut head = Vec::new();
    File::open(gguf()).unwrap().take(bytes).read_to_end(&mut head).unwrap();
    fs::write(&path, head).unwrap();
    place.edit(fixture("hf/llama").to_str().unwrap(), path.to_str().unwrap());
    path
}

#[test]
fn a_truncated_gguf_file() {
    // The header takes 2 MB.
    let place = Place::new();
    own_gguf(&place, 1_000_000);
    let says = [
        "model.gguf cannot be read: it ends within its header",
        "truncated or damaged: fetch it again",
    ];
    launch_refuses(&place, &[], &says);
    train_refuses(&place, &says);
    let place = Place::new();
    own_gguf(&place, 20_000_000);
    launch_refuses(
        &place,
        &[],
        &["model.gguf cannot be read: ", "truncated or damaged: fetch it again"],
    );
}

#[test]
fn a_damaged_gguf_file() {
    let place = Place::new();
    let path = own_gguf(&place, 4_000_000);
    // The count of tensors, bytes 8 to 16.
    change_bytes(&path, |bytes| bytes[8..16].fill(0xff));
    launch_refuses(
        &place,
        &[],
        &["model.gguf cannot be read: ", "truncated or damaged: fetch it again"],
    );
    change_bytes(&path, |bytes| bytes[..4].copy_from_slice(b"GGML"));
    launch_refuses(
        &place,
        &[],
        &["model.gguf cannot be read: ", "truncated or damaged: fetch it again"],
    );
}

// The data.

/// A run of the real model on `text`; nothing of it gets as far as the weights.
fn text_run(name: &str, text: &str) -> Place {
    let place = Place::new();
    place.edit(fixture("hf/llama").to_str().unwrap(), gguf().to_str().unwrap());
    place.edit("batches.safetensors", name);
    place.edit("format = \"batches\"\n", "");
    fs::write(place.at(name), text).unwrap();
    place
}

const GOOD: &str = "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": \"hello\"}]}\n";

#[test]
fn missing_data() {
    let place = Place::new();
    fs::remove_file(place.at("batches.safetensors")).unwrap();
    let says = [
        "run.toml:20: [data] train: there is no ",
        "batches.safetensors; give another path, relative to the current directory",
    ];
    launch_refuses(&place, &[], &says);
    train_refuses(&place, &says);
}

#[test]
fn empty_data() {
    let says = [
        "run.toml:20: [data] train: gives nothing to learn from: it has no records; give a file with at least one",
    ];
    launch_refuses(&text_run("data.jsonl", ""), &[], &says);
    launch_refuses(&text_run("data.jsonl", "\n\n"), &[], &says);
}

#[test]
fn no_sample_left_to_learn_from() {
    let place = text_run("data.jsonl", GOOD);
    let says = [
        "[data] train: gives nothing to learn from: records: 1, of them bad: 0, without a trained token: 1",
        "raise sequence_length",
    ];
    launch_refuses(&place, &[], &says);
    place.edit("sequence_length = 16", "sequence_length = 64");
    let says = [
        "--set data.eval_samples=1: [data] eval_samples: 1 samples are to be taken for validation, but there are only 1",
        "take fewer",
    ];
    launch_refuses(&place, &["data.eval_samples=1"], &says);
}

#[test]
fn text_without_a_tokenizer() {
    let place = text_run("data.jsonl", GOOD);
    place.edit(gguf().to_str().unwrap(), fixture("hf/llama").to_str().unwrap());
    launch_refuses(
        &place,
        &[],
        &[
            "run.toml:7: [model] tokenizer: ",
            "data.jsonl holds text, but there is no tokenizer; give the model's tokenizer",
        ],
    );
}

#[test]
fn a_broken_line() {
    let place = text_run("data.jsonl", &format!("{GOOD}{GOOD}{{\"messages\": [\n{GOOD}"));
    let says = ["broken JSON", ", at ", "data.jsonl:3; write one whole record on each line"];
    launch_refuses(&place, &[], &says);
    train_refuses(&place, &says);
}

#[test]
fn a_record_of_unknown_shape() {
    let place = text_run("data.jsonl", &format!("{GOOD}{{\"page\": \"?\", \"note\": \"!\"}}\n"));
    launch_refuses(
        &place,
        &[],
        &[
            "a record of unknown shape: it has `page`, `note`, at ",
            "data.jsonl:2; a record has `messages`, ",
        ],
    );
}

#[test]
fn more_ranks_than_samples() {
    let place = Place::new();
    place.write_batches("batches.safetensors", [1, 1, 16], &[5; 16]);
    let says = [
        "run.toml:20: [data] train: ",
        "more ranks (2) than samples (1)",
        "start fewer ranks, or give more data",
    ];
    launch_refuses(&place, &[], &says);
    mpirun_refuses(&place, &says);
}

#[test]
fn token_ids_outside_the_vocabulary() {
    let place = Place::new();
    place.write_batches("batches.safetensors", [1, 2, 16], &[program::VOCABULARY; 32]);
    let says = [
        "run.toml:20: [data] train: holds token id 97, and the model knows 0 to 96",
        "prepare it again",
    ];
    launch_refuses(&place, &[], &says);
    train_refuses(&place, &says);
    place.write_batches("batches.safetensors", [1, 2, 16], &[-1; 32]);
    launch_refuses(
        &place,
        &[],
        &[
            "-1 is no token id, at step 0, row 0, token 0, in ",
            "batches.safetensors; use ids of the vocabulary",
        ],
    );
}

#[test]
fn damaged_batches() {
    let place = Place::new();
    change_bytes(&place.at("batches.safetensors"), |bytes| bytes.truncate(bytes.len() - 8));
    launch_refuses(&place, &[], &["batches.safetensors; ", "whole safetensors file"]);
}

/// `loract plan CONFIG | true`: who reads no more hears no complaint.
#[test]
fn a_reader_that_leaves_is_no_error() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let config = place.config();
    let mut plan = place.loract(&["plan", config.to_str().unwrap()]);
    let output = plan
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
}

/// Options of the commands that read no configuration.
#[test]
fn options_that_cannot_be() {
    let place = Place::new();
    let model = fixture("hf/llama");
    let (model, expected) = (model.to_str().unwrap(), model.join("expected.safetensors"));
    let refused = |arguments: &[&str], says: &[&str]| {
        let ended = place.run(place.loract(arguments).env("CUDA_VISIBLE_DEVICES", ""));
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert!(says.iter().all(|text| ended.stderr.contains(text)), "{}", ended.stderr);
    };
    let verify = ["verify", model, expected.to_str().unwrap(), "--device"];
    refused(
        &[&verify[..], &["cuda"]].concat(),
        &["--device is \"cuda\", but libtorch sees no GPU here", "\"cpu\""],
    );
    refused(&[&verify[..], &["gpu"]].concat(), &["--device", "it must be one of auto, cpu, cuda"]);
    for (option, value) in
        [("--top-p", "0"), ("--top-p", "1.5"), ("--top-p", "nan"), ("--temperature", "-1")]
    {
        refused(
            &["generate", model, "--prompt", "x", &format!("{option}={value}")],
            &[&format!("{option} is "), "at most 1"],
        );
    }
}

/// Devices, pipes and sockets in the place of the files that a configuration names: nothing waits
/// for them, and nothing is read without end.
#[test]
fn what_is_no_regular_file() {
    let place = Place::new();
    let pipe = place.at("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let socket = place.at("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let model = place.at("copied");
    fs::create_dir(&model).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("hf/llama").join(name), model.join(name)).unwrap();
    }
    let kinds = [
        (pipe.as_path(), "it is a pipe"),
        (socket.as_path(), "it is a socket"),
        (Path::new("/dev/zero"), "it is a device"),
    ];
    for (file, says) in kinds {
        let ended = place.run(place.loract(&["plan"]).arg(file));
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert_says(&error(&ended), &[says]);
        let says = says.strip_prefix("it ").unwrap();
        let set = |key: &str, path: &Path| format!("{key}={:?}", path.display().to_string());
        launch_refuses(&place, &[&set("data.train", file)], &[says]);
        for name in ["config.json", "model.safetensors"] {
            let (whole, inside) = (model.join("whole"), model.join(name));
            fs::rename(&inside, &whole).unwrap();
            std::os::unix::fs::symlink(file, &inside).unwrap();
            launch_refuses(&place, &[&set("model.path", &model)], &[says, name]);
            fs::rename(&whole, &inside).unwrap();
        }
    }
}

/// Numbers that nobody means are refused by their keys, wherever they are given.
#[test]
fn absurd_numbers() {
    let place = Place::new();
    for key in [
        "run.batch_size",
        "run.threads",
        "run.steps",
        "data.sequence_length",
        "lora.rank",
        "cluster.stall_seconds",
        "checkpoint.every",
    ] {
        let name = key.split_once('.').unwrap().1;
        for number in ["9223372036854775807", "9223372036854775808", "18446744073709551615"] {
            let set = format!("{key}={number}");
            launch_refuses(&place, &[&set], &[name]);
            let config = place.config();
            let mut plan = place.loract(&["plan", config.to_str().unwrap(), "--set", &set]);
            assert_refused(&place, &mut plan, &[name]);
        }
    }
}
