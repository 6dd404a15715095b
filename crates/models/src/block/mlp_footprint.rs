//! The footprint of the MLP sublayer.

use layers::Site;
use layers::footprint::{Allocation, LinearShape};

use super::footprint::{BlockShape, HiddenState, SavedSublayer, SimContext};
use crate::BlockActivations;

impl BlockShape {
    pub(super) fn mlp_sublayer(
        &self,
        ctx: &SimContext<'_>,
        x: &HiddenState,
        policy: &BlockActivations,
        keeping: bool,
    ) -> (HiddenState, SavedSublayer) {
        let (sim, rows) = (ctx.sim, ctx.rows());
        let on = |keep| keeping.then_some(keep);
        // In parallel sublayers both read the output of one norm, and one saved form of it serves
        // both.
        let (normed, norm) = match self.is_parallel {
            true => (x.clone(), None),
            false => self.normed(ctx, x, 2, on(&policy.norm), Site::MlpNorm),
        };
        let core_needs = normed.needs || self.into_mlp.iter().any(LinearShape::is_trained);
        let mut saved = SavedSublayer {
            norm,
            needs: [x.needs, normed.needs, core_needs],
            ..SavedSublayer::default()
        };
        if keeping && !self.is_parallel && self.into_mlp.iter().any(LinearShape::reads_input) {
            saved.input =
                Some(sim.save(&policy.mlp_in, &normed.alloc, (rows, self.hidden), Site::MlpIn));
        }
        let elements = rows * self.inner;
        let inner = {
            let _dispatched =
                (self.copies > 0).then(|| sim.tensor(rows * self.copies * self.hidden));
            let made = sim.project(self.mlp_rows(rows), &self.into_mlp);
            let (gate, up) = match (self.gate_up_is_fused, made.as_slice()) {
                (true, _) => (sim.tensor(elements), Some(sim.tensor(elements))),
                (false, [gate, up, ..]) => (gate.clone(), Some(up.clone())),
                (false, made) => (made[0].clone(), None),
            };
            if self.gate_up_is_fused {
                drop(made);
            }
            if keeping && core_needs {
                saved.core.push(sim.save(&policy.act, &gate, (rows, self.inner), Site::Gate));
                saved.core.extend(
                    up.as_ref().map(|up| sim.save(&policy.act, up, (rows, self.inner), Site::Up)),
                );
            }
            sim.gated(elements)
        };
        if keeping && self.out_of_mlp.reads_input() {
            saved.output =
                Some(sim.save(&policy.mlp_out, &inner, (rows, self.inner), Site::MlpOut));
        }
        let _copies = (self.copies > 0).then(|| sim.tensor(rows * self.copies * self.hidden));
        let alloc = sim.project(rows, &[self.out_of_mlp]).remove(0);
        let sublayer = HiddenState { alloc, needs: core_needs || self.out_of_mlp.is_trained() };
        let (sublayer, post_norm) =
            self.normed(ctx, &sublayer, 3, on(&policy.norm), Site::MlpPostNorm);
        (sublayer, SavedSublayer { post_norm, ..saved })
    }

    pub(super) fn mlp_backward(
        &self,
        ctx: &SimContext<'_>,
        mut saved: SavedSublayer,
        dy: &Allocation,
    ) -> Option<Allocation> {
        let (sim, rows) = (ctx.sim, ctx.rows());
        let dy = self.norm_backward(ctx, saved.post_norm.take(), dy);
        let _copies = (self.copies > 0).then(|| sim.tensor(rows * self.copies * self.hidden));
        let inner_linear = LinearShape {
            inputs: self.out_of_mlp.inputs * self.mlp_rows(rows) / rows,
            ..self.out_of_mlp
        };
        let d_inner = sim.project_backward(
            rows,
            &[inner_linear],
            saved.output.as_ref(),
            &[dy],
            saved.needs[2],
        )?;
        drop(saved.output.take());
        let inner = rows * self.inner;
        let mut made = match saved.core.as_slice() {
            [gate, up] => sim.gated_backward(gate, up, inner).to_vec(),
            [x] => vec![sim.activate_backward(x, inner)],
            _ => return None,
        };
        drop(d_inner);
        saved.core.clear();
        if self.gate_up_is_fused {
            made = vec![sim.tensor(2 * inner)];
        }
        let d_normed = sim.project_backward(
            self.mlp_rows(rows),
            &self.into_mlp,
            saved.input.as_ref(),
            &made,
            saved.needs[1],
        )?;
        drop((made, saved.input.take()));
        Some(self.norm_backward(ctx, saved.norm.take(), &d_normed))
    }

    /// Rows that an expert's linears see in all: each token once for each of its experts.
    fn mlp_rows(&self, rows: u64) -> u64 {
        rows * self.copies.max(1)
    }
}
