//! The memory counter, to the byte. One test alone in its program: other tests would allocate in
//! between.
#![allow(clippy::unwrap_used, missing_docs)]

use tch::{Device, Kind, Tensor};

use autograd::{backward, checkpoint, memory};
use loract_autograd as autograd;

#[test]
fn every_byte_is_counted() {
    memory::count_cpu();
    let now = || memory::current(Device::Cpu).unwrap();
    let start = now();
    let x = Tensor::zeros([3, 5], (Kind::Float, Device::Cpu));
    assert_eq!(now() - start, 60);
    let y = x.view([15]);
    assert_eq!(now() - start, 60, "a view holds nothing of its own");
    drop(x);
    assert_eq!(now() - start, 60, "a view keeps the storage");
    drop(y);
    assert_eq!(now(), start);

    memory::reset_peak(Device::Cpu).unwrap();
    drop(Tensor::zeros([1000], (Kind::Double, Device::Cpu)));
    drop(Tensor::zeros([10], (Kind::Double, Device::Cpu)));
    assert_eq!((now(), memory::peak(Device::Cpu).unwrap() - start), (start, 8000));
    drop(Tensor::zeros([0], (Kind::Double, Device::Cpu)));

    // What a checkpoint holds between forward and backward: its input, its output, and the
    // generator's state.
    let x = Tensor::ones([64, 64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let before = now();
    let run = |inputs: &[Tensor]| Ok(vec![inputs[0].relu().sigmoid().tanh().exp()]);
    let out = checkpoint(run, &[&x], &[]).unwrap();
    let state = autograd::random::state(Device::Cpu).unwrap().numel() as u64;
    assert_eq!(now() - before, 64 * 64 * 4 + state);
    drop(out);
    assert_eq!(now(), before, "an unused graph is freed");

    let out = checkpoint(run, &[&x], &[]).unwrap().remove(0);
    backward(&[&out.sum(Kind::Float)], &[None], false).unwrap();
    drop(out);
    assert_eq!(now() - before, 64 * 64 * 4, "what is left is the gradient");
    // Odd sizes, grown and shrunk, on several threads.
    let threads: Vec<_> = (1..5)
        .map(|n: i64| {
            std::thread::spawn(move || {
                for size in 0..200 {
                    let tensor = Tensor::ones([size * n], (Kind::Uint8, Device::Cpu));
                    drop(tensor.repeat([3]));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(now() - before, 64 * 64 * 4);
    assert!(memory::current(Device::Cuda(99)).is_err());
    if tch::Cuda::is_available() {
        on_a_gpu(Device::Cuda(0));
    }
}

/// The caching allocator hands out multiples of 512 bytes.
fn on_a_gpu(device: Device) {
    let now = || memory::current(device).unwrap();
    let start = now();
    let x = Tensor::zeros([3, 5], (Kind::Float, device));
    assert_eq!(now() - start, 512);
    drop(x);
    memory::reset_peak(device).unwrap();
    drop(Tensor::zeros([1000], (Kind::Double, device)));
    drop(Tensor::zeros([10], (Kind::Double, device)));
    assert_eq!((now(), memory::peak(device).unwrap() - start), (start, 8192));

    let x = Tensor::ones([64, 64], (Kind::Float, device)).set_requires_grad(true);
    let before = now();
    let run = |inputs: &[Tensor]| Ok(vec![inputs[0].relu().sigmoid().tanh().exp()]);
    let out = checkpoint(run, &[&x], &[]).unwrap().remove(0);
    assert_eq!(now() - before, 64 * 64 * 4, "the generator's state is the CPU's");
    backward(&[&out.sum(Kind::Float)], &[None], false).unwrap();
    drop(out);
    assert_eq!(now() - before, 64 * 64 * 4, "what is left is the gradient");
}
