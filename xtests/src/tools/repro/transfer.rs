//! One copy by each system call. All loop over short counts: a short write is legal; the test is
//! that the call comes back and the bytes are right.

use std::fs::File;
use std::io;

use rustix::fs::OFlags;
use rustix::pipe::SpliceFlags;
use thrufs_sys::mapped_io::{self as mapping, Mapping, Span};
use thrufs_sys::uring;

use super::case::{FILE_LEN, Way};
use super::copy_files::CopyFiles;
use super::finding::Stop;

/// Copies the source to the target in the way of the plan.
pub(crate) fn run(files: &CopyFiles<'_>) -> Result<(), Stop> {
    let target = &files.target_file;
    let offset = files.plan.target as u64;
    match files.plan.way {
        Way::Pwritev => all(files, offset, |spans, at| {
            mapping::pwritev(target, spans, at)
        })
        .map_err(Stop::at("pwritev")),
        Way::Pwritev2(flags) => all(files, offset, |spans, at| {
            mapping::pwritev2(target, spans, at, flags)
        })
        .map_err(Stop::refused("pwritev2")),
        Way::Direct => {
            let direct = direct(target)?;
            all(files, offset, |spans, at| {
                mapping::pwritev(&direct, spans, at)
            })
            .map_err(Stop::refused("an O_DIRECT write"))
        }
        Way::Uring => all(files, offset, |spans, at| {
            uring::write(target, &spans[0], at)
        })
        .map_err(Stop::refused("io_uring")),
        Way::UringFixed => fixed(files, offset),
        Way::Vmsplice => vmsplice(files, offset).map_err(Stop::refused("vmsplice")),
        Way::ProcessVm => process_vm(files, offset),
        Way::Splice | Way::CopyFileRange | Way::Sendfile => by_descriptor(files, offset),
    }
}

fn direct(target: &File) -> Result<File, Stop> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(format!("/proc/self/fd/{}", target.as_raw_fd()))
        .map_err(Stop::refused("open with O_DIRECT"))
}

/// Calls `write` until nothing is left.
fn all<'a>(
    files: &'a CopyFiles<'_>,
    offset: u64,
    write: impl Fn(&[Span<'a>], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let spans = files
        .spans()
        .map_err(|_stop| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut left = spans;
    let mut at = offset;
    while !left.is_empty() {
        let mut written = write(&left, at)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        at += written as u64;
        while let Some(first) = left.first_mut() {
            let step = written.min(first.len());
            first.range.start += step;
            written -= step;
            if !first.is_empty() {
                break;
            }
            left.remove(0);
        }
    }
    Ok(())
}

/// Registered buffers: kernels refuse to pin a shared file mapping for long; then a private one,
/// whose pages the registration itself copies out of the file.
fn fixed(files: &CopyFiles<'_>, offset: u64) -> Result<(), Stop> {
    let target = &files.target_file;
    let shared = all(files, offset, |spans, at| {
        uring::write_fixed(target, &spans[0], at)
    });
    match shared {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EFAULT)) => {}
        other => return other.map_err(Stop::refused("io_uring")),
    }
    let private = Mapping::of_file(&files.source_file, FILE_LEN, false, true)
        .map_err(Stop::refused("a private mapping"))?;
    all(files, offset, |spans, at| {
        uring::write_fixed(target, &private.span(spans[0].range.clone())?, at)
    })
    .map_err(Stop::refused("io_uring with a registered buffer"))
}

fn vmsplice(files: &CopyFiles<'_>, offset: u64) -> io::Result<()> {
    let (out, into) = rustix::pipe::pipe()?;
    all(files, offset, |spans, at| {
        let filled = mapping::vmsplice(&into, &spans[..1])?;
        drain(&out, files, at, filled)?;
        Ok(filled)
    })
}

/// Splices `len` bytes from the pipe into the target at `offset`.
fn drain(
    pipe: &std::os::fd::OwnedFd,
    files: &CopyFiles<'_>,
    offset: u64,
    len: usize,
) -> io::Result<()> {
    let (mut at, end) = (offset, offset + len as u64);
    while at < end {
        let left = usize::try_from(end - at).map_err(io::Error::other)?;
        let flags = SpliceFlags::empty();
        // splice(2) advances `at`.
        if rustix::pipe::splice(pipe, None, &files.target_file, Some(&mut at), left, flags)? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

fn process_vm(files: &CopyFiles<'_>, offset: u64) -> Result<(), Stop> {
    let map = Mapping::of_file(&files.target_file, FILE_LEN, true, true)
        .map_err(Stop::refused("mmap"))?;
    all(files, offset, |spans, at| {
        let start = usize::try_from(at).map_err(io::Error::other)?;
        mapping::process_vm_copy(&spans[0], &map.span(start..start + spans[0].len())?)
    })
    .map_err(Stop::refused("process_vm_writev"))
}

/// The calls that take the source from a descriptor, not from the mapping.
fn by_descriptor(files: &CopyFiles<'_>, offset: u64) -> Result<(), Stop> {
    let mut target_at = offset;
    for &(start, len) in files.plan.source {
        let mut source_at = start as u64;
        let end = (start + len) as u64;
        while source_at < end {
            let left = (end - source_at) as usize;
            let step = match files.plan.way {
                Way::CopyFileRange => rustix::fs::copy_file_range(
                    &files.source_file,
                    Some(&mut source_at),
                    &files.target_file,
                    Some(&mut target_at),
                    left,
                )
                .map_err(Stop::refused("copy_file_range"))?,
                Way::Sendfile => {
                    use std::io::{Seek, SeekFrom};
                    let mut target = &files.target_file;
                    target
                        .seek(SeekFrom::Start(target_at))
                        .map_err(Stop::at("lseek"))?;
                    let from = Some(&mut source_at);
                    let step = rustix::fs::sendfile(target, &files.source_file, from, left)
                        .map_err(Stop::refused("sendfile"))?;
                    target_at += step as u64;
                    step
                }
                _ => {
                    let (out, into) = rustix::pipe::pipe().map_err(Stop::at("pipe"))?;
                    let from = Some(&mut source_at);
                    let flags = SpliceFlags::empty();
                    let step =
                        rustix::pipe::splice(&files.source_file, from, &into, None, left, flags)
                            .map_err(Stop::refused("splice"))?;
                    drain(&out, files, target_at, step).map_err(Stop::refused("splice"))?;
                    target_at += step as u64;
                    step
                }
            };
            if step == 0 {
                let early = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(Stop::Io("a copy within the file", early));
            }
        }
    }
    Ok(())
}
