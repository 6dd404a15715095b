use std::sync::Arc;

use tch::{TchError, Tensor};

use autograd::Parameter;
use layers::{Scope, Site, project, recompute};

use crate::activations::{BlockActivations, Recompute};
use crate::block::trained;
use crate::config::{LAYER_NORM, MergeNames};
use crate::linear::Shape;
use crate::norm::Norm;
use crate::tensors::Tensors;
use crate::{Linear, Result};

/// Makes one token of each two by two neighbours (`SwinPatchMerging` of transformers).
#[derive(Debug)]
pub(super) struct Merge {
    norm: Norm,
    reduction: Linear,
}

/// The epsilon of its norm, whatever the model's is.
const EPS: f64 = 1e-5;

impl Merge {
    /// After a stage `width` wide.
    pub fn new(
        tensors: &Tensors<'_>,
        prefix: &str,
        names: &MergeNames,
        width: i64,
    ) -> Result<Self> {
        let shape =
            Shape { outputs: 2 * width, inputs: 4 * width, bias: false, fan_in_fan_out: false };
        Ok(Self {
            norm: Norm::new(
                tensors,
                (LAYER_NORM, EPS),
                &format!("{prefix}{}", names.norm),
                &[4 * width],
            )?,
            reduction: Linear::new(tensors, format!("{prefix}{}", names.reduction), shape)?,
        })
    }

    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.norm.parameters().chain(self.reduction.parameters())
    }

    pub fn linear(&self) -> &Linear {
        &self.reduction
    }

    pub fn linear_mut(&mut self) -> &mut Linear {
        &mut self.reduction
    }

    /// `x` `[batch, rows · columns, width]` to `[batch, half the rows · half the columns, 2
    /// width]`, both rounded up. It saves what backward needs as the layer before it does: its
    /// norm's input as that of a norm, its map's as that of an MLP.
    pub fn forward(
        self: &Arc<Self>,
        x: &Tensor,
        grid: [i64; 2],
        activations: &BlockActivations,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        match &activations.recompute {
            Recompute::Nothing => self.run(x, grid, activations, scope),
            Recompute::Layer(policy) | Recompute::Sublayer(policy) => {
                let (merge, activations, inner) = (self.clone(), *activations, scope.clone());
                let run = move |x: &Tensor| merge.run(x, grid, &activations, &inner);
                recompute(run, x, &trained(self.parameters()), policy, &scope.site(Site::Merge))
            }
        }
    }

    fn run(
        &self,
        x: &Tensor,
        grid: [i64; 2],
        activations: &BlockActivations,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        let gathered = gathered(x, grid)?;
        let normed =
            self.norm.forward(&gathered, &activations.norm, &scope.site(Site::MergeNorm))?;
        Ok(project(
            &normed,
            &[self.reduction.projection()],
            activations.mlp_in,
            &scope.site(Site::MergeIn),
        )?
        .remove(0))
    }
}

/// Four neighbours side by side, those above each other first; a map with odd sides is padded with
/// zeros.
fn gathered(x: &Tensor, [rows, columns]: [i64; 2]) -> std::result::Result<Tensor, TchError> {
    let (batch, width) = (x.size()[0], x.size()[2]);
    let map = x.f_view([batch, rows, columns, width])?.f_constant_pad_nd([
        0,
        0,
        0,
        columns % 2,
        0,
        rows % 2,
    ])?;
    let [rows, columns] = [rows, columns].map(|side| (side + 1) / 2);
    let cut = map.f_view([batch, rows, 2, columns, 2, width])?;
    cut.f_permute([0, 1, 3, 4, 2, 5])?.f_reshape([batch, rows * columns, 4 * width])
}
