use tch::{Kind, Tensor};

use crate::Error;
use crate::measure::check_matrix;
use crate::rounded::{owned, quantize, scales};

/// A matrix whose elements are signed integers of 8 or 4 bits, with one bf16 scale per group of
/// neighbours in a row.
///
/// int8 divides the largest magnitude of a group into 127 steps. int4 puts the element of largest
/// magnitude at −8 of `-8..=7`, as `Q4_0` of GGUF does, so that no code is wasted; element `j` and
/// element `j + ⌈columns / 2⌉` of a row share a byte.
#[derive(Debug)]
pub struct Quantized {
    /// `[rows, columns]` int8, or `[rows, ⌈columns / 2⌉]` uint8 with two elements each.
    values: Tensor,
    /// `[rows, ⌈columns / group⌉]`.
    scales: Tensor,
    columns: i64,
    group: i64,
}

const OPERATION: &str = "quantized";

impl Quantized {
    /// Quantizes `matrix` `[rows, columns]`, which must be finite.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Kind`]; [`Error::Setting`] if `bits` is neither 4 nor 8, or
    /// `group` not positive.
    pub fn new(matrix: &Tensor, bits: u8, group: i64) -> Result<Self, Error> {
        check(bits, group)?;
        let (rows, columns, kind) = check_matrix(OPERATION, matrix)?;
        let group = group.min(columns);
        let groups = (columns + group - 1) / group;
        let matrix = pad(&matrix.f_detach()?.f_to_kind(kind)?, groups * group - columns)?
            .f_reshape([rows, groups, group])?;
        let (least, most) = matrix.f_aminmax(2, true)?;
        let (scales, integers) = if bits == 8 {
            let scales = scales(&least.f_abs()?.f_maximum(&most.f_abs()?)?, 127.0)?;
            let integers = quantize(&matrix, &scales, -127.0, 127.0)?;
            (scales, integers)
        } else {
            let extreme = most.f_where_self(&most.f_gt_tensor(&least.f_neg()?)?, &least)?;
            let scales = scales(&extreme, -8.0)?;
            let integers = quantize(&matrix, &scales, -8.0, 7.0)?;
            (scales, integers)
        };
        let integers = integers.f_view([rows, groups * group])?.f_narrow(1, 0, columns)?;
        let values = if bits == 8 { owned(&integers, Kind::Int8)? } else { pack(&integers)? };
        Ok(Self {
            values,
            scales: owned(&scales.f_squeeze_dim(2)?, Kind::BFloat16)?,
            columns,
            group,
        })
    }

    /// The same code, sharing its storage.
    pub fn shallow_clone(&self) -> Self {
        Self { values: self.values.shallow_clone(), scales: self.scales.shallow_clone(), ..*self }
    }

    pub(crate) fn tensors(&self) -> Vec<&Tensor> {
        vec![&self.values, &self.scales]
    }

    /// Bits of an element, without its share of the scale: 4 or 8.
    pub fn bits(&self) -> u8 {
        if self.values.kind() == Kind::Int8 { 8 } else { 4 }
    }

    /// Bytes held, as [`Quantized::bytes_of`].
    pub fn bytes(&self) -> u64 {
        (self.values.numel() + 2 * self.scales.numel()) as u64
    }

    /// Bytes of a `[rows, columns]` matrix: for each row `columns` bytes (8 bits) or `⌈columns /
    /// 2⌉` (4 bits), and two for each of its `⌈columns / group⌉` groups.
    ///
    /// # Errors
    /// [`Error::Setting`] if `bits` is neither 4 nor 8, or `group` not positive.
    pub fn bytes_of(rows: i64, columns: i64, bits: u8, group: i64) -> Result<u64, Error> {
        check(bits, group)?;
        let group = group.min(columns.max(1));
        let integers = if bits == 8 { columns } else { (columns + 1) / 2 };
        Ok((rows * (integers + 2 * ((columns + group - 1) / group))) as u64)
    }

    /// The integers, `[rows, columns]` in `kind`.
    fn integers(&self, kind: Kind) -> Result<Tensor, Error> {
        if self.bits() == 8 {
            Ok(self.values.f_to_kind(kind)?)
        } else {
            unpack(&self.values, self.columns, kind)
        }
    }

