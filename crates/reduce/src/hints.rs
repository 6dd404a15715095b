/// What the caller knows of gradients before the first backward: parameters by name, the same on
/// all ranks. Unknown names are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ParamHints {
    /// Those that will have a [basis](crate::GradientReducer::set_bases), for
    /// [`Method::SharedBasis`](crate::Method::SharedBasis): they share buckets, apart from those
    /// that travel as they are.
    pub with_basis: Vec<String>,
    /// Embeddings `[rows, columns]` of which a step reads few rows. Unless the method compresses
    /// them, only rows that are not zero on some rank are sent, where these are at most half of
    /// all, and two bytes for each row. Embeddings of less than 1 MiB in f32 are sent whole.
    pub sparse_grad_embeddings: Vec<String>,
}
