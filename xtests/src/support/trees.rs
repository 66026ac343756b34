//! A tree like the Linux source's in shape: many small files a few levels deep, some symlinks,
//! hard links, executables, odd modes, extended attributes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::Result;
use rustix::fs::{XattrFlags, setxattr};

/// Writes `files` small files below `top`; always the same.
pub fn make(top: &Path, files: usize) -> Result<()> {
    write(top, files, true)
}

/// The same without extended attributes, for a mount that has none.
pub fn make_plain(top: &Path, files: usize) -> Result<()> {
    write(top, files, false)
}

fn write(top: &Path, files: usize, attributes: bool) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut dir = top.to_owned();
    for index in 0..files {
        if index % 17 == 0 {
            dir = top
                .join(format!("d{}", random() % 20))
                .join(format!("s{}", random() % 150));
            fs::create_dir_all(&dir)?;
        }
        let path = dir.join(format!("file-{index}.c"));
        let len = if index % 500 == 0 {
            200_000
        } else {
            random() % 9000
        };
        fs::write(&path, line(index).repeat(len / 32 + 1))?;
        match index % 100 {
            1 => symlink(
                format!("file-{}.c", index - 1),
                dir.join(format!("link-{index}")),
            )?,
            2 => fs::hard_link(&path, dir.join(format!("hard-{index}")))?,
            3 => fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?,
            4 => fs::set_permissions(&path, PermissionsExt::from_mode(0o400))?,
            5 if attributes => setxattr(
                &path,
                "user.note",
                line(index).as_bytes(),
                XattrFlags::CREATE,
            )?,
            _ => {}
        }
    }
    Ok(())
}

/// 32 bytes that differ from file to file.
fn line(index: usize) -> String {
    format!("int f_{index:020}(void);\n")
}
