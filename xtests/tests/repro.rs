//! The reproducer against servers that are wrong on purpose, on any kernel: a deadlock is found,
//! shown with its stack and freed, wrong bytes are reported, and a slow server is not called a
//! deadlock. And against thrufs, where the kernel's known losses fail nothing. Needs root and /dev/fuse.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use xtests::support::mount_table::mount_table;
use xtests::support::{Backing, Mount, Outcome, Scratch, case};

/// A misbehaving server on a mount of its own. Unmounts when its input ends, thus on drop.
struct Server {
    child: Child,
    directory: tempfile::TempDir,
}

impl Server {
    fn start(how: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root() && Path::new("/dev/fuse").exists(),
            "these tests need root and /dev/fuse"
        );
        let directory = tempfile::tempdir().expect("a directory to mount in");
        let mut child = Command::new(env!("CARGO_BIN_EXE_xtests"))
            .args(["misbehave", how])
            .arg(directory.path().join("mnt"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("the server speaks");
        assert_eq!(line.trim(), "mounted");
        Self { child, directory }
    }

    /// Runs one case with a deadline of two seconds; returns the exit code and the JSON document.
    fn repro(&self, case: &str) -> (Option<i32>, Value) {
        let output = Command::new(env!("CARGO_BIN_EXE_xtests"))
            .args([
                "repro",
                "--json",
                "--abort",
                "--deadline",
                "2",
                "--case",
                case,
            ])
            .arg(self.directory.path().join("mnt/file"))
            .output()
            .expect("xtests runs");
        let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}: {output:?}");
        });
        (output.status.code(), json)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _status = self.child.wait();
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = mount_table("/proc/self/mountinfo").expect("mountinfo");
    mounts.contains(&*path.to_string_lossy())
}

#[test]
fn repro_server_reads_its_own_mount_deadlock_with_stack_and_freed() {
    let server = Server::start("read-own-mount");
    let started = Instant::now();
    let (code, json) = server.repro("seed");
    assert_eq!(code, Some(1), "{json:#}");
    let case = &json["cases"][0];
    assert_eq!(case["verdict"], "deadlock", "{json:#}");
    let stacks = case["threads"].to_string();
    assert!(
        stacks.contains("folio_wait_bit_common") || stacks.contains("lock_page"),
        "{stacks}"
    );
    assert!(stacks.contains("fuse_"), "{stacks}");
    assert!(case["waiting"].as_u64() > Some(0), "{json:#}");
    assert!(!case["freed_by"].is_null(), "{json:#}");
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    let path = server.directory.path().join("mnt");
    drop(server);
    assert!(!is_mounted(&path));
}

#[test]
fn repro_server_corrupts_a_byte_wrong_data() {
    let server = Server::start("corrupt");
    let (code, json) = server.repro("seed");
    assert_eq!(code, Some(3), "{json:#}");
    assert_eq!(json["cases"][0]["verdict"], "wrong-data", "{json:#}");
}

#[test]
fn repro_server_is_slow_no_deadlock() {
    let server = Server::start("slow");
    let (code, json) = server.repro("seed");
    assert_eq!(code, Some(77), "{json:#}");
    assert_eq!(json["cases"][0]["verdict"], "slow", "{json:#}");
}

/// `xtests repro --expect-known` on a directory: exit code and JSON document.
fn expect_known(dir: &Path, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtests"))
        .args(["repro", "--json", "--expect-known", "--abort"])
        .args(arguments)
        .arg(dir)
        .output()
        .expect("xtests runs");
    let json = serde_json::from_slice(&output.stdout);
    let json = json.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), json)
}

/// R9: since Linux 6.17 an append loses bytes when the file's last page is written back meanwhile,
/// by any cached mount. A known defect fails nothing, but a kernel that has it fixed does, until
/// known.toml says so.
#[test]
fn repro_append_beside_store_through_the_page_cache_is_what_the_kernel_is_known_for() -> Outcome {
    case(|| {
        let mount = Mount::new(Backing::Tmpfs, &["--cache=auto"])?;
        let (code, json) = expect_known(mount.dir(), &["--case=append-beside-store"]);
        anyhow::ensure!(code == Some(0), "{json:#}");
        mount.unmount()
    })
}

/// The same program on a local file system, so that it is the kernel's FUSE that loses the bytes.
#[test]
fn repro_beside_store_on_a_local_file_system_loses_nothing() -> Outcome {
    case(|| {
        let scratch = Scratch::new(Backing::Tmpfs)?;
        let cases = "--case=append-beside-store,write-beside-store";
        let (code, json) = expect_known(&scratch.source(), &[cases]);
        anyhow::ensure!(code == Some(0), "{json:#}");
        for case in json["cases"].as_array().into_iter().flatten() {
            anyhow::ensure!(case["verdict"] == "ok", "{json:#}");
        }
        Ok(())
    })
}

/// R10: with direct I/O and shared mappings, a store to a page undoes a pwrite(2) to other bytes of it.
#[test]
fn repro_write_beside_store_with_direct_io_is_what_the_kernel_is_known_for() -> Outcome {
    case(|| {
        let mount = Mount::new(Backing::Tmpfs, &["--cache=never", "--allow-mmap=yes"])?;
        let (code, json) = expect_known(mount.dir(), &["--case=write-beside-store"]);
        anyhow::ensure!(code == Some(0), "{json:#}");
        mount.unmount()
    })
}
