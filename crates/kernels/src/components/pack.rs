//! Codes of eight tokens fill whole bytes: `W` bits each make `W` bytes, little-endian, the first
//! token lowest.

/// Tokens that are coded together: as many streams run side by side, so that a machine's lanes are
/// filled.
pub const LANES: usize = 8;

/// The bytes of eight codes as one number.
#[inline(always)]
pub(crate) fn read<const W: usize>(bytes: &[u8; W]) -> u64 {
    let mut word = [0; 8];
    word[..W].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// The codes in such a number.
#[inline(always)]
pub(crate) fn unpack<const W: usize>(word: u64) -> [u32; LANES] {
    std::array::from_fn(|lane| ((word >> (lane * W)) & ((1 << W) - 1)) as u32)
}

/// The bytes of eight codes, each below `2^W`.
#[inline(always)]
pub(crate) fn pack<const W: usize>(codes: [u32; LANES]) -> [u8; W] {
    let mut word = 0;
    for (lane, code) in codes.into_iter().enumerate() {
        word |= u64::from(code) << (lane * W);
    }
    let mut bytes = [0; W];
    bytes.copy_from_slice(&word.to_le_bytes()[..W]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn returns<const W: usize>(codes: [u32; LANES]) -> bool {
        let codes = codes.map(|code| code & ((1 << W) - 1));
        unpack::<W>(read(&pack::<W>(codes))) == codes
    }

    proptest! {
        #[test]
        fn packing_is_undone(codes: [u32; LANES]) {
            prop_assert!(returns::<1>(codes) && returns::<2>(codes) && returns::<3>(codes) && returns::<4>(codes));
            prop_assert!(returns::<5>(codes) && returns::<6>(codes) && returns::<7>(codes) && returns::<8>(codes));
        }
    }
}
