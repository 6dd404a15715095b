//! Compares what all ranks must have in common, by hashes: the configuration, and the parameters
//! after a step.
//!
//! Gradients are summed to the same bits on every rank, and every rank steps by the same rule, so
//! that parameters stay equal to the last bit. If they do not, memory is faulty, a model file
//! differs, or hosts round differently; and each step makes it worse.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use autograd::Parameter;
use collective::ProcessGroup;

use crate::{Error, Result};

/// Keys that say how one rank computes, and may differ between ranks.
const OWN_KEYS: [&str; 3] = ["run.device", "run.threads", "run.micro_batch_size"];

/// Elements hashed at a time: 8 MiB of their bits, as integers.
const CHUNK: i64 = 1 << 20;

/// How many differences a message names.
const NAMED: usize = 3;

/// Refuses to start unless every rank has the same configuration, given as `table.key` with values.
/// All ranks call it.
///
/// # Errors
/// On every rank, with the rank that differs, its keys and their values.
pub(crate) fn compare_configurations(
    mut keys: BTreeMap<String, String>,
    group: &dyn ProcessGroup,
) -> Result<()> {
    keys.retain(|key, _| !OWN_KEYS.contains(&key.as_str()));
    let Some(all) = gathered_if_different(group, &keys)? else { return Ok(()) };
    let Some(odd) = OddOneOut::among(&all) else { return Ok(()) };
    let (own, common) = (&all[odd.rank], &all[odd.reference]);
    let names: BTreeSet<&String> =
        own.keys().chain(common.keys()).filter(|key| own.get(*key) != common.get(*key)).collect();
    let value = |keys: &BTreeMap<String, String>, key: &str| {
        keys.get(key).map_or("absent", String::as_str).to_owned()
    };
    let differences = names
        .iter()
        .map(|key| format!("{key} is {}, there {}", value(own, key), value(common, key)));
    Err(Error::Input(format!(
        "{}: {}; give all ranks the same configuration",
        odd.sentence(group, "is not configured like"),
        few(differences)
    )))
}

/// Compares parameters after `step` steps, bit by bit. All ranks call it, with the same parameters
/// in the same order.
///
/// # Errors
/// On every rank, with the rank that differs and the first parameters that do.
pub(crate) fn compare_parameters(
    group: &dyn ProcessGroup,
    step: u64,
    parameters: &[&Parameter],
) -> Result<()> {
    compare_tensors(
        group,
        step,
        "parameters",
        parameters.iter().map(|parameter| (parameter.name().to_owned(), parameter.tensor())),
    )
}

/// The same of tensors that are called `what`, each with its name.
pub(crate) fn compare_tensors<'a>(
    group: &dyn ProcessGroup,
    step: u64,
    what: &str,
    tensors: impl IntoIterator<Item = (String, &'a Tensor)>,
) -> Result<()> {
    if group.world_size() == 1 {
        return Ok(());
    }
    let hashes = tensors.into_iter().map(|(name, tensor)| Ok((name, hash(tensor)?)));
    let own: (u64, Vec<(String, u64)>) = (step, hashes.collect::<Result<_>>()?);
    let Some(all) = gathered_if_different(group, &own)? else { return Ok(()) };
    let Some(odd) = OddOneOut::among(&all) else { return Ok(()) };
    let ((own_step, own), (common_step, common)) = (&all[odd.rank], &all[odd.reference]);
    let differences: Vec<&String> = own
        .iter()
        .zip(common)
        .filter(|(own, common)| own != common)
        .map(|((name, _), _)| name)
        .collect();
    let difference = if own_step != common_step {
        format!("it is at step {own_step}, there it is step {common_step}")
    } else if own.len() != common.len() {
        format!("it has {} {what}, there are {}", own.len(), common.len())
    } else {
        let (count, names) = (differences.len(), few(differences.into_iter().cloned()));
        format!("{count} of {} {what}, {names}", own.len())
    };
    let odd = odd.sentence(group, &format!("has diverged after step {step} from"));
    Err(Error::Diverged(format!(
        "{odd}: {difference}; resume from a checkpoint before it, and if it happens again, test that host's memory and compare \
         model files and processors"
    )))
}

