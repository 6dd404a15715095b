//! A bucket, and how it becomes its mean. Buckets are made, filled and sent in one order on all
//! ranks.

use tch::Kind;

use collective::ProcessGroup;

use crate::all_reduce::all_reduce_mean;
use crate::bucket::{Bucket, plan};
use crate::config::{Config, Method};
use crate::error::Result;
use crate::hints::ParamHints;
use crate::parameter::Parameter;
use crate::powersgd::PowerSgd;
use crate::shared_basis::SharedBasis;
use crate::sparse_rows::SparseRows;

pub(crate) struct BucketReducer {
    pub(crate) bucket: Bucket,
    pub(crate) method: BucketMethod,
}

/// In what form a bucket travels.
pub(crate) enum BucketMethod {
    /// As it is.
    Whole,
    PowerSgd(PowerSgd),
    SharedBasis(SharedBasis),
    SparseRows(SparseRows),
}

impl BucketReducer {
    /// The buckets for all parameters, those first whose gradients are complete first: a bucket
    /// waits for the first of its parameters, since backward goes from the last to the first.
    pub(crate) fn all(
        parameters: &[Parameter],
        hints: &ParamHints,
        config: &Config,
    ) -> Result<Vec<BucketReducer>> {
        let wire = if config.method == Method::Bf16 { Kind::BFloat16 } else { Kind::Float };
        let is_compressed = |member: usize| match &config.method {
            Method::PowerSgd(powersgd) => powersgd.compression(&parameters[member].shape).is_some(),
            Method::SharedBasis { .. } => {
                hints.with_basis.iter().any(|name| name == parameters[member].name())
            }
            Method::Exact | Method::Bf16 => false,
        };
        let (matrices, rest): (Vec<usize>, Vec<usize>) =
            (0..parameters.len()).partition(|&member| is_compressed(member));
        let is_table = |member: usize| {
            SparseRows::suits(&parameters[member])
                && hints.sparse_grad_embeddings.iter().any(|name| name == parameters[member].name())
        };
        let (tables, rest): (Vec<usize>, Vec<usize>) =
            rest.into_iter().partition(|&member| is_table(member));
        let bytes = |member: usize| parameters[member].numel() * Kind::Float.elt_size_in_bytes();
        let mut reducers = Vec::new();
        for member in tables {
            let (bucket, rows) = SparseRows::new(parameters, member, wire)?;
            reducers.push(BucketReducer { bucket, method: BucketMethod::SparseRows(rows) });
        }
        for members in plan(&rest, bytes, config.bucket_bytes) {
            reducers.push(BucketReducer::whole(parameters, members, wire)?);
        }
        for members in plan(&matrices, bytes, config.bucket_bytes) {
            reducers.push(match config.method {
                Method::PowerSgd(powersgd) => {
                    let (bucket, powersgd) =
                        PowerSgd::new(parameters, &members, powersgd, config.seed)?;
                    BucketReducer { bucket, method: BucketMethod::PowerSgd(powersgd) }
                }
                Method::SharedBasis { min_ratio } => {
                    let (bucket, shared) = SharedBasis::new(parameters, members, min_ratio)?;
                    BucketReducer { bucket, method: BucketMethod::SharedBasis(shared) }
                }
                Method::Exact | Method::Bf16 => BucketReducer::whole(parameters, members, wire)?,
            });
        }
        reducers.sort_by_key(|reducer| std::cmp::Reverse(reducer.bucket.members().min()));
        Ok(reducers)
    }

    /// A bucket that travels as it is, in `wire`.
    fn whole(parameters: &[Parameter], members: Vec<usize>, wire: Kind) -> Result<BucketReducer> {
        Ok(BucketReducer {
            bucket: Bucket::new(parameters, members, wire)?,
            method: BucketMethod::Whole,
        })
    }

    /// The number of its parameters.
    pub(crate) fn len(&self) -> usize {
        self.bucket.members().count()
    }

    /// Replaces what is in the bucket by its mean; returns the bytes handed over.
    pub(crate) fn reduce(&mut self, group: &dyn ProcessGroup, step: u64) -> Result<u64> {
        let mut flat = self.bucket.flat();
        match &mut self.method {
            BucketMethod::Whole => all_reduce_mean(group, &mut flat),
            BucketMethod::PowerSgd(powersgd) => powersgd.reduce(group, step, &mut flat),
            BucketMethod::SharedBasis(shared) => shared.reduce(group, &mut flat),
            BucketMethod::SparseRows(rows) => rows.reduce(group, &self.bucket),
        }
    }
}
