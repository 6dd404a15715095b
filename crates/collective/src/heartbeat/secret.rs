//! How ranks prove that they are ranks: with a secret that the group has carried to all, of which
//! only codes (HMAC-SHA256) over fresh random bytes cross the heartbeat's own connections.

use std::fs::File;
use std::io::{self, Read as _};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// What only the ranks of a job know.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Secret([u8; Secret::BYTES]);

/// Random bytes that are used once, so that no code can be used again.
pub(super) type Nonce = [u8; 16];

/// A code that only who knows the secret can make.
pub(super) type Code = [u8; 32];

/// What a code is for; one for another purpose is none.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// A rank answers rank 0's challenge.
    Hello(u32),
    /// Rank 0 answers a rank's.
    Welcome,
}

impl Secret {
    /// Its length.
    pub(super) const BYTES: usize = 32;

    /// A new one.
    pub(super) fn new() -> io::Result<Self> {
        random().map(Self)
    }

    /// From the bytes that the group has carried.
    pub(super) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// For the group to carry.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The code over `nonce`.
    pub(super) fn code(&self, purpose: Purpose, nonce: &Nonce) -> Code {
        self.mac(purpose, nonce).finalize().into_bytes().into()
    }

    /// Whether `code` is the one over `nonce`; compared in constant time.
    pub(super) fn proves(&self, code: &Code, purpose: Purpose, nonce: &Nonce) -> bool {
        self.mac(purpose, nonce).verify_slice(code).is_ok()
    }

    fn mac(&self, purpose: Purpose, nonce: &Nonce) -> Hmac<Sha256> {
        let (kind, rank) = match purpose {
            Purpose::Hello(rank) => (1, rank),
            Purpose::Welcome => (2, 0),
        };
        let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(&self.0)
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of every length"));
        mac.update(&[kind]);
        mac.update(&rank.to_le_bytes());
        mac.update(nonce);
        mac
    }
}

/// Not the secret itself, which a log must not hold.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Fresh random bytes.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_code_is_for_one_secret_purpose_and_nonce() {
        let (secret, other) = (Secret::new().unwrap(), Secret::new().unwrap());
        let (nonce, later) = ([7; 16], [8; 16]);
        let code = secret.code(Purpose::Hello(3), &nonce);
        assert!(secret.proves(&code, Purpose::Hello(3), &nonce));
        assert!(!secret.proves(&code, Purpose::Hello(2), &nonce));
        assert!(!secret.proves(&code, Purpose::Welcome, &nonce));
        assert!(!secret.proves(&code, Purpose::Hello(3), &later));
        assert!(!other.proves(&code, Purpose::Hello(3), &nonce));
    }
}
