//! Gradients as they are: copied into flat buckets, summed, divided, copied back.

use collective::{ProcessGroup, Reduce};
use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::parameter::Parameter;

/// One flat buffer for the gradients of several parameters, in this order.
pub(crate) struct Bucket {
    /// `[elements]`
    flat: Tensor,
    /// Each parameter's number, and its part of `flat` in its shape.
    slots: Vec<(usize, Tensor)>,
}

impl Bucket {
    /// A bucket of zeros for the parameters with these numbers.
    pub(crate) fn new(parameters: &[Parameter], members: &[usize], kind: Kind) -> Result<Bucket> {
        let elements: usize = members.iter().map(|&member| parameters[member].numel()).sum();
        let device = parameters.first().map_or(Device::Cpu, |parameter| parameter.device);
        let flat = Tensor::f_zeros([elements as i64], (kind, device))?;
        let mut start = 0;
        let mut slots = Vec::with_capacity(members.len());
        for &member in members {
            let length = parameters[member].numel() as i64;
            slots.push((member, flat.f_narrow(0, start, length)?.f_view(parameters[member].shape.as_slice())?));
            start += length;
        }
        Ok(Bucket { flat, slots })
    }

    /// The whole buffer, `[elements]`.
    pub(crate) fn flat(&mut self) -> &mut Tensor {
        &mut self.flat
    }

    /// Copies the gradients in.
    pub(crate) fn load(&mut self, gradients: &[Tensor]) -> Result<()> {
        Ok(self.slots.iter_mut().try_for_each(|(member, slot)| slot.f_copy_(&gradients[*member]))?)
    }

    /// Copies what is here out into the gradients.
    pub(crate) fn store(&self, gradients: &mut [Tensor]) -> Result<()> {
        Ok(self.slots.iter().try_for_each(|(member, slot)| gradients[*member].f_copy_(slot))?)
    }

    /// Replaces gradients by their mean; returns the bytes handed over.
    pub(crate) fn reduce(&mut self, group: &dyn ProcessGroup, gradients: &mut [Tensor]) -> Result<u64> {
        self.load(gradients)?;
        let bytes = all_reduce_mean(group, &mut self.flat)?;
        self.store(gradients)?;
        Ok(bytes)
    }
}

/// Replaces a flat buffer by its mean over the ranks; returns the bytes handed over.
pub(crate) fn all_reduce_mean(group: &dyn ProcessGroup, flat: &mut Tensor) -> Result<u64> {
    let bytes = all_reduce_sum(group, flat)?;
    let _ = flat.f_divide_scalar_(group.world_size() as f64)?;
    Ok(bytes)
}

/// Replaces a flat buffer by its sum over the ranks; returns the bytes handed over. All ranks skip an empty one.
pub(crate) fn all_reduce_sum(group: &dyn ProcessGroup, flat: &mut Tensor) -> Result<u64> {
    let bytes = flat.numel() * flat.kind().elt_size_in_bytes();
    if bytes > 0 {
        group.all_reduce(flat, Reduce::Sum)?;
    }
    Ok(bytes as u64)
}

/// All gradients, in buckets.
pub(crate) struct Exact {
    buckets: Vec<Bucket>,
}

impl Exact {
    /// Buckets of the given dtype on the wire.
    pub(crate) fn new(parameters: &[Parameter], wire: Kind, bucket_bytes: usize) -> Result<Exact> {
        let sizes: Vec<usize> = parameters.iter().map(|parameter| parameter.numel() * wire.elt_size_in_bytes()).collect();
        let plan = plan(&sizes, bucket_bytes);
        let buckets = plan.iter().map(|members| Bucket::new(parameters, members, wire)).collect::<Result<_>>()?;
        Ok(Exact { buckets })
    }

    pub(crate) fn reduce(&mut self, group: &dyn ProcessGroup, gradients: &mut [Tensor]) -> Result<u64> {
        self.buckets.iter_mut().map(|bucket| bucket.reduce(group, gradients)).sum()
    }
}

/// Which gradients share a bucket: from the last to the first, as backward completes them, so many that a bucket stays within
/// `bucket_bytes`, but at least one.
fn plan(sizes: &[usize], bucket_bytes: usize) -> Vec<Vec<usize>> {
    let mut buckets: Vec<Vec<usize>> = Vec::new();
    let mut filled = 0;
    for (member, &size) in sizes.iter().enumerate().rev() {
        match buckets.last_mut() {
            Some(bucket) if filled + size <= bucket_bytes => bucket.push(member),
            _ => {
                buckets.push(vec![member]);
                filled = 0;
            }
        }
        filled += size;
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_fill_from_the_last_gradient_and_take_large_ones_alone() {
        assert_eq!(plan(&[4, 4, 100, 3, 3, 3], 8), [vec![5, 4], vec![3], vec![2], vec![1, 0]]);
        assert_eq!(plan(&[4, 4], 8), [vec![1, 0]]);
        assert_eq!(plan(&[0, 8, 0], 8), [vec![2, 1, 0]]);
        assert!(plan(&[], 8).is_empty());
    }
}
