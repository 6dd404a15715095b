//! The ranks agree before gradients move: what one rank alone would find wrong, all hear of, and
//! none waits for the others.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use tch::Tensor;

use collective::{ProcessGroup, Reduce};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::hints::ParamHints;
use crate::parameter::Parameter;

/// How many of a rank's faults are told.
const FAULTS_TOLD: usize = 4;

/// Compares parameters and configuration over the ranks; `local` is what this rank found alone.
pub(crate) fn agree_on_parameters(
    group: &dyn ProcessGroup,
    local: Result<Vec<Parameter>>,
    hints: &ParamHints,
    config: &Config,
) -> Result<Vec<Parameter>> {
    let digest = digest(local.as_deref().unwrap_or_default(), hints, config);
    agree(group, local, &[("parameters", digest[0]), ("settings", digest[1])])
}

/// Compares the names and shapes of bases over the ranks; `local` is what this rank found alone.
pub(crate) fn agree_on_bases(
    group: &dyn ProcessGroup,
    local: Result<()>,
    bases: &[(String, Tensor)],
) -> Result<()> {
    let mut digest = DefaultHasher::new();
    for (name, basis) in bases {
        (name, basis.size()).hash(&mut digest);
    }
    agree(group, local, &[("bases", digest.finish())])
}

/// What this rank found, if no rank found a fault, and these `digests` are the same on all.
fn agree<T>(group: &dyn ProcessGroup, local: Result<T>, digests: &[(&str, u64)]) -> Result<T> {
    let fault = local.as_ref().err().map(Error::to_string).unwrap_or_default();
    let bytes = 8 * digests.len();
    let mut message: Vec<u8> =
        digests.iter().flat_map(|(_, digest)| digest.to_le_bytes()).collect();
    message.extend(fault.as_bytes());
    let messages = group.all_gather_bytes(&message)?;
    let found = local?;

    let name = |rank: usize| format!("rank {rank} (host {})", group.host(rank));
    let faults: Vec<String> = messages
        .iter()
        .enumerate()
        .filter(|(_, message)| message.len() > bytes)
        .map(|(rank, message)| {
            format!("{}: {}", name(rank), String::from_utf8_lossy(&message[bytes..]))
        })
        .collect();
    if !faults.is_empty() {
        return Err(Error::Setup { ranks: faults.join("; ") });
    }
    for (index, (what, _)) in digests.iter().enumerate() {
        let digest = |rank: usize| &messages[rank][8 * index..8 * index + 8];
        if let Some(rank) = (0..messages.len()).find(|&rank| digest(rank) != digest(0)) {
            return Err(Error::Setup {
                ranks: format!("{} has {what} that differ from those of {}", name(rank), name(0)),
            });
        }
    }
    Ok(found)
}

/// Fingerprints of the parameters and of the configuration: equal in one program for equal ones.
fn digest(parameters: &[Parameter], hints: &ParamHints, config: &Config) -> [u64; 2] {
    let mut of_parameters = DefaultHasher::new();
    for parameter in parameters {
        (parameter.name(), &parameter.shape, parameter.kind as i64).hash(&mut of_parameters);
    }
    let mut of_config = DefaultHasher::new();
    (format!("{config:?}"), hints).hash(&mut of_config);
    [of_parameters.finish(), of_config.finish()]
}

/// Which parameters have a gradient on any rank, once every rank's gradients can be reduced, at the
/// same step. `used` says so of this rank.
pub(crate) fn agree_on_gradients(
    group: &dyn ProcessGroup,
    parameters: &[Parameter],
    used: &[bool],
    step: u64,
) -> Result<Vec<bool>> {
    let states: Vec<Result<bool, &str>> = parameters.iter().map(Parameter::has_gradient).collect();
    let is_ready = states.iter().all(Result::is_ok);
    let mut numbers = vec![i64::from(is_ready), step as i64, -(step as i64)];
    numbers.extend(used.iter().map(|&used| i64::from(!used)));
    let mut smallest = Tensor::f_from_slice(&numbers)?;
    group.all_reduce(&mut smallest, Reduce::Min)?;

    let smallest = Vec::<i64>::try_from(&smallest)?;
    let (first, last) = (smallest[1] as u64, -smallest[2] as u64);
    if first != last {
        return Err(Error::Step { step, first, last });
    }
    if smallest[0] == 1 {
        return Ok(smallest[AGREED..].iter().map(|&unused| unused == 0).collect());
    }

    let faults: Vec<String> = parameters
        .iter()
        .zip(&states)
        .filter_map(|(parameter, state)| {
            state.as_ref().err().map(|fault| format!("`{}` {fault}", parameter.name()))
        })
        .collect();
    let more = if faults.len() > FAULTS_TOLD {
        format!(", and {} more like these", faults.len() - FAULTS_TOLD)
    } else {
        String::new()
    };
    let own = format!("{}{more}", faults[..faults.len().min(FAULTS_TOLD)].join(", "));
    let all = group.all_gather_bytes(own.as_bytes())?;
    let ranks: Vec<String> = all
        .iter()
        .enumerate()
        .filter(|(_, faults)| !faults.is_empty())
        .map(|(rank, faults)| {
            format!("rank {rank} (host {}): {}", group.host(rank), String::from_utf8_lossy(faults))
        })
        .collect();
    Err(Error::Gradient { step, ranks: ranks.join("; ") })
}

/// Numbers that come before those of the parameters: whether all is well, the step, and the step
/// negated.
const AGREED: usize = 3;
