//! The `[activations]` table in whole runs of the tiny Llama: forms by site and layer, ranks and
//! bases of their own, a NaN named by step and place, and what `loract inspect` shows.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{Ended, Place, fixture};
use serde_json::Value;
use std::fs;
use tch::Kind;

/// Rows and widths of the tiny Llama in a batch of 2 x 15 tokens to predict from (the last token
/// predicts nothing, but is run).
const ROWS: i64 = 32;
const HIDDEN: i64 = 32;
const INNER: i64 = 56;

fn place(activations: &str) -> Place {
    let place = Place::new();
    place.edit("[activations]\nsites = \"none\"", &format!("[activations]\n{activations}"));
    place
}

/// What a run kept in each step.
fn kept(activations: &str) -> Vec<(i64, i64)> {
    kept_in(&place(activations))
}

fn kept_in(place: &Place) -> Vec<(i64, i64)> {
    let ended = place.run(place.train().args(["--set", "run.steps=3"]));
    assert!(ended.status.success(), "{}", ended.stderr);
    let metrics = fs::read_to_string(place.metrics()).unwrap();
    let number = |line: &Value, key: &str| line[key].as_i64().unwrap();
    metrics
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .map(|line| (number(&line, "kept_bytes"), number(&line, "exact_bytes")))
        .collect()
}

fn assert_ended(ended: &Ended, code: i32, says: &str) {
    assert_eq!(ended.status.code(), Some(code), "{}", ended.stderr);
    assert!(ended.stderr.contains(says), "expected {says:?} in: {}", ended.stderr);
}

#[test]
fn overrides_change_what_is_kept_by_site_and_layer() {
    let exact = kept("sites = \"checkpoint\"");
    let all = exact[0].1;
    let layer = 4 * ROWS * HIDDEN;
    assert!(exact.iter().all(|(kept, exact)| kept == exact && *kept == all));
    let int8 = ROWS * (HIDDEN + 2);
    let quantized = "method = \"quantized\"\n";
    assert_eq!(kept(&format!("sites = \"layer\"\n{quantized}"))[0].0, all - 2 * layer + 2 * int8);
    let first_exact = format!(
        "sites = \"layer\"\n{quantized}[[activations.overrides]]\nlayers = \"0\"\nmethod = \"exact\"\n"
    );
    assert_eq!(kept(&first_exact)[0].0, all - layer + int8);
    // Blocks recomputed from a compressed input, with a compressed site inside: what is held after
    // the forward is the block's input alone.
    let inside = format!(
        "sites = [\"layer\", \"mlp_out\"]\n{quantized}[[activations.overrides]]\nsites = \"mlp_*\"\nbits = 4\n"
    );
    assert_eq!(kept(&inside)[0].0, all - 2 * layer + 2 * int8);
    let plain = kept("sites = \"none\"")[0].0;
    let int4 = ROWS * (INNER / 2 + 2 * 2);
    let alone = format!("sites = [\"mlp_out\"]\n{quantized}bits = 4\n");
    assert_eq!(kept(&alone)[0].0, plain - 2 * (4 * ROWS * INNER - int4));
}

#[test]
fn a_warm_basis_is_counted_where_it_is_held() {
    let warm = kept("sites = \"layer\"\nmethod = \"rowspace\"\nsketch = \"warm\"\nrank = 4\n");
    let cold = kept("sites = \"layer\"\nmethod = \"rowspace\"\nrank = 4\n");
    // Two layers, 4 components of 32 elements, in bf16: after the first step's forward, and from
    // then on.
    assert!(
        warm.iter().zip(&cold).all(|(warm, cold)| warm.0 - cold.0 == 2 * 2 * 4 * HIDDEN),
        "{warm:?} {cold:?}"
    );
}

#[test]
fn a_code_takes_its_bits_and_the_basis_that_layers_may_share() {
    let all = kept("sites = \"checkpoint\"")[0].1;
    let coded = |more: &str| {
        kept(&format!("sites = \"layer\"\nmethod = \"coded\"\nbits = 4\ndrift = 1e9\n{more}"))
    };
    let (code, basis) = (4 * ROWS * HIDDEN / 8, HIDDEN * (2 * HIDDEN + 4));
    let layer = 4 * ROWS * HIDDEN;
    assert!(coded("").iter().all(|step| step.0 == all - 2 * (layer - code - basis)));
    // The first step's basis is of the first layer alone; the one for the next step is made at the
    // same time.
    let shared: Vec<i64> =
        coded("basis_layers = 2\n").iter().map(|step| step.0 - all + 2 * (layer - code)).collect();
    assert_eq!(shared[0], 2 * basis);
    assert!(
        shared.len() > 2 && shared[1..].iter().all(|bytes| *bytes == basis),
        "{shared:?} {basis}"
    );
    let loose = kept("sites = \"layer\"\nmethod = \"coded\"\nbits = \"auto\"\nerror = 0.5\n");
    let strict = kept("sites = \"layer\"\nmethod = \"coded\"\nbits = \"auto\"\nerror = 0.1\n");
    assert!(loose[0].0 < strict[0].0, "{loose:?} {strict:?}");
}

