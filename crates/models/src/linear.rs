use crate::tensors::Tensors;
use crate::{AdapterConfig, Result};
use autograd::Parameter;
use autograd::random::{Law, derive_seed, draw};
use layers::{Lora, Projection};
use tch::{Kind, Tensor};

/// A linear layer of a model: its weight, and the LoRA pair trained beside it if there is one.
#[derive(Debug)]
pub struct Linear {
    path: String,
    weight: Parameter,
    /// Whether the weight is stored `[in, out]`.
    fan_in_fan_out: bool,
    bias: Option<Parameter>,
    lora: Option<LoraPair>,
}

#[derive(Debug)]
struct LoraPair {
    a: Parameter,
    b: Parameter,
    scale: f64,
    dropout: f64,
}

/// What a linear layer is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub outputs: i64,
    pub inputs: i64,
    pub bias: bool,
    /// Whether the weight is stored `[in, out]` (`Conv1D` of transformers).
    pub fan_in_fan_out: bool,
}

impl Linear {
    /// The layer at `path` (`model.layers.0.self_attn.q_proj`).
    pub(crate) fn new(tensors: &Tensors<'_>, path: String, shape: Shape) -> Result<Self> {
        let Shape { outputs, inputs, bias, fan_in_fan_out } = shape;
        let size = if fan_in_fan_out { [inputs, outputs] } else { [outputs, inputs] };
        let weight = tensors.parameter(format!("{path}.weight"), &size)?;
        let bias = if bias { Some(tensors.parameter(format!("{path}.bias"), &[outputs])?) } else { None };
        Ok(Self { path, weight, fan_in_fan_out, bias, lora: None })
    }

    /// Outputs and inputs.
    pub(crate) fn size(&self) -> (i64, i64) {
        let size = self.weight.size();
        if self.fan_in_fan_out { (size[1], size[0]) } else { (size[0], size[1]) }
    }

    /// The layer's path in the model, as adapters name it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `[out, in]`.
    pub fn weight(&self) -> &Parameter {
        &self.weight
    }

    /// The LoRA pair, A `[rank, in]` and B `[out, rank]`.
    pub fn lora(&self) -> Option<(&Parameter, &Parameter)> {
        self.lora.as_ref().map(|pair| (&pair.a, &pair.b))
    }

    /// Puts a pair beside the weight. Without `weights`, A is uniform in ±1/√in and B zero, as PEFT begins (`kaiming_uniform_` with a = √5);
    /// A is drawn from `seed` and the layer's path. Both are f32 (f64 in an f64 model), whatever the weight is.
    pub(crate) fn add_lora(
        &mut self,
        config: &AdapterConfig,
        weights: Option<(&Tensor, &Tensor)>,
        seed: u64,
    ) -> std::result::Result<(), autograd::Error> {
        let ((outputs, inputs), rank) = (self.size(), config.rank_of(&self.path));
        let (device, kind) = (self.weight.device(), if self.weight.kind() == Kind::Double { Kind::Double } else { Kind::Float });
        let own = |tensor: &Tensor| Ok::<_, tch::TchError>(tensor.f_detach()?.f_to_device(device)?.f_to_kind(kind)?.copy());
        let (a, b) = match weights {
            Some((a, b)) => (own(a)?, own(b)?),
            None => {
                let bound = 1.0 / (inputs as f64).sqrt();
                let path = self.path.bytes().map(u64::from).collect::<Vec<_>>();
                let uniform = draw(Law::Uniform, &[rank, inputs], kind, device, derive_seed(&[seed, derive_seed(&path)]))?;
                (uniform.f_mul_scalar(2.0 * bound)?.f_sub_scalar(bound)?, Tensor::f_zeros([outputs, rank], (kind, device))?)
            }
        };
        let parameter =
            |which: &str, tensor: Tensor| Parameter::new(format!("{}.{which}.weight", self.path), tensor.set_requires_grad(true));
        let (a, b) = (parameter("lora_A", a), parameter("lora_B", b));
        self.lora = Some(LoraPair { a, b, scale: config.scale_of(&self.path), dropout: config.lora_dropout });
        Ok(())
    }

    /// The layer as the operation reads it.
    pub(crate) fn projection(&self) -> Projection<'_> {
        let lora = self.lora.as_ref().map(|pair| Lora { a: pair.a.tensor(), b: pair.b.tensor(), scale: pair.scale, dropout: pair.dropout });
        Projection {
            weight: self.weight.tensor(),
            fan_in_fan_out: self.fan_in_fan_out,
            bias: self.bias.as_ref().map(Parameter::tensor),
            lora,
        }
    }

    /// All tensors: weight, bias, A, B.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let lora = self.lora.iter().flat_map(|pair| [&pair.a, &pair.b]);
        std::iter::once(&self.weight).chain(&self.bias).chain(lora)
    }
}
