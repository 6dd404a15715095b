//! Gradients that travel together: one flat buffer, which where possible *is* the gradients, so
//! that nothing is copied or held twice.

use tch::{Kind, Tensor};

use crate::error::Result;
use crate::parameter::{Parameter, device_of};

/// One flat buffer for the gradients of several parameters, in this order.
pub(crate) struct Bucket {
    /// `[elements]`
    flat: Tensor,
    slots: Vec<Slot>,
}

struct Slot {
    /// The parameter's number.
    member: usize,
    /// Its part of `flat`, in its shape.
    view: Tensor,
}

impl Bucket {
    /// A bucket of zeros for the parameters with these numbers. Where they have its dtype their
    /// `.grad` becomes a part of it, and what they had so far is taken over.
    pub(crate) fn new(parameters: &[Parameter], members: Vec<usize>, kind: Kind) -> Result<Bucket> {
        let elements: usize = members.iter().map(|&member| parameters[member].numel()).sum();
        let device = device_of(parameters);
        let flat = Tensor::f_zeros([elements as i64], (kind, device))?;
        let mut start = 0;
        let mut slots = Vec::with_capacity(members.len());
        for member in members {
            let length = parameters[member].numel() as i64;
            let view =
                flat.f_narrow(0, start, length)?.f_view(parameters[member].shape.as_slice())?;
            slots.push(Slot { member, view });
            start += length;
        }
        let mut bucket = Bucket { flat, slots };
        bucket.attach(parameters)?;
        Ok(bucket)
    }

    /// The numbers of its parameters.
    pub(crate) fn members(&self) -> impl Iterator<Item = usize> {
        self.slots.iter().map(|slot| slot.member)
    }

    /// Its parameters' numbers and their gradients, which are parts of the buffer, in order.
    pub(crate) fn views(&self) -> impl Iterator<Item = (usize, &Tensor)> {
        self.slots.iter().map(|slot| (slot.member, &slot.view))
    }

    /// Of each parameter, where in the buffer its gradient lies, if it has the buffer's dtype.
    pub(crate) fn homes(
        &self,
        parameters: &[Parameter],
    ) -> impl Iterator<Item = (usize, Option<usize>)> {
        let home = |slot: &Slot| {
            (parameters[slot.member].kind == slot.view.kind())
                .then(|| slot.view.data_ptr() as usize)
        };
        self.slots.iter().map(move |slot| (slot.member, home(slot)))
    }

    /// The whole buffer, `[elements]`.
    pub(crate) fn flat(&self) -> Tensor {
        self.flat.shallow_clone()
    }

    /// Brings in the gradient of each of `members` that is here; where there is none, zeros.
    pub(crate) fn load(
        &mut self,
        parameters: &[Parameter],
        members: impl Fn(usize) -> bool,
    ) -> Result<()> {
        for Slot { member, view } in self.slots.iter_mut().filter(|slot| members(slot.member)) {
            let gradient = parameters[*member].tensor().grad();
            if !gradient.defined() {
                let _ = view.f_zero_()?;
            } else if !is_same_memory(&gradient, view) {
                view.f_copy_(&gradient)?;
            }
        }
        Ok(())
    }

    /// Gives the gradients that are not a part of it their values, and a part of it to those that
    /// may have one.
    pub(crate) fn store(&mut self, parameters: &[Parameter]) -> Result<()> {
        for Slot { member, view } in &self.slots {
            let parameter = &parameters[*member];
            let mut gradient = parameter.tensor().grad();
            if parameter.kind == view.kind() {
                if !gradient.defined() || !is_same_memory(&gradient, view) {
                    autograd::set_gradient(parameter.tensor(), Some(view))?;
                }
            } else if gradient.defined() {
                gradient.f_copy_(view)?;
            } else {
                autograd::set_gradient(parameter.tensor(), Some(&view.f_to_kind(parameter.kind)?))?;
            }
        }
        Ok(())
    }

    /// Zeros, in the gradients too.
    pub(crate) fn zero(&mut self, parameters: &[Parameter]) -> Result<()> {
        let _ = self.flat.f_zero_()?;
        for Slot { member, view } in &self.slots {
            let mut gradient = parameters[*member].tensor().grad();
            if parameters[*member].kind != view.kind() && gradient.defined() {
                let _ = gradient.f_zero_()?;
            }
        }
        self.attach(parameters)
    }

    /// Makes the gradients that have its dtype a part of it.
    fn attach(&mut self, parameters: &[Parameter]) -> Result<()> {
        for Slot { member, view } in &mut self.slots {
            let tensor = parameters[*member].tensor();
            if parameters[*member].kind != view.kind() {
                continue;
            }
            let gradient = tensor.grad();
            if gradient.defined() && is_same_memory(&gradient, view) {
                continue;
            }
            if gradient.defined() && parameters[*member].accepts(&gradient).is_ok() {
                view.f_copy_(&gradient)?;
            }
            autograd::set_gradient(tensor, Some(view))?;
        }
        Ok(())
    }
}

/// Whether a gradient lies in a bucket's memory.
fn is_same_memory(gradient: &Tensor, view: &Tensor) -> bool {
    gradient.kind() == view.kind() && gradient.data_ptr() == view.data_ptr()
}

/// Which gradients share a bucket: from the last to the first, as backward completes them, so many
/// that a bucket stays within `bucket_bytes`, but at least one. The first has an eighth of that and
/// each next one twice as much, as the network has nothing to do before them.
pub(crate) fn plan(
    members: &[usize],
    bytes: impl Fn(usize) -> usize,
    bucket_bytes: usize,
) -> Vec<Vec<usize>> {
    let mut buckets: Vec<Vec<usize>> = Vec::new();
    let (mut filled, mut limit) = (0, bucket_bytes / 8);
    for &member in members.iter().rev() {
        let size = bytes(member);
        match buckets.last_mut() {
            Some(bucket) if filled + size <= limit => bucket.push(member),
            last => {
                if last.is_some() {
                    limit = limit.saturating_mul(2).min(bucket_bytes);
                }
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

    fn of(sizes: &[usize], bucket_bytes: usize) -> Vec<Vec<usize>> {
        plan(&(0..sizes.len()).collect::<Vec<_>>(), |member| sizes[member], bucket_bytes)
    }

    #[test]
    fn buckets_fill_from_the_last_gradient_and_take_large_ones_alone() {
        assert_eq!(of(&[1; 19], 8).iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 4, 8, 4]);
        assert_eq!(
            of(&[4, 4, 100, 3, 3, 1, 1, 1], 8),
            [vec![7], vec![6, 5], vec![4], vec![3], vec![2], vec![1, 0]]
        );
        assert_eq!(of(&[1; 100], 8).len(), 3 + 93_usize.div_ceil(8));
        assert_eq!(of(&[0, 8, 0], 64), [vec![2, 1, 0]]);
        assert!(of(&[], 8).is_empty());
        assert_eq!(plan(&[1, 4, 7], |member| member, 40), [vec![7], vec![4, 1]]);
    }
}
