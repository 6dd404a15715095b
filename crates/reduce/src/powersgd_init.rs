//! The random matrices `Q` from which PowerSGD starts: each a function of seed, step and parameter
//! alone, so that all ranks draw the same.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};
use tch::Tensor;

use crate::error::Result;

/// Fills `q` (`[n, k]`, f32) with independent standard normal numbers.
pub(crate) fn init_q(q: &mut Tensor, seed: u64, step: u64, parameter: usize) -> Result<()> {
    let mut key = *b"................powersgd queries";
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&step.to_le_bytes());
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(parameter as u64);
    let numbers: Vec<f32> = (0..q.numel()).map(|_| StandardNormal.sample(&mut generator)).collect();
    Ok(q.f_copy_(&Tensor::f_from_slice(&numbers)?.f_view(q.size().as_slice())?)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::{Device, Kind};

    fn drawn(seed: u64, step: u64, parameter: usize) -> Tensor {
        let mut q = Tensor::zeros([500, 4], (Kind::Float, Device::Cpu));
        init_q(&mut q, seed, step, parameter).unwrap();
        q
    }

    #[test]
    fn a_query_depends_on_seed_step_and_parameter_alone() {
        tch::manual_seed(1);
        let first = drawn(7, 3, 2);
        tch::manual_seed(2);
        assert_eq!(drawn(7, 3, 2), first);
        for other in [drawn(8, 3, 2), drawn(7, 4, 2), drawn(7, 3, 1)] {
            assert!((other - &first).abs().mean(Kind::Float).double_value(&[]) > 0.5);
        }
        assert!(first.mean(Kind::Float).double_value(&[]).abs() < 0.1);
        assert!((first.std(true).double_value(&[]) - 1.0).abs() < 0.1);
    }
}