#[test]
fn differences_take_their_codes_and_nothing_else() {
    let all = kept("sites = \"checkpoint\"")[0].1;
    let (layer, code) = (4 * ROWS * HIDDEN, 3 * ROWS * HIDDEN / 8);
    let differences =
        "sites = \"layer\"\nmethod = \"coded\"\nbits = 3\ndelta = true\nbasis = \"none\"\n";
    assert!(kept(differences).iter().all(|step| step.0 == all - 2 * (layer - code)));
    // Each micro-batch has a chain of its own.
    let place = place(differences);
    let ended =
        place.run(place.train().args(["--set", "run.steps=3", "--set", "run.micro_batch_size=1"]));
    assert!(ended.status.success(), "{}", ended.stderr);
}

#[test]
fn a_budget_is_kept_in_every_step_and_spent_where_a_loss_costs_most() {
    let all = kept("sites = \"checkpoint\"")[0].1;
    let layer = 4 * ROWS * HIDDEN;
    // So few tokens pay for one basis only, which is there twice in the first step.
    let budget = 180;
    let place = place("sites = \"layer\"\nbudget = 180\n");
    let taken: Vec<i64> = kept_in(&place).iter().map(|step| step.0 - all + 2 * layer).collect();
    assert!(taken.iter().all(|bytes| *bytes <= budget * ROWS), "{taken:?}");
    let written: Value =
        serde_json::from_slice(&fs::read(place.run_dir().join("budget.json")).unwrap()).unwrap();
    assert_eq!(
        (written["basis_layers"].as_i64(), written["tokens"].as_i64()),
        (Some(2), Some(ROWS))
    );
    assert_eq!(written["basis_bytes"].as_i64(), Some(2 * HIDDEN * (2 * HIDDEN + 4)));
    assert_eq!(
        taken[0],
        written["basis_bytes"].as_i64().unwrap() + written["code_bytes"].as_i64().unwrap()
    );
    let shares = written["shares"].as_array().unwrap();
    let of = |layer: usize, key: &str| shares[layer][key].as_f64().unwrap();
    assert_eq!(shares.len(), 2);
    assert!(
        (of(0, "sensitivity") > of(1, "sensitivity")) == (of(0, "bits") > of(1, "bits"))
            || of(0, "bits") == of(1, "bits"),
        "{written}"
    );

    // Differences take no more, and need not be spent alike.
    let place = self::place("sites = \"layer\"\ndelta = true\nbudget = 180\n");
    let taken: Vec<i64> = kept_in(&place).iter().map(|step| step.0 - all + 2 * layer).collect();
    assert!(taken.iter().all(|bytes| *bytes <= budget * ROWS), "{taken:?}");
    let differences: Value =
        serde_json::from_slice(&fs::read(place.run_dir().join("budget.json")).unwrap()).unwrap();
    assert_eq!(
        taken[0],
        differences["basis_bytes"].as_i64().unwrap() + differences["code_bytes"].as_i64().unwrap()
    );
    let sensitivity =
        |of: &Value, layer: usize| of["shares"][layer]["sensitivity"].as_f64().unwrap();
    // The first input is coded as it is, and what is stored with it meanwhile loses next to
    // nothing; the second is coded as a step from the first.
    assert!(
        (sensitivity(&differences, 0) / sensitivity(&written, 0) - 1.0).abs() < 0.01,
        "{written} {differences}"
    );
    assert!(
        (sensitivity(&differences, 1) / sensitivity(&written, 1) - 1.0).abs() > 0.01,
        "{written} {differences}"
    );

    // A block below all that is trained keeps nothing, and gets nothing.
    let place = self::place("sites = \"layer\"\nbudget = \"auto\"\nbasis_layers = 1\n");
    place.edit("rank = 2", "rank = 2\nlayers_to_transform = [1]");
    // So few tokens have room for no basis in 2.2 bits.
    assert_ended(&place.run(&mut place.train()), 2, "[activations] budget: is 9 bytes per token");
    place.edit("budget = \"auto\"", "budget = 180");
    kept_in(&place);
    let written: Value =
        serde_json::from_slice(&fs::read(place.run_dir().join("budget.json")).unwrap()).unwrap();
    assert_eq!(
        (written["shares"].as_array().unwrap().len(), written["shares"][0]["layer"].as_u64()),
        (1, Some(1))
    );
    assert_eq!(written["elements_per_token"].as_i64(), Some(HIDDEN));

    let place = self::place("sites = \"layer\"\nbudget = 100\n");
    let ended = place.run(&mut place.train());
    assert_ended(
        &ended,
        2,
        "[activations] budget: is 100 bytes per token, and with 32 tokens at once the bases take 136",
    );
}

