use tch::Tensor;

use layers::{Activation, SavePolicy, Scope, Site, activate, dropout, project};

use crate::config::{ClassifierConfig, EncoderConfig};
use crate::linear::Shape;
use crate::tensors::Tensors;
use crate::{Linear, Result};

/// What makes logits of one vector for each row: dropout, perhaps a map and `tanh` (`BertPooler`,
/// `RobertaClassificationHead`), dropout, the map to classes.
#[derive(Debug)]
pub(super) struct Head {
    config: ClassifierConfig,
    dense: Option<Linear>,
    /// Absent in a model without classes, whose logits are the vectors themselves.
    out: Option<Linear>,
}

impl Head {
    pub fn new(tensors: &Tensors<'_>, config: &EncoderConfig) -> Result<Self> {
        let (names, width, classes) = (config.names, config.width(), config.labels.len() as i64);
        let linear = |name: &str, outputs: i64| {
            Linear::new(
                tensors,
                name.to_owned(),
                Shape { outputs, inputs: width, bias: true, fan_in_fan_out: false },
            )
        };
        Ok(Self {
            config: config.classifier,
            dense: names.head_dense.map(|name| linear(name, width)).transpose()?,
            out: (classes > 0).then(|| linear(names.head_out, classes)).transpose()?,
        })
    }

    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.dense.iter().chain(&self.out)
    }

    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.dense.iter_mut().chain(&mut self.out)
    }

    /// `[batch, width]` to `[batch, classes]`. What it saves is one row for each of the batch,
    /// exactly.
    pub fn forward(&self, x: &Tensor, scope: &Scope) -> layers::Result<Tensor> {
        let (pooled, last) = (scope.site(Site::Pooled), scope.site(Site::HeadOut));
        let map = |linear: &Linear, x: &Tensor, scope: &Scope| {
            Ok(project(x, &[linear.projection()], SavePolicy::Exact, scope)?.remove(0))
        };
        let mut x = x.shallow_clone();
        if let Some(dense) = &self.dense {
            x = dropout(&x, self.config.dropout_before, &pooled.at(1))?;
            x = activate(
                Activation::Tanh,
                &map(dense, &x, &pooled)?,
                &SavePolicy::Exact,
                scope.site(Site::HeadGate),
            )?;
        }
        x = dropout(&x, self.config.dropout, &last.at(1))?;
        match &self.out {
            Some(out) => map(out, &x, &last),
            None => Ok(x),
        }
    }
}
