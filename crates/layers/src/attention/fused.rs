//! Attention by one of libtorch's kernels, which never write the scores out.

use tch::Tensor;

use autograd::{Backward, BoxError, Forward, Function};

use super::kernel::{Call, Kernel};
use super::kv_groups::sum_kv_groups;
use super::saved_context::SavedContext;
use crate::Mask;

pub(super) struct Fused {
    pub kernel: Kernel,
    pub mask: Mask,
    pub scale: f64,
    pub saved: SavedContext,
}

impl Fused {
    fn call<'a>(&'a self, q: &Tensor, k: &Tensor, v: &Tensor) -> Call<'a> {
        let (heads, kv_heads) = (q.size()[2], k.size()[2]);
        let width = self.kernel.width(q.size()[3].max(v.size()[3]));
        Call { mask: &self.mask, scale: self.scale, groups: heads / kv_heads, width }
    }
}

impl Function for Fused {
    fn name(&self) -> String {
        "attention".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        let (size, e) = (q.size(), v.size()[3]);
        let (out, log_sums) = self.kernel.forward(&self.call(q, k, v), [q, k, v])?;
        let out = out.f_narrow(3, 0, e)?.f_reshape([size[0], size[1], size[2] * e])?;
        if context.any_needs_grad() {
            self.saved.save(inputs, &out, &log_sums)?;
        }
        Ok(vec![out])
    }

    fn backward(
        &self,
        _: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (Some(dy), Some(saved)) = (&gradients[0], &self.saved.tensors) else {
            return Ok(vec![None, None, None]);
        };
        let (q, k, v) = (saved.q.restore()?, saved.k.restore()?, saved.v.restore()?);
        let (size, e) = (q.size(), v.size()[3]);
        let heads = |x: &Tensor| x.f_reshape([size[0], size[1], size[2], e]);
        let call = self.call(&q, &k, &v);
        let [dq, dk, dv] = self.kernel.backward(
            &call,
            &heads(dy)?,
            [&q, &k, &v],
            &heads(&saved.out.restore()?)?,
            &saved.log_sums.restore()?,
        )?;
        let (dq, dk, dv) =
            (dq.f_narrow(3, 0, size[3])?, dk.f_narrow(3, 0, size[3])?, dv.f_narrow(3, 0, e)?);
        let groups = dk.size()[2] / k.size()[2];
        let of_keys = |gradient: &Tensor| sum_kv_groups(&gradient.f_transpose(1, 2)?, groups);
        Ok(vec![Some(dq), Some(of_keys(&dk)?), Some(of_keys(&dv)?)])
    }
}
