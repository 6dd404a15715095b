//! A run that learns the classes of images from a model's description alone: with exact and
//! compressed activations, on several ranks, interrupted, from IDX files and from folders. What is
//! wrong is one line with its place.
#![allow(clippy::unwrap_used, missing_docs)]

mod classifier;

use classifier::{done, json, loract, refused};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use tempfile::TempDir;

const SIDE: usize = 8;

/// A folder with the description of a small ViT, and images.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.at("vit")).unwrap();
        let config = json!({
            "model_type": "vit", "image_size": SIDE, "patch_size": 4, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 24, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0
        });
        fs::write(place.at("vit/config.json"), config.to_string()).unwrap();
        place.write_idx("train", 90);
        place.write_idx("test", 30);
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Image `index`: its upper or its lower half is brighter, by its class, under noise.
    fn pixels(index: usize) -> Vec<u8> {
        let pixel = |at: usize| {
            let noise = (index * 97 + at * 57 + index * at * 13) % 91;
            (60 + noise
                + if (at >= SIDE * SIDE / 2) == (Self::class(index) == 1) { 100 } else { 0 })
                as u8
        };
        (0..SIDE * SIDE).map(pixel).collect()
    }

    fn class(index: usize) -> u8 {
        u8::from((index * index + index / 3).is_multiple_of(2))
    }

    fn write_idx(&self, name: &str, count: usize) {
        let first = if name == "train" { 0 } else { 1000 };
        let numbers = |dimensions: &[usize]| {
            dimensions.iter().flat_map(|size| (*size as u32).to_be_bytes()).collect::<Vec<u8>>()
        };
        let images: Vec<u8> = (first..first + count).flat_map(Self::pixels).collect();
        let classes: Vec<u8> = (first..first + count).map(Self::class).collect();
        fs::write(
            self.at(&format!("{name}-images-idx3-ubyte")),
            [&[0, 0, 8, 3], &numbers(&[count, SIDE, SIDE])[..], &images].concat(),
        )
        .unwrap();
        fs::write(
            self.at(&format!("{name}-labels-idx1-ubyte")),
            [&[0, 0, 8, 1], &numbers(&[count])[..], &classes].concat(),
        )
        .unwrap();
    }

    fn configure(&self, model: &str, data: &str) {
        let config = format!(
            "[run]\nsteps = 60\nbatch_size = 12\nthreads = 1\ndir = {:?}\n[model]\npath = {:?}\ntask = \"image_classification\"\n{model}\n\
             [optimizer]\nlearning_rate = 3e-3\n[gradients]\nmethod = \"exact\"\n[checkpoint]\nevery = 14\n[schedule]\nwarmup_steps = 5\n\
             [data]\ntrain = {:?}\neval = {:?}\n{data}\n",
            self.at("run"),
            self.at("vit"),
            self.at("train-images-idx3-ubyte"),
            self.at("test-images-idx3-ubyte"),
        );
        fs::write(self.at("run.toml"), config).unwrap();
    }

    fn loract(&self, command: &[&str], set: &[&str]) -> Output {
        loract(&self.at("run.toml"), command, set)
    }

    fn json(&self, name: &str) -> Value {
        json(&self.at(name))
    }
}

#[test]
fn images_are_learned_from_scratch_on_any_number_of_ranks() {
    let place = Place::new();
    place.configure("weights = \"random\"", "labels = [\"up\", \"down\"]");
    let sublayer = ["activations.sites=sublayer", "activations.method=coded", "activations.bits=4"];
    for set in [&["activations.sites=none"][..], &sublayer] {
        done(&place.loract(&["train", "--overwrite"], set));
        let summary = place.json("run/summary.json");
        assert!(summary["classes"]["accuracy"].as_f64().unwrap() > 0.9, "{summary}");
        assert_eq!(
            (&summary["classes"]["labels"], &summary["trained_parameters"]),
            (&json!(["up", "down"]), &summary["parameters"])
        );
    }
    // It is a model that can be gone on from, with an adapter and in its own classes.
    fs::rename(place.at("run/model"), place.at("trained")).unwrap();
    let model = format!("model.path={}", place.at("trained").display());
    let lora = [
        "model.weights=pretrained",
        "lora.rank=2",
        "run.steps=10",
        "activations.sites=none",
        &model,
    ];
    let before = place.json("run/summary.json");
    done(&place.loract(&["train", "--overwrite"], &lora));
    assert_eq!(place.json("run/summary.json")["eval_loss_before"], before["eval_loss_after"]);
    assert_eq!(
        place.json("run/adapter/adapter_config.json")["modules_to_save"],
        json!(["classifier"])
    );

    let exact = ["activations.sites=none", "optimizer.method=sgd", "run.steps=20"];
    done(&place.loract(&["train", "--overwrite"], &exact));
    let loss = || place.json("run/summary.json")["eval_loss_after"].as_f64().unwrap();
    let alone = loss();
    done(&place.loract(&["launch", "--overwrite", "-n", "2"], &exact));
    assert!((loss() / alone - 1.0).abs() < 1e-5, "{} and {alone}", loss());
}

