use tch::Tensor;

/// What a method works on.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub a: &'a Tensor,
    pub seed: u64,
    pub warm: Option<&'a Tensor>,
}