#[test]
fn inspect_shows_a_budget_and_older_bases() {
    let place = place("sites = \"layer\"\nbudget = 180\nbasis_layers = 2");
    let ended = place.run(&mut place.loract(&[
        "inspect",
        place.config().to_str().unwrap(),
        "--json",
        "--bits",
        "6",
        "--method",
        "coded",
        "--age",
        "2",
        "--shared",
        "2",
        "--layers",
        "0",
        "--batches",
        "1",
    ]));
    assert!(ended.status.success(), "{}", ended.stderr);
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (found["budget"]["basis_layers"].as_u64(), found["sites"].as_array().map(Vec::len)),
        (Some(2), Some(0))
    );
    let rows = found["gradients"].as_array().unwrap();
    let shown: Vec<_> = rows
        .iter()
        .map(|row| (row["basis_age"].as_u64().unwrap(), row["basis_layers"].as_u64().unwrap()))
        .collect();
    // As configured; coded; as differences; as differences without a basis, which does not age.
    assert_eq!(shown, [(2, 2), (0, 1), (2, 1), (2, 2), (0, 1), (2, 1), (2, 2), (0, 1)]);
    let cosine = |row: usize| rows[row]["cosine"].as_f64().unwrap();
    assert!(cosine(1) > cosine(2) && cosine(1) > 0.9, "its own basis is the best: {rows:?}");
}

#[test]
fn an_automatic_rank_keeps_less_where_more_may_be_lost() {
    let of = |error: f64| {
        kept(&format!(
            "sites = \"layer\"\nmethod = \"svd\"\nrank = \"auto\"\nerror = {error}\nmax_rank = 1.0\n"
        ))[0]
    };
    let (loose, strict) = (of(0.6), of(0.2));
    assert!(loose.0 < strict.0 && strict.0 <= strict.1, "{loose:?} {strict:?}");
}

#[test]
fn a_nan_in_an_activation_is_named_by_step_layer_and_site() {
    let place = place("sites = [\"mlp_in\"]\nmethod = \"quantized\"");
    let model = place.at("broken");
    fs::create_dir(&model).unwrap();
    fs::copy(fixture("hf/llama/config.json"), model.join("config.json")).unwrap();
    let mut tensors = models::tensor_file::read(&fixture("hf/llama/model.safetensors")).unwrap();
    let norm = tensors
        .iter_mut()
        .find(|(name, _)| name == "model.layers.1.post_attention_layernorm.weight")
        .unwrap();
    let _ = norm.1.get(3).fill_(f64::NAN);
    models::tensor_file::write(&model.join("model.safetensors"), &tensors, &[]).unwrap();
    let ended =
        place.run(place.train().args(["--set", &format!("model.path={}", model.display())]));
    assert_ended(
        &ended,
        1,
        "step 1: forward of linear: layer 1, mlp_in: decompose: the [32, 32] matrix holds NaN or infinity",
    );
}

