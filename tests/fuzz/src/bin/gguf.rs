//! A model in one GGUF file.
#![no_main]

use models::{Checkpoint, Decoder};
use tch::{Device, Kind};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = loract_fuzz::file("model.gguf", bytes);
    if let Ok(checkpoint) = Checkpoint::open(&path)
        && let Ok(config) = checkpoint.config()
    {
        drop(checkpoint.check(&Decoder::tensor_shapes(config)));
        checkpoint.names().iter().for_each(|name| drop(checkpoint.tensor(name, Kind::Float, Device::Cpu)));
    }
});
