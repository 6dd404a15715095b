//! A step of an optimizer allocates nothing that could be allocated before: by the allocator, to
//! the byte. One test alone in its program.
#![allow(clippy::unwrap_used, missing_docs)]

use autograd::memory;
use config::Run;
use loract_optim::{Optimizer, Partition, TrainedParam};
use tch::{Device, Kind, Tensor};

#[test]
fn a_step_allocates_next_to_nothing() {
    memory::count_cpu();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    let parameter = Tensor::randn([512, 1024], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    for name in ["adamw", "adamw8bit", "lion", "sgd", "muon"] {
        let text = format!(
            "[model]\npath = \"m\"\n[lora]\n[data]\ntrain = \"t\"\n[optimizer]\nmethod = \"{name}\"\nweight_decay = 0.1\n"
        );
        std::fs::write(&path, text).unwrap();
        let options = Run::load(&path, &[]).unwrap().optimizer;
        let trained = TrainedParam { tensor: &parameter, lr_scale: 1.0, is_hidden_matrix: true };
        let mut optimizer = Optimizer::new(&[trained], &options, Partition::WHOLE).unwrap();
        parameter.square().sum(Kind::Float).backward();
        memory::reset_peak(Device::Cpu).unwrap();
        let before = memory::current(Device::Cpu).unwrap();
        optimizer.step(0.01).unwrap();
        let taken = memory::peak(Device::Cpu).unwrap() - before;
        // A norm is a tensor of one element; some operations count in blocks.
        assert!(
            taken < 64 << 10,
            "{name} allocated {taken} bytes for a parameter of {}",
            4 * parameter.numel()
        );
        println!("{name}: {taken} bytes");
    }
}
