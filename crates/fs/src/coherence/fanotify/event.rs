//! What fanotify(7) reports, taken apart: who changed what, by file handle.
//!
//! nix reads the events' heads and drops the records behind them, which have the handles and names.
//! The kernel wrote the bytes; lengths are checked nevertheless, and what does not parse is left out.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use thrufs_sys::file_handle::FileHandle;

/// struct fanotify_event_metadata.
const HEAD: usize = 24;
/// struct fanotify_event_info_header and the file system's id.
const INFO_HEAD: usize = 12;
/// handle_bytes and handle_type of struct file_handle.
const HANDLE_HEAD: usize = 8;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// FAN_... of what happened; several, if the kernel joined events.
    pub(super) mask: u64,
    /// The process, in the pid namespace of the reader.
    pub(super) pid: i32,
    /// The inode itself, for what happened to one.
    pub(super) object: Option<FileHandle>,
    /// The directory and the name in it, for what happened to a name (and, for an inode, where).
    pub(super) place: Option<(FileHandle, OsString)>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(usize::from(u16::from_ne_bytes(word)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The events in what one read(2) returned.
pub(super) fn parse(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(length) = u32_at(bytes, 0) {
        let length = length as usize;
        if length < HEAD || length > bytes.len() {
            break;
        }
        let (event, rest) = bytes.split_at(length);
        events.extend(one(event));
        bytes = rest;
    }
    events
}

fn one(event: &[u8]) -> Option<Event> {
    let mask = u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?);
    let pid = u32_at(event, 20)?.cast_signed();
    let mut parsed = Event {
        mask,
        pid,
        object: None,
        place: None,
    };
    let mut records = event.get(u16_at(event, 6)?..)?;
    while let Some(length) = u16_at(records, 2) {
        if length < INFO_HEAD + HANDLE_HEAD || length > records.len() {
            break;
        }
        let (record, rest) = records.split_at(length);
        let (handle, name) = handle_and_name(&record[INFO_HEAD..])?;
        match record[0] {
            libc::FAN_EVENT_INFO_TYPE_FID => parsed.object = Some(handle),
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME => parsed.place = Some((handle, name)),
            // A directory that something happened to.
            libc::FAN_EVENT_INFO_TYPE_DFID => parsed.object = parsed.object.or(Some(handle)),
            _other => {}
        }
        records = rest;
    }
    Some(parsed)
}

/// struct file_handle, and the name behind it up to its NUL.
fn handle_and_name(record: &[u8]) -> Option<(FileHandle, OsString)> {
    let length = u32_at(record, 0)? as usize;
    let kind = u32_at(record, 4)?.cast_signed();
    let bytes = record.get(HANDLE_HEAD..HANDLE_HEAD.checked_add(length)?)?;
    let name = record[HANDLE_HEAD + length..]
        .split(|byte| *byte == 0)
        .next()?;
    Some((
        FileHandle::from_parts(kind, bytes)?,
        OsStr::from_bytes(name).to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let length = (INFO_HEAD + HANDLE_HEAD + handle.len() + name.len()) as u16;
        let mut bytes = vec![kind, 0];
        bytes.extend(length.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend((handle.len() as u32).to_ne_bytes());
        bytes.extend(1_i32.to_ne_bytes());
        bytes.extend(handle);
        bytes.extend(name);
        bytes
    }

    fn event(mask: u64, pid: i32, records: &[Vec<u8>]) -> Vec<u8> {
        let records = records.concat();
        let mut bytes = ((HEAD + records.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend([3, 0]);
        bytes.extend((HEAD as u16).to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(pid.to_ne_bytes());
        bytes.extend(records);
        bytes
    }

    #[test]
    fn parse_of_two_events_has_their_handles_and_names() {
        let modify = event(
            libc::FAN_MODIFY,
            7,
            &[record(2, b"dir", b"f\0\0\0"), record(1, b"file", b"")],
        );
        let overflow = event(libc::FAN_Q_OVERFLOW, 0, &[]);
        let events = parse(&[modify, overflow].concat());
        let handle = |bytes: &[u8]| FileHandle::from_parts(1, bytes).unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].pid, 7);
        assert_eq!(events[0].object, Some(handle(b"file")));
        assert_eq!(events[0].place, Some((handle(b"dir"), "f".into())));
        assert_eq!(
            (events[1].mask, &events[1].place),
            (libc::FAN_Q_OVERFLOW, &None)
        );
    }

    #[test]
    fn parse_of_what_is_cut_short_keeps_what_is_whole() {
        let whole = event(libc::FAN_CREATE, 7, &[record(2, b"dir", b"f\0")]);
        let both = [whole.clone(), whole].concat();
        for length in 0..both.len() {
            let expected = usize::from(length >= both.len() / 2);
            assert_eq!(parse(&both[..length]).len(), expected, "{length}");
        }
    }
}
