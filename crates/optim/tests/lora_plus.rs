//! LoRA+ for some steps of AdamW against PEFT's `create_loraplus_optimizer`, with DoRA.
//! `tests/fixtures/lora/make.py` recorded it.
#![allow(clippy::unwrap_used, missing_docs)]

use config::Run;
use layers::{Scope, Targets};
use loract_optim::{Optimizer, Partition, parameter_groups};
use models::{Activations, Adapter, Checkpoint, Decoder, Inputs, Model, TensorFile, read_adapter};
use std::collections::BTreeSet;
use std::path::Path;
use tch::{Device, Kind, Tensor};

const RATIO: f64 = 8.0;

/// The norm of the difference of two adapters' weights.
fn distance(one: &Adapter, other: &Adapter) -> f64 {
    let square = |a: &Tensor, b: &Tensor| (a - b).square().sum(Kind::Double).double_value(&[]);
    let magnitude = |pair: &models::LoraWeights| pair.magnitude.as_ref().unwrap().shallow_clone();
    let found = |pair: &&models::LoraWeights, module: &str| pair.module == module;
    let pairs = one.weights.modules.iter().map(|pair| {
        (pair, other.weights.modules.iter().find(|other| found(other, &pair.module)).unwrap())
    });
    pairs
        .map(|(a, b)| {
            square(&a.a, &b.a) + square(&a.b, &b.b) + square(&magnitude(a), &magnitude(b))
        })
        .sum::<f64>()
        .sqrt()
}

#[test]
fn steps_of_lora_plus_are_those_of_peft() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let folder = fixtures.join("lora/plus");
    let adapter = read_adapter(&folder).unwrap();
    let mut decoder = Decoder::load(
        &Checkpoint::open(&fixtures.join("hf/llama")).unwrap(),
        Kind::Float,
        Device::Cpu,
    )
    .unwrap();
    decoder.add_lora(&adapter.config, Some(&adapter.weights), 0, &folder).unwrap();

    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("c.toml");
    std::fs::write(&path, "[model]\npath = \"m\"\n[lora]\n[data]\ntrain = \"t\"\n").unwrap();
    let weights: BTreeSet<&str> =
        decoder.linears().into_iter().map(|linear| linear.weight().name()).collect();
    let groups = parameter_groups(&decoder.trained(), &weights, RATIO);
    let mut optimizer =
        Optimizer::new(&groups, &Run::load(&path, &[]).unwrap().optimizer, Partition::WHOLE)
            .unwrap();

    let recorded = TensorFile::open(&folder.join("expected.safetensors")).unwrap();
    let losses =
        Vec::<f64>::try_from(recorded.tensor("losses").unwrap().to_kind(Kind::Double)).unwrap();
    for (step, expected) in losses.iter().enumerate() {
        let labels = recorded.tensor(&format!("labels.{step}")).unwrap();
        let (targets, tokens) = (labels.full_like(-100), labels.size()[1]);
        targets.narrow(1, 0, tokens - 1).copy_(&labels.narrow(1, 1, tokens - 1));
        let targets = Targets::new(&targets).unwrap();
        let inputs = Inputs::rows(recorded.tensor(&format!("input_ids.{step}")).unwrap());
        let hidden =
            decoder.forward(&inputs, &Activations::default(), &Scope::evaluation()).unwrap();
        let loss = decoder
            .loss(&hidden, &targets, 1.0 / targets.count() as f64, 0, &Scope::evaluation())
            .unwrap();
        let ours = loss.double_value(&[]);
        assert!((ours / expected - 1.0).abs() < 1e-5, "step {step}: {ours}, recorded {expected}");
        autograd::backward(&[&loss], &[None], false).unwrap();
        optimizer.step(1e-2).unwrap();
        decoder.trained().iter().for_each(|parameter| parameter.shallow_clone().zero_grad());
    }
    let ours = Adapter { config: adapter.config.clone(), weights: decoder.lora_weights() };
    let after = read_adapter(&folder.join("after")).unwrap();
    let off = distance(&ours, &after) / distance(&adapter, &after);
    println!("off by {off:.1e} of the way that the recorded adapter went");
    assert!(off < 1e-3, "{off:e}");
}
