//! FS_IOC_ENABLE_VERITY and FS_IOC_MEASURE_VERITY (fs-verity) with the argument in a byte buffer, as FUSE carries
//! it: the structure, and behind it what its pointers lead to (`fuse_do_ioctl`).
//!
//! Invariant: no size and no pointer that the caller gave reaches the kernel unchecked. FS_IOC_READ_VERITY_METADATA has
//! a pointer as well, which fs/fuse does not follow: it cannot be carried.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// FS_IOC_ENABLE_VERITY: `struct fsverity_enable_arg`.
pub const FS_IOC_ENABLE_VERITY: u32 = 0x4080_6685;
/// FS_IOC_MEASURE_VERITY: `struct fsverity_digest`, of which the number counts the head alone.
pub const FS_IOC_MEASURE_VERITY: u32 = 0xc004_6686;

/// FS_VERITY_MAX_DIGEST_SIZE.
const DIGEST_MAX: usize = 64;
/// Bytes of `struct fsverity_digest` before the digest: its algorithm, and its size.
const DIGEST_HEAD: usize = 4;
/// Bytes of `struct fsverity_enable_arg`.
const ENABLE_ARG: usize = 128;

/// `struct fsverity_enable_arg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EnableArg {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

/// Makes the file of `fd`, open for reading, one that cannot change. `input` is the structure, the salt and the
/// signature.
///
/// # Errors
/// EINVAL where their sizes are not those that the structure says; EACCES for a caller that may not write to the
/// file; ETXTBSY while it is open for writing; EOPNOTSUPP, ENOTTY.
pub fn enable(fd: impl AsFd, input: &[u8]) -> io::Result<()> {
    let (arg, salt, signature) = split(input).ok_or(io::ErrorKind::InvalidInput)?;
    let arg = EnableArg {
        salt_ptr: salt.as_ptr().addr() as u64,
        sig_ptr: signature.as_ptr().addr() as u64,
        ..arg
    };
    let (fd, number) = (fd.as_fd().as_raw_fd(), FS_IOC_ENABLE_VERITY as libc::Ioctl);
    // SAFETY: the kernel reads the structure, and as many bytes of salt and signature as those slices have.
    let done = unsafe { libc::ioctl(fd, number, &raw const arg) };
    match done {
        0 => Ok(()),
        _failed => Err(io::Error::last_os_error()),
    }
}

/// The structure, with what its pointers led to; none where the sizes contradict each other.
fn split(input: &[u8]) -> Option<(EnableArg, &[u8], &[u8])> {
    let (head, rest) = input.split_at_checked(ENABLE_ARG)?;
    let word = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let mut reserved2 = [0; 11];
    for (word, bytes) in reserved2.iter_mut().zip(head[40..].chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().ok()?);
    }
    let arg = EnableArg {
        version: word(0)?,
        hash_algorithm: word(4)?,
        block_size: word(8)?,
        salt_size: word(12)?,
        salt_ptr: 0,
        sig_size: word(24)?,
        reserved1: word(28)?,
        sig_ptr: 0,
        reserved2,
    };
    let (salt, signature) = rest.split_at_checked(arg.salt_size as usize)?;
    (signature.len() == arg.sig_size as usize).then_some((arg, salt, signature))
}

/// The digest of the file of `fd`, as `struct fsverity_digest`; `input` says how long it may be.
///
/// # Errors
/// EINVAL for input without that; EOVERFLOW where the digest is longer; ENODATA for a file without verity;
/// EOPNOTSUPP, ENOTTY.
pub fn measure(fd: impl AsFd, input: &[u8]) -> io::Result<Vec<u8>> {
    let room = input
        .get(2..DIGEST_HEAD)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let room = u16::from_ne_bytes([room[0], room[1]]).min(DIGEST_MAX as u16);
    // Two words of 16 bits, and the digest.
    let mut digest = [0_u16; (DIGEST_HEAD + DIGEST_MAX) / 2];
    digest[1] = room;
    let (fd, number) = (fd.as_fd().as_raw_fd(), FS_IOC_MEASURE_VERITY as libc::Ioctl);
    // SAFETY: the kernel writes the head and at most the `room` bytes that it reads there, for which there is space.
    let done = unsafe { libc::ioctl(fd, number, digest.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let len = DIGEST_HEAD + usize::from(digest[1].min(room));
    let mut bytes: Vec<u8> = digest.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.truncate(len);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enable_arg(salt: u32, signature: u32) -> Vec<u8> {
        let mut arg = vec![0; ENABLE_ARG];
        for (at, word) in [(0, 1), (4, 1), (8, 4096), (12, salt), (24, signature)] {
            arg[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        // Pointers of the caller's.
        arg[16..24].fill(0xff);
        arg[32..40].fill(0xff);
        arg
    }

    #[test]
    fn split_takes_salt_and_signature_and_no_pointer() {
        let input = [enable_arg(4, 6), b"saltsigned".to_vec()].concat();
        let (arg, salt, signature) = split(&input).unwrap();
        assert_eq!((salt, signature), (&b"salt"[..], &b"signed"[..]));
        assert_eq!((arg.version, arg.block_size), (1, 4096));
        assert_eq!((arg.salt_ptr, arg.sig_ptr), (0, 0));
        assert_eq!(size_of::<EnableArg>(), ENABLE_ARG);
    }

    #[test]
    fn split_of_sizes_that_are_not_there_is_none() {
        for (salt, signature) in [(11, 0), (0, 11), (4, 7), (u32::MAX, u32::MAX), (3, 6)] {
            let input = [enable_arg(salt, signature), b"saltsigned".to_vec()].concat();
            assert_eq!(split(&input), None, "{salt} {signature}");
        }
        assert_eq!(split(&[0; ENABLE_ARG - 1]), None);
    }

    #[test]
    fn enable_and_measure_of_too_little_are_invalid() {
        let file = tempfile::tempfile().unwrap();
        for refused in [enable(&file, &[]).err(), measure(&file, &[0; 3]).err()] {
            assert_eq!(refused.unwrap().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