/// A hash of a tensor's bits: to change one element, or any two, changes it. `[...]` of any dtype.
fn hash(tensor: &Tensor) -> Result<u64> {
    let _no_grad = tch::no_grad_guard();
    let flat = tensor.detach().f_contiguous()?.f_view([-1])?;
    let bits = match flat.kind() {
        Kind::Float => flat.f_view_dtype(Kind::Int)?,
        Kind::Half | Kind::BFloat16 => flat.f_view_dtype(Kind::Int16)?,
        Kind::Double => flat.f_view_dtype(Kind::Int64)?,
        _ => flat,
    };
    let elements = bits.size1()?;
    // Odd, so that no bit is lost; and distinct, so that order counts.
    let weights = Tensor::f_arange(elements.min(CHUNK), (Kind::Int64, bits.device()))?
        .f_mul_scalar(2)?
        .f_add_scalar(1)?;
    let mut sums = Vec::new();
    for start in (0..elements).step_by(CHUNK as usize) {
        let length = CHUNK.min(elements - start);
        let chunk = bits.f_narrow(0, start, length)?.f_to_kind(Kind::Int64)?;
        sums.push(chunk.f_sum(Kind::Int64)?);
        sums.push(chunk.f_mul(&weights.f_narrow(0, 0, length)?)?.f_sum(Kind::Int64)?);
    }
    if sums.is_empty() {
        return Ok(0);
    }
    // One copy from a GPU for all.
    let sums = Vec::<i64>::try_from(Tensor::f_stack(&sums, 0)?.f_to_device(Device::Cpu)?)?;
    // A step of FNV-1a for each sum, which is invertible in it.
    Ok(sums.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, sum| {
        (hash ^ sum as u64).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

/// What each rank has, in order; `None` if all have the same, for which 32 bytes of each rank are
/// exchanged.
fn gathered_if_different<T: Serialize + DeserializeOwned>(
    group: &dyn ProcessGroup,
    own: &T,
) -> Result<Option<Vec<T>>> {
    let unusable = |cause: serde_json::Error| {
        Error::Diverged(format!("a fingerprint cannot be read: {cause}"))
    };
    let text = serde_json::to_vec(own).map_err(unusable)?;
    let digests = group.all_gather_bytes(&Sha256::digest(&text))?;
    if digests.iter().all(|digest| *digest == digests[0]) {
        return Ok(None);
    }
    let all = group.all_gather_bytes(&text)?;
    all.iter()
        .map(|text| serde_json::from_slice(text).map_err(unusable))
        .collect::<Result<_>>()
        .map(Some)
}

/// The first rank that differs from most.
#[derive(Debug, PartialEq)]
struct OddOneOut {
    rank: usize,
    /// The first rank of the majority. Of two halves it is the one with rank 0.
    reference: usize,
    /// The size of the majority.
    alike: usize,
    /// Other ranks that differ from it.
    more: Vec<usize>,
}

impl OddOneOut {
    fn among<T: PartialEq>(all: &[T]) -> Option<OddOneOut> {
        let alike = |rank: usize| all.iter().filter(|other| **other == all[rank]).count();
        let reference = (0..all.len()).rev().max_by_key(|&rank| alike(rank))?;
        let mut odd = (0..all.len()).filter(|&rank| all[rank] != all[reference]);
        Some(OddOneOut {
            rank: odd.next()?,
            reference,
            alike: alike(reference),
            more: odd.collect(),
        })
    }

    /// `rank 3 (host b) VERB the other 7 ranks`.
    fn sentence(&self, group: &dyn ProcessGroup, verb: &str) -> String {
        let name = |rank: usize| format!("rank {rank} (host {})", group.host(rank));
        let others = match self.alike {
            1 => name(self.reference),
            alike => format!("{alike} others"),
        };
        let more = match self.more.as_slice() {
            [] => String::new(),
            more => format!(" (differing, too: {})", few(more.iter().map(|&rank| name(rank)))),
        };
        format!("{} {verb} {others}{more}", name(self.rank))
    }
}

/// The first few items, and the number of the others.
fn few(mut things: impl Iterator<Item = String>) -> String {
    let named = things.by_ref().take(NAMED).collect::<Vec<_>>().join(", ");
    match things.count() {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_bit_and_any_exchange_changes_the_hash() {
        for kind in
            [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half, Kind::Int64, Kind::Uint8]
        {
            let tensor = Tensor::arange(60, (kind, Device::Cpu)).view([3, 4, 5]);
            let before = hash(&tensor).unwrap();
            assert_eq!(hash(&tensor.copy()).unwrap(), before);
            assert_eq!(
                hash(&tensor.transpose(0, 2).contiguous().transpose(0, 2)).unwrap(),
                before,
                "strides do not count"
            );
            for index in [0, 31, 59] {
                let changed = tensor.copy();
                let _ = changed.view([-1]).narrow(0, index, 1).f_add_scalar_(1).unwrap();
                assert_ne!(hash(&changed).unwrap(), before, "{kind:?} {index}");
            }
            assert_ne!(hash(&tensor.flip([0])).unwrap(), before, "order counts");
        }
    }

    #[test]
    fn signs_of_zero_and_chunks_count() {
        let zeros = Tensor::zeros([CHUNK + 3], (Kind::Float, Device::Cpu));
        let before = hash(&zeros).unwrap();
        for index in [0, CHUNK - 1, CHUNK, CHUNK + 2] {
            let changed = zeros.copy();
            let _ = changed.narrow(0, index, 1).f_fill_(-0.0).unwrap();
            assert_ne!(hash(&changed).unwrap(), before, "{index}");
        }
        assert_eq!(hash(&Tensor::zeros([0, 4], (Kind::Float, Device::Cpu))).unwrap(), 0);
    }

    #[test]
    fn the_odd_one_out_is_not_like_most() {
        assert_eq!(OddOneOut::among(&[7, 7, 7]), None);
        let odd = |rank, reference, alike, more: &[usize]| {
            Some(OddOneOut { rank, reference, alike, more: more.to_vec() })
        };
        assert_eq!(OddOneOut::among(&[7, 8]), odd(1, 0, 1, &[]));
        assert_eq!(OddOneOut::among(&[8, 7, 7]), odd(0, 1, 2, &[]));
        assert_eq!(OddOneOut::among(&[7, 8, 7, 9]), odd(1, 0, 2, &[3]));
        assert_eq!(
            OddOneOut::among(&[8, 8, 7, 7]),
            odd(2, 0, 2, &[3]),
            "of two halves, that of rank 0 counts"
        );
    }

    #[test]
    fn of_many_differences_a_few_are_named() {
        let things = |count: usize| few((0..count).map(|index| index.to_string()));
        assert_eq!(
            (things(1), things(3), things(9)),
            ("0".to_owned(), "0, 1, 2".to_owned(), "0, 1, 2 and 6 more".to_owned())
        );
    }
}
