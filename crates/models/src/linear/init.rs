//! What a LoRA pair begins with, as in PEFT's `LoraLayer`.

use tch::{Device, Kind, TchError, Tensor};

use autograd::random::{Distribution, derive_seed, draw};

use crate::AdapterConfig;

/// A `[rank, in]` and B `[out, rank]`.
#[derive(Debug)]
pub(super) struct Factors {
    pub a: Tensor,
    pub b: Tensor,
}

impl Factors {
    /// A uniform in ±1/√in (`kaiming_uniform_` with a = √5), or normal with a deviation of 1/rank
    /// if the configuration says `gaussian`; B zero. A is drawn from `seed` and `path`.
    pub fn drawn(
        config: &AdapterConfig,
        (outputs, inputs): (i64, i64),
        rank: i64,
        (kind, device): (Kind, Device),
        seed: u64,
        path: &str,
    ) -> Result<Self, autograd::Error> {
        let path = path.bytes().map(u64::from).collect::<Vec<_>>();
        let seed = derive_seed(&[seed, derive_seed(&path)]);
        let a = if config.init_lora_weights == "gaussian" {
            draw(Distribution::Normal, &[rank, inputs], kind, device, seed)?
                .f_mul_scalar(1.0 / rank as f64)?
        } else {
            let bound = 1.0 / (inputs as f64).sqrt();
            draw(Distribution::Uniform, &[rank, inputs], kind, device, seed)?
                .f_mul_scalar(2.0 * bound)?
                .f_sub_scalar(bound)?
        };
        Ok(Self { a, b: Tensor::f_zeros([outputs, rank], (kind, device))? })
    }

    /// The principal part of a weight `[out, in]` (PiSSA, arXiv 2404.02948, by an exact
    /// decomposition): `scale · B A` is the nearest matrix of that rank.
    pub fn principal(weight: &Tensor, rank: i64, scale: f64) -> Result<Self, TchError> {
        let (u, s, v) = weight.f_svd(true, true)?;
        let root = s.f_narrow(0, 0, rank)?.f_div_scalar(scale)?.f_sqrt()?;
        let a = v.f_narrow(1, 0, rank)?.f_mul(&root)?.f_tr()?;
        let b = u.f_narrow(1, 0, rank)?.f_mul(&root)?;
        Ok(Self { a: a.f_contiguous()?, b: b.f_contiguous()? })
    }

    /// `scale · B A`.
    pub fn update(&self, scale: f64) -> Result<Tensor, TchError> {
        self.b.f_matmul(&self.a)?.f_mul_scalar(scale)
    }
}
