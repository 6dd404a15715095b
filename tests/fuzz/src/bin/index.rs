//! Prepared data: a file that says where each sample is.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = loract_fuzz::file("train.safetensors", bytes);
    if let Ok(dataset) = data::Dataset::open(&path) {
        (0..dataset.len().min(64)).for_each(|index| drop(dataset.sample(index)));
    }
});
