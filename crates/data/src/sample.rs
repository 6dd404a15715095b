/// One row of training data: one document, or several that were packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Token ids, `[tokens]`.
    pub tokens: Vec<u32>,
    /// Whether each token is a target, `[tokens]`. The first of a segment never becomes one:
    /// nothing stands before it.
    pub trained: Vec<bool>,
    /// Lengths of the documents in the row, in order; their sum is the number of tokens.
    pub segments: Vec<u32>,
}

impl Sample {
    /// A sample of one document.
    pub fn single(tokens: Vec<u32>, trained: Vec<bool>) -> Self {
        let segments = vec![tokens.len() as u32];
        Self { tokens, trained, segments }
    }

    /// Length in tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it has no token; a data set holds no such sample.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Keeps the first `length` tokens of a sample of one document; true if that cut something off.
    pub(crate) fn truncate(&mut self, length: usize) -> bool {
        let cut = self.tokens.len() > length;
        if cut {
            self.tokens.truncate(length);
            self.trained.truncate(length);
            self.segments = vec![length as u32];
        }
        cut
    }

    /// How many tokens are predicted: trained, and not the first of their segment.
    pub fn target_count(&self) -> usize {
        let mut start = 0;
        let mut count = 0;
        for &length in &self.segments {
            let end = start + length as usize;
            count += self.trained[start..end].iter().skip(1).filter(|&&trained| trained).count();
            start = end;
        }
        count
    }
}