#[test]
fn inspect_shows_every_site_and_what_becomes_of_the_gradients() {
    let place = place("sites = \"sublayer\"\nmethod = \"quantized\"");
    let config = place.config();
    let before = place.listing();
    let ended = place.run(&mut place.loract(&[
        "inspect",
        config.to_str().unwrap(),
        "--json",
        "--bits",
        "3",
        "--bits",
        "6.5",
    ]));
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(place.listing(), before, "nothing is written");
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (found["batches"].as_u64(), found["tokens"].as_u64(), found["model_layers"].as_u64()),
        (Some(2), Some(64), Some(2))
    );
    let sites = found["sites"].as_array().unwrap();
    assert_eq!(sites.len(), 2 * 8, "eight tensors in each layer");
    for site in sites {
        let optimum: Vec<f64> = site["optimum"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| point["error"].as_f64().unwrap())
            .collect();
        assert!(
            optimum.windows(2).all(|pair| pair[1] <= pair[0]) && optimum.last().unwrap() < &1e-6,
            "{optimum:?}"
        );
        let error = |method: &str, bits: f64| {
            let methods = site["methods"].as_array().unwrap();
            let found = methods
                .iter()
                .find(|row| row["method"] == method && row["bits"].as_f64() == Some(bits));
            found.unwrap_or_else(|| panic!("no {method} at {bits}"))["per_token_error"]
                .as_f64()
                .unwrap()
        };
        assert!(error("svd", 6.5) < error("svd", 3.0));
        assert!(error("quantized int8", 8.5) < 0.02, "{site}");
        for row in site["methods"].as_array().unwrap() {
            // The last group of a row may be a short one, whose scale is as long as any.
            let quantized = row["method"].as_str().unwrap().starts_with("quantized");
            let (allowed, taken) =
                (row["bits"].as_f64().unwrap(), row["bits_per_element"].as_f64().unwrap());
            assert!(taken <= allowed || quantized, "{row}");
        }
    }
    let gradients = found["gradients"].as_array().unwrap();
    let kinds = |kind: &str| gradients.iter().filter(|row| row["kind"] == kind).count();
    assert_eq!((kinds("configured"), kinds("site")), (1, 8));
    assert_eq!(gradients[0]["sites"], "sublayer");
    for row in gradients {
        assert!(
            row["cosine"].as_f64().unwrap() <= 1.0 + 1e-9
                && row["relative_error"].as_f64().unwrap() >= 0.0
        );
        assert_eq!(row["layers"].as_array().unwrap().len(), 2);
        if row["method"] == "quantized int8" {
            assert!(
                row["cosine"].as_f64().unwrap() > 0.999
                    && row["relative_error"].as_f64().unwrap() > 0.0,
                "{row}"
            );
        }
    }
}

#[test]
fn compression_changes_no_other_random_choice() {
    // With dropout, the forward of the first step is the same whatever is kept, and however. From B
    // = 0 no mask would show in it.
    let trained = place("sites = \"none\"");
    assert!(
        trained
            .run(trained.train().args([
                "--set",
                "lora.dropout=0.5",
                "--set",
                "optimizer.learning_rate=0.05"
            ]))
            .status
            .success()
    );
    let adapter = format!("lora.adapter={}", trained.run_dir().join("adapter").display());
    let first_loss = |activations: &str| {
        let place = place(activations);
        let ended = place.run(place.train().args([
            "--set",
            "run.steps=1",
            "--set",
            "run.seed=3",
            "--set",
            &adapter,
        ]));
        assert!(ended.status.success(), "{}", ended.stderr);
        let line: Value = serde_json::from_str(
            fs::read_to_string(place.metrics()).unwrap().lines().next().unwrap(),
        )
        .unwrap();
        (line["loss"].as_f64().unwrap(), line["grad_norm"].as_f64().unwrap())
    };
    let exact = first_loss("sites = \"none\"");
    let dropped_nothing = {
        let config = trained.run_dir().join("adapter/adapter_config.json");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("\"lora_dropout\": 0.5", "\"lora_dropout\": 0.0")).unwrap();
        let loss = first_loss("sites = \"none\"").0;
        fs::write(&config, text).unwrap();
        loss
    };
    assert!(
        (exact.0 - dropped_nothing).abs() > 1e-6,
        "a mask must show in the loss: {exact:?} {dropped_nothing}"
    );
    let checkpoint = first_loss("sites = \"checkpoint\"");
    assert_eq!(exact.0, checkpoint.0);
    assert!(
        (exact.1 / checkpoint.1 - 1.0).abs() < 1e-5,
        "the same masks in the recomputation: {exact:?} {checkpoint:?}"
    );
    for compressed in [
        "method = \"qb\"\nsketch = \"uniform\"\nrank = 8",
        "method = \"rsvd\"\nrank = 8",
        "method = \"quantized\"",
    ] {
        assert_eq!(
            first_loss(&format!("sites = \"sublayer\"\n{compressed}")).0,
            exact.0,
            "{compressed}"
        );
    }
}

#[test]
fn the_kinds_of_the_fixture_are_those_the_formulas_speak_of() {
    let tensors = models::tensor_file::read(&fixture("hf/llama/model.safetensors")).unwrap();
    let gate =
        tensors.iter().find(|(name, _)| name == "model.layers.0.mlp.gate_proj.weight").unwrap();
    assert_eq!((gate.1.kind(), gate.1.size()), (Kind::Float, vec![INNER, HIDDEN]));
}
