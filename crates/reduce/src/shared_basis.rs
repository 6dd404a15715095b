//! Gradients whose rows lie in a space that all ranks know: of `G = C Vᵀ` only `C = G V` travels.
//!
//! Where a linear map's input is saved as `U Vᵀ` with one orthonormal `V` on all ranks, its
//! weight's gradient is `(dyᵀ U) Vᵀ`, whatever `dy`. So the mean of `G V` over the ranks, times
//! `Vᵀ`, is the mean of the gradients: nothing is lost but rounding, and nothing need be
//! remembered. What is not in that space (a rank that saved an input exactly) is projected on it.

use tch::{Kind, Tensor};

use collective::ProcessGroup;

use crate::all_reduce::{all_reduce_mean, all_reduce_sum, is_finite};
use crate::bucket::Bucket;
use crate::config::is_smaller;
use crate::error::{Error, Result};
use crate::parameter::Parameter;

/// What compresses one bucket.
pub(crate) struct SharedBasis {
    min_ratio: f64,
    slots: Vec<Slot>,
    /// All `C`, to travel at once.
    coefficients: Tensor,
    /// Ranges of the bucket that travel as they are, where a basis saves too little: where they
    /// begin, and their elements.
    rest: Vec<(i64, i64)>,
}

/// A parameter of the bucket.
struct Slot {
    member: usize,
    start: i64,
    /// Its gradient, in the parameter's shape.
    gradient: Tensor,
    basis: Option<Basis>,
}

struct Basis {
    /// `V` `[n, k]`
    vectors: Tensor,
    /// `C` `[m, k]`, a part of all.
    coefficients: Tensor,
}

impl SharedBasis {
    /// A bucket for the parameters with these numbers, which have no basis yet.
    pub(crate) fn new(
        parameters: &[Parameter],
        members: Vec<usize>,
        min_ratio: f64,
    ) -> Result<(Bucket, SharedBasis)> {
        let bucket = Bucket::new(parameters, members, Kind::Float)?;
        let mut start = 0;
        let mut slots = Vec::new();
        for (member, gradient) in bucket.views() {
            slots.push(Slot { member, start, basis: None, gradient: gradient.shallow_clone() });
            start += gradient.numel() as i64;
        }
        let coefficients = Tensor::f_zeros([0], (Kind::Float, bucket.flat().device()))?;
        let shared = SharedBasis {
            min_ratio,
            slots,
            coefficients,
            rest: if start > 0 { vec![(0, start)] } else { Vec::new() },
        };
        Ok((bucket, shared))
    }

    /// From now on the gradients of these parameters are multiples of these bases `[n, k]`, which
    /// fit them, and no others are.
    pub(crate) fn set(&mut self, bases: &[(usize, &Tensor)]) -> Result<()> {
        let mut found = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let basis =
                bases.iter().find(|(member, _)| *member == slot.member).map(|(_, basis)| *basis);
            let sizes =
                |basis: &Tensor| (slot.gradient.size()[0], basis.size()[0], basis.size()[1]);
            let pays = |basis: &&Tensor| is_smaller(sizes(basis).1, sizes(basis).2, self.min_ratio);
            found.push(basis.filter(pays).map(|basis| (sizes(basis), basis)));
        }
        let total: i64 = found.iter().flatten().map(|((m, _, k), _)| m * k).sum();
        if total != self.coefficients.numel() as i64 {
            self.coefficients =
                Tensor::f_zeros([total], (Kind::Float, self.coefficients.device()))?;
        }
        self.rest.clear();
        let mut from = 0;
        for (slot, found) in self.slots.iter_mut().zip(found) {
            let elements = slot.gradient.numel() as i64;
            slot.basis = match found {
                Some(((m, _, k), basis)) => {
                    let coefficients =
                        self.coefficients.f_narrow(0, from, m * k)?.f_view([m, k])?;
                    from += m * k;
                    Some(Basis { vectors: basis.shallow_clone(), coefficients })
                }
                None => {
                    match self.rest.last_mut() {
                        Some((start, length)) if *start + *length == slot.start => {
                            *length += elements
                        }
                        _ if elements > 0 => self.rest.push((slot.start, elements)),
                        _ => {}
                    }
                    None
                }
            };
        }
        Ok(())
    }

    /// Replaces the gradients, all of which are `flat`, by their mean; returns the bytes handed
    /// over.
    pub(crate) fn reduce(&mut self, group: &dyn ProcessGroup, flat: &mut Tensor) -> Result<u64> {
        for slot in &mut self.slots {
            if let Some(Basis { vectors, coefficients }) = &mut slot.basis {
                let _ = slot.gradient.f_mm_out(coefficients, vectors)?;
            }
        }
        let mut bytes = all_reduce_sum(group, &mut self.coefficients)?;
        // Products would spread NaN and infinities over whole rows.
        if bytes > 0 && !is_finite(&self.coefficients)? {
            return Ok(bytes + all_reduce_mean(group, flat)?);
        }
        let _ = self.coefficients.f_divide_scalar_(group.world_size() as f64)?;
        for slot in &mut self.slots {
            if let Some(Basis { vectors, coefficients }) = &slot.basis {
                let _ = coefficients.f_mm_out(&slot.gradient, &vectors.f_tr()?)?;
            }
        }
        for &(start, length) in &self.rest {
            bytes += all_reduce_mean(group, &mut flat.f_narrow(0, start, length)?)?;
        }
        Ok(bytes)
    }
}

/// Refuses bases that are no parameter's, or do not fit it.
pub(crate) fn check(parameters: &[&Parameter], bases: &[(String, Tensor)]) -> Result<()> {
    for (name, basis) in bases {
        let refuse = |reason: String| Err(Error::Parameter { name: name.clone(), reason });
        let Some(parameter) = parameters.iter().find(|parameter| parameter.name() == name) else {
            return refuse("a basis is given for it, but none was announced".into());
        };
        let &[_, n] = &parameter.shape[..] else {
            return refuse("a basis is given for it, but it is no matrix".into());
        };
        if basis.size().len() != 2
            || basis.size()[0] != n
            || basis.f_kind()? != Kind::Float
            || basis.device() != parameter.device
        {
            let (device, kind, shape) = (parameter.device, basis.kind(), basis.size());
            return refuse(format!(
                "its basis must be f32 of [{n}, rank] on {device:?}, and is {kind:?} of {shape:?} on {:?}",
                basis.device()
            ));
        }
    }
    Ok(())
}
