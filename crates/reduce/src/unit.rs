//! A bucket, and how it becomes its mean. Units are made, filled and sent in one order on all ranks.

use collective::{ProcessGroup, Reduce};
use tch::{Kind, Tensor};

use crate::bucket::{Bucket, plan};
use crate::parameter::Parameter;
use crate::powersgd::PowerSgd;
use crate::rows::Rows;
use crate::shared_basis::SharedBasis;
use crate::{Config, Known, Method, Result};

pub(crate) struct Unit {
    pub(crate) bucket: Bucket,
    pub(crate) way: Way,
}

/// In what form a bucket travels.
pub(crate) enum Way {
    /// As it is.
    Whole,
    PowerSgd(PowerSgd),
    SharedBasis(SharedBasis),
    Rows(Rows),
}

impl Unit {
    /// The units for all parameters, those first whose gradients are complete first: a unit waits for the first of its parameters, since
    /// backward goes from the last to the first.
    pub(crate) fn all(parameters: &[Parameter], known: &Known, config: &Config) -> Result<Vec<Unit>> {
        let wire = if config.method == Method::Bf16 { Kind::BFloat16 } else { Kind::Float };
        let is_compressed = |member: usize| match &config.method {
            Method::PowerSgd(powersgd) => powersgd.compression(&parameters[member].shape).is_some(),
            Method::SharedBasis { .. } => known.in_bases.iter().any(|name| name == parameters[member].name()),
            Method::Exact | Method::Bf16 => false,
        };
        let (matrices, rest): (Vec<usize>, Vec<usize>) = (0..parameters.len()).partition(|&member| is_compressed(member));
        let is_table =
            |member: usize| Rows::suits(&parameters[member]) && known.tables.iter().any(|name| name == parameters[member].name());
        let (tables, rest): (Vec<usize>, Vec<usize>) = rest.into_iter().partition(|&member| is_table(member));
        let bytes = |member: usize| parameters[member].numel() * Kind::Float.elt_size_in_bytes();
        let mut units = Vec::new();
        for member in tables {
            units.push(Rows::unit(parameters, member, wire)?);
        }
        for members in plan(&rest, bytes, config.bucket_bytes) {
            units.push(Unit { bucket: Bucket::new(parameters, members, wire)?, way: Way::Whole });
        }
        for members in plan(&matrices, bytes, config.bucket_bytes) {
            units.push(match config.method {
                Method::PowerSgd(powersgd) => PowerSgd::unit(parameters, &members, powersgd, config.seed)?,
                Method::SharedBasis { min_ratio } => SharedBasis::unit(parameters, members, min_ratio)?,
                Method::Exact | Method::Bf16 => Unit { bucket: Bucket::new(parameters, members, wire)?, way: Way::Whole },
            });
        }
        units.sort_by_key(|unit| std::cmp::Reverse(unit.bucket.members().min()));
        Ok(units)
    }

    /// The number of its parameters.
    pub(crate) fn len(&self) -> usize {
        self.bucket.members().count()
    }

    /// Replaces what is in the bucket by its mean; returns the bytes handed over.
    pub(crate) fn reduce(&mut self, group: &dyn ProcessGroup, step: u64) -> Result<u64> {
        let mut flat = self.bucket.flat();
        match &mut self.way {
            Way::Whole => all_reduce_mean(group, &mut flat),
            Way::PowerSgd(powersgd) => powersgd.reduce(group, step, &mut flat),
            Way::SharedBasis(shared) => shared.reduce(group, &mut flat),
            Way::Rows(rows) => rows.reduce(group, &self.bucket),
        }
    }
}

/// Replaces a flat buffer by its mean over the ranks; returns the bytes handed over.
pub(crate) fn all_reduce_mean(group: &dyn ProcessGroup, flat: &mut Tensor) -> Result<u64> {
    let bytes = all_reduce_sum(group, flat)?;
    if group.world_size() > 1 {
        let _ = flat.f_divide_scalar_(group.world_size() as f64)?;
    }
    Ok(bytes)
}

/// Replaces a flat buffer by its sum over the ranks; returns the bytes handed over.
pub(crate) fn all_reduce_sum(group: &dyn ProcessGroup, flat: &mut Tensor) -> Result<u64> {
    all_reduce(group, flat, Reduce::Sum)
}

/// Replaces a flat buffer by its combination over the ranks; returns the bytes handed over. All ranks skip an empty one.
pub(crate) fn all_reduce(group: &dyn ProcessGroup, flat: &mut Tensor, operation: Reduce) -> Result<u64> {
    let bytes = flat.numel() * flat.kind().elt_size_in_bytes();
    if bytes > 0 {
        let _span = tracing::trace_span!("all_reduce", bytes).entered();
        group.all_reduce(flat, operation)?;
    }
    Ok(bytes as u64)
}
