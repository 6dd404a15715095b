use tch::{Kind, TchError, Tensor};

use layers::{Error, Mask, window_mask};

use super::attention_context::AttentionContext;

/// Attention within windows of the map that an image's tokens make, cut again and again at shifted
/// places (`SwinLayer` of transformers).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    /// Tokens on each side of a window.
    pub size: i64,
    /// By how many tokens the map is shifted, up and to the left, before it is cut.
    pub shift: i64,
}

impl Windows {
    /// `attend` on the windows of `x` `[batch, tokens, width]`, and its result in the order of `x`.
    /// A map that is no multiple of a window is padded with zeros, which are attended to.
    pub fn attend(
        self,
        x: &Tensor,
        context: &AttentionContext,
        attend: impl FnOnce(&Tensor, &AttentionContext) -> layers::Result<Tensor>,
    ) -> layers::Result<Tensor> {
        let (batch, width) = (x.size()[0], x.size()[2]);
        let [rows, columns] = context
            .grid
            .filter(|[rows, columns]| rows.min(columns) >= &self.size)
            .ok_or_else(|| Error::Shape {
                operation: "window attention",
                expected: format!(
                    "a map of {0} by {0} tokens or more, as window_size says",
                    self.size
                ),
                got: context.grid.unwrap_or_default().to_vec(),
            })?;
        // A map no higher or no wider than a window is not shifted.
        let shift = if rows.min(columns) == self.size { 0 } else { self.shift };
        let padded = [rows, columns].map(|side| (side + self.size - 1) / self.size * self.size);
        let mut map = x.f_view([batch, rows, columns, width])?;
        if padded != [rows, columns] {
            map = map.f_constant_pad_nd([0, 0, 0, padded[1] - columns, 0, padded[0] - rows])?;
        }
        let mut mask = Mask::Full;
        if shift > 0 {
            map = map.f_roll([-shift, -shift], [1, 2])?;
            let regions = self
                .cut(&self.regions(padded, shift).f_to_device(x.device())?)?
                .f_squeeze_dim(2)?;
            mask = window_mask(&regions, batch, x.kind())?;
        }
        let out = attend(&self.cut(&map)?, &AttentionContext::masked(mask, None))?;
        let mut map = self.joined(&out, batch, padded)?;
        if shift > 0 {
            map = map.f_roll([shift, shift], [1, 2])?;
        }
        Ok(map.f_narrow(1, 0, rows)?.f_narrow(2, 0, columns)?.f_reshape([
            batch,
            rows * columns,
            -1,
        ])?)
    }

    /// `[batch, rows, columns, width]` to `[batch · windows, tokens, width]`.
    fn cut(self, map: &Tensor) -> Result<Tensor, TchError> {
        let (size, side) = (map.size(), self.size);
        let cut = map.f_view([size[0], size[1] / side, side, size[2] / side, side, size[3]])?;
        cut.f_permute([0, 1, 3, 2, 4, 5])?.f_reshape([-1, side * side, size[3]])
    }

    /// The inverse, for a map of `rows` and `columns`.
    fn joined(
        self,
        windows: &Tensor,
        batch: i64,
        [rows, columns]: [i64; 2],
    ) -> Result<Tensor, TchError> {
        let side = self.size;
        let cut = windows.f_view([batch, rows / side, columns / side, side, side, -1])?;
        cut.f_permute([0, 1, 3, 2, 4, 5])?.f_reshape([batch, rows, columns, -1])
    }

    /// Which tokens of a shifted map were neighbours before: the number of each one's region, `[1,
    /// rows, columns, 1]`.
    fn regions(self, [rows, columns]: [i64; 2], shift: i64) -> Tensor {
        let strip =
            |at: i64, side: i64| i64::from(at >= side - self.size) + i64::from(at >= side - shift);
        let region = |at: i64| 3 * strip(at / columns, rows) + strip(at % columns, columns);
        let regions: Vec<i64> = (0..rows * columns).map(region).collect();
        Tensor::from_slice(&regions).view([1, rows, columns, 1]).to_kind(Kind::Int64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::Device;

    fn map(rows: i64, columns: i64) -> Tensor {
        Tensor::arange(rows * columns, (Kind::Float, Device::Cpu)).view([1, rows * columns, 1])
    }

    #[test]
    fn windows_are_put_back_where_they_were_cut() {
        for (rows, columns, shift) in [(6, 9, 0), (6, 9, 1), (4, 5, 1), (3, 7, 1), (8, 8, 2)] {
            let x = map(rows, columns);
            let windows = Windows { size: 3, shift };
            let context = AttentionContext::masked(Mask::Full, Some([rows, columns]));
            let same = windows.attend(&x, &context, |x, _| Ok(x.copy())).unwrap();
            assert_eq!(same, x, "{rows} by {columns}, shifted by {shift}");
        }
    }

    #[test]
    fn a_shifted_map_attends_within_what_was_together() {
        let windows = Windows { size: 2, shift: 1 };
        let output = windows.attend(
            &map(4, 4),
            &AttentionContext::masked(Mask::Full, Some([4, 4])),
            |x, context| {
                let Mask::Additive(mask) = context.mask(None).unwrap() else { panic!("a mask") };
                // The first window lies inside the map; the last is made of its four corners.
                assert_eq!(x.get(0).flatten(0, -1), Tensor::from_slice(&[5f32, 6.0, 9.0, 10.0]));
                assert_eq!(x.get(3).flatten(0, -1), Tensor::from_slice(&[15f32, 12.0, 3.0, 0.0]));
                assert_eq!(mask.get(0).abs().sum(Kind::Float).double_value(&[]), 0.0);
                assert_eq!(
                    mask.get(3).eq(0.0).to_kind(Kind::Float).squeeze(),
                    Tensor::eye(4, (Kind::Float, Device::Cpu))
                );
                Ok(x.copy())
            },
        );
        assert!(output.is_ok());
    }

    #[test]
    fn a_map_smaller_than_a_window_is_refused() {
        let context = AttentionContext::masked(Mask::Full, Some([2, 5]));
        let refused = Windows { size: 3, shift: 0 }
            .attend(&map(2, 5), &context, |x, _| Ok(x.copy()))
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("3 by 3 tokens or more, as window_size says, got [2, 5]"),
            "{refused}"
        );
    }
}
