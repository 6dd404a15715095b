//! The safetensors file of a data set.

use std::path::Path;
use std::sync::Arc;

use safetensors::Dtype;

use crate::columns::{self, Column, ColumnFile, write_numbers};
use crate::dataset::{Dataset, Facts, Index};
use crate::error::{Error, Result};
use crate::store::{Store, TokenFile};

/// Changes whenever a file of before can no longer be read.
pub(crate) const VERSION: u32 = 1;

/// Reads and checks all but the tokens.
pub(crate) fn open(path: &Path) -> Result<Dataset> {
    let file = ColumnFile::open(path)?;
    let facts: Facts = file.facts()?;
    if facts.version != VERSION {
        return Err(file.broken(format!("its format is version {}, not {VERSION}", facts.version)));
    }
    let index = Index {
        sample_starts: file.u64s("sample_starts")?,
        segment_lengths: file.u32s("segment_lengths")?,
        segment_starts: file.u64s("segment_starts")?,
    };
    check(&index, &facts).map_err(|problem| file.broken(problem))?;
    let file = TokenFile::new(file)?;
    let store = Store::from_file(file);
    if store.count() != facts.tokens {
        return Err(Error::file(
            path,
            format!("{} tokens, {} announced", store.count(), facts.tokens),
            columns::REMEDY,
        ));
    }
    Ok(Dataset { store: Arc::new(store), documents: None, index, facts })
}

/// Whether samples and segments cover all tokens, in order, without gap or overlap.
fn check(index: &Index, facts: &Facts) -> Result<(), String> {
    let cover = |name: &str, starts: &[u64], count: u64| {
        let whole = Some(starts.len()) == facts.samples.checked_add(1)
            && starts.first() == Some(&0)
            && starts.last() == Some(&count)
            && starts.is_sorted_by(|a, b| a < b);
        if whole {
            Ok(())
        } else {
            Err(format!("`{name}` does not divide {count} entries into {} samples", facts.samples))
        }
    };
    if facts.samples == 0 {
        return Err("it has no samples".into());
    }
    cover("sample_starts", &index.sample_starts, facts.tokens)?;
    cover("segment_starts", &index.segment_starts, index.segment_lengths.len() as u64)?;
    for sample in 0..facts.samples {
        let segments =
            index.segment_starts[sample] as usize..index.segment_starts[sample + 1] as usize;
        let length: u64 =
            index.segment_lengths[segments].iter().map(|&length| u64::from(length)).sum();
        if length != index.sample_starts[sample + 1] - index.sample_starts[sample] {
            return Err(format!(
                "the segments of sample {sample} have {length} tokens, the sample another number"
            ));
        }
    }
    Ok(())
}

/// Writes it, document by document.
pub(crate) fn write(dataset: &Dataset, path: &Path) -> Result<()> {
    let Dataset { store, index, facts, .. } = dataset;
    // The index first: it is read at once, and the tokens after it by parts.
    let columns = vec![
        Column::u64s("sample_starts", &index.sample_starts),
        Column::u64s("segment_starts", &index.segment_starts),
        Column::u32s("segment_lengths", &index.segment_lengths),
        Column::new("tokens", Dtype::U32, facts.tokens as usize, |out| {
            dataset.runs(0..index.segment_lengths.len()).try_for_each(|(start, count)| {
                write_numbers(&store.tokens(start, count)?, u32::to_le_bytes, out)
            })
        }),
        Column::new("trained", Dtype::U8, facts.tokens as usize, |out| {
            dataset.runs(0..index.segment_lengths.len()).try_for_each(|(start, count)| {
                write_numbers(&store.trained(start, count)?, |mark| [u8::from(mark)], out)
            })
        }),
    ];
    columns::write(path, facts, columns)
}
