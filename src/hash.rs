//! Hashes that are stored and have to be the same in every build; std's are not.
//!
//! They serve against accidents. They do not protect against an attacker, and nothing in this crate
//! relies on them for that.

/// The offset basis of FNV.
const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// Returns the 64-bit FNV-1a hash of the concatenated parts. It is for names: it reads a byte at a
/// time.
pub(crate) fn fnv1a(parts: &[&[u8]]) -> u64 {
    let mut hash = SEED;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// Returns a checksum of the parts and their lengths. It is for data: it reads eight bytes at a time.
///
/// Any change within eight bytes changes it, because [`mix`] is a bijection. A larger change goes
/// undetected once in 2^64.
pub(crate) fn checksum(parts: &[&[u8]]) -> u64 {
    parts.iter().fold(SEED, |sum, part| {
        let (words, rest) = part.as_chunks();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let sum = words.iter().fold(sum, |sum, word| mix(sum, u64::from_le_bytes(*word)));
        mix(mix(sum, u64::from_le_bytes(last)), part.len() as u64)
    })
}

fn mix(sum: u64, word: u64) -> u64 {
    /// The fractional part of the golden ratio, as in Knuth's multiplicative hashing; odd.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (sum ^ word).wrapping_mul(FACTOR);
    mixed ^ (mixed >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of the authors of FNV.
    #[test]
    fn fnv1a_matches_published_vectors() {
        assert_eq!(fnv1a(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(&[b"a"]), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(&[b"foo", b"bar"]), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn checksum_detects_flips_and_moved_ends() {
        let bytes = *b"a value of 27 bytes, or of 3";
        let whole = checksum(&[&bytes]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(checksum(&[&flipped]), whole);
        }
        for end in 0..bytes.len() {
            let (start, rest) = bytes.split_at(end);
            assert_ne!(checksum(&[start]), whole);
            assert_ne!(checksum(&[start, rest]), whole);
            assert_ne!(checksum(&[start, &vec![0; rest.len()]]), whole);
        }
        assert_ne!(checksum(&[b""]), checksum(&[b"\0"]));
    }
}
