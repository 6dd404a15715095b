//! What the optimiser remembers, as files hold it: by state and parameter, and where ranks share it out, by the elements that are a rank's own.
//! However many ranks wrote it, any number can take it up.

use crate::optimizer::{BLOCK, OptimizerState};
use crate::{Error, Result};
use models::TensorFile;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use tch::Tensor;

const OPTIMIZER: &str = "optimizer.";

/// The name of a state of some of the `numel` elements of a parameter: `optimizer.exp_avg.NAME`, `optimizer.exp_avg.NAME[0..100]`.
pub(super) fn name(state: &str, parameter: &str, elements: &Range<i64>, numel: usize) -> String {
    let whole = format!("{OPTIMIZER}{state}.{parameter}");
    if *elements == (0..numel as i64) { whole } else { format!("{whole}[{}..{}]", elements.start, elements.end) }
}

/// The states in a checkpoint's files.
pub(super) struct Stored<'a> {
    folder: &'a Path,
    files: &'a [TensorFile],
    /// By the name without elements.
    places: BTreeMap<String, Vec<Place>>,
}

/// Which elements, absent where all, in which file.
type Place = (Option<Range<i64>>, usize);

impl<'a> Stored<'a> {
    pub fn of(folder: &'a Path, files: &'a [TensorFile]) -> Self {
        let mut places: BTreeMap<String, Vec<Place>> = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for name in file.names().iter().filter(|name| name.starts_with(OPTIMIZER)) {
                let (whole, elements) = parse(name);
                places.entry(whole.to_owned()).or_default().push((elements, number));
            }
        }
        Self { folder, files, places }
    }

    /// Fills what is remembered of a parameter of `numel` elements.
    pub fn fill(&self, state: &OptimizerState<'_>, parameter: &str, numel: usize) -> Result<()> {
        for (kind, target) in &state.tensors {
            let refuse = |problem: String| Err(Error::Checkpoint { path: self.folder.to_owned(), problem });
            let whole = name(kind, parameter, &(0..numel as i64), numel);
            // A scale stands for a block of elements.
            let unit = if kind.ends_with("_scale") { BLOCK } else { 1 };
            let mut found = 0;
            for (elements, file) in self.places.get(&whole).into_iter().flatten() {
                let elements = elements.clone().unwrap_or(0..numel as i64);
                let common = elements.start.max(state.elements.start)..elements.end.min(state.elements.end);
                if common.is_empty() && !elements.is_empty() {
                    continue;
                }
                let source = self.files[*file].tensor(&name(kind, parameter, &elements, numel))?;
                if source.kind() != target.kind() {
                    return refuse(format!("holds {whole} as {:?}, and this run has {:?}", source.kind(), target.kind()));
                }
                let length = common.end - common.start;
                let part =
                    |of: &Tensor, start: i64| of.f_view([-1])?.f_narrow(0, (common.start - start) / unit, (length + unit - 1) / unit);
                part(target, state.elements.start)?.f_copy_(&part(&source, elements.start)?)?;
                found += length;
            }
            if found != state.elements.end - state.elements.start {
                let (start, end) = (state.elements.start, state.elements.end);
                return refuse(format!("holds {whole} for {found} of the elements {start} to {end}; it is of another optimiser or model"));
            }
        }
        Ok(())
    }
}

/// A name without its elements, and those.
fn parse(name: &str) -> (&str, Option<Range<i64>>) {
    let parts = || {
        let (whole, elements) = name.strip_suffix(']')?.rsplit_once('[')?;
        let (start, end) = elements.split_once("..")?;
        Some((whole, start.parse().ok()?..end.parse().ok()?))
    };
    parts().map_or((name, None), |(whole, elements)| (whole, Some(elements)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::{Device, Kind};

    /// Writes a state of ten elements, and scales for each 256 of a thousand, cut at `cuts`, one file for each part.
    fn write(folder: &Path, numel: i64, state: &str, cuts: &[i64], unit: i64) -> Vec<TensorFile> {
        let all = Tensor::arange((numel + unit - 1) / unit, (Kind::Float, Device::Cpu));
        cuts.windows(2)
            .enumerate()
            .map(|(number, cut)| {
                let path = folder.join(format!("{number}-{}", cuts.len()));
                let part = all.narrow(0, cut[0] / unit, (cut[1] - cut[0] + unit - 1) / unit);
                models::tensor_file::write(&path, &[(name(state, "w", &(cut[0]..cut[1]), numel as usize), part)], &[]).unwrap();
                TensorFile::open(&path).unwrap()
            })
            .collect()
    }

    #[test]
    fn any_cut_is_taken_up_by_any_other() {
        let folder = tempfile::tempdir().unwrap();
        for (state, numel, unit, cuts) in [
            ("exp_avg", 10, 1, [vec![0, 10], vec![0, 3, 10], vec![0, 5, 6, 10]]),
            ("exp_avg_scale", 1025, 256, [vec![0, 1025], vec![0, 512, 1025], vec![0, 256, 1024, 1025]]),
        ] {
            for written in &cuts {
                let files = write(folder.path(), numel, state, written, unit);
                let stored = Stored::of(folder.path(), &files);
                for taken in &cuts {
                    for elements in taken.windows(2).map(|cut| cut[0]..cut[1]) {
                        let blocks = (elements.end - elements.start + unit - 1) / unit;
                        let target = Tensor::full([blocks], -1.0, (Kind::Float, Device::Cpu));
                        let state = OptimizerState { parameter: 0, elements: elements.clone(), tensors: vec![(state, &target)] };
                        stored.fill(&state, "w", numel as usize).unwrap();
                        assert_eq!(
                            target,
                            Tensor::arange_start(elements.start / unit, elements.start / unit + blocks, (Kind::Float, Device::Cpu))
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = write(folder.path(), 10, "exp_avg", &[0, 3, 10], 1);
        files.pop();
        let target = Tensor::zeros([10], (Kind::Float, Device::Cpu));
        let state = OptimizerState { parameter: 0, elements: 0..10, tensors: vec![("exp_avg", &target)] };
        let error = Stored::of(folder.path(), &files).fill(&state, "w", 10).unwrap_err().to_string();
        assert!(error.contains("optimizer.exp_avg.w for 3 of the elements 0 to 10"), "{error}");
    }
}
