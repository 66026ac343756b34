//! A guest does not outlive the program that has booted it: SIGTERM once left machines running,
//! each with a processor and a GiB of memory.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thrufs_lab::{Kernel, Kind, Machine};

/// Directory of the guest that [`boot_child`] boots.
const DIR: &str = "LAB_TEST_ORPHANS";
const SOON: Duration = Duration::from_secs(60);

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {SOON:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the process has ended, reaped or not.
fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

/// The program that is killed. The test below runs it; by itself it does nothing.
#[test]
#[ignore = "the other half of boot_of_a_program_that_is_terminated_leaves_no_guest"]
fn boot_child() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let kernel = Kernel {
        image: dir.join("linux"),
        kind: Kind::UserMode,
        variant: "v".into(),
        source: "s".into(),
        package: None,
    };
    let _killed = Machine::default().boot(&kernel, &dir, Duration::from_secs(3600));
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a script");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("its mode");
}

#[test]
fn boot_of_a_program_that_is_terminated_leaves_no_guest() {
    let dir = tempfile::tempdir().expect("a directory");
    let pid_file = dir.path().join("pid");
    let kernel = format!(
        "#!/bin/sh\necho $$ > {0}.new; mv {0}.new {0}\nexec sleep 100000\n",
        pid_file.display()
    );
    script(&dir.path().join("linux"), &kernel);
    let mut booter = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "boot_child", "--ignored"])
        .env(DIR, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("this program starts");
    let guest: i32 = wait_for("the guest", || {
        std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok()
    });
    assert!(!has_ended(guest));
    let pid = Pid::from_raw(i32::try_from(booter.id()).expect("a process id fits"));
    kill(pid, Signal::SIGTERM).expect("it is our child");
    booter.wait().expect("it ends");
    wait_for("the guest's end", || has_ended(guest).then_some(()));
}
