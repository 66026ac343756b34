//! The virtiofs devices that a machine may have, as data that the host and the guest share: names, and options of
//! their servers.
//!
//! A device for each cache mode, since one boot is to test all of them and a device has one server.

/// The name in the guest of the device whose server refuses some writes.
pub(super) const TAG: &str = "xtests";
/// Descriptors of a queue, which limit a request. Fixed in User Mode Linux, so QEMU gets the same.
pub(super) const QUEUE_SIZE: u16 = 256;
/// The file in the shared directory of [`TAG`] whose writes all fail.
pub(super) const REFUSED: &str = "refused";
/// Devices whose servers refuse nothing and share a tmpfs: names in the guest, and options.
pub(super) const PLAIN: [(&str, &[&str]); 5] = [
    (AUTO, &["--cache=auto"]),
    ("always", &["--cache=always"]),
    // Mappings, since fsx has them.
    ("never", &["--cache=never", "--allow-mmap"]),
    ("metadata", &["--cache=metadata", "--allow-mmap"]),
    ("writeback", &["--cache=auto", "--writeback"]),
];
/// The one of them that scenarios use which are not about caching.
pub(super) const AUTO: &str = "auto";
