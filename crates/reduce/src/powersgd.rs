//! PowerSGD: matrices travel as `P Qᵀ`, one power iteration a step (Vogels, Karimireddy, Jaggi 2019, arXiv 1905.13727).
//!
//! Algorithm 1, for a rank's matrix `M` (gradient plus error memory): `P = mean(M) Q`, orthonormalised, then `Q = mean(M)ᵀ P`, and all
//! ranks take `P Qᵀ` for the mean. Algorithm 2: each rank remembers `M - P Qᵀ`.
//!
//! A step that meets NaN or an infinity is exact and leaves no trace: had the error memory taken it up, no later step would be finite.

use std::collections::BTreeMap;

use collective::ProcessGroup;
use tch::{Kind, Tensor};

use crate::exact::{Bucket, all_reduce_mean, all_reduce_sum};
use crate::parameter::Parameter;
use crate::{PowerSgdConfig, Result, query};

/// The matrices of one shape, stacked so that one batched product serves all. But for `query`, these are views into the flat buffers.
struct Stack {
    /// Their parameters' numbers.
    members: Vec<usize>,
    /// `[count, m, n]`: the gradients, plus the error memory.
    input: Tensor,
    /// `[count, m, n]`: the error memory.
    error: Option<Tensor>,
    /// `[count, m, k]`
    p: Tensor,
    /// `[count, n, k]`
    q: Tensor,
    /// `[count, n, k]`: the `Q` that the next step starts from.
    query: Tensor,
}

pub(crate) struct PowerSgd {
    config: PowerSgdConfig,
    seed: u64,
    /// Gradients that are always exact.
    rest: Bucket,
    /// Gradients that are compressed, stack after stack.
    input: Bucket,
    /// What compression lost so far, in the same order.
    error: Option<Bucket>,
    /// All `P`, to travel at once.
    p: Tensor,
    /// All `Q`, likewise.
    q: Tensor,
    stacks: Vec<Stack>,
}

impl PowerSgd {
    pub(crate) fn new(parameters: &[Parameter], config: PowerSgdConfig, seed: u64) -> Result<PowerSgd> {
        let mut shapes: BTreeMap<(i64, i64, i64), Vec<usize>> = BTreeMap::new();
        let mut rest = Vec::new();
        for (member, parameter) in parameters.iter().enumerate() {
            match config.compression(&parameter.shape) {
                Some(shape) => shapes.entry(shape).or_default().push(member),
                None => rest.push(member),
            }
        }
        let compressed = shapes.values().flatten().copied().collect::<Vec<_>>();
        let rest = Bucket::new(parameters, &rest, Kind::Float)?;
        let mut input = Bucket::new(parameters, &compressed, Kind::Float)?;
        let mut error = config.error_feedback.then(|| Bucket::new(parameters, &compressed, Kind::Float)).transpose()?;

        let options = (Kind::Float, input.flat().device());
        let total = |rows: fn(&(i64, i64, i64)) -> i64| -> i64 {
            shapes.iter().map(|(shape, members)| members.len() as i64 * rows(shape) * shape.2).sum()
        };
        let p = Tensor::f_zeros([total(|shape| shape.0)], options)?;
        let q = Tensor::f_zeros([total(|shape| shape.1)], options)?;

        let (mut input_start, mut p_start, mut q_start) = (0, 0, 0);
        let mut stacks = Vec::with_capacity(shapes.len());
        for ((m, n, k), members) in shapes {
            let count = members.len() as i64;
            let error = match &mut error {
                Some(error) => Some(part(error.flat(), input_start, [count, m, n])?),
                None => None,
            };
            stacks.push(Stack {
                input: part(input.flat(), input_start, [count, m, n])?,
                error,
                p: part(&p, p_start, [count, m, k])?,
                q: part(&q, q_start, [count, n, k])?,
                query: Tensor::f_zeros([count, n, k], options)?,
                members,
            });
            input_start += count * m * n;
            p_start += count * m * k;
            q_start += count * n * k;
        }
        let mut powersgd = PowerSgd { config, seed, rest, input, error, p, q, stacks };
        powersgd.draw_queries(0)?;
        Ok(powersgd)
    }

