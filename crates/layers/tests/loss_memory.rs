//! The loss over chunks never holds the full logits: by the allocator, to the byte. One test alone
//! in its program.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use autograd::memory;
use layers::{Scope, Targets};
use loract_layers as layers;

use drawing::normal;

#[test]
fn the_peak_is_that_of_one_chunk() {
    memory::count_cpu();
    let (tokens, width, vocabulary) = (512, 32, 4096);
    let hidden = normal(&[tokens, width], 1).to_kind(Kind::Float).set_requires_grad(true);
    let head = normal(&[vocabulary, width], 2).to_kind(Kind::Float);
    let targets = Targets::new(&Tensor::arange(tokens, (Kind::Int64, Device::Cpu))).unwrap();
    let scope = Scope::training(0, Arc::default());
    let peak = |chunk: i64| {
        memory::reset_peak(Device::Cpu).unwrap();
        let before = memory::current(Device::Cpu).unwrap();
        let head = head.shallow_clone();
        let tail = move |x: &Tensor| Ok(x.matmul(&head.tr()));
        let loss =
            layers::loss_over_chunks(tail, &hidden, &[], &targets, 1.0, chunk, &scope).unwrap();
        let (peak, held) = (
            memory::peak(Device::Cpu).unwrap() - before,
            memory::current(Device::Cpu).unwrap() - before,
        );
        // What is held is the gradient of the states, and the loss in f64.
        assert_eq!(held, (4 * tokens * width + 8) as u64);
        (loss.double_value(&[]), peak)
    };
    let (whole_loss, whole) = peak(tokens);
    let (chunk_loss, chunk) = peak(16);
    assert!((whole_loss - chunk_loss).abs() < 1e-3 * whole_loss.abs());
    let logits = |tokens: i64| (4 * tokens * vocabulary) as u64;
    let gradient = (4 * tokens * width) as u64;
    assert!(whole >= logits(tokens), "{whole}");
    // One buffer of logits, which turns into their gradient in place, and little beside it.
    assert!(chunk < gradient + logits(16) + logits(16) / 4, "{chunk}");
    println!(
        "peak for {tokens} tokens of {vocabulary} logits: whole {whole}, in chunks of 16 {chunk} bytes"
    );
}