    /// The matrix it stands for, `[rows, columns]` in `kind`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn restore(&self, kind: Kind) -> Result<Tensor, Error> {
        let (rows, groups) = self.scales.size2()?;
        let short = groups * self.group - self.columns;
        let integers = pad(&self.integers(kind)?, short)?.f_view([rows, groups, self.group])?;
        let matrix = integers
            .f_mul(&self.scales.f_to_kind(kind)?.f_unsqueeze(2)?)?
            .f_view([rows, groups * self.group])?;
        if short == 0 {
            Ok(matrix)
        } else {
            Ok(matrix.f_narrow(1, 0, self.columns)?.f_contiguous()?)
        }
    }

    /// `gᵀ A` `[m, columns]` for a gradient `g` `[rows, m]`, in `g`'s dtype. Of the matrix, a few
    /// rows are rebuilt at a time.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn contract(&self, gradient: &Tensor) -> Result<Tensor, Error> {
        let kind = gradient.kind();
        let mut sum =
            Tensor::f_zeros([gradient.size2()?.1, self.columns], (kind, gradient.device()))?;
        for (start, part) in self.parts()? {
            let gradient = gradient.f_narrow(0, start, part.rows())?;
            sum = sum.f_addmm_(&gradient.f_tr()?, &part.restore(kind)?)?;
        }
        Ok(sum)
    }

    /// `A wᵀ` `[rows, m]` for a weight `w` `[m, columns]`, in `w`'s dtype. Of the matrix, a few
    /// rows are rebuilt at a time.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn project(&self, weight: &Tensor) -> Result<Tensor, Error> {
        let kind = weight.kind();
        let weight = weight.f_tr()?;
        let products: Vec<Tensor> = self
            .parts()?
            .into_iter()
            .map(|(_, part)| Ok(part.restore(kind)?.f_matmul(&weight)?))
            .collect::<Result<_, Error>>()?;
        Ok(Tensor::f_cat(&products, 0)?)
    }

    fn rows(&self) -> i64 {
        self.values.size()[0]
    }

    /// Ranges of rows that share this code's storage, each with its first row.
    fn parts(&self) -> Result<Vec<(i64, Self)>, Error> {
        let (rows, most) = (self.rows(), (AT_A_TIME / self.columns).max(1));
        let part = |start: i64| {
            let length = most.min(rows - start);
            let (values, scales) =
                (self.values.f_narrow(0, start, length)?, self.scales.f_narrow(0, start, length)?);
            Ok((start, Self { values, scales, ..*self }))
        };
        (0..rows).step_by(most as usize).map(part).collect()
    }
}

/// Elements rebuilt at a time in a product: 4 MiB in f32, much less than the matrix and enough to
/// keep both cores busy.
const AT_A_TIME: i64 = 1 << 20;

fn check(bits: u8, group: i64) -> Result<(), Error> {
    if bits != 4 && bits != 8 {
        return Err(Error::Setting {
            operation: OPERATION,
            option: "bits",
            expected: "4 or 8",
            got: bits.to_string(),
        });
    }
    if group < 1 {
        return Err(Error::Setting {
            operation: OPERATION,
            option: "group",
            expected: "at least 1",
            got: group.to_string(),
        });
    }
    Ok(())
}

/// With `more` zeros at the end of each row.
fn pad(matrix: &Tensor, more: i64) -> Result<Tensor, Error> {
    if more == 0 { Ok(matrix.shallow_clone()) } else { Ok(matrix.f_constant_pad_nd([0, more])?) }
}

/// Integers in `-8..=7`, of a floating dtype, two to a byte: the halves of a row lie over each
/// other, so that both are read in order.
fn pack(integers: &Tensor) -> Result<Tensor, Error> {
    let columns = integers.size()[1];
    let half = (columns + 1) / 2;
    let codes = pad(&integers.f_add_scalar(8.0)?.f_to_kind(Kind::Uint8)?, 2 * half - columns)?;
    let high = codes.f_narrow(1, half, half)?.f_mul_scalar(16)?;
    Ok(codes.f_narrow(1, 0, half)?.f_add(&high)?)
}