    /// Replaces gradients by their mean; returns the bytes handed over.
    pub(crate) fn reduce(&mut self, group: &dyn ProcessGroup, step: u64, gradients: &mut [Tensor]) -> Result<u64> {
        let mut bytes = self.rest.reduce(group, gradients)?;
        if step < self.config.start_step {
            return Ok(bytes + self.input.reduce(group, gradients)?);
        }
        if !self.config.warm_start {
            self.draw_queries(step)?;
        }
        self.input.load(gradients)?;
        if let Some(error) = &mut self.error {
            let _ = self.input.flat().f_add_(error.flat())?;
        }

        for stack in &self.stacks {
            let _ = stack.input.f_bmm_out(&stack.p, &stack.query)?;
        }
        // The length of P does not matter, it is normalised: the sum does as well as the mean.
        bytes += all_reduce_sum(group, &mut self.p)?;
        if !is_finite(&self.p)? {
            return Ok(bytes + self.input.reduce(group, gradients)?);
        }
        for stack in &mut self.stacks {
            stack.p.f_copy_(&lowrank::orthonormalize(&stack.p)?)?;
            let _ = stack.input.f_transpose(1, 2)?.f_bmm_out(&stack.q, &stack.p)?;
        }
        bytes += all_reduce_mean(group, &mut self.q)?;
        // Finite P, yet Q beyond the range of f32.
        if !is_finite(&self.q)? {
            return Ok(bytes + self.input.reduce(group, gradients)?);
        }
        self.decompress(gradients)?;
        if self.config.warm_start {
            self.stacks.iter_mut().try_for_each(|stack| stack.query.f_copy_(&stack.q))?;
        }
        Ok(bytes)
    }

    /// `P Qᵀ` into the gradients, and what it lacks into the error memory. That memory is where the product is made, so that no third
    /// buffer is needed: its old content is part of `input` by now.
    fn decompress(&mut self, gradients: &mut [Tensor]) -> Result<()> {
        for stack in &self.stacks {
            let product = stack.error.as_ref().unwrap_or(&stack.input);
            let _ = stack.p.f_bmm_out(product, &stack.q.f_transpose(1, 2)?)?;
        }
        let Some(error) = &mut self.error else {
            return self.input.store(gradients);
        };
        error.store(gradients)?;
        let _ = error.flat().f_negative_()?.f_add_(self.input.flat())?;
        Ok(())
    }

    fn draw_queries(&mut self, step: u64) -> Result<()> {
        for stack in &mut self.stacks {
            for (position, &member) in stack.members.iter().enumerate() {
                query::draw(&mut stack.query.f_get(position as i64)?, self.seed, step, member)?;
            }
        }
        Ok(())
    }

    /// Views of all that later steps depend on, in the order of the stacks.
    pub(crate) fn state(&self, parameters: &[Parameter]) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        for stack in &self.stacks {
            for (position, &member) in stack.members.iter().enumerate() {
                let name = &parameters[member].name;
                if let Some(error) = &stack.error {
                    state.push((format!("error.{name}"), error.get(position as i64)));
                }
                if self.config.warm_start {
                    state.push((format!("query.{name}"), stack.query.get(position as i64)));
                }
            }
        }
        state
    }
}

/// The elements of `flat` from `start` on, in a shape of their own.
fn part(flat: &Tensor, start: i64, shape: [i64; 3]) -> Result<Tensor> {
    Ok(flat.f_narrow(0, start, shape.iter().product())?.f_view(shape)?)
}

fn is_finite(tensor: &Tensor) -> Result<bool> {
    Ok(tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0)
}
