//! Every LoRA option against PEFT: its adapters are read, and loss and gradients are those that it
//! computed. `tests/fixtures/lora/make.py` made them.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use autograd::GradMode;
use compression::{Method, Options, Rank};
use layers::{ActivationStore, SavePolicy, Scope, Targets};
use loract_models::{
    Activations, AdapterConfig, BlockActivations, Checkpoint, Decoder, Inputs, Model, Recompute,
    TensorFile,
};
use loract_models::{TargetModules, read_adapter, write_adapter};

const TOLERANCE: f64 = 2e-5;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// The recorded options.
fn options() -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(fixtures().join("lora")).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries
        .filter(|path| path.join("expected.safetensors").exists() && !path.ends_with("plus"))
        .collect();
    folders.sort();
    assert!(folders.len() >= 17, "{folders:?}");
    folders
}

fn base(config: &AdapterConfig) -> Decoder {
    let folder = fixtures().join("hf").join(config.base_model_name_or_path.as_ref().unwrap());
    Decoder::load(&Checkpoint::open(&folder).unwrap(), Kind::Float, Device::Cpu).unwrap()
}

/// The base model with the adapter in a folder.
fn adapted(folder: &Path) -> (AdapterConfig, Decoder) {
    let adapter = read_adapter(folder).unwrap();
    let mut decoder = base(&adapter.config);
    decoder.add_lora(&adapter.config, Some(&adapter.weights), 0, folder).unwrap();
    (adapter.config, decoder)
}

fn batch(file: &TensorFile) -> (Inputs, Targets) {
    let labels = file.tensor("labels").unwrap();
    let (targets, tokens) = (labels.full_like(-100), labels.size()[1]);
    targets.narrow(1, 0, tokens - 1).copy_(&labels.narrow(1, 1, tokens - 1));
    (Inputs::rows(file.tensor("input_ids").unwrap()), Targets::new(&targets).unwrap())
}

/// The loss, and the gradient of each trained parameter under its name.
fn step(
    decoder: &Decoder,
    file: &TensorFile,
    activations: BlockActivations,
) -> (f64, Vec<(String, Tensor)>) {
    let (inputs, targets) = batch(file);
    let scope = Scope::training(1, Arc::new(ActivationStore::default()));
    let hidden = decoder.forward(&inputs, &Activations::from(activations), &scope).unwrap();
    let loss = decoder.loss(&hidden, &targets, 1.0 / targets.count() as f64, 0, &scope).unwrap();
    let trained = decoder.trained();
    let wanted: Vec<&Tensor> = trained.iter().map(|parameter| parameter.tensor()).collect();
    let gradients = autograd::grad(&[&loss], &wanted, &[None], false, false).unwrap();
    let named = gradients.into_iter().zip(&trained).map(|(gradient, parameter)| {
        let gradient = gradient.unwrap_or_else(|| parameter.zeros_like());
        (parameter.name().to_owned(), gradient)
    });
    (loss.double_value(&[]), named.collect())
}