#[test]
fn an_interrupted_run_draws_the_same_flips_and_crops() {
    let place = Place::new();
    place.configure("weights = \"random\"", "flip = true\ncrop = [0.5, 1]");
    let set = ["run.steps=20"];
    let weights = || fs::read(place.at("run/model/model.safetensors")).unwrap();
    done(&place.loract(&["train", "--overwrite"], &set));
    let undisturbed = weights();
    fs::remove_file(place.at("run/summary.json")).unwrap();
    fs::remove_file(place.at("run/model/model.safetensors")).unwrap();
    done(&place.loract(&["train"], &set));
    assert!(weights() == undisturbed, "the same bits");
    done(&place.loract(&["train", "--overwrite"], &[set[0], "data.flip=false"]));
    assert!(weights() != undisturbed, "flips are drawn");
}

#[test]
fn what_is_wrong_is_one_line_and_exit_code_2() {
    let place = Place::new();
    let with = |model: &str, data: &str, set: &[&str]| {
        place.configure(model, data);
        place.loract(&["train", "--overwrite"], set)
    };
    let random = "weights = \"random\"";
    refused(&with("", "", &[]), &["model.safetensors", "fetch the model's weights"]);
    refused(&with(random, "", &["lora.rank=2"]), &["[model] weights", "[lora]"]);
    refused(
        &with(random, "", &["model.task=sequence_classification"]),
        &["[model] task", "reads images", "image_classification"],
    );
    refused(&with(random, "", &["model.task=causal_lm"]), &["[model] weights", "classifiers"]);
    refused(&with(random, "labels = [\"up\", \"down\"]\ncrop = [0.5, 2]", &[]), &["[data] crop"]);
    refused(
        &with(random, "", &["model.quantization=nf4"]),
        &["[model] quantization", "[model] task = \"causal_lm\""],
    );
    fs::write(place.at("vit/preprocessor_config.json"), r#"{"size": 224}"#).unwrap();
    refused(&with(random, "", &[]), &["preprocessor_config.json", "224 x 224", "8 x 8"]);
    fs::remove_file(place.at("vit/preprocessor_config.json")).unwrap();

    // Folders; one image is none.
    for class in ["cats", "dogs"] {
        fs::create_dir_all(place.at("photos").join(class)).unwrap();
        for number in 0..6 {
            let path = place.at("photos").join(class).join(format!("{number}.bmp"));
            fs::copy(
                concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/images/image.png"),
                path,
            )
            .unwrap();
        }
    }
    let photos = format!("data.train={}", place.at("photos").display());
    let set = [photos.as_str(), "run.steps=6"];
    place.configure(random, "eval_samples = 2");
    let config = fs::read_to_string(place.at("run.toml")).unwrap();
    let config: String = config
        .lines()
        .filter(|line| !line.starts_with("eval = "))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(place.at("run.toml"), config).unwrap();
    done(&place.loract(&["train", "--overwrite"], &set));
    assert_eq!(place.json("run/summary.json")["classes"]["labels"], json!(["cats", "dogs"]));
    fs::write(place.at("photos/cats/3.bmp"), "no image").unwrap();
    refused(
        &place.loract(&["train", "--overwrite"], &set),
        &["no image that can be read", "cats/3.bmp"],
    );
}
