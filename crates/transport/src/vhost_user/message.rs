//! One message of a front end, as its bytes.

/// Bytes of the header: request, flags and the length of the body.
pub(super) const HEADER: usize = 12;
/// Bytes of a body at most (MAX_MSG_SIZE of the crate vhost).
pub(super) const BODY_MAX: usize = 4096;
/// The version, in the flags.
const VERSION: u32 = 1;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) request: u32,
    flags: u32,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// One that asks for no acknowledgement.
    pub(super) fn new(request: u32, body: Vec<u8>) -> Self {
        Self {
            request,
            flags: VERSION,
            body,
        }
    }

    /// That with this header, and the length of its body, which is still to come.
    pub(super) fn with_header(header: [u8; HEADER]) -> (Self, usize) {
        let word = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_ne_bytes(bytes)
        };
        let message = Self {
            request: word(0),
            flags: word(4),
            body: Vec::new(),
        };
        (message, word(8) as usize)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        // At most BODY_MAX.
        let words = [self.request, self.flags, self.body.len() as u32];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(&self.body);
        bytes
    }

    /// The number at this place of the body.
    pub(super) fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.body.get(at..)?.first_chunk().copied();
        bytes.map(u32::from_ne_bytes)
    }

    /// As [`Self::u32`].
    pub(super) fn u64(&self, at: usize) -> Option<u64> {
        let bytes = self.body.get(at..)?.first_chunk().copied();
        bytes.map(u64::from_ne_bytes)
    }
}
