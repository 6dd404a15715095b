//! Quantized weights: blocks against candle's expansion of them bit for bit, and models that hold
//! them against the same models expanded.
#![allow(clippy::unwrap_used, missing_docs)]

mod gguf_file;

use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, ggml_file};
use tch::{Device, Kind, Tensor};

use compression::{Method, Options};
use layers::{BlockFormat, QuantizedWeight, SavePolicy, Scope, Targets};
use loract_models as models;
use models::{
    AdapterConfig, BlockActivations, Checkpoint, Decoder, Inputs, Model, Quantization, Recompute,
    TargetModules,
};

use gguf_file::gguf;

const FORMATS: [(BlockFormat, GgmlDType); 10] = [
    (BlockFormat::Q4_0, GgmlDType::Q4_0),
    (BlockFormat::Q4_1, GgmlDType::Q4_1),
    (BlockFormat::Q5_0, GgmlDType::Q5_0),
    (BlockFormat::Q5_1, GgmlDType::Q5_1),
    (BlockFormat::Q8_0, GgmlDType::Q8_0),
    (BlockFormat::Q2K, GgmlDType::Q2K),
    (BlockFormat::Q3K, GgmlDType::Q3K),
    (BlockFormat::Q4K, GgmlDType::Q4K),
    (BlockFormat::Q5K, GgmlDType::Q5K),
    (BlockFormat::Q6K, GgmlDType::Q6K),
];

/// Where the half-precision numbers of a block stand.
fn halves(format: BlockFormat) -> &'static [usize] {
    match format {
        BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => &[0],
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => &[0, 2],
        BlockFormat::Q2K => &[80, 82],
        BlockFormat::Q3K => &[108],
        BlockFormat::Q6K => &[208],
    }
}

#[test]
fn every_kind_of_block_expands_as_candle_expands_it() {
    assert_eq!(FORMATS.map(|(format, _)| format), BlockFormat::ALL);
    for (format, dtype) in FORMATS {
        let (size, rows, per_row) = (format.size(), 37, 3);
        assert_eq!(
            (size.bytes, size.elements),
            (dtype.type_size() as i64, dtype.block_size() as i64),
            "{format:?}"
        );
        // Any bytes are a block, if the numbers in half precision are finite.
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let mut bytes: Vec<u8> = (0..rows * per_row * size.bytes).map(|_| random()).collect();
        for block in bytes.chunks_mut(size.bytes as usize) {
            halves(format).iter().for_each(|at| block[at + 1] &= 0b1011_1111);
        }
        let elements = (rows * per_row * size.elements) as usize;
        let cpu = candle_core::Device::Cpu;
        let expected = ggml_file::qtensor_from_ggml(dtype, &bytes, vec![elements], &cpu)
            .unwrap()
            .dequantize(&cpu)
            .unwrap();
        let expected = Tensor::from_slice(&expected.to_vec1::<f32>().unwrap()).view([rows, -1]);
        let bytes = Tensor::from_slice(&bytes).view([rows, -1]);
        let packed =
            QuantizedWeight::blocks("w", format, bytes.shallow_clone(), Kind::Float).unwrap();
        assert_eq!(packed.size(), [rows, per_row * size.elements], "{format:?}");
        assert!(
            expected.isfinite().all().int64_value(&[]) == 1
                && expected.std(true).double_value(&[]) > 0.0,
            "{format:?}"
        );
        assert!(packed.expand().unwrap().equal(&expected), "{format:?}");
        // In the model's dtype each is rounded once.
        let narrow = QuantizedWeight::blocks("w", format, bytes, Kind::BFloat16).unwrap();
        assert!(
            narrow.expand().unwrap().equal(&expected.to_kind(Kind::BFloat16)),
            "{format:?} in bf16"
        );
    }
}

fn load(path: &Path, quantization: Quantization, kind: Kind) -> Decoder {
    Decoder::load_quantized(&Checkpoint::open(path).unwrap(), quantization, kind, Device::Cpu)
        .unwrap()
}

fn adapter() -> AdapterConfig {
    AdapterConfig {
        r: 4,
        target_modules: TargetModules::Pattern("all-linear".into()),
        ..AdapterConfig::default()
    }
}

