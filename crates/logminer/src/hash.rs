//! A fixed 64-bit hash: the same on every machine and in every version, since what is kept and what is forgotten depends on it.

/// FNV-1a over eight bytes at a time with a final avalanche (the finaliser of MurmurHash3).
pub fn stable_hash(bytes: &[u8]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut h = (bytes.len() as u64).wrapping_mul(K) ^ 0xcbf2_9ce4_8422_2325;
    let mut chunks = bytes.chunks_exact(8);
    for c in &mut chunks {
        let mut word = [0u8; 8];
        word.copy_from_slice(c);
        h = (h ^ u64::from_le_bytes(word)).wrapping_mul(K);
        h ^= h >> 29;
    }
    let mut tail = [0u8; 8];
    tail[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    h = (h ^ u64::from_le_bytes(tail)).wrapping_mul(K);
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// A hash for maps in memory, of which nothing is ever kept: sixteen bytes for the price of one multiplication (the folded product that
/// wyhash is built of), so it may differ between versions.
#[inline]
pub(crate) fn quick_hash(bytes: &[u8]) -> u64 {
    const K: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53];
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let word = |w: &[u8]| u64::from_le_bytes(w.try_into().expect("8 bytes"));
    let mut h = (bytes.len() as u64).wrapping_mul(K[1]) ^ K[2];
    let mut pieces = bytes.chunks_exact(16);
    for piece in &mut pieces {
        h = fold(word(&piece[..8]) ^ K[0], word(&piece[8..]) ^ h);
    }
    // the last sixteen bytes again, however many of them are new: no loop over those that are left
    let (a, b) = match *bytes {
        [.., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] => {
            let tail = &bytes[bytes.len() - 16..];
            (word(&tail[..8]), word(&tail[8..]))
        }
        [.., _, _, _, _, _, _, _, _] => (word(&bytes[..8]), word(&bytes[bytes.len() - 8..])),
        _ => (bytes.iter().fold(0, |w, &b| w << 8 | u64::from(b)), 0),
    };
    fold(fold(a ^ K[1], b ^ h), K[0])
}

/// A hash for maps in memory by shapes, patterns and what else is one run of bytes: a third of what the standard one costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShapeState;

/// See [`ShapeState`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ShapeHasher(u64);

impl std::hash::Hasher for ShapeHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= quick_hash(bytes);
    }
    // the length, and what ends a text: both are in the hash of the bytes
    #[inline]
    fn write_usize(&mut self, _: usize) {}
    #[inline]
    fn write_u8(&mut self, _: u8) {}
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

impl std::hash::BuildHasher for ShapeState {
    type Hasher = ShapeHasher;
    #[inline]
    fn build_hasher(&self) -> ShapeHasher {
        ShapeHasher::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_byte_and_the_length_count() {
        for hash in [stable_hash, quick_hash] {
            let mut seen = HashSet::new();
            for len in 0..70 {
                let zeros = vec![0u8; len];
                assert!(seen.insert(hash(&zeros)), "{len} zero bytes");
                for i in 0..len {
                    let mut one = zeros.clone();
                    one[i] = 1;
                    assert!(seen.insert(hash(&one)), "byte {i} of {len}");
                }
            }
        }
    }
}
