//! What follows the names of a request that creates, if INIT granted it: security contexts
//! (FUSE_SECURITY_CTX) and the supplementary group of the parent (FUSE_CREATE_SUPP_GROUP).
//!
//! Each extension begins with `fuse_ext_header` and fills its `size`. Everything is checked when
//! the message is read, so the iterators have no errors of their own.

use std::ffi::CStr;

use super::body::{Array, Body};
use super::error::Malformed;
use crate::abi::{
    Abi, ExtHeader, FUSE_EXT_GROUPS, FUSE_MAX_NR_SECCTX, Secctx, SecctxHeader, SuppGroups,
};

/// `get_create_ext` in fs/fuse/dir.c: both extensions, each at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extensions<'a> {
    contexts: Option<SecurityContexts<'a>>,
    groups: Option<Array<'a, u32>>,
}

/// A label that a security module of the client gives to the new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecurityContext<'a> {
    /// Name of the extended attribute, as "security.selinux".
    pub name: &'a CStr,
    /// Its value.
    pub context: &'a [u8],
}

/// The labels of one request, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecurityContexts<'a> {
    rest: &'a [u8],
    left: u32,
}

const ALIGN: usize = 8;

impl<'a> Extensions<'a> {
    /// A request without any.
    pub const NONE: Self = Self {
        contexts: None,
        groups: None,
    };

    /// Labels for the new file. With FUSE_SECURITY_CTX granted there may be none: the client has
    /// no security module that gives one.
    pub fn security_contexts(&self) -> impl Iterator<Item = SecurityContext<'a>> + use<'a> {
        self.contexts.into_iter().flatten()
    }

    /// Groups of the caller beside the one in the header: at most the parent directory's.
    pub fn groups(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.groups.into_iter().flatten()
    }

    /// `bytes` are extensions and nothing else.
    pub(super) fn parse(mut bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut all = Self::NONE;
        while !bytes.is_empty() {
            let header: ExtHeader = Body::new(bytes).arg()?;
            let size = extension_size(header.size, bytes.len())?;
            let (extension, rest) = bytes.split_at(size);
            let body = Body::new(&extension[size_of::<ExtHeader>()..]);
            match header.r#type {
                count @ 0..=FUSE_MAX_NR_SECCTX if all.contexts.is_none() => {
                    all.contexts = Some(contexts(body, count)?);
                }
                FUSE_EXT_GROUPS if all.groups.is_none() => all.groups = Some(groups(body)?),
                value => {
                    let (part, value) = ("fuse_ext_header.type", u64::from(value));
                    return Err(Malformed::Value { part, value });
                }
            }
            bytes = rest;
        }
        Ok(all)
    }
}

/// The size of an extension, with its header, of which `have` bytes are there.
fn extension_size(said: u32, have: usize) -> Result<usize, Malformed> {
    match usize::try_from(said) {
        Ok(size) if (size_of::<ExtHeader>()..=have).contains(&size) => Ok(size),
        _outside => Err(Malformed::Count {
            part: "fuse_ext_header.size",
            said: u64::from(said),
            have: have as u64,
        }),
    }
}

/// The labels must fill the extension, up to the padding of the last.
fn contexts(mut body: Body<'_>, count: u32) -> Result<SecurityContexts<'_>, Malformed> {
    let all = SecurityContexts {
        rest: { body }.rest(),
        left: count,
    };
    for _label in 0..count {
        context(&mut body)?;
    }
    body.end()?;
    Ok(all)
}

/// The next label, with the padding after it.
fn context<'a>(body: &mut Body<'a>) -> Result<SecurityContext<'a>, Malformed> {
    let before = body.len();
    let arg: Secctx = body.arg()?;
    let name = body.name("security context's name")?;
    let context = body.bytes("security context", arg.size as usize)?;
    let used = before - body.len();
    let padding = used.next_multiple_of(ALIGN) - used;
    body.bytes("padding of a security context", padding)?;
    Ok(SecurityContext { name, context })
}

/// Group ids may be followed by padding of less than a unit.
fn groups(mut body: Body<'_>) -> Result<Array<'_, u32>, Malformed> {
    let SuppGroups { nr_groups } = body.arg()?;
    let need = u64::from(nr_groups) * size_of::<u32>() as u64;
    let have = body.len() as u64;
    let len = usize::try_from(need).unwrap_or(usize::MAX);
    if need > have || have - need >= ALIGN as u64 {
        return Err(Malformed::Count {
            part: "fuse_supp_groups.nr_groups",
            said: u64::from(nr_groups),
            have: have / size_of::<u32>() as u64,
        });
    }
    let ids = body.bytes(SuppGroups::LAYOUT.name, len)?;
    Ok(Array::new(ids))
}

impl<'a> Iterator for SecurityContexts<'a> {
    type Item = SecurityContext<'a>;

    fn next(&mut self) -> Option<SecurityContext<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut body = Body::new(self.rest);
        let label = context(&mut body).ok()?;
        self.rest = body.rest();
        Some(label)
    }
}

// The kernel reads one struct as the other: what makes labels and other extensions one list.
const _: () = assert!(size_of::<SecctxHeader>() == size_of::<ExtHeader>());