fn relative(ours: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(ours.size(), expected.size());
    let norm = |x: &Tensor| x.to_kind(Kind::Double).norm().double_value(&[]);
    norm(&(ours - expected)) / norm(expected).max(1e-12)
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

fn agree(
    option: &str,
    decoder: &Decoder,
    file: &TensorFile,
    activations: BlockActivations,
    tolerance: f64,
) {
    let (loss, gradients) = step(decoder, file, activations);
    let expected = file.tensor("loss").unwrap().double_value(&[]);
    assert!(
        (loss / expected - 1.0).abs() < TOLERANCE,
        "{option}: loss {loss}, recorded {expected}"
    );
    let recorded: Vec<String> =
        file.names().into_iter().filter(|name| name.starts_with("grad.")).collect();
    let mut worst = 0.0_f64;
    for (name, gradient) in &gradients {
        let expected = file
            .tensor(&format!("grad.{name}"))
            .unwrap_or_else(|_| panic!("{option}: {name} is trained here only"));
        let error = relative(gradient, &expected);
        assert!(error < tolerance, "{option}: {name}: {error:e}");
        worst = worst.max(error);
    }
    assert_eq!(gradients.len(), recorded.len(), "{option}: {recorded:?}");
    println!("{option}: {} gradients, the largest relative error {worst:.1e}", gradients.len());
}

#[test]
fn loss_and_gradients_of_every_option_are_those_of_peft() {
    for folder in options() {
        let (_, decoder) = adapted(&folder);
        let file = TensorFile::open(&folder.join("expected.safetensors")).unwrap();
        agree(&name(&folder), &decoder, &file, BlockActivations::default(), TOLERANCE);
    }
}

#[test]
fn every_option_works_with_every_save_policy() {
    let policy = SavePolicy::Code(Options {
        method: Method::Svd,
        rank: Rank::Fraction(1.0),
        keep_norms: false,
        factors: Kind::Float,
    });
    // With 27 tokens, rank 27 loses nothing; at full rank a pair may be no smaller and is then kept
    // as it is.
    let store = BlockActivations {
        recompute: Recompute::Nothing,
        norm: policy,
        attn_in: policy,
        attn_out: policy,
        mlp_in: policy,
        mlp_out: policy,
        act: policy,
    };
    for folder in options() {
        let (_, decoder) = adapted(&folder);
        let file = TensorFile::open(&folder.join("expected.safetensors")).unwrap();
        for (way, activations) in [
            ("sites", store),
            (
                "layer",
                BlockActivations {
                    recompute: Recompute::Layer(SavePolicy::Exact),
                    ..BlockActivations::default()
                },
            ),
            (
                "sublayer",
                BlockActivations {
                    recompute: Recompute::Sublayer(SavePolicy::Exact),
                    ..BlockActivations::default()
                },
            ),
        ] {
            agree(&format!("{} by {way}", name(&folder)), &decoder, &file, activations, 2e-4);
        }
    }
}

#[test]
fn a_new_adapter_targets_the_modules_that_peft_did_and_changes_nothing_at_first() {
    for folder in options() {
        let (config, loaded) = adapted(&folder);
        let file = TensorFile::open(&folder.join("expected.safetensors")).unwrap();
        let mut decoder = base(&config);
        let plain = {
            let _mode = GradMode::disabled();
            decoder.forward(&batch(&file).0, &Activations::default(), &Scope::evaluation()).unwrap()
        };
        decoder.add_lora(&config, None, 3, &folder).unwrap();
        let shapes = |decoder: &Decoder| {
            let named = decoder
                .trained()
                .into_iter()
                .map(|parameter| (parameter.name().to_owned(), parameter.size()));
            named.collect::<Vec<_>>()
        };
        assert_eq!(shapes(&decoder), shapes(&loaded), "{}", name(&folder));
        let _mode = GradMode::disabled();
        let hidden = decoder
            .forward(&batch(&file).0, &Activations::default(), &Scope::evaluation())
            .unwrap();
        let error = relative(&hidden, &plain);
        assert!(error < 1e-5, "{}: the first step would start at {error:e}", name(&folder));
    }
}

#[test]
fn pissa_begins_with_the_principal_part_that_peft_takes() {
    for option in ["pissa", "pissa_dora"] {
        let folder = fixtures().join("lora").join(option);
        let file = TensorFile::open(&folder.join("expected.safetensors")).unwrap();
        let config = read_adapter(&folder).unwrap().config;
        let mut decoder = base(&config);
        decoder.add_lora(&config, None, 0, &folder).unwrap();
        let weights = decoder.lora_weights();
        let recorded = file.names().into_iter().filter(|name| name.starts_with("initial.")).count();
        assert_eq!(weights.modules.len(), recorded);
        for pair in &weights.modules {
            let update = pair.b.matmul(&pair.a) * config.scale_of(&pair.module);
            let expected = file.tensor(&format!("initial.{}", pair.module)).unwrap();
            assert!(relative(&update, &expected) < 1e-4, "{option}: {}", pair.module);
        }
    }
}

#[test]
fn pissa_is_written_as_peft_converts_it() {
    for option in ["pissa", "pissa_dora"] {
        let folder = fixtures().join("lora").join(option);
        let (config, decoder) = adapted(&folder);
        let written = tempfile::tempdir().unwrap();
        write_adapter(written.path(), &config, &decoder.lora_weights()).unwrap();
        let ours = read_adapter(written.path()).unwrap();
        // With DoRA the conversion of PEFT loses the magnitudes; that it does the same is to be
        // seen all the same.
        if option == "pissa" {
            let peft = read_adapter(&fixtures().join("lora/pissa_converted")).unwrap();
            assert_eq!(ours.config, peft.config);
            for (ours, theirs) in ours.weights.modules.iter().zip(&peft.weights.modules) {
                assert_eq!(ours.module, theirs.module);
                // The factors of the initial part have the signs of a decomposition; what they add
                // up to has not.
                assert!(
                    relative(&ours.b.matmul(&ours.a), &theirs.b.matmul(&theirs.a)) < 1e-3,
                    "{}",
                    ours.module
                );
            }
        }
        let file = TensorFile::open(&folder.join("expected.safetensors")).unwrap();
        let (_, decoder) = adapted(written.path());
        let (loss, _) = step(&decoder, &file, BlockActivations::default());
        let expected = file.tensor("loss").unwrap().double_value(&[]);
        assert!((loss / expected - 1.0).abs() < TOLERANCE, "{option}: {loss} and {expected}");
    }
}

#[test]
fn what_is_written_is_what_peft_wrote() {
    for folder in options().into_iter().filter(|folder| !name(folder).starts_with("pissa")) {
        let (config, decoder) = adapted(&folder);
        let written = tempfile::tempdir().unwrap();
        write_adapter(written.path(), &config, &decoder.lora_weights()).unwrap();
        let open =
            |folder: &Path| TensorFile::open(&folder.join("adapter_model.safetensors")).unwrap();
        let (ours, theirs) = (open(written.path()), open(&folder));
        let sorted = |file: &TensorFile| {
            let mut names = file.names();
            names.sort();
            names
        };
        assert_eq!(sorted(&ours), sorted(&theirs), "{}", name(&folder));
        assert!(
            theirs
                .names()
                .iter()
                .all(|name| ours.tensor(name).unwrap().equal(&theirs.tensor(name).unwrap())),
            "{}",
            name(&folder)
        );
        let json = |folder: &Path| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap())
                .unwrap()
        };
        let recorded = json(&folder);
        for (key, value) in json(written.path()).as_object().unwrap() {
            assert_eq!(value, &recorded[key], "{}: {key}", name(&folder));
        }
    }
}

