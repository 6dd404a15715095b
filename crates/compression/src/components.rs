use crate::inputs::Inputs;
use crate::nystrom::nystrom;
use crate::projection::Projection;
use crate::qb::qb;
use crate::row_space::row_space;
use crate::rsvd::rsvd;
use crate::svd::svd;
use crate::{Error, Method};

/// `rank` components by `method`.
pub(crate) fn components(
    inputs: &Inputs<'_>,
    method: Method,
    rank: i64,
) -> Result<Projection, Error> {
    let a = inputs.a;
    match method {
        Method::Qb { test_matrix } => qb(inputs, rank, test_matrix),
        Method::RowSpace { test_matrix, unit_rows } => {
            row_space(inputs, rank, test_matrix, unit_rows)
        }
        Method::Rsvd { oversampling, power_iterations } => {
            let (rows, columns) = a.size2()?;
            let sketch = (rank + oversampling).min(rows).min(columns);
            let found = rsvd(a, sketch, power_iterations, inputs.seed)?;
            if sketch == rank { Ok(found) } else { found.cut(rank) }
        }
        Method::Nystrom => nystrom(a, rank, inputs.seed),
        // Codes without a rank, and in a basis that there is, are made before this is asked.
        Method::Svd | Method::Quantized { .. } | Method::Coded { .. } | Method::Shared => {
            svd(a, rank)
        }
    }
}
