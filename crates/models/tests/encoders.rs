//! Every recorded encoder: what it keeps for backward is the count by formula, its gradients with
//! every site compressed are the exact ones where the code loses nothing and those of the restored
//! activations where it does, padding is not seen, and a head that no file holds is drawn.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tch::{Device, Kind, Tensor};

use autograd::random::{Distribution, draw};
use autograd::{GradMode, grad};
use compression::{Method, Options, Rank};
use layers::{ActivationStore, Observer, SavePolicy, Scope, Site, SiteId};
use loract_models::config::RelativePositions;
use loract_models::{
    Activations, AdapterConfig, BlockActivations, Checkpoint, Classifier, Encoder, EncoderConfig,
    EncoderInputs, InputConfig, Labels, Model, Recompute, TargetModules, TensorFile, read_adapter,
    write_adapter,
};

const fn every(policy: SavePolicy) -> BlockActivations {
    BlockActivations {
        recompute: Recompute::Nothing,
        norm: policy,
        attn_in: policy,
        attn_out: policy,
        mlp_in: policy,
        mlp_out: policy,
        act: policy,
    }
}

fn svd(rank: i64) -> Options {
    Options {
        method: Method::Svd,
        rank: Rank::Components(rank),
        keep_norms: false,
        factors: Kind::Float,
    }
}

/// A code of as many components as the tokens of [`alike`] are independent: it loses nothing.
fn lossless(config: &EncoderConfig) -> SavePolicy {
    SavePolicy::Code(svd(match &config.input {
        InputConfig::Text(_) => 3,
        // All patches of Swin are the same, but where windows are padded.
        InputConfig::Image(image) if image.any_size => 4,
        InputConfig::Image(image) => {
            image.grid().iter().product::<i64>() + i64::from(image.class_token)
        }
    }))
}

/// Whether the windows of every stage fill its map.
fn fills_windows(config: &EncoderConfig) -> bool {
    let (InputConfig::Image(image), RelativePositions::Windows { size }) =
        (&config.input, config.attention.relative)
    else {
        return true;
    };
    let mut grid = image.grid();
    config.stages.iter().all(|_| {
        let fills = grid.iter().all(|side| side % size == 0);
        grid = grid.map(|side| (side + 1) / 2);
        fills
    })
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/encoders").join(name)
}

/// The folders of all recorded classifiers.
fn families() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(folder("")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.is_dir() && !folder.ends_with("sentences"));
    folders.sort();
    assert!(folders.len() >= 15);
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

fn load(folder: &Path) -> Classifier {
    Classifier::load(&Checkpoint::open(folder).unwrap(), None, 0, Kind::Float, Device::Cpu).unwrap()
}

