use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

/// A parameter, and what its gradients look like.
pub(crate) struct Parameter {
    pub(crate) shape: Vec<i64>,
    pub(crate) kind: Kind,
    pub(crate) device: Device,
    /// Shared with the gradient hooks, which may run on another thread.
    leaf: autograd::Parameter,
}

impl Parameter {
    /// Checks and takes over the caller's list.
    pub(crate) fn list(parameters: &[(String, Tensor)]) -> Result<Vec<Parameter>> {
        let mut list: Vec<Parameter> = Vec::with_capacity(parameters.len());
        for (name, tensor) in parameters {
            let refuse = |reason: String| Err(Error::Parameter { name: name.clone(), reason });
            if !tensor.defined() || tensor.is_sparse() {
                return refuse("it is undefined or sparse".into());
            }
            let kind = tensor.f_kind()?;
            if !matches!(kind, Kind::Float | Kind::BFloat16) {
                return refuse(format!("its dtype is {kind:?}"));
            }
            if !tensor.requires_grad() || !tensor.is_leaf() {
                return refuse("it is no leaf that requires a gradient".into());
            }
            if let Some(first) = list.first().filter(|first| first.device != tensor.device()) {
                return refuse(format!(
                    "it is on {:?}, but `{}` is on {:?}",
                    tensor.device(),
                    first.name(),
                    first.device
                ));
            }
            list.push(Parameter {
                shape: tensor.size(),
                kind,
                device: tensor.device(),
                leaf: autograd::Parameter::new(name.clone(), tensor.shallow_clone()),
            });
        }
        let mut names: Vec<&str> = list.iter().map(|parameter| parameter.name()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::Parameter {
                name: pair[0].to_owned(),
                reason: "there are two of that name".into(),
            }),
            None => Ok(list),
        }
    }

    pub(crate) fn numel(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    pub(crate) fn name(&self) -> &str {
        self.leaf.name()
    }

    pub(crate) fn tensor(&self) -> &Tensor {
        self.leaf.tensor()
    }

    /// Whether there is a gradient, or why it cannot be reduced.
    pub(crate) fn has_gradient(&self) -> Result<bool, &'static str> {
        let gradient = self.leaf.grad();
        if gradient.defined() { self.accepts(&gradient).map(|()| true) } else { Ok(false) }
    }

    /// Why `gradient` cannot be this parameter's, if it cannot.
    pub(crate) fn accepts(&self, gradient: &Tensor) -> Result<(), &'static str> {
        if gradient.is_sparse() {
            Err("has a sparse gradient")
        } else if gradient.size() != self.shape
            || gradient.f_kind().ok() != Some(self.kind)
            || gradient.device() != self.device
        {
            Err("has a gradient of another shape, dtype or device")
        } else {
            Ok(())
        }
    }
}

/// The device of all parameters.
pub(crate) fn device_of(parameters: &[Parameter]) -> Device {
    parameters.first().map_or(Device::Cpu, |parameter| parameter.device)
}
