//! Ready batches: token ids that somebody else made, taken as they are.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::batch::IGNORED;
use crate::error::{Error, Result};
use crate::file;
use crate::sample::Sample;

/// The samples of a file of ready batches, in order, and how many make a batch.
pub(crate) struct Ready {
    pub(crate) samples: Vec<Sample>,
    pub(crate) batch_size: usize,
}

const REMEDY: &str =
    "write `batches`, and perhaps `labels`, as I64 tensors of shape [steps, batch, tokens]";

/// Reads `batches` and, where there are, `labels`.
pub(crate) fn read(path: &Path) -> Result<Ready> {
    let bytes = file::read(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| {
        Error::file(path, format!("no whole safetensors file ({error})"), REMEDY)
    })?;
    let tensor = |name: &str| -> Result<(Vec<usize>, Vec<i64>)> {
        let view = file
            .tensor(name)
            .map_err(|_| Error::file(path, format!("there is no tensor `{name}`"), REMEDY))?;
        if view.dtype() != Dtype::I64 || view.shape().len() != 3 || view.shape().contains(&0) {
            let problem = format!("`{name}` is {:?} {:?}", view.dtype(), view.shape());
            return Err(Error::file(path, problem, REMEDY));
        }
        let (values, _) = view.data().as_chunks::<8>();
        Ok((view.shape().to_vec(), values.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect()))
    };

    let (shape, ids) = tensor("batches")?;
    let (batch_size, length) = (shape[1], shape[2]);
    let place = |index: usize| {
        let row = index / length;
        format!("step {}, row {}, token {}", row / batch_size, row % batch_size, index % length)
    };
    let tokens = ids
        .iter()
        .enumerate()
        .map(|(index, &id)| {
            u32::try_from(id).map_err(|_| {
                Error::file(
                    path,
                    format!("{id} is no token id, at {}", place(index)),
                    "use ids of the vocabulary",
                )
            })
        })
        .collect::<Result<Vec<u32>>>()?;

    let trained = if file.names().contains(&"labels") {
        let (labels_shape, labels) = tensor("labels")?;
        if labels_shape != shape {
            let problem = format!("`labels` is {labels_shape:?}, `batches` {shape:?}");
            return Err(Error::file(path, problem, REMEDY));
        }
        // A label stands at its own token; the shift comes when a batch is made.
        if let Some(index) =
            (0..ids.len()).find(|&index| labels[index] != IGNORED && labels[index] != ids[index])
        {
            let problem = format!(
                "a label is {}, its token {}, at {}",
                labels[index],
                ids[index],
                place(index)
            );
            return Err(Error::file(
                path,
                problem,
                "give each token's own id as its label, not shifted, or -100",
            ));
        }
        labels.iter().map(|&label| label != IGNORED).collect()
    } else {
        vec![true; tokens.len()]
    };
    let samples = tokens
        .chunks_exact(length)
        .zip(trained.chunks_exact(length))
        .map(|(tokens, trained)| Sample::single(tokens.to_vec(), trained.to_vec()))
        .collect();
    Ok(Ready { samples, batch_size })
}