/// A model with LoRA pairs whose B is not zero, and all of its weights trained too.
fn trained(folder: &Path, kind: Kind) -> Classifier {
    let mut model =
        Classifier::load(&Checkpoint::open(folder).unwrap(), None, 0, kind, Device::Cpu).unwrap();
    let lora = AdapterConfig {
        r: 2,
        target_modules: TargetModules::Pattern("all-linear".into()),
        modules_to_save: Some(vec!["classifier".into()]),
        ..AdapterConfig::default()
    };
    model.add_lora(&lora, None, 0, folder).unwrap();
    let _mode = GradMode::disabled();
    for (index, parameter) in model
        .trained()
        .into_iter()
        .filter(|parameter| parameter.name().contains("lora_"))
        .enumerate()
    {
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
    model.train_weights(true);
    model
}

const ROWS: i64 = 16;

/// Rows that are all alike: 3 tokens, or an image; one of a single colour for Swin, which knows no
/// places but within its windows.
fn alike(config: &EncoderConfig) -> EncoderInputs {
    match &config.input {
        InputConfig::Text(text) => {
            let row = Tensor::from_slice(&[11i64, 26, 7]).remainder(text.vocab_size);
            EncoderInputs::Text { ids: row.repeat([ROWS, 1]), present: None, types: None }
        }
        InputConfig::Image(image) => {
            let size = if image.any_size { [1, 1] } else { image.size };
            let one = draw(
                Distribution::Normal,
                &[1, image.channels, size[0], size[1]],
                Kind::Float,
                Device::Cpu,
                5,
            )
            .unwrap();
            EncoderInputs::Images(
                one.expand([ROWS, image.channels, image.size[0], image.size[1]], false)
                    .contiguous(),
            )
        }
    }
}

/// Rows of which no two are alike.
fn different(config: &EncoderConfig) -> EncoderInputs {
    match &config.input {
        InputConfig::Text(text) => {
            let ids = (Tensor::arange(ROWS * 3, (Kind::Int64, Device::Cpu)) * 7)
                .remainder(text.vocab_size)
                .view([ROWS, 3]);
            EncoderInputs::Text { ids, present: None, types: None }
        }
        InputConfig::Image(image) => {
            let size = [ROWS, image.channels, image.size[0], image.size[1]];
            EncoderInputs::Images(
                draw(Distribution::Normal, &size, Kind::Float, Device::Cpu, 5).unwrap(),
            )
        }
    }
}

/// Labels as the model learns them.
fn labels(model: &Classifier) -> Tensor {
    let classes = model.labels().len() as i64;
    match model.config().problem {
        None if classes > 1 => Tensor::arange(ROWS, (Kind::Int64, Device::Cpu)).remainder(classes),
        _ => draw(Distribution::Uniform, &[ROWS, classes], Kind::Float, Device::Cpu, 2).unwrap(),
    }
}

/// The loss, the gradients of all trained parameters, and the bytes kept and exact before backward.
fn step(
    model: &Classifier,
    inputs: &EncoderInputs,
    activations: BlockActivations,
    store: ActivationStore,
) -> (f64, Vec<Tensor>, [u64; 2]) {
    let store = Arc::new(store);
    let scope = Scope::training(1, store.clone());
    let logits = model.logits(inputs, &Activations::from(activations), &scope).unwrap();
    let bytes = [store.saved_bytes().held(), store.saved_bytes().exact()];
    let loss = model.losses(&logits, &labels(model), None).unwrap().mean().unwrap();
    let wanted: Vec<&Tensor> =
        model.trained().into_iter().map(|parameter| parameter.tensor()).collect();
    let gradients = grad(&[&loss], &wanted, &[None], false, false).unwrap();
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

/// The rows of tokens that each stage sees in a batch.
fn tokens(config: &EncoderConfig) -> Vec<i64> {
    match &config.input {
        InputConfig::Text(_) => vec![ROWS * 3],
        InputConfig::Image(image) => {
            let mut grid = image.grid();
            let class = i64::from(image.class_token);
            config
                .stages
                .iter()
                .map(|_| {
                    let tokens = grid[0] * grid[1] + class;
                    grid = grid.map(|side| (side + 1) / 2);
                    ROWS * tokens
                })
                .collect()
        }
    }
}

/// The bytes of the inputs of `count` things of each stage (a layer's input has the width of its
/// stage), as they are.
fn inputs_of(config: &EncoderConfig, count: impl Fn(usize) -> i64) -> u64 {
    let of_stage =
        |(index, stage): (usize, i64)| count(index) * 4 * stage * config.stages[index].width;
    tokens(config).into_iter().enumerate().map(of_stage).sum::<i64>() as u64
}

#[test]
fn every_site_of_every_family_may_be_compressed() {
    for folder in families() {
        let (family, model) = (name(&folder), trained(&folder, Kind::Float));
        let (config, inputs) = (model.config(), alike(model.config()));
        let (loss, exact, plain) =
            step(&model, &inputs, BlockActivations::default(), ActivationStore::default());
        assert!(exact.iter().all(|gradient| bool::try_from(gradient.isfinite().all()).unwrap()));
        let (same, gradients, bytes) =
            step(&model, &inputs, every(lossless(config)), ActivationStore::default());
        assert_eq!(
            (same, bytes[1], plain[0]),
            (loss, plain[1], plain[1]),
            "{family}: the forward is exact"
        );
        assert!(bytes[0] < bytes[1] * 9 / 10, "{family}: {} of {} bytes", bytes[0], bytes[1]);
        let (error, limit) =
            (relative(&gradients, &exact), if fills_windows(config) { 1e-4 } else { 1.0 });
        assert!(error < limit, "{family}: six sites: {error:e}");

        // Beside the layers: what the embeddings, the last norm and the head keep.
        let layers = |index: usize| config.stages[index].layers.len() as i64;
        let merges = |index: usize| i64::from(index + 1 < config.stages.len());
        let checkpointed = BlockActivations {
            recompute: Recompute::Layer(SavePolicy::Exact),
            ..BlockActivations::default()
        };
        let (same, gradients, saved) =
            step(&model, &inputs, checkpointed, ActivationStore::default());
        let error = relative(&gradients, &exact);
        assert!(same == loss && error < 1e-5, "{family}: checkpointed: {error:e}");
        let layer_inputs = inputs_of(config, |stage| layers(stage) + merges(stage));
        let beside = saved[0] - layer_inputs;
        let halves = BlockActivations {
            recompute: Recompute::Sublayer(SavePolicy::Exact),
            ..BlockActivations::default()
        };
        let (same, gradients, saved) = step(&model, &inputs, halves, ActivationStore::default());
        let error = relative(&gradients, &exact);
        assert!(same == loss && error < 1e-5, "{family}: sublayers: {error:e}");
        assert_eq!(
            saved[0] - beside,
            inputs_of(config, |stage| 2 * layers(stage) + merges(stage)),
            "{family}"
        );
        assert_eq!(beside, outside_layers(config), "{family}");
    }
}

/// The bytes that embeddings, the norm after the last layer and the head keep with all weights
/// trained.
fn outside_layers(config: &EncoderConfig) -> u64 {
    let (first, last) = (tokens(config)[0], tokens(config)[config.stages.len() - 1]);
    let width = config.stages[0].width;
    let (embedding, final_norm, dense) = match config.model_type.as_str() {
        "bert" | "roberta" => (first * width, 0, true),
        "vit" => (patches(config), ROWS * config.width(), false),
        "siglip_vision_model" => (patches(config), last * config.width(), false),
        _ => (patches(config) + first * width, last * config.width(), false),
    };
    // The input of each map, and of tanh.
    let head = ROWS * config.width() * if dense { 3 } else { 1 };
    4 * (embedding + final_norm + head) as u64
}

/// The elements of all patches.
fn patches(config: &EncoderConfig) -> i64 {
    let InputConfig::Image(image) = &config.input else { return 0 };
    ROWS * image.grid().iter().product::<i64>()
        * image.channels
        * image.patch.iter().product::<i64>()
}

/// Writes down what every site sees.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<(SiteId, Tensor)>>>);

impl Observer for Recorder {
    fn observe(&self, place: SiteId, tensor: &Tensor) {
        self.0.lock().unwrap().push((place, tensor.copy()));
    }
}

/// The gradients of the weights of a linear map with a lossy code are those of the restored input:
/// `dW = dyᵀ x̂`. All of a model's are checked at the last map of its last layer, whose output
/// gradient is that of its bias.
#[test]
fn a_lossy_site_gives_the_gradients_of_the_restored_activation() {
    for folder in families() {
        let (family, model) = (name(&folder), load(&folder));
        let config = model.config();
        let prefix =
            model.linears().iter().rev().map(|linear| linear.path().to_owned()).find(|path| {
                path.ends_with("output.dense") && !path.contains("attention")
                    || path.ends_with("mlp.fc2")
            });
        let path = prefix.unwrap();
        let down = model
            .linears()
            .into_iter()
            .find(|linear| linear.path() == path)
            .unwrap()
            .weight()
            .parameter()
            .unwrap();
        let _ = down.set_requires_grad(true);
        let options = svd(2);
        let activations =
            BlockActivations { mlp_out: SavePolicy::Code(options), ..BlockActivations::default() };
        let inputs = different(config);
        let seen = Recorder::default();
        let (_, lossy, _) =
            step(&model, &inputs, activations, ActivationStore::with_observer(seen.clone()));
        let (_, exact, _) =
            step(&model, &inputs, BlockActivations::default(), ActivationStore::default());
        let last = SiteId { layer: Some(config.num_layers() - 1), site: Some(Site::MlpOut) };
        let seen = seen.0.lock().unwrap();
        let x = &seen.iter().find(|(place, _)| *place == last).unwrap().1;
        let code =
            compression::decompose(x, &options, 0, &mut compression::SiteState::default()).unwrap();
        let restored = code.restore(Kind::Float).unwrap();
        // With x = U S Vᵀ cut to two directions, dyᵀ x̂ is dyᵀ x projected on them.
        let directions = restored.svd(true, true).2.narrow(1, 0, 2);
        let expected = exact[0].matmul(&directions).matmul(&directions.tr());
        let error = relative(&lossy, &[expected]);
        assert!(error < 1e-4, "{family}: {error:e}");
        assert!(relative(&lossy, &exact) > 1e-3, "{family}: the code loses something");
    }
}

#[test]
fn differences_of_the_residual_stream_begin_anew_where_its_width_changes() {
    for folder in families() {
        let (family, model) = (name(&folder), trained(&folder, Kind::Float));
        let inputs = alike(model.config());
        let SavePolicy::Code(options) = lossless(model.config()) else { panic!("a code") };
        let limit = if fills_windows(model.config()) { 1e-3 } else { 1.0 };
        let (loss, exact, plain) =
            step(&model, &inputs, BlockActivations::default(), ActivationStore::default());
        for recompute in [
            Recompute::Layer(SavePolicy::Delta(options)),
            Recompute::Sublayer(SavePolicy::Delta(options)),
        ] {
            let activations = BlockActivations { recompute, ..BlockActivations::default() };
            let (same, gradients, saved) =
                step(&model, &inputs, activations, ActivationStore::default());
            assert!(same == loss && saved[0] < plain[0], "{family}: {recompute:?}");
            let error = relative(&gradients, &exact);
            assert!(error < limit, "{family}: {recompute:?}: {error:e}");
        }
    }
}

#[test]
fn frozen_weights_without_adapters_save_nothing() {
    for folder in families() {
        let model = load(&folder);
        let store = Arc::new(ActivationStore::default());
        let logits = model
            .logits(
                &alike(model.config()),
                &Activations::default(),
                &Scope::training(1, store.clone()),
            )
            .unwrap();
        assert_eq!(
            (store.saved_bytes().held(), logits.requires_grad()),
            (0, false),
            "{}",
            name(&folder)
        );
    }
}

#[test]
fn every_family_runs_in_bfloat16() {
    for folder in families() {
        let losses = [Kind::Float, Kind::BFloat16].map(|kind| {
            let model = trained(&folder, kind);
            let (loss, gradients, _) = step(
                &model,
                &alike(model.config()),
                every(lossless(model.config())),
                ActivationStore::default(),
            );
            assert!(
                gradients.iter().all(|gradient| bool::try_from(gradient.isfinite().all()).unwrap()),
                "{}",
                name(&folder)
            );
            loss
        });
        assert!((losses[1] / losses[0] - 1.0).abs() < 0.06, "{}: {losses:?}", name(&folder));
    }
}

#[test]
fn padding_is_not_seen() {
    let _mode = GradMode::disabled();
    for family in ["bert", "bert_relative_key_query", "roberta", "roberta_padding"] {
        let model = load(&folder(family));
        let InputConfig::Text(text) = &model.config().input else { panic!("{family} reads text") };
        let row = Tensor::from_slice(&[11i64, 26, 7, 9]).view([1, 4]);
        let padded = Tensor::cat(
            &[
                row.shallow_clone(),
                Tensor::full([1, 3], text.padding.unwrap_or(0), (Kind::Int64, Device::Cpu)),
            ],
            1,
        );
        let present = Tensor::from_slice(&[1i64, 1, 1, 1, 0, 0, 0]).view([1, 7]);
        let logits = |ids: Tensor, present: Option<Tensor>| {
            let inputs = EncoderInputs::Text { ids, present, types: None };
            model.logits(&inputs, &Activations::default(), &Scope::evaluation()).unwrap()
        };
        let error = relative(&[logits(padded, Some(present))], &[logits(row, None)]);
        assert!(error < 1e-5, "{family}: {error:e}");
    }
}

#[test]
fn sentences_have_the_mean_of_their_tokens() {
    let folder = folder("sentences");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let file = TensorFile::open(&folder.join("expected.safetensors")).unwrap();
    let encoder = Encoder::load(&checkpoint, Kind::Float, Device::Cpu).unwrap();
    let inputs = EncoderInputs::Text {
        ids: file.tensor("input_ids").unwrap(),
        present: Some(file.tensor("attention_mask").unwrap()),
        types: Some(file.tensor("token_type_ids").unwrap()),
    };
    let error = relative(
        &[encoder.sentence_embeddings(&inputs).unwrap()],
        &[file.tensor("sentence_embedding").unwrap()],
    );
    assert!(error < 1e-5, "{error:e}");
}

#[test]
fn a_head_that_no_file_holds_is_drawn_from_the_seed() {
    // A bare `BertModel`, whose names lack the prefix, and which has no pooler either.
    let checkpoint = Checkpoint::open(&folder("sentences")).unwrap();
    let labels =
        || Some(Labels::new(vec!["ham".into(), "spam".into(), "eggs".into(), "toast".into()]));
    let drawn =
        |seed| Classifier::load(&checkpoint, labels(), seed, Kind::Float, Device::Cpu).unwrap();
    let (model, same, other) = (drawn(1), drawn(1), drawn(2));
    assert_eq!(
        model.drawn(),
        [
            "bert.pooler.dense.weight",
            "bert.pooler.dense.bias",
            "classifier.weight",
            "classifier.bias"
        ]
    );
    let weight = |model: &Classifier| {
        model.parameters().into_iter().find(|p| p.name() == "classifier.weight").unwrap().copy()
    };
    assert_eq!((weight(&model).size(), weight(&model)), (vec![4, 16], weight(&same)));
    assert_ne!(weight(&model), weight(&other));
    let deviation = weight(&model).std(true).double_value(&[]);
    assert!((0.01..0.03).contains(&deviation), "{deviation}");
    // Other classes than the file's: the rest of the head stays.
    let checkpoint = Checkpoint::open(&folder("roberta")).unwrap();
    let model = Classifier::load(&checkpoint, labels(), 1, Kind::Float, Device::Cpu).unwrap();
    assert_eq!(model.drawn(), ["classifier.out_proj.weight", "classifier.out_proj.bias"]);
    // A part of the body is never drawn.
    assert!(
        Classifier::load(
            &Checkpoint::open(&folder("../hf/llama")).unwrap(),
            None,
            0,
            Kind::Float,
            Device::Cpu
        )
        .is_err()
    );
}

#[test]
fn an_adapter_holds_the_classifier_as_peft_saves_it() {
    let mut model = load(&folder("bert"));
    let config = AdapterConfig {
        task_type: Some("SEQ_CLS".into()),
        r: 2,
        target_modules: TargetModules::Names(vec!["query".into(), "value".into()]),
        modules_to_save: Some(vec!["classifier".into(), "score".into()]),
        ..AdapterConfig::default()
    };
    model.add_lora(&config, None, 0, Path::new("bert")).unwrap();
    let names: Vec<&str> = model.trained().into_iter().map(|parameter| parameter.name()).collect();
    assert_eq!(names.len(), 2 * 2 * 2 + 2);
    assert!(names.contains(&"classifier.weight") && names.contains(&"classifier.bias"));
    let place = tempfile::tempdir().unwrap();
    write_adapter(place.path(), &config, &model.lora_weights()).unwrap();
    let file = TensorFile::open(&place.path().join("adapter_model.safetensors")).unwrap();
    assert!(file.names().iter().any(|name| name == "base_model.model.classifier.weight"));
    let adapter = read_adapter(place.path()).unwrap();
    let mut other = Classifier::load(
        &Checkpoint::open(&folder("bert")).unwrap(),
        None,
        9,
        Kind::Float,
        Device::Cpu,
    )
    .unwrap();
    other.add_lora(&adapter.config, Some(&adapter.weights), 0, place.path()).unwrap();
    let logits = |model: &Classifier| {
        model.logits(&alike(model.config()), &Activations::default(), &Scope::evaluation()).unwrap()
    };
    assert_eq!(logits(&model), logits(&other));
}

#[test]
fn class_weights_weigh_rows_and_their_count() {
    let model = load(&folder("bert"));
    let logits = draw(Distribution::Normal, &[4, 3], Kind::Float, Device::Cpu, 3).unwrap();
    let labels = Tensor::from_slice(&[2i64, 0, -100, 2]);
    let weights = Tensor::from_slice(&[0.5f32, 1.0, 2.0]);
    let weighted = model.losses(&logits, &labels, Some(&weights)).unwrap();
    assert!((weighted.count - 4.5).abs() < 1e-6);
    let expected = logits
        .cross_entropy_loss(&labels, Some(&weights), tch::Reduction::Mean, -100, 0.0)
        .double_value(&[]);
    assert!((weighted.mean().unwrap().double_value(&[]) - expected).abs() < 1e-6);
    let refused =
        model.losses(&logits, &Tensor::from_slice(&[1i64]), None).unwrap_err().to_string();
    assert_eq!(refused, "labels: expected [4], one class for each row, got [1]");
}
