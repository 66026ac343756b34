//! How a message and the room for its answer lie in descriptors, which is the driver's to choose.

/// How a message is cut into descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// As Linux does it: header, argument, and the data in pages.
    Linux,
    /// One descriptor for each part.
    Whole,
    /// So many bytes in each descriptor.
    Every(usize),
}

impl Cut {
    pub(super) fn apart(self, parts: &[&[u8]]) -> Vec<Vec<u8>> {
        let whole = || parts.concat();
        match self {
            Self::Linux => parts
                .iter()
                .flat_map(|part| part.chunks(4096))
                .map(<[u8]>::to_vec)
                .collect(),
            Self::Whole => vec![whole()],
            Self::Every(size) => whole().chunks(size).map(<[u8]>::to_vec).collect(),
        }
    }

    pub(super) fn lengths(self, room: usize) -> Vec<usize> {
        let chunks = |from: usize, size: usize| {
            (from..room)
                .step_by(size)
                .map(move |at| size.min(room - at))
        };
        match self {
            Self::Linux if room > 16 => std::iter::once(16).chain(chunks(16, 4096)).collect(),
            Self::Linux | Self::Whole => (room > 0).then_some(room).into_iter().collect(),
            Self::Every(size) => chunks(0, size).collect(),
        }
    }
}
