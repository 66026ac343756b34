//! What a device offers to a front end: features, and its configuration.
//!
//! Invariant: the same for each front end, and for each server of a device that outlives one.

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};

/// Request queues at most: with hiprio, bits of a word.
pub const REQUEST_QUEUES_MAX: usize = 62;
/// Bytes of `tag` in the configuration.
const TAG_LEN: usize = 36;
/// Bytes of the configuration that a front end may ask for (VHOST_USER_CONFIG_SIZE).
const CONFIG_MAX: usize = 256;

/// A name for mount(8) in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(String);

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a tag is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tag has 1 to {TAG_LEN} bytes, none of them 0")]
pub struct TagError;

impl std::str::FromStr for Tag {
    type Err = TagError;

    fn from_str(tag: &str) -> Result<Self, TagError> {
        match (1..=TAG_LEN).contains(&tag.len()) && !tag.contains('\0') {
            true => Ok(Self(tag.to_owned())),
            false => Err(TagError),
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    tag: Option<Tag>,
    request_queues: usize,
}

impl Offer {
    /// With 1 to [`REQUEST_QUEUES_MAX`] queues beside hiprio.
    pub(super) fn new(tag: Option<Tag>, request_queues: usize) -> Self {
        Self {
            tag,
            request_queues: request_queues.clamp(1, REQUEST_QUEUES_MAX),
        }
    }

    pub(super) fn request_queues(&self) -> usize {
        self.request_queues
    }

    fn config(&self) -> Vec<u8> {
        let tag = self.tag.as_ref().map_or("", |tag| &tag.0);
        let mut config = tag.as_bytes().to_vec();
        config.resize(TAG_LEN, 0);
        // At most REQUEST_QUEUES_MAX.
        config.extend((self.request_queues as u32).to_le_bytes());
        config
    }

    pub(super) fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    pub(super) fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let always = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        match self.tag {
            Some(_) => always | VhostUserProtocolFeatures::CONFIG,
            None => always,
        }
    }

    /// Part of the configuration. The front end takes an answer of another length for a refusal.
    pub(super) fn config_part(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = self.config();
        config.resize(CONFIG_MAX, 0);
        let part = (offset as usize)
            .checked_add(size as usize)
            .and_then(|end| config.get(offset as usize..end));
        part.unwrap_or_default().to_vec()
    }
}
