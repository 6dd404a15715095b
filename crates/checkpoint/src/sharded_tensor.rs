//! Tensors that ranks shard by ranges of elements, such as the states of an optimizer under ZeRO.
//! However many ranks wrote them, any number can load them.

use std::collections::BTreeMap;
use std::ops::Range;

use tch::Tensor;

use crate::shard::Shards;
use crate::{Error, Result};

/// A range of the elements of a sharded tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRange {
    /// The name of the whole tensor.
    pub name: String,
    /// The range, of the flat parameter that the tensor belongs to.
    pub elements: Range<i64>,
    /// Elements of that parameter.
    pub numel: i64,
    /// Elements of the parameter for each entry of the tensor: more than 1 for scales of blocks.
    pub elements_per_entry: i64,
}

impl TensorRange {
    /// The name under which a checkpoint holds it: `optimizer.exp_avg.NAME`, or
    /// `optimizer.exp_avg.NAME[0..100]` for a range.
    pub fn stored_name(&self) -> String {
        self.stored_as(&self.elements)
    }

    fn stored_as(&self, elements: &Range<i64>) -> String {
        let Range { start, end } = elements;
        if *elements == (0..self.numel) {
            self.name.clone()
        } else {
            format!("{}[{start}..{end}]", self.name)
        }
    }

    /// The entries of `common` in a tensor that starts at element `start`.
    fn entries(&self, tensor: &Tensor, start: i64, common: &Range<i64>) -> Result<Tensor> {
        let unit = self.elements_per_entry;
        let length = (common.end - common.start + unit - 1) / unit;
        Ok(tensor.f_view([-1])?.f_narrow(0, (common.start - start) / unit, length)?)
    }
}

/// The sharded tensors of a checkpoint.
#[derive(Debug)]
pub struct ShardedTensors<'a> {
    shards: &'a Shards,
    /// By the name of the whole tensor.
    stored: BTreeMap<String, Vec<StoredRange>>,
}

/// A range that a rank has written.
#[derive(Debug)]
struct StoredRange {
    /// `None`: the whole tensor.
    elements: Option<Range<i64>>,
    rank: usize,
}

impl<'a> ShardedTensors<'a> {
    /// Those whose name starts with `prefix`.
    pub fn new(shards: &'a Shards, prefix: &str) -> Self {
        let mut stored: BTreeMap<String, Vec<StoredRange>> = BTreeMap::new();
        for rank in 0..shards.world_size() {
            for name in shards.names(rank).iter().filter(|name| name.starts_with(prefix)) {
                let (whole, elements) = parse(name);
                stored.entry(whole.to_owned()).or_default().push(StoredRange { elements, rank });
            }
        }
        Self { shards, stored }
    }

    /// Fills `target` with the elements of `range`.
    ///
    /// # Errors
    /// Elements that no rank wrote, or that have another dtype.
    pub fn fill(&self, target: &Tensor, range: &TensorRange) -> Result<()> {
        let TensorRange { name, elements: wanted, numel, .. } = range;
        let mismatch = |problem: String| {
            Err(Error::Mismatch { path: self.shards.folder().to_owned(), problem })
        };
        let mut found = 0;
        for StoredRange { elements, rank } in self.stored.get(name).into_iter().flatten() {
            let elements = elements.clone().unwrap_or(0..*numel);
            let common = elements.start.max(wanted.start)..elements.end.min(wanted.end);
            if common.is_empty() && !elements.is_empty() {
                continue;
            }
            let source = self.shards.tensor(&range.stored_as(&elements), *rank)?;
            if source.kind() != target.kind() {
                return mismatch(format!(
                    "holds {name} as {:?}, and this run has {:?}",
                    source.kind(),
                    target.kind()
                ));
            }
            range.entries(target, wanted.start, &common)?.f_copy_(&range.entries(
                &source,
                elements.start,
                &common,
            )?)?;
            found += common.end - common.start;
        }
        if found != wanted.end - wanted.start {
            let Range { start, end } = wanted;
            return mismatch(format!(
                "holds {name} for {found} of the elements {start} to {end}; it is of another optimizer or model"
            ));
        }
        Ok(())
    }
}

/// A stored name without its range, and the range.
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
    use std::path::Path;

    use tch::{Device, Kind};

    use super::*;

    const NAME: &str = "optimizer.exp_avg.w";

    fn range(elements: Range<i64>, numel: i64, elements_per_entry: i64) -> TensorRange {
        TensorRange { name: NAME.to_owned(), elements, numel, elements_per_entry }
    }

    /// One entry for each `unit` of `numel` elements, split at `cuts`, one rank for each part.
    fn written(folder: &Path, numel: i64, unit: i64, cuts: &[i64]) -> Shards {
        let all = Tensor::arange((numel + unit - 1) / unit, (Kind::Float, Device::Cpu));
        let state = |cut: &[i64]| {
            let part = all.narrow(0, cut[0] / unit, (cut[1] - cut[0] + unit - 1) / unit);
            vec![(range(cut[0]..cut[1], numel, unit).stored_name(), part)]
        };
        crate::shard::tests::shards(folder, &cuts.windows(2).map(state).collect::<Vec<_>>())
    }

    #[test]
    fn any_partition_is_loaded_by_any_other() {
        for (numel, unit, cuts) in [
            (10, 1, [vec![0, 10], vec![0, 3, 10], vec![0, 5, 6, 10]]),
            (1025, 256, [vec![0, 1025], vec![0, 512, 1025], vec![0, 256, 1024, 1025]]),
        ] {
            for by in &cuts {
                let folder = tempfile::tempdir().unwrap();
                let shards = written(folder.path(), numel, unit, by);
                let stored = ShardedTensors::new(&shards, "optimizer.");
                for elements in
                    cuts.iter().flat_map(|cuts| cuts.windows(2)).map(|cut| cut[0]..cut[1])
                {
                    let (start, entries) =
                        (elements.start / unit, (elements.end - elements.start + unit - 1) / unit);
                    let target = Tensor::full([entries], -1.0, (Kind::Float, Device::Cpu));
                    stored.fill(&target, &range(elements, numel, unit)).unwrap();
                    assert_eq!(
                        target,
                        Tensor::arange_start(start, start + entries, (Kind::Float, Device::Cpu))
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let shards = written(folder.path(), 10, 1, &[0, 3]);
        let target = Tensor::zeros([10], (Kind::Float, Device::Cpu));
        let error = ShardedTensors::new(&shards, "optimizer.")
            .fill(&target, &range(0..10, 10, 1))
            .unwrap_err()
            .to_string();
        assert!(error.contains("optimizer.exp_avg.w for 3 of the elements 0 to 10"), "{error}");
    }
}
