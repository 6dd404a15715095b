use tch::{Kind, TchError, Tensor};

use super::query_chunk::QueryChunk;
use crate::{Error, Mask};

/// What is added to scores by where query and key stand, from a weight that is trained.
#[derive(Debug)]
pub enum Bias<'a> {
    /// One number for each pair and head, added to the scaled scores
    /// (`relative_position_bias_table` of Swin, arXiv 2103.14030).
    Table {
        /// `[rows, heads]`.
        table: &'a Tensor,
        /// The row of each pair of a query and a key, `[queries, keys]` (integers).
        rows: &'a Tensor,
    },
    /// `q_i · e_{i−j}`, added before the scale (Shaw et al. 2018, arXiv 1803.02155: `relative_key`
    /// of BERT).
    Distances {
        /// `e` of the distances `1 − n ..= n − 1`, `[2 n − 1, d]`.
        embedding: &'a Tensor,
        /// Whether `k_j · e_{i−j}` is added too (Huang et al. 2020, arXiv 2009.13658:
        /// `relative_key_query`).
        of_keys: bool,
    },
}

impl Bias<'_> {
    /// The weight.
    pub(super) fn weight(&self) -> &Tensor {
        match self {
            Self::Table { table, .. } => table,
            Self::Distances { embedding, .. } => embedding,
        }
    }

    /// What an operation holds of it in addition to the weight.
    pub(super) fn rule(&self) -> Rule {
        match self {
            Self::Table { rows, .. } => Rule::Table { rows: rows.shallow_clone() },
            Self::Distances { of_keys, .. } => Rule::Distances { of_keys: *of_keys },
        }
    }

    /// The mask that adds a frozen table besides, where it may: `[batch or 1, heads, queries,
    /// keys]`.
    pub(super) fn within(&self, mask: &Mask, kind: Kind) -> Result<Option<Mask>, TchError> {
        let Self::Table { table, rows } = self else { return Ok(None) };
        if table.requires_grad() || matches!(mask, Mask::Causal) {
            return Ok(None);
        }
        let size = rows.size();
        let added =
            table.f_index_select(0, &rows.f_flatten(0, -1)?)?.f_view([size[0], size[1], -1])?;
        let added = added.f_permute([2, 0, 1])?.f_unsqueeze(0)?.f_to_kind(kind)?;
        Ok(Some(Mask::Additive(match mask.additive() {
            Some(mask) => added.f_add(mask)?,
            None => added.f_contiguous()?,
        })))
    }

    /// Refuses a weight that does not serve `queries` and `keys` of this shape, `[batch, tokens,
    /// heads, d]`.
    pub(super) fn check(&self, queries: &[i64], keys: &[i64]) -> Result<(), Error> {
        let (tokens, others, heads, width) = (queries[1], keys[1], queries[2], queries[3]);
        let size = self.weight().size();
        let (fits, expected) = match self {
            Self::Table { rows, .. } => (
                size.len() == 2 && size[1] == heads && rows.size() == [tokens, others],
                format!("a bias of {heads} heads for {tokens} queries and {others} keys"),
            ),
            Self::Distances { .. } => (
                size.len() == 2 && size[1] == width && size[0] >= 2 * tokens.max(others) - 1,
                format!(
                    "embeddings [2 n - 1, {width}] of distances for n = {} tokens or more",
                    tokens.max(others)
                ),
            ),
        };
        if fits {
            Ok(())
        } else {
            Err(Error::Shape { operation: "attention", expected, got: size })
        }
    }
}

/// A bias without its weight.
#[derive(Debug)]
pub(super) enum Rule {
    Table { rows: Tensor },
    Distances { of_keys: bool },
}

