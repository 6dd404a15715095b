use tch::{Kind, Tensor};

use config::Optimizer;

use super::adamw::Adam;
use super::blockwise::{BLOCK, Blockwise, Chunk, Levels};
use super::rule::{StepInfo, UpdateRule, decay};
use super::workspace::Workspace;
use crate::Result;

/// AdamW whose moments take a byte for each element and an f32 for each block of 256 (Dettmers et
/// al. 2022, arXiv 2110.02861). In a step they are read in f32, brought up to date, used, and
/// rounded again, a chunk at a time.
///
/// Of the second moment the root is what is rounded: a code spans seven decades, and the squares of
/// gradients that differ by four would not fit. A second moment that is rounded to zero, with a
/// first moment that is not, would make an unbounded step.
#[derive(Debug)]
pub(super) struct AdamW8bit {
    adam: Adam,
    elements: i64,
    first: Blockwise,
    /// The root of the second moment.
    second: Blockwise,
}

/// Elements that are in f32 at a time, so that the workspace does not grow with the parameter.
pub(super) const CHUNK: i64 = 1 << 18;

impl AdamW8bit {
    /// `levels` are for the first moment, and for the second.
    pub fn new(parameter: &Tensor, options: &Optimizer, levels: &(Levels, Levels)) -> Result<Self> {
        let (elements, device) = (parameter.numel() as i64, parameter.device());
        let [first, second] =
            [&levels.0, &levels.1].map(|levels| Blockwise::zeros(elements, levels, device));
        Ok(Self { adam: Adam::new(options), elements, first: first?, second: second? })
    }

    /// Elements in the buffers of a step.
    fn buffer(&self) -> i64 {
        (self.elements.min(CHUNK) + BLOCK - 1) / BLOCK * BLOCK
    }
}

impl UpdateRule for AdamW8bit {
    fn step(
        &mut self,
        parameter: &mut Tensor,
        gradient: &mut Tensor,
        info: StepInfo,
        workspace: &mut Workspace,
    ) -> Result<()> {
        decay(parameter, info.learning_rate, self.adam.weight_decay)?;
        let buffer = [self.buffer()];
        let [first, second, spare] = [0; 3].map(|_| workspace.take(Kind::Float, &buffer));
        let (first, mut second, spare, index) =
            (first?, second?, spare?, workspace.take(Kind::Int, &buffer)?);
        let flat = gradient.f_reshape([-1])?;
        for start in (0..self.elements).step_by(CHUNK as usize) {
            let chunk = Chunk { start, length: CHUNK.min(self.elements - start) };
            self.first.read(chunk, &first, &index)?;
            self.second.read(chunk, &second, &index)?;
            let own = |buffer: &Tensor| buffer.f_narrow(0, 0, chunk.length);
            let mut gradient = flat.f_narrow(0, start, chunk.length)?;
            let _ = second.f_square_()?;
            self.adam.update(&mut own(&first)?, &mut own(&second)?, &mut gradient, info)?;
            let _ = second.f_sqrt_()?;
            self.first.write(chunk, &first, &spare, &index)?;
            self.second.write(chunk, &second, &spare, &index)?;
        }
        let _ = parameter.f_add_(&flat.f_view_as(parameter)?)?;
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        vec![
            ("exp_avg", self.first.codes()),
            ("exp_avg_scale", self.first.scales()),
            ("exp_avg_sq_root", self.second.codes()),
            ("exp_avg_sq_root_scale", self.second.scales()),
        ]
    }

    fn workspace_bytes(&self) -> usize {
        4 * Workspace::bytes(Kind::Float, self.buffer() as usize)
    }
}
