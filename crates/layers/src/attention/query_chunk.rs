/// A stretch of queries, and the keys that any of them may attend to.
pub(super) struct QueryChunk {
    pub first: i64,
    pub queries: i64,
    pub keys: i64,
}
