//! Seeded mutations of known inputs: the bounded part of fuzzing, the same on every machine.
#![allow(dead_code, reason = "each user uses some of it")]

/// A generator of the same sequence for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `limit`, or 0 if that is 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap_or(0)
    }
}

/// Numbers at which lengths, counts and offsets go wrong.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    39,
    40,
    4095,
    4096,
    65_535,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// One of `seeds` with one to four changes.
pub(crate) fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(7) {
            0 => flip(&mut bytes, at, random),
            1 => edge(&mut bytes, at, 4, random),
            2 => edge(&mut bytes, at, 8, random),
            3 => bytes.truncate(at),
            4 => {
                let count = random.below(64);
                bytes.splice(at..at, std::iter::repeat_n(random.next() as u8, count));
            }
            5 => {
                let end = (at + random.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            _splice => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let end = (from + random.below(200)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
        }
    }
    bytes
}

fn flip(bytes: &mut [u8], at: usize, random: &mut Random) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

/// An edge in place of `size` bytes.
fn edge(bytes: &mut [u8], at: usize, size: usize, random: &mut Random) {
    let value = EDGES[random.below(EDGES.len())].to_ne_bytes();
    if let Some(place) = bytes.get_mut(at..at + size) {
        place.copy_from_slice(&value[..size]);
    }
}
