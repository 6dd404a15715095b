mod init;

use tch::{Device, Kind, TchError, Tensor};

use autograd::Parameter;
use layers::{Lora, Projection};

use crate::quantization::Role;
use crate::tensors::Tensors;
use crate::{AdapterConfig, Checkpoint, LoraWeights, Result, Weight};
use init::Factors;

/// A linear layer of a model: its weight, and the LoRA pair trained in addition, if there is one.
#[derive(Debug)]
pub struct Linear {
    path: String,
    weight: Weight,
    /// Whether the weight is stored `[in, out]`.
    fan_in_fan_out: bool,
    bias: Option<Parameter>,
    lora: Option<Box<LoraPair>>,
}

#[derive(Debug)]
struct LoraPair {
    a: Parameter,
    b: Parameter,
    magnitude: Option<Parameter>,
    scale: f64,
    dropout: f64,
    /// The initial A and B, if they were taken from the weight.
    initial: Option<[Parameter; 2]>,
}

/// The shape of a linear layer, and how it is stored.
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
        Self::with_role(tensors, path, shape, Role::Linear)
    }

    /// The same, whose weight is quantized only if those of its role are.
    pub(crate) fn with_role(
        tensors: &Tensors<'_>,
        path: String,
        shape: Shape,
        role: Role,
    ) -> Result<Self> {
        let Shape { outputs, inputs, bias, fan_in_fan_out } = shape;
        let size = if fan_in_fan_out { [inputs, outputs] } else { [outputs, inputs] };
        let weight = tensors.weight(format!("{path}.weight"), &size, role)?;
        let bias =
            if bias { Some(tensors.parameter(format!("{path}.bias"), &[outputs])?) } else { None };
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

    /// `[out, in]`, or the other way round if that is how the model stores it.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// The LoRA pair, A `[rank, in]` and B `[out, rank]`.
    pub fn lora(&self) -> Option<(&Parameter, &Parameter)> {
        self.lora.as_ref().map(|pair| (&pair.a, &pair.b))
    }

    /// The pair as an adapter holds it.
    pub(crate) fn lora_weights(&self) -> Option<LoraWeights> {
        self.lora.as_ref().map(|pair| LoraWeights {
            module: self.path.clone(),
            a: pair.a.shallow_clone(),
            b: pair.b.shallow_clone(),
            magnitude: pair.magnitude.as_ref().map(|magnitude| magnitude.shallow_clone()),
            initial: pair.initial.as_ref().map(|[a, b]| (a.shallow_clone(), b.shallow_clone())),
        })
    }

    /// Adds a pair to the weight: the one given, or a new one as `config` says, drawn from `seed`
    /// and the layer's path. Both are f32 (f64 in an f64 model), whatever the weight is. PiSSA
    /// takes from the weight what its pair begins with.
    pub(crate) fn add_lora(
        &mut self,
        config: &AdapterConfig,
        given: Option<&LoraWeights>,
        seed: u64,
    ) -> std::result::Result<(), autograd::Error> {
        let _mode = autograd::GradMode::disabled();
        let (device, kind) = (
            self.weight.device(),
            if self.weight.kind() == Kind::Double { Kind::Double } else { Kind::Float },
        );
        let (rank, scale) = (config.rank_of(&self.path), config.scale_of(&self.path));
        let oriented =
            |weight: Tensor| if self.fan_in_fan_out { weight.f_tr() } else { Ok(weight) };
        let initial = match config.is_pissa() {
            true => {
                let mut weight = oriented(self.weight.dense()?)?;
                let factors = Factors::principal(&weight.f_to_kind(kind)?, rank, scale)?;
                let residual = weight.f_to_kind(kind)?.f_sub(&factors.update(scale)?)?;
                weight.f_copy_(&residual)?;
                Some(factors)
            }
            false => None,
        };
        let own = |tensor: &Tensor| {
            Ok::<_, tch::TchError>(tensor.f_detach()?.f_to_device(device)?.f_to_kind(kind)?.copy())
        };
        let Factors { a, b } = match (given, &initial) {
            (Some(pair), _) => Factors { a: own(&pair.a)?, b: own(&pair.b)? },
            (None, Some(initial)) => Factors { a: initial.a.copy(), b: initial.b.copy() },
            (None, None) => {
                Factors::drawn(config, self.size(), rank, (kind, device), seed, &self.path)?
            }
        };
        let magnitude = match given.and_then(|pair| pair.magnitude.as_ref()) {
            _ if !config.use_dora => None,
            Some(magnitude) => Some(own(magnitude)?),
            None => {
                let update = b.f_matmul(&a)?.f_mul_scalar(scale)?;
                Some(
                    oriented(self.weight.dense()?)?
                        .f_to_kind(kind)?
                        .f_add(&update)?
                        .f_norm_scalaropt_dim(2.0, [1_i64].as_slice(), false)?,
                )
            }
        };
        let parameter = |which: &str, tensor: Tensor| {
            Parameter::new(format!("{}.{which}", self.path), tensor.set_requires_grad(true))
        };
        self.lora = Some(Box::new(LoraPair {
            a: parameter("lora_A.weight", a),
            b: parameter("lora_B.weight", b),
            magnitude: magnitude.map(|magnitude| parameter("lora_magnitude_vector", magnitude)),
            scale,
            dropout: config.lora_dropout,
            initial: initial.map(|Factors { a, b }| {
                [Parameter::new("initial A", a), Parameter::new("initial B", b)]
            }),
        }));
        Ok(())
    }

    /// The same layer with its weight read from `checkpoint` in f32 (f64 where that is stored), and
    /// nothing else.
    pub(crate) fn read(&self, checkpoint: &Checkpoint) -> Result<Self> {
        let name = self.weight.name();
        let kind =
            if checkpoint.kind(name) == Some(Kind::Double) { Kind::Double } else { Kind::Float };
        let weight =
            Weight::Dense(Parameter::new(name, checkpoint.tensor(name, kind, Device::Cpu)?));
        Ok(Self {
            path: self.path.clone(),
            weight,
            fan_in_fan_out: self.fan_in_fan_out,
            bias: None,
            lora: None,
        })
    }

    /// The weight, as it is stored, of the layer without a pair that computes what this one does:
    /// `W + s B A`, with DoRA its rows at their magnitudes.
    pub(crate) fn merged(&self) -> std::result::Result<Tensor, TchError> {
        let Some(pair) = &self.lora else { return self.weight.dense()?.f_detach() };
        let _mode = autograd::GradMode::disabled();
        let oriented =
            |weight: Tensor| if self.fan_in_fan_out { weight.f_tr() } else { Ok(weight) };
        let update = pair.b.f_matmul(&pair.a)?.f_mul_scalar(pair.scale)?;
        let updated = oriented(self.weight.dense()?)?.f_to_kind(update.kind())?.f_add(&update)?;
        let merged = match &pair.magnitude {
            None => updated,
            Some(magnitude) => {
                // A row of zeros stays one.
                let norms = updated
                    .f_norm_scalaropt_dim(2.0, [1_i64].as_slice(), false)?
                    .f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
                updated.f_mul(&magnitude.f_div(&norms)?.f_unsqueeze(1)?)?
            }
        };
        oriented(merged)?.f_contiguous()
    }

    /// The layer as the operation reads it.
    pub(crate) fn projection(&self) -> Projection<'_> {
        let lora = self.lora.as_ref().map(|pair| Lora {
            a: pair.a.tensor(),
            b: pair.b.tensor(),
            scale: pair.scale,
            dropout: pair.dropout,
            magnitude: pair.magnitude.as_ref().map(Parameter::tensor),
        });
        Projection {
            weight: self.weight.matrix(),
            fan_in_fan_out: self.fan_in_fan_out,
            bias: self.bias.as_ref().map(Parameter::tensor),
            lora,
        }
    }

    /// All parameters: weight (unless that is quantized), bias, A, B, magnitude.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let lora =
            self.lora.iter().flat_map(|pair| [&pair.a, &pair.b].into_iter().chain(&pair.magnitude));
        self.weight.parameter().into_iter().chain(&self.bias).chain(lora)
    }
}
