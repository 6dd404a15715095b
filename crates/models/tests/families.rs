//! Every recorded family: what it keeps for backward is the count by formula, its gradients with
//! every site compressed are the exact ones where the code loses nothing, and it computes the same
//! token by token, in packed rows and in bfloat16.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use autograd::GradMode;
use autograd::random::{Distribution, draw};
use compression::{Method, Options, Rank};
use layers::{ActivationStore, SavePolicy, Scope, Targets};
use loract_models::{
    Activations, AdapterConfig, BlockActivations, Checkpoint, Decoder, Inputs, Model, Recompute,
    TargetModules,
};

const RANK: i64 = 12;
const POLICY: SavePolicy = SavePolicy::Code(Options {
    method: Method::Svd,
    rank: Rank::Components(RANK),
    keep_norms: false,
    factors: Kind::Float,
});
const SIX_SITES: BlockActivations = BlockActivations {
    recompute: Recompute::Nothing,
    norm: POLICY,
    attn_in: POLICY,
    attn_out: POLICY,
    mlp_in: POLICY,
    mlp_out: POLICY,
    act: POLICY,
};

/// The folders of all recorded models.
fn families() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 20);
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

/// A model with LoRA pairs whose B is not zero, and all of its weights trained too.
fn trained(folder: &Path, kind: Kind) -> Decoder {
    let mut decoder = Decoder::load(&Checkpoint::open(folder).unwrap(), kind, Device::Cpu).unwrap();
    let lora = AdapterConfig {
        r: 2,
        target_modules: TargetModules::Pattern("all-linear".into()),
        ..AdapterConfig::default()
    };
    decoder.add_lora(&lora, None, 0, folder).unwrap();
    let _mode = GradMode::disabled();
    for (index, parameter) in decoder.trained().into_iter().enumerate() {
        let noise = draw(
            Distribution::Normal,
            &parameter.size(),
            parameter.kind(),
            Device::Cpu,
            index as u64,
        )
        .unwrap()
            * 0.05;
        parameter.shallow_clone().copy_(&noise);
    }
    decoder.train_weights(true);
    decoder
}

/// Rows that are all alike, so that nothing kept has more than 12 independent rows: 3 tokens in 4
/// heads, or with 2 experts each.
fn batch(decoder: &Decoder) -> (Inputs, Targets) {
    let row = Tensor::from_slice(&[11i64, 45, 7]).remainder(decoder.config().vocab_size);
    let targets = Tensor::from_slice(&[45i64, 7, 9]);
    (Inputs::rows(row.repeat([16, 1])), Targets::new(&targets.repeat([16, 1])).unwrap())
}

/// The loss, the gradients of all trained parameters, and the bytes kept and exact before backward.
fn step(decoder: &Decoder, activations: BlockActivations) -> (f64, Vec<Tensor>, [u64; 2]) {
    let (inputs, targets) = batch(decoder);
    let store = Arc::new(ActivationStore::default());
    let scope = Scope::training(1, store.clone());
    let hidden = decoder.forward(&inputs, &Activations::from(activations), &scope).unwrap();
    let bytes = [store.saved_bytes().held(), store.saved_bytes().exact()];
    let loss = decoder.loss(&hidden, &targets, 1.0 / 48.0, 0, &scope).unwrap();
    let wanted: Vec<&Tensor> =
        decoder.trained().into_iter().map(|parameter| parameter.tensor()).collect();
    let gradients = autograd::grad(&[&loss], &wanted, &[None], false, false).unwrap();
    drop(hidden);
    (
        loss.double_value(&[]),
        gradients
            .into_iter()
            .zip(wanted)
            .map(|(g, p)| g.unwrap_or_else(|| p.zeros_like()))
            .collect(),
        bytes,
    )
}

fn relative(ours: &[Tensor], expected: &[Tensor]) -> f64 {
    let square = |x: Tensor| x.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
    let difference: f64 =
        ours.iter().zip(expected).map(|(ours, expected)| square(ours - expected)).sum();
    (difference / expected.iter().map(|expected| square(expected.shallow_clone())).sum::<f64>())
        .sqrt()
}

#[test]
fn a_step_touches_a_row_of_a_table_for_each_token_and_no_others() {
    for folder in families() {
        let decoder = trained(&folder, Kind::Float);
        let config = decoder.config();
        let tables: Vec<&str> =
            decoder.sparse_grad_embeddings().into_iter().map(|table| table.name()).collect();
        assert_eq!(
            tables.contains(&config.ends().1.as_str()),
            !config.tie_embeddings,
            "{}",
            name(&folder)
        );
        let (_, gradients, _) = step(&decoder, BlockActivations::default());
        for (parameter, gradient) in decoder
            .trained()
            .into_iter()
            .zip(gradients)
            .filter(|(of, _)| tables.contains(&of.name()))
        {
            let touched = gradient.ne(0).any_dim(1, false).sum(Kind::Int64).int64_value(&[]);
            // The last token predicts too; one may be the padding.
            assert!(
                (2..=3).contains(&touched),
                "{}: {touched} rows of {}",
                name(&folder),
                parameter.name()
            );
        }
    }
}