/// The loss, and the gradients of the pairs, whose B is not zero.
fn step(decoder: &Decoder, activations: BlockActivations) -> Vec<Tensor> {
    let ids =
        (Tensor::arange(2 * 24, (Kind::Int64, Device::Cpu)) * 37).remainder(320).view([2, 24]);
    let targets = Targets::new(&ids.roll([-1_i64].as_slice(), [1_i64].as_slice())).unwrap();
    {
        let _mode = autograd::GradMode::disabled();
        for linear in decoder.linears() {
            let b = linear.lora().unwrap().1;
            let wave = (Tensor::arange(b.numel() as i64, (Kind::Float, Device::Cpu)) * 0.7)
                .sin()
                .view(&b.size()[..])
                * 0.05;
            b.shallow_clone().copy_(&wave);
        }
    }
    let scope = Scope::training(7, Arc::default());
    let hidden = decoder.forward(&Inputs::rows(ids), &activations.into(), &scope).unwrap();
    let loss = decoder.loss(&hidden, &targets, 1.0, 16, &scope).unwrap();
    let trained: Vec<&Tensor> =
        decoder.trained().into_iter().map(|parameter| parameter.tensor()).collect();
    let gradients = autograd::grad(&[&loss], &trained, &[None], false, false).unwrap();
    std::iter::once(loss.detach()).chain(gradients.into_iter().map(Option::unwrap)).collect()
}

#[test]
fn losses_and_gradients_are_those_of_the_expanded_model() {
    let folder = tempfile::tempdir().unwrap();
    let code = SavePolicy::Code(Options {
        method: Method::Quantized { bits: 8, group: 64 },
        ..Options::default()
    });
    let sites = BlockActivations {
        norm: code,
        attn_in: code,
        mlp_in: code,
        mlp_out: code,
        act: code,
        ..BlockActivations::default()
    };
    let layer =
        BlockActivations { recompute: Recompute::Layer(code), ..BlockActivations::default() };
    for (dtype, tied, kind) in [
        (GgmlDType::Q4_0, true, Kind::Float),
        (GgmlDType::Q6K, false, Kind::Float),
        (GgmlDType::Q4K, true, Kind::BFloat16),
    ] {
        let path = gguf(folder.path(), dtype, tied);
        let mut models = [Quantization::None, Quantization::Gguf]
            .map(|quantization| load(&path, quantization, kind));
        for model in &mut models {
            model.add_lora(&adapter(), None, 3, &path).unwrap();
            assert_eq!((model.kind(), model.device()), (kind, Device::Cpu));
        }
        // Fourteen linear layers, the embedding, and a head that is not the embedding.
        assert_eq!(
            models.each_ref().map(|model| model.quantized_weights().len()),
            [0, if tied { 15 } else { 16 }]
        );
        for (name, policy) in
            [("exact", BlockActivations::default()), ("sites", sites), ("layer", layer)]
        {
            let [expanded, packed] = models.each_ref().map(|model| step(model, policy));
            assert_eq!(expanded.len(), 1 + 2 * 14);
            for (index, (expanded, packed)) in expanded.iter().zip(&packed).enumerate() {
                assert!(expanded.abs().max().double_value(&[]) > 0.0, "{dtype:?} {name} {index}");
                assert!(packed.equal(expanded), "{dtype:?} {name} {index}: {packed:?}");
            }
        }
        let [expanded, packed] = models
            .each_ref()
            .map(|model| model.next_logits(&[5, 9, 300], &mut model.cache()).unwrap());
        assert!(packed.equal(&expanded), "{dtype:?}: next token");
    }
}

#[test]
fn dora_begins_at_the_lengths_of_the_expanded_rows_and_pissa_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = gguf(folder.path(), GgmlDType::Q5_1, true);
    let config = AdapterConfig { use_dora: true, ..adapter() };
    let mut models = [Quantization::None, Quantization::Gguf]
        .map(|quantization| load(&path, quantization, Kind::Float));
    models.iter_mut().for_each(|model| model.add_lora(&config, None, 3, &path).unwrap());
    let [expanded, packed] =
        models.each_ref().map(|model| step(model, BlockActivations::default()));
    assert_eq!(expanded.len(), 1 + 3 * 14);
    assert!(expanded.iter().zip(&packed).all(|(expanded, packed)| packed.equal(expanded)));

    let pissa = AdapterConfig { init_lora_weights: "pissa".into(), ..adapter() };
    let refused = load(&path, Quantization::Gguf, Kind::Float)
        .add_lora(&pissa, None, 3, &path)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("q_proj: PiSSA changes the weight, which is quantized; load the model without quantization"), "{refused}");
}
