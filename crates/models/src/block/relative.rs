use tch::Tensor;

use autograd::Parameter;
use layers::Bias;

use crate::Result;
use crate::config::RelativePositions;
use crate::tensors::Tensors;

/// Positions that attention sees by what they add to its scores.
#[derive(Debug)]
pub(crate) struct Relative {
    weight: Parameter,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    /// With the row of the weight for each pair of tokens, `[tokens, tokens]`.
    Table(Constant),
    Distances {
        of_keys: bool,
    },
}

/// A tensor that is not a parameter, which several threads may read.
type Constant = Parameter;

impl Relative {
    /// With the weight called `name`, for `heads` of this width; `None` where positions are not
    /// relative.
    pub fn new(
        tensors: &Tensors<'_>,
        positions: RelativePositions,
        name: String,
        heads: i64,
        width: i64,
    ) -> Result<Option<Self>> {
        Ok(match positions {
            RelativePositions::None => None,
            RelativePositions::Distances { longest, of_keys } => {
                let weight =
                    tensors.parameter(format!("{name}.weight"), &[2 * longest - 1, width])?;
                Some(Self { weight, rule: Rule::Distances { of_keys } })
            }
            RelativePositions::Windows { size } => {
                let rows = rows(size)
                    .f_to_device(tensors.device())
                    .map_err(crate::Error::torch(&name, "the model".as_ref()))?;
                let weight = tensors.parameter(name, &[(2 * size - 1) * (2 * size - 1), heads])?;
                Some(Self { weight, rule: Rule::Table(Constant::new("rows", rows)) })
            }
        })
    }

    /// The weight.
    pub fn weight(&self) -> &Parameter {
        &self.weight
    }

    /// As attention reads it.
    pub fn bias(&self) -> Bias<'_> {
        match &self.rule {
            Rule::Table(rows) => Bias::Table { table: &self.weight, rows },
            Rule::Distances { of_keys } => {
                Bias::Distances { embedding: &self.weight, of_keys: *of_keys }
            }
        }
    }
}

/// The row for each pair of tokens of a window: by how far the query stands below and to the right
/// of the key (`relative_position_index` of `SwinSelfAttention`).
fn rows(size: i64) -> Tensor {
    let tokens = size * size;
    let row = |pair: i64| {
        let (query, key) = (pair / tokens, pair % tokens);
        let (down, right) = (query / size - key / size, query % size - key % size);
        (down + size - 1) * (2 * size - 1) + right + size - 1
    };
    let rows: Vec<i64> = (0..tokens * tokens).map(row).collect();
    Tensor::from_slice(&rows).view([tokens, tokens])
}
