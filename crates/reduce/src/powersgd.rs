//! PowerSGD: matrices travel as `P Qᵀ`, one power iteration per step (Vogels, Karimireddy, Jaggi
//! 2019, arXiv 1905.13727).
//!
//! Algorithm 1, for a rank's matrix `M` (gradient plus error memory): `P = mean(M) Q`,
//! orthonormalised, then `Q = mean(M)ᵀ P`, and all ranks take `P Qᵀ` for the mean. Algorithm 2:
//! each rank remembers `M - P Qᵀ`.
//!
//! `M` is never made: a product with it is the sum of those with the gradient and with the memory,
//! and so neither is touched before the mean is known. A step that meets NaN or an infinity is
//! exact and leaves no trace: had the error memory taken it up, no later step would be finite.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use collective::ProcessGroup;

use crate::all_reduce::{all_reduce_mean, all_reduce_sum, is_finite};
use crate::bucket::Bucket;
use crate::config::PowerSgdConfig;
use crate::error::Result;
use crate::parameter::Parameter;
use crate::powersgd_init;

/// The matrices of one shape, stacked so that one batched product serves all. But for `initial_q`,
/// these are views into flat buffers.
struct Stack {
    /// Their parameters' numbers.
    members: Vec<usize>,
    /// `[count, m, n]`: the gradients.
    gradient: Tensor,
    /// `[count, m, n]`: the error memory.
    error: Option<Tensor>,
    /// `[count, m, k]`
    p: Tensor,
    /// `[count, n, k]`
    q: Tensor,
    /// `[count, n, k]`: the `Q` that the next step starts from.
    initial_q: Tensor,
}

/// What compresses one bucket.
pub(crate) struct PowerSgd {
    config: PowerSgdConfig,
    seed: u64,
    /// All `P`, to travel at once.
    p: Tensor,
    /// All `Q`, likewise.
    q: Tensor,
    stacks: Vec<Stack>,
}

impl PowerSgd {
    /// A bucket for the parameters with these numbers, all of which are compressed.
    pub(crate) fn new(
        parameters: &[Parameter],
        members: &[usize],
        config: PowerSgdConfig,
        seed: u64,
    ) -> Result<(Bucket, PowerSgd)> {
        let mut shapes: BTreeMap<(i64, i64, i64), Vec<usize>> = BTreeMap::new();
        for &member in members {
            if let Some(shape) = config.compression(&parameters[member].shape) {
                shapes.entry(shape).or_default().push(member);
            }
        }
        let bucket =
            Bucket::new(parameters, shapes.values().flatten().copied().collect(), Kind::Float)?;
        let flat = bucket.flat();
        let options = (Kind::Float, flat.device());
        let error = if config.error_feedback { Some(flat.f_zeros_like()?) } else { None };
        let total = |rows: fn(&(i64, i64, i64)) -> i64| -> i64 {
            shapes.iter().map(|(shape, members)| members.len() as i64 * rows(shape) * shape.2).sum()
        };
        let p = Tensor::f_zeros([total(|shape| shape.0)], options)?;
        let q = Tensor::f_zeros([total(|shape| shape.1)], options)?;

        let (mut start, mut p_offset, mut q_offset) = (0, 0, 0);
        let mut stacks = Vec::with_capacity(shapes.len());
        for ((m, n, k), members) in shapes {
            let count = members.len() as i64;
            stacks.push(Stack {
                gradient: part(&flat, start, [count, m, n])?,
                error: error.as_ref().map(|error| part(error, start, [count, m, n])).transpose()?,
                p: part(&p, p_offset, [count, m, k])?,
                q: part(&q, q_offset, [count, n, k])?,
                initial_q: Tensor::f_zeros([count, n, k], options)?,
                members,
            });
            start += count * m * n;
            p_offset += count * m * k;
            q_offset += count * n * k;
        }
        let mut powersgd = PowerSgd { config, seed, p, q, stacks };
        powersgd.init_q(0)?;
        Ok((bucket, powersgd))
    }

    /// Replaces the gradients, all of which are `flat`, by their mean; returns the bytes handed
    /// over.
    pub(crate) fn reduce(
        &mut self,
        group: &dyn ProcessGroup,
        step: u64,
        flat: &mut Tensor,
    ) -> Result<u64> {
        if step < self.config.start_step {
            return all_reduce_mean(group, flat);
        }
        if !self.config.warm_start {
            self.init_q(step)?;
        }
        for stack in &mut self.stacks {
            let _ = stack.gradient.f_bmm_out(&stack.p, &stack.initial_q)?;
            if let Some(error) = &stack.error {
                let _ = stack.p.f_baddbmm_(error, &stack.initial_q)?;
            }
        }
        // The length of P does not matter, it is normalised: the sum does as well as the mean.
        let mut bytes = all_reduce_sum(group, &mut self.p)?;
        if !is_finite(&self.p)? {
            return Ok(bytes + all_reduce_mean(group, flat)?);
        }
        for stack in &mut self.stacks {
            stack.p.f_copy_(&compression::orthonormalize(&stack.p)?)?;
            let _ = stack.gradient.f_transpose(1, 2)?.f_bmm_out(&stack.q, &stack.p)?;
            if let Some(error) = &stack.error {
                let _ = stack.q.f_baddbmm_(&error.f_transpose(1, 2)?, &stack.p)?;
            }
        }
        bytes += all_reduce_mean(group, &mut self.q)?;
        // Finite P, yet Q beyond the range of f32.
        if !is_finite(&self.q)? {
            return Ok(bytes + all_reduce_mean(group, flat)?);
        }
        self.stacks.iter_mut().try_for_each(Stack::decompress)?;
        if self.config.warm_start {
            self.stacks.iter_mut().try_for_each(|stack| stack.initial_q.f_copy_(&stack.q))?;
        }
        Ok(bytes)
    }

    fn init_q(&mut self, step: u64) -> Result<()> {
        for stack in &mut self.stacks {
            for (position, &member) in stack.members.iter().enumerate() {
                powersgd_init::init_q(
                    &mut stack.initial_q.f_get(position as i64)?,
                    self.seed,
                    step,
                    member,
                )?;
            }
        }
        Ok(())
    }

    /// Views of all that later steps depend on.
    pub(crate) fn state(&self, parameters: &[Parameter]) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        for stack in &self.stacks {
            for (position, &member) in stack.members.iter().enumerate() {
                let name = parameters[member].name();
                if let Some(error) = &stack.error {
                    state.push((format!("error.{name}"), error.get(position as i64)));
                }
                if self.config.warm_start {
                    state.push((format!("query.{name}"), stack.initial_q.get(position as i64)));
                }
            }
        }
        state
    }
}

impl Stack {
    /// `P Qᵀ` into the gradients, and what it lacks into the error memory.
    fn decompress(&mut self) -> Result<()> {
        if let Some(error) = &mut self.error {
            let _ = error.f_add_(&self.gradient)?;
        }
        let _ = self.p.f_bmm_out(&self.gradient, &self.q.f_transpose(1, 2)?)?;
        if let Some(error) = &mut self.error {
            let _ = error.f_sub_(&self.gradient)?;
        }
        Ok(())
    }
}

/// The elements of `flat` from `start` on, in a shape of their own.
fn part(flat: &Tensor, start: i64, shape: [i64; 3]) -> Result<Tensor> {
    Ok(flat.f_narrow(0, start, shape.iter().product())?.f_view(shape)?)
}