#[test]
fn a_frozen_a_has_no_gradient_and_that_of_b_is_the_same() {
    let folder = fixtures().join("lora/all_linear");
    let (_, decoder) = adapted(&folder);
    decoder.freeze_lora_a();
    let file = TensorFile::open(&folder.join("expected.safetensors")).unwrap();
    let (_, gradients) = step(&decoder, &file, BlockActivations::default());
    assert_eq!(gradients.len(), 2 * 7);
    for (name, gradient) in gradients {
        assert!(name.ends_with(".lora_B.weight"), "{name}");
        let error = relative(&gradient, &file.tensor(&format!("grad.{name}")).unwrap());
        assert!(error < TOLERANCE, "{name}: {error:e}");
    }
}

#[test]
fn gaussian_factors_have_a_deviation_of_one_over_the_rank() {
    let folder = fixtures().join("hf/llama");
    let mut decoder =
        Decoder::load(&Checkpoint::open(&folder).unwrap(), Kind::Float, Device::Cpu).unwrap();
    let all = TargetModules::Pattern("all-linear".into());
    let config = AdapterConfig {
        r: 16,
        init_lora_weights: "gaussian".into(),
        target_modules: all,
        ..AdapterConfig::default()
    };
    decoder.add_lora(&config, None, 0, &folder).unwrap();
    let a: Vec<Tensor> =
        decoder.lora_weights().modules.iter().map(|pair| pair.a.detach().view([-1])).collect();
    let deviation = Tensor::cat(&a, 0).std(true).double_value(&[]);
    assert!((deviation * 16.0 - 1.0).abs() < 0.05, "{deviation}");
    assert!(
        decoder
            .lora_weights()
            .modules
            .iter()
            .all(|pair| pair.b.abs().max().double_value(&[]) == 0.0)
    );
}

#[test]
fn what_does_not_fit_the_model_is_refused_by_name() {
    let folder = fixtures().join("lora/pissa");
    let mut config = read_adapter(&folder).unwrap().config;
    config.rank_pattern.insert("down_proj".into(), 33);
    let says = |config: &AdapterConfig, says: &str| {
        let message = base(config).add_lora(config, None, 0, &folder).unwrap_err().to_string();
        assert!(message.contains(says) && !message.contains('\n'), "{message}");
    };
    says(&config, "down_proj: PiSSA has no rank 33 of a weight [32, 56]; lower it there");
    config.target_modules = TargetModules::Names(vec!["query".into()]);
    says(&config, "target_modules names no layer of this model");
    let folder = fixtures().join("lora/saved_tied_head");
    let mut adapter = read_adapter(&folder).unwrap();
    adapter.weights.saved[0].1 = adapter.weights.saved[0].1.narrow(0, 0, 5);
    let refused = base(&adapter.config)
        .add_lora(&adapter.config, Some(&adapter.weights), 0, &folder)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("lm_head.weight") && refused.contains("shape [5, "), "{refused}");
}