impl Rule {
    /// The rows of the weight that belong to the pairs of a stretch, `[queries · keys]`.
    fn rows(&self, weight: &Tensor, at: &QueryChunk) -> Result<Tensor, TchError> {
        match self {
            Self::Table { rows } => {
                rows.f_narrow(0, at.first, at.queries)?.f_narrow(1, 0, at.keys)?.f_reshape([-1])
            }
            Self::Distances { .. } => {
                let longest = weight.size()[0] / 2;
                let line = |from: i64, count: i64| {
                    Tensor::f_arange_start(from, from + count, (Kind::Int64, weight.device()))
                };
                let distance = line(at.first + longest, at.queries)?
                    .f_unsqueeze(1)?
                    .f_sub(&line(0, at.keys)?)?;
                distance.f_reshape([-1])
            }
        }
    }

    /// `[queries, keys, ..]`: the weight of each pair of a stretch.
    fn pairs(&self, weight: &Tensor, at: &QueryChunk) -> Result<Tensor, TchError> {
        weight.f_index_select(0, &self.rows(weight, at)?)?.f_view([at.queries, at.keys, -1])
    }

    /// What is added to the products of `q` `[batch, heads, queries, d]`, the stretch's own, and
    /// `k` `[batch, heads, keys, d]`.
    pub fn to_products(
        &self,
        weight: &Tensor,
        q: &Tensor,
        k: &Tensor,
        at: &QueryChunk,
    ) -> Result<Option<Tensor>, TchError> {
        let Self::Distances { of_keys } = self else { return Ok(None) };
        let pairs = self.pairs(weight, at)?.f_to_kind(q.kind())?;
        let added = einsum("bhld,lrd->bhlr", q, &pairs)?;
        if *of_keys {
            Ok(Some(added.f_add(&einsum("bhrd,lrd->bhlr", k, &pairs)?)?))
        } else {
            Ok(Some(added))
        }
    }

    /// What is added to the scaled scores, `[heads, queries, keys]`.
    pub fn to_scores(
        &self,
        weight: &Tensor,
        at: &QueryChunk,
        kind: Kind,
    ) -> Result<Option<Tensor>, TchError> {
        let Self::Table { .. } = self else { return Ok(None) };
        Ok(Some(self.pairs(weight, at)?.f_permute([2, 0, 1])?.f_to_kind(kind)?))
    }

    /// Adds to `d_weight` what a stretch gives it, from the gradients of its scores and its
    /// products `[batch, heads, queries, keys]`, and gives what queries and keys get through it.
    pub fn backward(
        &self,
        weight: &Tensor,
        [q, k]: [&Tensor; 2],
        [d_scores, d_products]: [&Tensor; 2],
        at: &QueryChunk,
        d_weight: &mut Tensor,
    ) -> Result<[Option<Tensor>; 2], TchError> {
        let rows = self.rows(weight, at)?;
        match self {
            Self::Table { .. } => {
                let sum = d_scores.f_sum_dim_intlist(0, false, d_weight.kind())?;
                let _ = d_weight.f_index_add_(
                    0,
                    &rows,
                    &sum.f_permute([1, 2, 0])?.f_reshape([rows.size()[0], -1])?,
                )?;
                Ok([None, None])
            }
            Self::Distances { of_keys } => {
                let pairs = self.pairs(weight, at)?.f_to_kind(q.kind())?;
                let mut d_pairs = einsum("bhlr,bhld->lrd", d_products, q)?;
                let d_q = einsum("bhlr,lrd->bhld", d_products, &pairs)?;
                let mut d_k = None;
                if *of_keys {
                    d_pairs = d_pairs.f_add_(&einsum("bhlr,bhrd->lrd", d_products, k)?)?;
                    d_k = Some(einsum("bhlr,lrd->bhrd", d_products, &pairs)?);
                }
                let d_pairs =
                    d_pairs.f_to_kind(d_weight.kind())?.f_reshape([rows.size()[0], -1])?;
                let _ = d_weight.f_index_add_(0, &rows, &d_pairs)?;
                Ok([Some(d_q), d_k])
            }
        }
    }
}

fn einsum(equation: &str, a: &Tensor, b: &Tensor) -> Result<Tensor, TchError> {
    Tensor::f_einsum(equation, &[a, b], None::<&[i64]>)
}
