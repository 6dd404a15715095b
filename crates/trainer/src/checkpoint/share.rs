//! What a rank writes into a checkpoint, and what it takes up from one.
//!
//! Parameters are the same on all ranks, so each rank writes every `ranks`-th of them, as `parameter.NAME`; and so it is with what the optimiser
//! remembers of them ([`states`](super::states)), unless the ranks share that out. What is its own it writes whole: PowerSGD's state as
//! `powersgd.…` ([`GradientReducer::state`]), and what the sites of its activations remember as `activation.…` ([`layers::Sites::state`]).

use super::manifest::Manifest;
use super::states::{self, Stored};
use crate::step::Stepper;
use crate::{Error, Result};
use models::{Model, TensorFile};
use std::path::Path;
use tch::{Device, Tensor};

const PARAMETER: &str = "parameter.";
const POWERSGD: &str = "powersgd.";
/// Within PowerSGD's state: what compression has dropped so far, which differs from rank to rank.
const ERROR: &str = "error.";
const ACTIVATION: &str = "activation.";
/// Within what sites remember: a basis that is the same on all ranks.
const SHARED: &str = ".shared";

/// The file of a rank.
pub(super) fn file_name(rank: usize) -> String {
    format!("rank-{rank:04}.safetensors")
}

/// Copies of this rank's share, on the CPU.
pub(super) fn copy(stepper: &Stepper<'_>) -> Result<Vec<(String, Tensor)>> {
    let (rank, ranks) = (stepper.group.rank(), stepper.group.world_size());
    let copy = |tensor: &Tensor| -> Result<Tensor> {
        let mut copy = Tensor::f_empty(tensor.size(), (tensor.kind(), Device::Cpu))?;
        copy.f_copy_(&tensor.f_detach()?)?;
        Ok(copy)
    };
    let mut share = Vec::new();
    let trained = stepper.learner.model().trained();
    for parameter in trained.iter().skip(rank).step_by(ranks) {
        share.push((format!("{PARAMETER}{}", parameter.name()), copy(parameter.tensor())?));
    }
    for state in stepper.optimizer.states().filter(|state| stepper.optimizer.is_split() || state.parameter % ranks == rank) {
        let parameter = trained[state.parameter];
        for (kind, tensor) in &state.tensors {
            share.push((states::name(kind, parameter.name(), &state.elements, parameter.numel()), copy(tensor)?));
        }
    }
    for (name, tensor) in stepper.reducer.state() {
        share.push((format!("{POWERSGD}{name}"), copy(&tensor)?));
    }
    share.extend(stepper.sites.state()?.into_iter().map(|(name, tensor)| (format!("{ACTIVATION}{name}"), tensor)));
    Ok(share)
}

/// Takes up the state in `folder`, which `manifest` describes.
///
/// On as many ranks as wrote it, the run goes on as if it had not been stopped. On another number, parameters and optimiser are the same; each
/// rank takes the mean of PowerSGD's error memories, so that the ranks' mean is what it was; and what sites remember begins anew, but for bases that all
/// ranks share.
pub(super) fn load(stepper: &mut Stepper<'_>, folder: &Path, manifest: &Manifest) -> Result<()> {
    let _mode = autograd::GradMode::disabled();
    let files = open(folder, manifest)?;
    fill_parameters(stepper.learner.model(), &files)?;
    let (trained, stored) = (stepper.learner.model().trained(), Stored::of(folder, &files));
    for state in stepper.optimizer.states() {
        let parameter = trained[state.parameter];
        stored.fill(&state, parameter.name(), parameter.numel())?;
    }
    stepper.optimizer.set_steps(manifest.step);
    let (rank, ranks) = (stepper.group.rank(), stepper.group.world_size());
    if manifest.ranks == ranks {
        stepper.reducer.load_state(&named(&files[rank], POWERSGD)?)?;
        stepper.sites.load_state(named(&files[rank], ACTIVATION)?, stepper.learner.model().device())?;
    } else {
        tracing::info!(
            "{} ranks wrote it, and {ranks} go on: the order of samples stays, each rank takes the mean of the ranks' gradient errors, and \
             what sites remember of activations begins anew but for bases that all ranks share",
            manifest.ranks
        );
        load_mean(stepper, &files)?;
        // Bases that all ranks share stay.
        let shared = named(&files[0], ACTIVATION)?.into_iter().filter(|(name, _)| name.ends_with(SHARED)).collect();
        stepper.sites.load_state(shared, stepper.learner.model().device())?;
    }
    Ok(())
}

