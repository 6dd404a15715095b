//! What a step saves for backward is the count by formula, to the byte, by the ledger and by the
//! allocator. One test alone in its program: others would allocate in between.
#![allow(clippy::unwrap_used, missing_docs)]

use autograd::memory;
use compression::{Method, Options, Rank, TestMatrix};
use layers::{ActivationStore, SavePolicy, Scope, Targets};
use models::{
    Activations, AdapterConfig, BlockActivations, Checkpoint, Decoder, Inputs, Model, Recompute,
    TargetModules,
};
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

const RANK: i64 = 4;
const OPTIONS: Options = Options {
    method: Method::Qb { test_matrix: TestMatrix::Norm },
    rank: Rank::Components(RANK),
    keep_norms: true,
    factors: Kind::BFloat16,
};
const KEEP: SavePolicy = SavePolicy::Code(OPTIONS);

/// Bytes of the low-rank pair of a `[rows, width]` matrix.
fn pair(rows: i64, width: i64) -> i64 {
    2 * RANK * (rows + width)
}

#[test]
fn kept_bytes_are_the_count_by_formula() {
    memory::count_cpu();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf/llama");
    let mut decoder =
        Decoder::load(&Checkpoint::open(&folder).unwrap(), Kind::Float, Device::Cpu).unwrap();
    let lora = AdapterConfig {
        r: 2,
        target_modules: TargetModules::Pattern("all-linear".into()),
        ..AdapterConfig::default()
    };
    decoder.add_lora(&lora, None, 0, &folder).unwrap();
    let config = decoder.config().clone();
    let (n, m, layers) = (config.hidden_size, config.intermediate_size, config.num_layers);
    let (q, kv, heads) = (
        config.num_heads * config.head_dim,
        config.num_kv_heads * config.head_dim,
        config.num_heads,
    );

    let six_sites = BlockActivations {
        norm: KEEP,
        attn_in: KEEP,
        attn_out: KEEP,
        mlp_in: KEEP,
        mlp_out: KEEP,
        act: KEEP,
        ..BlockActivations::default()
    };
    let recompute = |recompute| BlockActivations { recompute, ..BlockActivations::default() };
    let mut first = true;
    for (batch, tokens) in [(3, 9), (2, 16), (1, 33)] {
        let rows = batch * tokens;
        let ids = Tensor::arange(rows, (Kind::Int64, Device::Cpu))
            .remainder(config.vocab_size)
            .view([batch, tokens]);
        let targets = (&ids + 1).remainder(config.vocab_size);
        let _ = targets.narrow(1, tokens - 3, 3).fill_(-100);
        let predicted = batch * (tokens - 3);
        let exact = |width: i64| 4 * rows * width;
        // q, k, v and a sum per head and token are kept exactly in every mode without
        // recomputation.
        let core = exact(q) + 2 * exact(kv) + exact(heads);
        // In the first layer the norm's input needs no gradient, so that nothing of it is saved.
        let plain = layers * (core + exact(n) + exact(q) + exact(n) + exact(n) + 3 * exact(m))
            + (layers - 1) * exact(n);
        let six = layers
            * (core
                + pair(rows, n)
                + pair(rows, q)
                + pair(rows, n)
                + pair(rows, n)
                + 3 * pair(rows, m))
            + (layers - 1) * pair(rows, n);
        for (name, activations, formula, exact_formula) in [
            ("none", BlockActivations::default(), plain, plain),
            (
                "checkpoint",
                recompute(Recompute::Layer(SavePolicy::Exact)),
                layers * exact(n),
                layers * exact(n),
            ),
            ("layer", recompute(Recompute::Layer(KEEP)), layers * pair(rows, n), layers * exact(n)),
            (
                "sublayer",
                recompute(Recompute::Sublayer(KEEP)),
                2 * layers * pair(rows, n),
                2 * layers * exact(n),
            ),
            (
                "layer, differences",
                recompute(Recompute::Layer(SavePolicy::Delta(OPTIONS))),
                layers * pair(rows, n),
                layers * exact(n),
            ),
            ("six sites", six_sites, six, plain),
        ] {
            let sites = Arc::new(ActivationStore::default());
            let scope = Scope::training(1, sites.clone());
            let inputs = Inputs::rows(ids.shallow_clone());
            let found = Targets::new(&targets).unwrap();
            let before = memory::current(Device::Cpu).unwrap() as i64;
            let hidden = decoder.forward(&inputs, &Activations::from(activations), &scope).unwrap();
            let loss = decoder.loss(&hidden, &found, 1.0, 5, &scope).unwrap();
            drop(hidden);
            // The loss keeps the gradient of the states it was computed from.
            let of_loss = 4 * predicted * n;
            let case = format!("{name} at {batch} x {tokens}");
            assert_eq!(sites.saved_bytes().held() as i64, formula + of_loss, "{case}");
            assert_eq!(
                sites.saved_bytes().exact() as i64,
                exact_formula + of_loss,
                "{case}: exact"
            );
            // In addition there are the rotary table, shared by all layers, and the loss, in f64.
            let table = 2 * 4 * tokens * config.head_dim / 2;
            let held = memory::current(Device::Cpu).unwrap() as i64 - before;
            assert_eq!(held, formula + of_loss + table + 8, "{case}: by the allocator");

            autograd::backward(&[&loss], &[None], false).unwrap();
            drop(loss);
            assert_eq!(
                (sites.saved_bytes().held(), sites.saved_bytes().exact()),
                (0, 0),
                "{case}: freed by backward"
            );
            // The first backward makes the gradients; later ones add to them.
            let gradients: i64 =
                decoder.trained().iter().map(|parameter| 4 * parameter.grad().numel() as i64).sum();
            let made = if std::mem::replace(&mut first, false) { gradients } else { 0 };
            assert_eq!(
                memory::current(Device::Cpu).unwrap() as i64 - before,
                made,
                "{case}: nothing but gradients is left"
            );
        }
    }
}
