//! The combinations of [`Reduce`] for every dtype. MPI knows no f16 and bf16, and leaves the
//! maximum of NaN to chance, which would give ranks different answers: these are our own functions.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use half::{bf16, f16};
use mpi::ffi::MPI_Datatype;

use super::call::{self, Fold};
use crate::payload::Element;
use crate::{Reduce, Result};

/// One fold for each dtype and reduction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Folds([[Fold; 3]; Element::ALL.len()]);

impl Folds {
    /// Registers our own functions with MPI.
    pub(super) fn create() -> Result<Folds> {
        let mut folds = [[Fold::sum(), Fold::max(), Fold::min()]; Element::ALL.len()];
        for element in Element::ALL {
            for reduce in [Reduce::Sum, Reduce::Max, Reduce::Min] {
                if let Some(function) = own_function(element, reduce) {
                    folds[element as usize][reduce as usize] = call::create_fold(function)?;
                }
            }
        }
        Ok(Folds(folds))
    }

    pub(super) fn get(&self, element: Element, reduce: Reduce) -> Fold {
        self.0[element as usize][reduce as usize]
    }
}

/// Our function, where MPI's own does not do.
fn own_function(element: Element, reduce: Reduce) -> Option<call::FoldFunction> {
    Some(match (element, reduce) {
        (Element::I64, _) | (Element::F32 | Element::F64, Reduce::Sum) => return None,
        (Element::F32, Reduce::Max) => fold::<f32, Max>,
        (Element::F32, Reduce::Min) => fold::<f32, Min>,
        (Element::F64, Reduce::Max) => fold::<f64, Max>,
        (Element::F64, Reduce::Min) => fold::<f64, Min>,
        (Element::F16, Reduce::Sum) => fold::<f16, Sum>,
        (Element::F16, Reduce::Max) => fold::<f16, Max>,
        (Element::F16, Reduce::Min) => fold::<f16, Min>,
        (Element::Bf16, Reduce::Sum) => fold::<bf16, Sum>,
        (Element::Bf16, Reduce::Max) => fold::<bf16, Max>,
        (Element::Bf16, Reduce::Min) => fold::<bf16, Min>,
    })
}

/// What MPI calls: `into[i] = combination of from[i] and into[i]`.
///
/// # Safety
/// Both pointers are to `*length` values of `T`, aligned, apart from each other.
unsafe extern "C" fn fold<T: Float, R: Rule>(
    from: *mut c_void,
    into: *mut c_void,
    length: *mut c_int,
    _: *mut MPI_Datatype,
) {
    // SAFETY: MPI passes its own valid pointer.
    let length = usize::try_from(unsafe { *length }).unwrap_or(0);
    if length == 0 {
        return;
    }
    // SAFETY: by the contract above; a value of T is any bit pattern of its size.
    let (from, into) = unsafe {
        (
            std::slice::from_raw_parts(from.cast::<T>(), length),
            std::slice::from_raw_parts_mut(into.cast::<T>(), length),
        )
    };
    for (into, &from) in into.iter_mut().zip(from) {
        *into = R::combine(from, *into);
    }
}

/// A floating-point number.
trait Float: Copy + PartialOrd {
    /// The sum, rounded once.
    fn plus(self, other: Self) -> Self;
    fn is_nan(self) -> bool;
}

macro_rules! float {
    ($type:ty, |$a:ident, $b:ident| $sum:expr) => {
        impl Float for $type {
            fn plus(self, other: Self) -> Self {
                let ($a, $b) = (self, other);
                $sum
            }

            fn is_nan(self) -> bool {
                <$type>::is_nan(self)
            }
        }
    };
}
float!(f32, |a, b| a + b);
float!(f64, |a, b| a + b);
float!(f16, |a, b| f16::from_f32(a.to_f32() + b.to_f32()));
float!(bf16, |a, b| rounded(wide(a) + wide(b)));

fn wide(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

/// As `bf16::from_f32`, but without a branch, so that a loop of it becomes vector instructions:
/// gradients are added up by it.
fn rounded(value: f32) -> bf16 {
    let bits = value.to_bits();
    let to_even = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet_nan = (bits >> 16) | 0x40;
    bf16::from_bits(if value.is_nan() { quiet_nan } else { to_even } as u16)
}

/// How two numbers become one, whichever comes first.
trait Rule {
    fn combine<T: Float>(a: T, b: T) -> T;
}

struct Sum;
struct Max;
struct Min;

impl Rule for Sum {
    fn combine<T: Float>(a: T, b: T) -> T {
        a.plus(b)
    }
}

impl Rule for Max {
    fn combine<T: Float>(a: T, b: T) -> T {
        if a > b || a.is_nan() { a } else { b }
    }
}

impl Rule for Min {
    fn combine<T: Float>(a: T, b: T) -> T {
        if a < b || a.is_nan() { a } else { b }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded<T: Float, R: Rule>(from: &mut [T], into: &mut [T]) {
        let mut length = from.len() as c_int;
        // SAFETY: two slices of that length, apart from each other; the datatype is not looked at.
        unsafe {
            fold::<T, R>(
                from.as_mut_ptr().cast(),
                into.as_mut_ptr().cast(),
                &mut length,
                std::ptr::null_mut(),
            )
        };
    }

    #[test]
    fn bf16_is_rounded_as_elsewhere() {
        let near = |bits: u32| [bits.wrapping_sub(1), bits, bits.wrapping_add(1)];
        // Each bf16, and each point half way to the next; among them zeros, subnormals, infinities
        // and NaN.
        let all = (0..=u32::from(u16::MAX))
            .flat_map(|high| [high << 16, (high << 16) + 0x8000])
            .flat_map(near);
        for value in all.map(f32::from_bits) {
            assert_eq!(rounded(value).to_bits(), bf16::from_f32(value).to_bits(), "{value:e}");
            assert_eq!(
                wide(bf16::from_f32(value)).to_bits(),
                bf16::from_f32(value).to_f32().to_bits(),
                "{value:e}"
            );
        }
    }

    #[test]
    fn half_precision_is_added_in_f32_and_rounded_once() {
        let (mut a, mut b) = (
            [bf16::from_f32(256.0), bf16::from_f32(1.5)],
            [bf16::from_f32(1.0), bf16::from_f32(-0.25)],
        );
        folded::<bf16, Sum>(&mut a, &mut b);
        assert_eq!(b.map(bf16::to_f32), [256.0, 1.25]);
        let (mut a, mut b) = ([f16::from_f32(2048.0), f16::MAX], [f16::from_f32(3.0), f16::MAX]);
        folded::<f16, Sum>(&mut a, &mut b);
        assert_eq!(b.map(f16::to_f32), [2052.0, f32::INFINITY]);
    }

    #[test]
    fn extremes_of_nan_are_nan_in_either_order() {
        let nan = f32::NAN;
        let (mut a, mut b) = ([1.0, nan, 2.0, nan], [2.0, 1.0, nan, nan]);
        folded::<f32, Max>(&mut a, &mut b);
        assert_eq!(b[0], 2.0);
        assert!(b[1..].iter().all(|value| value.is_nan()));
        let (mut a, mut b) = ([1.0, nan, 2.0], [2.0, 1.0, nan]);
        folded::<f32, Min>(&mut a, &mut b);
        assert_eq!(b[0], 1.0);
        assert!(b[1..].iter().all(|value| value.is_nan()));
    }
}
