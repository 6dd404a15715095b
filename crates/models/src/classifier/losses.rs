use tch::{Kind, Reduction, Tensor};

use layers::Error;

use crate::config::Problem;

/// The losses of a batch: their sum, and what it is divided by for their mean. Several batches, or
/// several ranks, add up both.
#[derive(Debug)]
pub struct Losses {
    /// The sum, a scalar that backward may start from.
    pub sum: Tensor,
    /// What the mean counts: rows, each with the weight of its class; or elements.
    pub count: f64,
}

impl Losses {
    /// Of `logits` `[batch, classes]` (f32 or f64), as `ForSequenceClassificationLoss` of
    /// transformers. `labels` are
    /// - numbers `[batch]` or `[batch, classes]` for a regression: the squared error of each;
    /// - classes `[batch]` (integers; −100: none) where each row has one: the cross-entropy of
    ///   each, times the weight of its class where `class_weights` `[classes]` are given;
    /// - 0 or 1 for each class `[batch, classes]` where rows have several: the binary cross-entropy
    ///   of each element, times the weight of its class.
    ///
    /// # Errors
    /// [`Error::Shape`] if the labels do not fit; those of libtorch, as a class that there is not.
    pub fn new(
        problem: Problem,
        logits: &Tensor,
        labels: &Tensor,
        class_weights: Option<&Tensor>,
    ) -> Result<Self, Error> {
        let (size, kind) = (logits.size(), logits.kind());
        let refuse = |expected: String| {
            Err(Error::Shape { operation: "labels", expected, got: labels.size() })
        };
        match problem {
            Problem::SingleLabel => {
                if labels.numel() as i64 != size[0] {
                    return refuse(format!("[{}], one class for each row", size[0]));
                }
                let labels = labels.f_to_kind(Kind::Int64)?.f_view([-1])?;
                let sum = logits.f_cross_entropy_loss(
                    &labels,
                    class_weights,
                    Reduction::Sum,
                    -100,
                    0.0,
                )?;
                let labelled = labels.f_ne(-100)?;
                let count = match class_weights {
                    Some(weights) => weights
                        .f_index_select(0, &labels.f_masked_select(&labelled)?)?
                        .f_sum(Kind::Double)?,
                    None => labelled.f_sum(Kind::Double)?,
                };
                Ok(Self { sum, count: count.f_double_value(&[])? })
            }
            Problem::Regression | Problem::MultiLabel => {
                let is_column = size[1] == 1 && labels.numel() as i64 == size[0];
                if labels.size() != size && !is_column {
                    return refuse(format!("{size:?}, as the logits"));
                }
                let labels = labels.f_to_kind(kind)?.f_view(&size[..])?;
                let sum = match problem {
                    Problem::Regression => logits.f_mse_loss(&labels, Reduction::Sum)?,
                    _ => logits.f_binary_cross_entropy_with_logits(
                        &labels,
                        class_weights,
                        None,
                        Reduction::Sum,
                    )?,
                };
                Ok(Self { sum, count: logits.numel() as f64 })
            }
        }
    }

    /// The mean loss.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn mean(&self) -> Result<Tensor, Error> {
        Ok(self.sum.f_mul_scalar(if self.count > 0.0 { 1.0 / self.count } else { 0.0 })?)
    }
}
