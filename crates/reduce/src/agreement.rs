//! The ranks agree before gradients move: what one rank alone would find wrong, all hear of, and none waits for the others.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use collective::{ProcessGroup, Reduce};
use tch::Tensor;

use crate::parameter::Parameter;
use crate::{Config, Error, Result};

/// How many of a rank's faults are told.
const FAULTS_TOLD: usize = 4;

/// Compares parameters and configuration over the ranks; `local` is what this rank found alone.
pub(crate) fn agree_on_parameters(group: &dyn ProcessGroup, local: Result<Vec<Parameter>>, config: &Config) -> Result<Vec<Parameter>> {
    let fault = local.as_ref().err().map(Error::to_string);
    let digest = digest(local.as_deref().unwrap_or_default(), config);
    let message = [&digest[0].to_le_bytes()[..], &digest[1].to_le_bytes(), fault.unwrap_or_default().as_bytes()].concat();
    let messages = group.all_gather_bytes(&message)?;
    let parameters = local?;

    let name = |rank: usize| format!("rank {rank} (host {})", group.host(rank));
    let faults: Vec<String> = messages
        .iter()
        .enumerate()
        .filter(|(_, message)| message.len() > 16)
        .map(|(rank, message)| format!("{}: {}", name(rank), String::from_utf8_lossy(&message[16..])))
        .collect();
    if !faults.is_empty() {
        return Err(Error::Setup { ranks: faults.join("; ") });
    }
    for (bytes, what) in [(0..8, "a list of parameters"), (8..16, "a configuration")] {
        if let Some(rank) = messages.iter().position(|other| other[bytes.clone()] != messages[0][bytes.clone()]) {
            return Err(Error::Setup { ranks: format!("{} has {what} that differs from that of {}", name(rank), name(0)) });
        }
    }
    Ok(parameters)
}

/// Fingerprints of the parameters and of the configuration: equal in one program for equal ones.
fn digest(parameters: &[Parameter], config: &Config) -> [u64; 2] {
    let mut of_parameters = DefaultHasher::new();
    for parameter in parameters {
        (&parameter.name, &parameter.shape, parameter.kind as i64).hash(&mut of_parameters);
    }
    let mut of_config = DefaultHasher::new();
    format!("{config:?}").hash(&mut of_config);
    [of_parameters.finish(), of_config.finish()]
}

/// The gradients of all parameters, once every rank has them, at the same step.
pub(crate) fn agree_on_gradients(group: &dyn ProcessGroup, parameters: &[Parameter], step: u64) -> Result<Vec<Tensor>> {
    let gradients: Vec<Result<Tensor, &str>> = parameters.iter().map(Parameter::gradient).collect();
    let is_ready = gradients.iter().all(Result::is_ok);
    let mut smallest = Tensor::from_slice(&[i64::from(is_ready), step as i64, -(step as i64)]);
    group.all_reduce(&mut smallest, Reduce::Min)?;

    let (first, last) = (smallest.int64_value(&[1]) as u64, -smallest.int64_value(&[2]) as u64);
    if first != last {
        return Err(Error::Step { step, first, last });
    }
    if smallest.int64_value(&[0]) == 1 {
        return Ok(gradients.into_iter().flatten().collect());
    }

    let faults: Vec<String> = parameters
        .iter()
        .zip(&gradients)
        .filter_map(|(parameter, gradient)| gradient.as_ref().err().map(|fault| format!("`{}` {fault}", parameter.name)))
        .collect();
    let more = if faults.len() > FAULTS_TOLD { format!(", and {} more like these", faults.len() - FAULTS_TOLD) } else { String::new() };
    let own = format!("{}{more}", faults[..faults.len().min(FAULTS_TOLD)].join(", "));
    let all = group.all_gather_bytes(own.as_bytes())?;
    let ranks: Vec<String> = all
        .iter()
        .enumerate()
        .filter(|(_, faults)| !faults.is_empty())
        .map(|(rank, faults)| format!("rank {rank} (host {}): {}", group.host(rank), String::from_utf8_lossy(faults)))
        .collect();
    Err(Error::Gradient { step, ranks: ranks.join("; ") })
}
