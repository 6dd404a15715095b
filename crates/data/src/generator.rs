use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

/// What random numbers are drawn for. Each purpose has its own stream, so that holding samples out
/// does not change the order of the rest.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Epoch,
    HoldOut,
    Image,
    Weight,
}

/// The generator for one draw: the key is (seed, index, purpose) as it stands, nothing is mixed or
/// shared.
pub(crate) fn generator(seed: u64, purpose: Purpose, index: u64) -> ChaCha12Rng {
    let name: &[u8; 16] = match purpose {
        Purpose::Epoch => b"loract.epoch\0\0\0\0",
        Purpose::HoldOut => b"loract.hold_out\0",
        Purpose::Image => b"loract.image\0\0\0\0",
        Purpose::Weight => b"loract.weight\0\0\0",
    };
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&index.to_le_bytes());
    key[16..].copy_from_slice(name);
    ChaCha12Rng::from_seed(key)
}
