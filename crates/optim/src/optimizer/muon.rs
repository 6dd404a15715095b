use tch::{Device, Kind, Tensor};

use config::{MuonScale, Optimizer};

use super::rule::{StepInfo, UpdateRule, decay, zeros_like};
use super::workspace::Workspace;
use crate::Result;

/// Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon; `torch.optim.Muon`): momentum whose
/// singular values are all brought near one. Its state takes 4 bytes per element of a matrix.
#[derive(Debug)]
pub(super) struct Muon {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
    /// By which the step is multiplied for the matrix's shape.
    scale: f64,
    shape: Shape,
    buffer: Tensor,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    short: i64,
    long: i64,
    /// Whether there are more rows than columns.
    is_tall: bool,
    /// The dtype of the iteration: bf16 as published, f32 on a CPU, which multiplies that faster.
    kind: Kind,
}

/// Of the polynomial of an iteration, chosen to raise small singular values fast.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;
const EPS: f64 = 1e-7;

impl Muon {
    /// For a matrix.
    pub fn new(parameter: &Tensor, options: &Optimizer) -> Result<Self> {
        let size = parameter.size();
        let (rows, columns) = (size[0], size[1]);
        let scale = match options.scale() {
            MuonScale::Original => (rows as f64 / columns as f64).max(1.0).sqrt(),
            MuonScale::MatchRmsAdamW => 0.2 * (rows.max(columns) as f64).sqrt(),
        };
        let kind = if parameter.device() == Device::Cpu { Kind::Float } else { Kind::BFloat16 };
        let shape = Shape {
            short: rows.min(columns),
            long: rows.max(columns),
            is_tall: rows > columns,
            kind,
        };
        let (momentum, nesterov, weight_decay) =
            (options.momentum(), options.nesterov(), options.weight_decay);
        Ok(Self { momentum, nesterov, weight_decay, scale, shape, buffer: zeros_like(parameter)? })
    }
}

impl Shape {
    /// `matrix` with singular values near one, in its own shape: five steps of a Newton–Schulz
    /// iteration.
    fn orthogonalized(self, matrix: &Tensor, workspace: &mut Workspace) -> Result<Tensor> {
        let [a, b, c] = COEFFICIENTS;
        let [mut x, mut next] = [
            workspace.take(self.kind, &[self.short, self.long])?,
            workspace.take(self.kind, &[self.short, self.long])?,
        ];
        let [mut gram, mut square] = [
            workspace.take(self.kind, &[self.short, self.short])?,
            workspace.take(self.kind, &[self.short, self.short])?,
        ];
        if self.is_tall {
            x.f_copy_(&matrix.f_tr()?)?;
        } else {
            x.f_copy_(matrix)?;
        }
        let norm = x.f_norm()?.f_add_scalar(EPS)?;
        let _ = x.f_div_(&norm)?;
        for _ in 0..ITERATIONS {
            // x ← a x + (b G + c G²) x with G = x xᵀ.
            let _ = x.f_mm_out(&gram, &x.f_tr()?)?;
            let _ = gram.f_mm_out(&square, &gram)?;
            let _ = square.f_mul_scalar_(c)?;
            let _ = gram.f_mul_scalar_(b)?;
            let _ = square.f_add_(&gram)?;
            let _ = square.f_mm_out(&next, &x)?;
            let _ = x.f_mul_scalar_(a)?;
            let _ = next.f_add_(&x)?;
            std::mem::swap(&mut x, &mut next);
        }
        if self.is_tall { Ok(x.f_tr()?) } else { Ok(x) }
    }
}

impl UpdateRule for Muon {
    fn step(
        &mut self,
        parameter: &mut Tensor,
        gradient: &mut Tensor,
        info: StepInfo,
        workspace: &mut Workspace,
    ) -> Result<()> {
        decay(parameter, info.learning_rate, self.weight_decay)?;
        let _ = self.buffer.f_lerp_(gradient, 1.0 - self.momentum)?;
        let direction = if self.nesterov {
            gradient.f_lerp_(&self.buffer, self.momentum)?
        } else {
            self.buffer.shallow_clone()
        };
        let mut update = self.shape.orthogonalized(&direction, workspace)?;
        let _ = update.f_mul_scalar_(-info.learning_rate * self.scale)?;
        let _ = parameter.f_add_(&update)?;
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        vec![("momentum_buffer", &self.buffer)]
    }

    fn workspace_bytes(&self) -> usize {
        let Shape { short, long, kind, .. } = self.shape;
        2 * Workspace::bytes(kind, (short * long) as usize)
            + 2 * Workspace::bytes(kind, (short * short) as usize)
    }
}
