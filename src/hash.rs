//! One hash for what has to be the same in every build and on every machine; std's hashes are not.
//!
//! Any single changed byte changes it, which makes it a checksum against accidents too. Against
//! people it is no protection, and nothing here relies on it for that.

/// Returns the FNV-1a hash, 64 bits, of the parts, one after the other.
pub(crate) fn fnv1a(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    // From the test vectors of the FNV authors.
    #[test]
    fn it_never_changes() {
        assert_eq!(fnv1a(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(&[b"a"]), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(&[b"foo", b"bar"]), 0x8594_4171_f739_67e8);
    }
}
