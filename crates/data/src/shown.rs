//! Samples as people read them.

use serde::Serialize;

use crate::error::Result;
use crate::sample::Sample;
use crate::tokenizer::{StreamDecoder, Tokenizer};

/// A token of a sample, with its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShownToken {
    /// Its id.
    pub id: u32,
    /// Its text; of a character in several tokens, the last of them has all. The texts of a
    /// segment's tokens make up its text.
    pub text: String,
    /// Whether the model learns to say it: it is a target.
    pub trained: bool,
    /// The segment of the row in which it stands, from 0.
    pub segment: usize,
}

impl Sample {
    /// Its tokens with their texts; without a tokenizer these are empty.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn shown(&self, tokenizer: Option<&Tokenizer>) -> Result<Vec<ShownToken>> {
        let mut shown = Vec::with_capacity(self.len());
        let mut start = 0;
        for (segment, &length) in self.segments.iter().enumerate() {
            let end = start + length as usize;
            let mut decoder = tokenizer.map(|tokenizer| tokenizer.stream(false));
            for index in start..end {
                let id = self.tokens[index];
                let text = decoder
                    .as_mut()
                    .map(|decoder| decoder.push(id))
                    .transpose()?
                    .unwrap_or_default();
                shown.push(ShownToken {
                    id,
                    text,
                    trained: self.trained[index] && index > start,
                    segment,
                });
            }
            if let (Some(rest), Some(last)) =
                (decoder.map(StreamDecoder::finish).transpose()?, shown.last_mut())
            {
                last.text.push_str(&rest);
            }
            start = end;
        }
        Ok(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::bytes_only;

    fn shown(sample: &Sample) -> Vec<(String, bool, usize)> {
        let tokens = sample.shown(Some(&bytes_only())).unwrap();
        tokens.into_iter().map(|token| (token.text, token.trained, token.segment)).collect()
    }

    #[test]
    fn a_character_of_several_tokens_stands_at_its_last() {
        let tokens = bytes_only().encode("aé", false).unwrap();
        assert_eq!(tokens.len(), 3);
        let sample = Sample::single(tokens, vec![true; 3]);
        assert_eq!(
            shown(&sample),
            [("a".into(), false, 0), (String::new(), true, 0), ("é".into(), true, 0)]
        );
    }

    #[test]
    fn what_is_no_character_is_shown_as_a_replacement_in_its_segment() {
        let tokens = bytes_only().encode("é", false).unwrap();
        let sample = Sample { tokens, trained: vec![true; 2], segments: vec![1, 1] };
        assert_eq!(shown(&sample), [("\u{fffd}".into(), false, 0), ("\u{fffd}".into(), false, 1)]);
        assert!(sample.shown(None).unwrap().iter().all(|token| token.text.is_empty()));
    }
}
