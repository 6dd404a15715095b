//! What a rank writes into a checkpoint, and what is read from the files of all ranks.

use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use models::TensorFile;

use crate::manifest::Manifest;
use crate::{Error, Result};

/// Something whose state a checkpoint holds.
pub trait Checkpointable {
    /// Copies of this rank's tensors, on the CPU, by name. Tensors that all ranks have alike need
    /// to be in one shard only.
    ///
    /// # Errors
    /// Those of copying; see [`Error::state`].
    fn state(&self) -> Result<Vec<(String, Tensor)>>;

    /// Restores the state from the shards of all ranks that wrote it, which may be more or fewer
    /// than there are now.
    ///
    /// # Errors
    /// A tensor that is missing, or does not fit.
    fn load_state(&mut self, shards: &Shards) -> Result<()>;
}

/// The file of a rank.
pub(crate) fn file_name(rank: usize) -> String {
    format!("rank-{rank:04}.safetensors")
}

/// The files of all ranks that wrote a checkpoint.
#[derive(Debug)]
pub struct Shards {
    folder: PathBuf,
    step: u64,
    files: Vec<TensorFile>,
}

impl Shards {
    /// Opens the files that `manifest` counts.
    pub(crate) fn open(folder: &Path, manifest: &Manifest) -> Result<Self> {
        let files = (0..manifest.ranks)
            .map(|rank| TensorFile::open(&folder.join(file_name(rank))))
            .collect::<models::Result<_>>()?;
        Ok(Self { folder: folder.to_owned(), step: manifest.step, files })
    }

    /// The folder of the checkpoint.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Ranks that wrote the checkpoint.
    pub fn world_size(&self) -> usize {
        self.files.len()
    }

    /// The names of the tensors of rank `rank`.
    pub fn names(&self, rank: usize) -> Vec<String> {
        self.files[rank].names()
    }

    /// The tensor `name` of rank `rank`, on the CPU.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn tensor(&self, name: &str, rank: usize) -> Result<Tensor> {
        Ok(self.files[rank].tensor(name)?)
    }

    /// The tensors of rank `rank` whose name starts with `prefix`, by the rest of their name.
    ///
    /// # Errors
    /// Those of reading.
    pub fn with_prefix(&self, prefix: &str, rank: usize) -> Result<Vec<(String, Tensor)>> {
        let names = self
            .names(rank)
            .into_iter()
            .filter_map(|name| Some((name.strip_prefix(prefix)?.to_owned(), name)));
        names.map(|(short, name)| Ok((short, self.tensor(&name, rank)?))).collect()
    }

    /// The sum over all ranks of the tensor `name`, divided by their number.
    ///
    /// # Errors
    /// A rank does not have it, or it cannot be read.
    pub fn mean(&self, name: &str) -> Result<Tensor> {
        let mut sum = self.tensor(name, 0)?;
        for rank in 1..self.world_size() {
            let _ = sum.f_add_(&self.tensor(name, rank)?)?;
        }
        let _ = sum.f_div_scalar_(self.world_size() as f64)?;
        Ok(sum)
    }

    /// Copies the tensor `name` of rank `rank` into `target`, which keeps its device.
    ///
    /// # Errors
    /// It is not there, or has another shape or dtype.
    pub fn fill(&self, target: &Tensor, name: &str, rank: usize) -> Result<()> {
        let source = self.tensor(name, rank)?;
        if source.size() != target.size() || source.kind() != target.kind() {
            return Err(Error::Mismatch {
                path: self.files[rank].path().to_owned(),
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
}

/// A copy of `tensor` on the CPU.
///
/// # Errors
/// Those of libtorch.
pub fn cpu_copy(tensor: &Tensor) -> Result<Tensor> {
    let mut copy = Tensor::f_empty(tensor.size(), (tensor.kind(), Device::Cpu))?;
    copy.f_copy_(&tensor.f_detach()?)?;
    Ok(copy)
}

#[cfg(test)]
pub(crate) mod tests {
    use tch::Kind;

    use super::*;

    /// The shards that ranks with these tensors have written into `folder`.
    pub(crate) fn shards(folder: &Path, states: &[Vec<(String, Tensor)>]) -> Shards {
        for (rank, state) in states.iter().enumerate() {
            models::tensor_file::write(&folder.join(file_name(rank)), state, &[]).unwrap();
        }
        Shards::open(
            folder,
            &Manifest::new(
                1,
                states.len(),
                crate::compat::CompatKeys::default(),
                crate::InputFingerprints::default(),
            ),
        )
        .unwrap()
    }

    #[test]
    fn a_mean_is_over_all_ranks_and_names_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let full = |value: f64| Tensor::full([2, 3], value, (Kind::Float, Device::Cpu));
        let state = |value: &f64| vec![("powersgd.error.a".to_owned(), full(*value))];
        let shards = shards(folder.path(), &[1.0, 2.0, 6.0].each_ref().map(state));
        assert_eq!(shards.mean("powersgd.error.a").unwrap(), full(3.0));
        let missing = shards.mean("powersgd.error.b").unwrap_err().to_string();
        assert!(missing.contains("powersgd.error.b"), "{missing}");
    }

    #[test]
    fn a_tensor_of_another_shape_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let shards = shards(
            folder.path(),
            &[vec![("a".to_owned(), Tensor::zeros([2], (Kind::Float, Device::Cpu)))]],
        );
        let error = shards
            .fill(&Tensor::zeros([3], (Kind::Float, Device::Cpu)), "a", 0)
            .unwrap_err()
            .to_string();
        assert!(error.contains("holds a as Float [2], and this run has Float [3]"), "{error}");
    }
}