/// Takes up the trained parameters in `folder`, which `manifest` describes, and nothing else.
pub(crate) fn load_parameters(model: &dyn Model, folder: &Path, manifest: &Manifest) -> Result<()> {
    let _mode = autograd::GradMode::disabled();
    fill_parameters(model, &open(folder, manifest)?)
}

/// The files of all ranks that wrote a checkpoint.
fn open(folder: &Path, manifest: &Manifest) -> Result<Vec<TensorFile>> {
    Ok((0..manifest.ranks).map(|rank| TensorFile::open(&folder.join(file_name(rank)))).collect::<models::Result<_>>()?)
}

fn fill_parameters(model: &dyn Model, files: &[TensorFile]) -> Result<()> {
    for (index, parameter) in model.trained().iter().enumerate() {
        fill(parameter.tensor(), &files[index % files.len()], &format!("{PARAMETER}{}", parameter.name()))?;
    }
    Ok(())
}

/// PowerSGD's state of other ranks: of the error memories their mean, of all else that of the first, which is the same on all.
fn load_mean(stepper: &mut Stepper<'_>, files: &[TensorFile]) -> Result<()> {
    let expected = stepper.reducer.state();
    let written = files[0].names().iter().filter(|name| name.starts_with(POWERSGD)).count();
    if expected.is_empty() || written == 0 {
        // One rank compresses nothing, and makes no error.
        if written > 0 {
            tracing::warn!("the gradient errors that the ranks remembered are dropped: this run has nothing to compress");
        }
        return Ok(());
    }
    let names: Vec<String> = expected.into_iter().map(|(name, _)| name).collect();
    Ok(stepper.reducer.load_state(&combined(&names, files)?)?)
}

/// PowerSGD's state `names` for each of any number of ranks, from that of the ranks that wrote `files`.
fn combined(names: &[String], files: &[TensorFile]) -> Result<Vec<(String, Tensor)>> {
    let mut state = Vec::with_capacity(names.len());
    for name in names {
        let stored = format!("{POWERSGD}{name}");
        let mut tensor = files[0].tensor(&stored)?;
        if name.starts_with(ERROR) {
            for file in &files[1..] {
                let _ = tensor.f_add_(&file.tensor(&stored)?)?;
            }
            let _ = tensor.f_div_scalar_(files.len() as f64)?;
        }
        state.push((name.clone(), tensor));
    }
    Ok(state)
}

/// All tensors whose name begins with `prefix`, without it.
fn named(file: &TensorFile, prefix: &str) -> Result<Vec<(String, Tensor)>> {
    let names = file.names().into_iter().filter_map(|name| Some((name.strip_prefix(prefix)?.to_owned(), name)));
    names.map(|(short, name)| Ok((short, file.tensor(&name)?))).collect()
}

/// The tensor `name` of `file` into `target`, which keeps its device.
fn fill(target: &Tensor, file: &TensorFile, name: &str) -> Result<()> {
    let source = file.tensor(name)?;
    if source.size() != target.size() || source.kind() != target.kind() {
        return Err(Error::Checkpoint {
            path: file.path().to_owned(),
            problem: format!(
                "holds {name} as {:?} {:?}, and this run has {:?} {:?}; it is of another model",
                source.kind(),
                source.size(),
                target.kind(),
                target.size()
            ),
        });
    }
    Ok(target.shallow_clone().f_copy_(&source)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::Kind;

    #[test]
    fn errors_are_shared_out_and_all_else_is_the_same_on_all_ranks() {
        let folder = tempfile::tempdir().unwrap();
        let full = |value: f64| Tensor::full([2, 3], value, (Kind::Float, Device::Cpu));
        let files: Vec<TensorFile> = [1.0, 2.0, 6.0]
            .iter()
            .enumerate()
            .map(|(rank, error)| {
                let path = folder.path().join(file_name(rank));
                let state = [("powersgd.error.a".to_owned(), full(*error)), ("powersgd.query.a".to_owned(), full(5.0))];
                models::tensor_file::write(&path, &state, &[]).unwrap();
                TensorFile::open(&path).unwrap()
            })
            .collect();
        let state = combined(&["error.a".to_owned(), "query.a".to_owned()], &files).unwrap();
        // However many take it up, their mean is that of the three.
        assert_eq!(state, [("error.a".to_owned(), full(3.0)), ("query.a".to_owned(), full(5.0))]);
        let missing = combined(&["error.b".to_owned()], &files).unwrap_err().to_string();
        assert!(missing.contains("powersgd.error.b"), "{missing}");
    }
}
