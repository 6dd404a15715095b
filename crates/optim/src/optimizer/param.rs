use tch::Tensor;

/// A parameter to be trained.
#[derive(Clone, Copy, Debug)]
pub struct TrainedParam<'a> {
    /// The tensor, whose `.grad` a step reads.
    pub tensor: &'a Tensor,
    /// Its learning rate as a multiple of the step's.
    pub lr_scale: f64,
    /// Whether it is a matrix of a hidden layer, and neither an embedding nor the head: Muon is for
    /// those.
    pub is_hidden_matrix: bool,
}

impl TrainedParam<'_> {
    /// Whether Muon orthogonalizes its update.
    pub(super) fn is_muon_matrix(&self) -> bool {
        self.is_hidden_matrix && self.tensor.dim() == 2
    }
}
