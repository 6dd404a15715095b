//! What models hold whose weights are quantized, to the byte.
#![allow(clippy::unwrap_used, missing_docs)]

mod gguf_file;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::quantized::GgmlDType;
use tch::{Device, Kind};

use autograd::memory;
use layers::QuantizedWeight;
use loract_models as models;
use models::{Checkpoint, Decoder, Model, Quantization};

use gguf_file::gguf;

/// Memory is counted for the whole process.
static COUNTED: Mutex<()> = Mutex::new(());

/// A loaded model, and the bytes that it holds.
fn measured(path: &Path, quantization: Quantization, kind: Kind) -> (Decoder, u64) {
    let checkpoint = Checkpoint::open(path).unwrap();
    let before = memory::current(Device::Cpu).unwrap();
    let decoder = Decoder::load_quantized(&checkpoint, quantization, kind, Device::Cpu).unwrap();
    (decoder, memory::current(Device::Cpu).unwrap() - before)
}

/// What a model of this checkpoint holds, by shapes alone; and of it what is packed, in numbers and
/// bytes.
fn predicted(checkpoint: &Checkpoint, quantization: Quantization, kind: Kind) -> (u64, [u64; 2]) {
    let config = checkpoint.config().unwrap();
    let packed = quantization.quantized_bytes(config, Some(checkpoint));
    let (mut held, mut few) = (0, [0, 0]);
    for (name, shape) in Decoder::tensor_shapes(config) {
        let elements = shape.iter().product::<i64>() as u64;
        match packed.iter().find(|(packed, _)| *packed == name) {
            Some((_, bytes)) => {
                held += bytes;
                few = [few[0] + elements, few[1] + bytes];
            }
            None => held += elements * kind.elt_size_in_bytes() as u64,
        }
    }
    (held, few)
}

#[test]
fn what_is_held_is_what_the_formats_say() {
    let _alone = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    memory::count_cpu();
    let folder = tempfile::tempdir().unwrap();
    let bits = |[elements, bytes]: [u64; 2]| 8.0 * bytes as f64 / elements as f64;
    for (dtype, expected) in [
        (GgmlDType::Q4_0, 4.5),
        (GgmlDType::Q4_1, 5.0),
        (GgmlDType::Q4K, 4.5),
        (GgmlDType::Q6K, 6.5625),
    ] {
        let path = gguf(folder.path(), dtype, true);
        let (decoder, held) = measured(&path, Quantization::Gguf, Kind::Float);
        let (all, few) =
            predicted(&Checkpoint::open(&path).unwrap(), Quantization::Gguf, Kind::Float);
        assert_eq!((held, bits(few)), (all, expected), "{dtype:?}");
        assert_eq!(
            few[1],
            decoder.quantized_weights().iter().map(|packed| packed.bytes()).sum::<u64>()
        );
        // All but the norms: of the whole model it is the same, to a hundredth.
        let parameters = few[0] + 5 * 256;
        let each = held as f64 / parameters as f64;
        println!("{dtype:?}: {each:.4} bytes for each parameter of the whole model");
        assert!(each < expected / 8.0 + 0.005, "{each}");
        assert!(each < 0.6 || expected > 4.5);
    }
    let path = gguf(folder.path(), GgmlDType::Q8_0, true);
    for kind in [Kind::Float, Kind::BFloat16] {
        let (decoder, held) = measured(&path, Quantization::Nf4, kind);
        let (all, few) = predicted(&Checkpoint::open(&path).unwrap(), Quantization::Nf4, kind);
        assert_eq!((held, decoder.quantized_weights().len()), (all, 14));
        assert!(
            few[1] as f64 <= 0.6 * few[0] as f64 && (bits(few) - 4.127).abs() < 0.003,
            "{}",
            bits(few)
        );
        let (_, dense) = measured(&path, Quantization::None, kind);
        let embedding = 320 * 256 * kind.elt_size_in_bytes() as u64;
        println!("NF4 beside {kind:?}: {held} of {dense} bytes, {embedding} of them the embedding");
    }
}

/// The one model that comes inside a package; `ci/setup` puts it into place.
#[test]
fn smollm2_is_held_as_its_file_has_it() {
    let _alone = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    memory::count_cpu();
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../.deps/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.exists(), "missing {}; run ci/setup", path.display());
    let checkpoint = Checkpoint::open(&path).unwrap();
    for quantization in [Quantization::Gguf, Quantization::Nf4] {
        let (decoder, held) = measured(&path, quantization, Kind::Float);
        let (all, few) = predicted(&checkpoint, quantization, Kind::Float);
        assert_eq!(held, all, "{quantization:?}");
        let linears: Vec<&QuantizedWeight> = decoder
            .linears()
            .into_iter()
            .filter_map(|linear| linear.weight().quantized())
            .collect();
        assert_eq!(linears.len(), 210);
        let (bytes, elements) = linears.iter().fold((0, 0), |(bytes, elements), of| {
            (bytes + of.bytes(), elements + of.size().iter().product::<i64>())
        });
        println!(
            "{quantization:?}: {held} bytes, {few:?} numbers in bytes, linear layers {bytes} for {elements}"
        );
        match quantization {
            Quantization::Gguf => assert_eq!(bytes * 32, elements as u64 * 20),
            _ => assert!(bytes as f64 <= 0.6 * elements as f64),
        }
    }
}
