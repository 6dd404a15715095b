//! The weights of a Hugging Face model.
#![no_main]

use models::{Checkpoint, Decoder};
use tch::{Device, Kind};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let config = loract_fuzz::file("model/config.json", loract_fuzz::LLAMA);
    loract_fuzz::file("model/model.safetensors", bytes);
    let Some(folder) = config.parent() else { return };
    if let Ok(checkpoint) = Checkpoint::open(folder)
        && let Ok(config) = checkpoint.config()
        && checkpoint.check(&Decoder::tensor_shapes(config)).is_ok()
    {
        checkpoint.names().iter().for_each(|name| drop(checkpoint.tensor(name, Kind::Float, Device::Cpu)));
    }
});
