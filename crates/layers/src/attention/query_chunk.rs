use tch::{TchError, Tensor};

/// A chunk of queries, and the keys that any of them may attend to.
pub(super) struct QueryChunk {
    pub first: i64,
    pub queries: i64,
    pub keys: i64,
}

impl QueryChunk {
    /// Its part of `x` `[batch, heads, queries, ..]`.
    pub fn queries_of(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_narrow(2, self.first, self.queries)
    }

    /// Its part of `x` `[batch, heads, keys, ..]`.
    pub fn keys_of(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_narrow(2, 0, self.keys)
    }
}
