//! The layers of encoders.

use super::attention::Attention;
use super::mlp::{self, Mlp};
use super::windows::Windows;
use super::{Block, FeedForward, Residual};
use crate::Result;
use crate::config::names::MlpNames;
use crate::config::{EncoderConfig, MlpShape, NormOrder, RelativePositions};
use crate::norm::Norm;
use crate::tensors::Tensors;

impl Block {
    /// Layer `index` of a stage of an encoder.
    pub fn new_encoder(
        tensors: &Tensors<'_>,
        config: &EncoderConfig,
        stage: usize,
        index: usize,
    ) -> Result<Self> {
        let (names, stage, prefix) =
            (config.names, &config.stages[stage], config.names.layer(stage, index));
        let layer = stage.layers[index];
        let norm = |order: NormOrder, name: &str| match config.order == order {
            true => Norm::new(tensors, config.norms(), &format!("{prefix}{name}"), &[stage.width])
                .map(Some),
            false => Ok(None),
        };
        let [attention, mlp] = names.norms;
        let shape = MlpShape {
            hidden: stage.width,
            width: stage.inner,
            bias: true,
            fan_in_fan_out: false,
            activation: config.activation,
        };
        Ok(Self {
            residual: Residual {
                parallel: false,
                multiplier: 1.0,
                dropout: config.dropout.sublayers,
                drop_path: layer.drop_path,
            },
            pre_attention_norm: norm(NormOrder::PreNorm, attention)?,
            windows: match config.attention.relative {
                RelativePositions::Windows { size } => Some(Windows { size, shift: layer.shift }),
                _ => None,
            },
            attention: Attention::new_encoder(tensors, config, &prefix, stage)?,
            post_attention_norm: None,
            post_attn_residual_norm: norm(NormOrder::PostNorm, attention)?,
            pre_mlp_norm: norm(NormOrder::PreNorm, mlp)?,
            mlp: FeedForward::Dense(Mlp::new(
                tensors,
                shape,
                &prefix,
                &MlpNames::Plain(names.mlp),
                mlp::OWN,
            )?),
            post_mlp_norm: None,
            post_mlp_residual_norm: norm(NormOrder::PostNorm, mlp)?,
        })
    }
}
