//! The footprint of the attention sublayer.

use layers::footprint::{Allocation, LinearShape};
use layers::{SavePolicy, Site};

use super::footprint::{BlockShape, HiddenState, SavedSublayer, SimContext};
use crate::BlockActivations;

impl BlockShape {
    pub(super) fn attention_sublayer(
        &self,
        ctx: &SimContext<'_>,
        x: &HiddenState,
        policy: &BlockActivations,
        keeping: bool,
    ) -> (HiddenState, SavedSublayer) {
        let (sim, rows, heads) = (ctx.sim, ctx.rows(), ctx.heads);
        let on = |keep| keeping.then_some(keep);
        let (normed, norm) = self.normed(ctx, x, 0, on(&policy.norm), Site::AttentionNorm);
        let core_needs = normed.needs || self.into_attention.iter().any(LinearShape::is_trained);
        let mut saved = SavedSublayer {
            norm,
            needs: [x.needs, normed.needs, core_needs],
            ..SavedSublayer::default()
        };

        let mut made = sim.project(rows, &self.into_attention);
        if keeping && self.into_attention.iter().any(LinearShape::reads_input) {
            saved.input =
                Some(sim.save(&policy.attn_in, &normed.alloc, (rows, self.hidden), Site::AttnIn));
        }
        if keeping && self.latent > 0 && core_needs {
            saved.latent = Some(sim.save(
                &SavePolicy::Exact,
                &sim.tensor(rows * self.latent),
                (rows, self.latent),
                Site::KeyLatent,
            ));
        }
        let [wide, narrow, values] =
            [heads.queries * heads.width, heads.keys * heads.width, heads.keys * heads.value];
        let cut = || [wide, narrow, values].map(|width| sim.tensor(rows * width)).to_vec();
        if self.qkv_is_fused {
            made = cut();
        }
        if self.head_norms {
            for (index, (width, site)) in
                [(wide, Site::QueryNorm), (narrow, Site::KeyNorm)].into_iter().enumerate()
            {
                let alloc = sim.norm(&made[index], rows * width, self.norm);
                if keeping && core_needs {
                    saved.head_norms.push(sim.save(
                        &policy.norm,
                        &made[index],
                        (rows, width),
                        site,
                    ));
                }
                made[index] = alloc;
            }
        }
        if self.has_rotary {
            let turned = [sim.rotary(rows * wide), sim.rotary(rows * narrow)];
            made.splice(..2, turned);
        }
        let (out, log_sums) = sim.attention(heads);
        if keeping && core_needs {
            let core = [(&made[0], wide), (&made[1], narrow), (&made[2], values)];
            saved.core = core
                .map(|(alloc, width)| {
                    sim.save(&SavePolicy::Exact, alloc, (rows, width), Site::Core)
                })
                .into();
            // In f32, whatever the model has.
            saved.core.push(sim.save(
                &SavePolicy::Exact,
                &log_sums,
                (rows, heads.queries * 4 / sim.element),
                Site::Core,
            ));
            saved.output = Some(sim.save(
                &policy.attn_out,
                &out,
                (rows, heads.queries * heads.value),
                Site::AttnOut,
            ));
        }
        let alloc = sim.project(rows, &[self.out_of_attention]).remove(0);
        let sublayer =
            HiddenState { alloc, needs: core_needs || self.out_of_attention.is_trained() };
        let (sublayer, post_norm) =
            self.normed(ctx, &sublayer, 1, on(&policy.norm), Site::AttentionPostNorm);
        (sublayer, SavedSublayer { post_norm, ..saved })
    }

    pub(super) fn attention_backward(
        &self,
        ctx: &SimContext<'_>,
        mut saved: SavedSublayer,
        dy: &Allocation,
    ) -> Option<Allocation> {
        let (sim, rows, heads) = (ctx.sim, ctx.rows(), ctx.heads);
        let dy = self.norm_backward(ctx, saved.post_norm.take(), dy);
        let d_out = sim.project_backward(
            rows,
            &[self.out_of_attention],
            saved.output.as_ref(),
            &[dy],
            saved.needs[2],
        )?;
        let out = saved.output.as_ref().map(|out| sim.restore(out));
        let mut made = sim.attention_backward(heads).to_vec();
        drop((d_out, out, saved.output.take()));
        saved.core.clear();
        let [wide, narrow] = [heads.queries * heads.width, heads.keys * heads.width];
        if self.has_rotary {
            made[1] = sim.rotary(rows * narrow);
            made[0] = sim.rotary(rows * wide);
        }
        for (index, norm) in saved.head_norms.drain(..).enumerate().rev() {
            made[index] = sim.norm_backward(
                &norm,
                &made[index],
                rows * [wide, narrow][index],
                self.norms_trained,
            );
        }
        if self.qkv_is_fused {
            made = vec![sim.tensor(rows * (wide + narrow + heads.keys * heads.value))];
        }
        let d_normed = sim.project_backward(
            rows,
            &self.into_attention,
            saved.input.as_ref(),
            &made,
            saved.needs[1],
        )?;
        drop((made, saved.input.take(), saved.latent.take()));
        Some(self.norm_backward(ctx, saved.norm.take(), &d_normed))
    }
}