/// The first `columns` of each row, as [`pack`] took them.
fn unpack(packed: &Tensor, columns: i64, kind: Kind) -> Result<Tensor, Error> {
    let (rows, half) = packed.size2()?;
    let mut integers = Tensor::f_empty([rows, columns], (kind, packed.device()))?;
    integers.f_narrow(1, 0, half)?.f_copy_(&packed.f_bitwise_and(15)?)?;
    integers
        .f_narrow(1, half, columns - half)?
        .f_copy_(&packed.f_narrow(1, 0, columns - half)?.f_bitwise_right_shift_tensor_scalar(4)?)?;
    Ok(integers.f_sub_scalar_(8.0)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use tch::Device;

    fn matrix(rows: i64, columns: i64, values: &[f64]) -> Tensor {
        let values: Vec<f64> =
            values.iter().copied().cycle().take((rows * columns) as usize).collect();
        Tensor::from_slice(&values).view([rows, columns])
    }

    proptest! {
        #[test]
        fn packing_is_undone(rows in 1i64..5, columns in 1i64..40, values in prop::collection::vec(-8i32..=7, 1..200)) {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            let integers = matrix(rows, columns, &values);
            let packed = pack(&integers).unwrap();
            prop_assert_eq!(packed.size(), [rows, (columns + 1) / 2]);
            prop_assert_eq!(packed.kind(), Kind::Uint8);
            prop_assert_eq!(unpack(&packed, columns, Kind::Double).unwrap(), integers);
        }

        /// No element is further off than half a step of its group; at the far end of int4, which
        /// has no +8, one step.
        #[test]
        fn an_element_is_off_by_half_a_step(
            rows in 1i64..5, columns in 1i64..70, group in 1i64..40, values in prop::collection::vec(-100.0f64..100.0, 1..200),
        ) {
            let a = matrix(rows, columns, &values);
            for (bits, parts) in [(8, 2.0 * 127.0), (4, 8.0)] {
                let code = Quantized::new(&a, bits, group).unwrap();
                prop_assert_eq!(code.bits(), bits);
                prop_assert_eq!(code.bytes(), Quantized::bytes_of(rows, columns, bits, group).unwrap());
                let off = (code.restore(Kind::Double).unwrap() - &a).abs();
                for start in (0..columns).step_by(group as usize) {
                    let length = group.min(columns - start);
                    let largest = a.narrow(1, start, length).abs().amax([1], false);
                    let bound: Tensor = largest * (1.05 / parts) + 1e-12;
                    let most = off.narrow(1, start, length).amax([1], false);
                    prop_assert!(bool::try_from(most.le_tensor(&bound).all()).unwrap(), "{} bits: {:?} over {:?}", bits, most, bound);
                }
            }
        }
    }

    #[test]
    fn integers_times_a_power_of_two_are_exact() {
        let a = matrix(3, 33, &[-8.0, 7.0, 0.0, 3.0, -1.0]) * 0.25;
        assert_eq!(Quantized::new(&a, 4, 33).unwrap().restore(Kind::Double).unwrap(), a);
        let a = matrix(2, 9, &[127.0, -127.0, 1.0, 0.0, 64.0]) * 2.0;
        assert_eq!(Quantized::new(&a, 8, 9).unwrap().restore(Kind::Double).unwrap(), a);
    }

    #[test]
    fn an_outlier_spoils_its_group_only() {
        let a = matrix(1, 64, &[1.0, -0.5, 0.25, 0.75]);
        let _ = a.get(0).get(3).fill_(1000.0);
        let restored = Quantized::new(&a, 8, 32).unwrap().restore(Kind::Double).unwrap();
        assert!(
            (restored.narrow(1, 32, 32) - a.narrow(1, 32, 32)).abs().max().double_value(&[])
                < 0.005
        );
    }

    #[test]
    fn the_storage_is_the_codes_own() {
        let a = Tensor::ones([10, 33], (Kind::Float, Device::Cpu));
        for (bits, bytes) in [(8, 10 * 33 + 10 * 2 * 2), (4, 10 * 17 + 10 * 2 * 2)] {
            let code = Quantized::new(&a, bits, 32).unwrap();
            assert_eq!(code.bytes(), bytes);
            for tensor in [&code.values, &code.scales] {
                assert!(
                    tensor.is_contiguous()
                        && tensor.internal_has_same_storage_numel(&tensor.empty_like())
                );
            }
        }
    }
}
