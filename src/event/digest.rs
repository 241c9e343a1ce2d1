//! A number of 128 bits that stands for what was fed to it, the same on every machine and in every version: FNV-1a.
//!
//! It tells apart what differs by accident. Whoever wants two different things to have the same number can find such a pair.

/// A digest in the making.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digest(u128);

const OFFSET_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

impl Digest {
    pub(crate) fn new() -> Self {
        Self(OFFSET_BASIS)
    }

    /// Feeds a text, with its length before it: no two rows of texts feed the same bytes.
    pub(crate) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes(text.as_bytes());
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    }

    pub(crate) fn finish(self) -> u128 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_published_function() {
        let of = |text: &str| {
            let mut digest = Digest::new();
            digest.bytes(text.as_bytes());
            digest.finish()
        };
        assert_eq!(of(""), OFFSET_BASIS);
        assert_eq!(of("a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        assert_eq!(of("foobar"), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }

    #[test]
    fn texts_are_kept_apart() {
        let of = |texts: [&str; 2]| {
            let mut digest = Digest::new();
            texts.iter().for_each(|text| digest.text(text));
            digest.finish()
        };
        assert_ne!(of(["ab", "c"]), of(["a", "bc"]));
    }
}