#[test]
fn every_site_of_every_family_may_be_compressed() {
    for folder in families() {
        let (family, decoder) = (name(&folder), trained(&folder, Kind::Float));
        let config = decoder.config();
        // Dropout would be the same each time; without it the rows are alike.
        assert_eq!(
            (config.attention.dropout, config.residual.dropout, config.embedding.dropout),
            (0.0, 0.0, 0.0)
        );
        let (loss, exact, plain) = step(&decoder, BlockActivations::default());
        assert!(exact.iter().all(|gradient| bool::try_from(gradient.isfinite().all()).unwrap()));

        let (same, gradients, bytes) = step(&decoder, SIX_SITES);
        assert_eq!(
            (same, bytes[1], plain[0]),
            (loss, plain[1], plain[1]),
            "{family}: the forward is exact"
        );
        assert!(bytes[0] < bytes[1] * 4 / 5, "{family}: {} of {} bytes", bytes[0], bytes[1]);
        let error = relative(&gradients, &exact);
        assert!(error < 1e-4, "{family}: six sites: {error:e}");

        let (rows, layers) = (48, config.num_layers as u64);
        let pair = 4 * RANK as u64 * (rows + config.hidden_size as u64);
        let halves = if config.residual.parallel { 1 } else { 2 };
        for (recompute, saved) in [
            (Recompute::Layer(SavePolicy::Exact), layers * 4 * rows * config.hidden_size as u64),
            (Recompute::Layer(POLICY), layers * pair),
        ]
        .into_iter()
        .chain([(Recompute::Sublayer(POLICY), halves * layers * pair)])
        {
            let (same, gradients, bytes) =
                step(&decoder, BlockActivations { recompute, ..BlockActivations::default() });
            assert_eq!((same, bytes[0]), (loss, saved), "{family}: {recompute:?}");
            let error = relative(&gradients, &exact);
            assert!(error < 1e-4, "{family}: {recompute:?}: {error:e}");
        }
    }
}

#[test]
fn frozen_weights_without_adapters_save_nothing() {
    for folder in families() {
        let decoder =
            Decoder::load(&Checkpoint::open(&folder).unwrap(), Kind::Float, Device::Cpu).unwrap();
        let store = Arc::new(ActivationStore::default());
        let hidden = decoder
            .forward(
                &batch(&decoder).0,
                &Activations::default(),
                &Scope::training(1, store.clone()),
            )
            .unwrap();
        assert_eq!(
            (store.saved_bytes().held(), hidden.requires_grad()),
            (0, false),
            "{}",
            name(&folder)
        );
    }
}

/// The logits of a row, `[tokens, vocabulary]`.
fn logits(decoder: &Decoder, inputs: &Inputs) -> Tensor {
    let hidden = decoder.forward(inputs, &Activations::default(), &Scope::evaluation()).unwrap();
    decoder.logits(&hidden).unwrap().squeeze_dim(0)
}

#[test]
fn token_by_token_is_the_same_as_at_once() {
    let _mode = GradMode::disabled();
    for folder in families() {
        let decoder = trained(&folder, Kind::Float);
        let ids: Vec<i64> =
            (0..14).map(|token| (token * 31 + 5) % decoder.config().vocab_size).collect();
        let at_once = logits(&decoder, &Inputs::rows(Tensor::from_slice(&ids).view([1, -1])));
        let mut cache = decoder.cache();
        let mut seen = 0;
        for new in [3, 1, 2, 1, 4, 1, 1, 1] {
            let next = decoder.next_logits(&ids[seen..seen + new], &mut cache).unwrap();
            seen += new;
            let error = relative(&[next], &[at_once.get(seen as i64 - 1)]);
            assert!(error < 1e-5, "{} after {seen}: {error:e}", name(&folder));
        }
    }
}

#[test]
fn packed_segments_do_not_see_each_other() {
    let _mode = GradMode::disabled();
    for folder in families() {
        let decoder = trained(&folder, Kind::Float);
        let ids: Vec<i64> =
            (0..13).map(|token| (token * 17 + 5) % decoder.config().vocab_size).collect();
        let row = |ids: &[i64]| Tensor::from_slice(ids).view([1, -1]);
        let positions: Vec<i64> = (0..5).chain(0..8).collect();
        let segments: Vec<i64> = (0..13).map(|token| i64::from(token >= 5)).collect();
        let packed = Inputs {
            ids: row(&ids),
            positions: Some(row(&positions)),
            segments: Some(row(&segments)),
        };
        let apart = [
            logits(&decoder, &Inputs::rows(row(&ids[..5]))),
            logits(&decoder, &Inputs::rows(row(&ids[5..]))),
        ];
        let error = relative(&[logits(&decoder, &packed)], &[Tensor::cat(&apart, 0)]);
        assert!(error < 1e-5, "{}: {error:e}", name(&folder));
    }
}

#[test]
fn every_family_runs_in_bfloat16() {
    for folder in families() {
        let losses = [Kind::Float, Kind::BFloat16].map(|kind| {
            let (loss, gradients, _) = step(&trained(&folder, kind), SIX_SITES);
            assert!(
                gradients.iter().all(|gradient| bool::try_from(gradient.isfinite().all()).unwrap()),
                "{}",
                name(&folder)
            );
            loss
        });
        assert!((losses[1] / losses[0] - 1.0).abs() < 0.03, "{}: {losses:?}", name(&folder));
    }
}
