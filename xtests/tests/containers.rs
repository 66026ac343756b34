//! A container of podman that is given a mount, as contrib/doc/operations.md says under "Containers".
//!
//! Invariant: the machine's own containers and images are not touched: podman keeps everything in the test's scratch
//! directory. No image is pulled: the root of the container is a directory with busybox.

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use xtests::support::checks::{equal, holds};
use xtests::support::command::{output, said_on_stderr, succeed};
use xtests::support::mount::{Leftover, is_default_run, thrufs};
use xtests::support::mount_table::stat_error;
use xtests::support::wait::wait_until;
use xtests::support::{Backing, Outcome, Scratch, case, install, missing};

/// On a machine however busy.
const SOON: Duration = Duration::from_secs(20);

/// A static busybox, and directories to mount on.
fn rootfs(scratch: &Scratch) -> Result<PathBuf> {
    let root = scratch.path().join("root");
    for name in ["bin", "data", "dev", "etc", "proc", "run", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    Ok(root)
}

/// Gives podman the second version of cgroups alone: crun takes no mixture. What is mounted elsewhere comes in.
const ENTER: &str =
    "umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec podman \"$@\"";

/// Where a test and podman keep what is theirs.
struct Place {
    scratch: Scratch,
    /// Podman takes a path of at most 50 characters.
    run: TempDir,
}

impl Deref for Place {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        &self.scratch
    }
}

/// `podman run` of a script of busybox's sh with this volume.
fn podman(place: &Place, volume: &str, script: &str) -> Result<Command> {
    let mut podman = Command::new("unshare");
    podman.args(["--mount", "--propagation=slave", "sh", "-c", ENTER, "sh"]);
    podman.arg("--root").arg(place.path().join("storage"));
    podman.arg("--runroot").arg(place.run.path());
    podman.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs"]);
    podman.args(["--events-backend=none", "run", "--rm", "--interactive"]);
    podman.args(["--network=none", "--cgroups=disabled", "--volume", volume]);
    // Podman's own limits may be above those of the machine.
    podman.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]);
    podman.arg("--rootfs").arg(rootfs(place)?);
    podman.args(["/bin/busybox", "sh", "-c", script]);
    Ok(podman)
}

/// Runs `body` where podman can start a container.
fn with_podman(body: impl FnOnce(&Place) -> Outcome) -> Outcome {
    case(|| {
        if !is_default_run() {
            let once = "nothing: containers are tested once, with the defaults";
            return Err(missing(once));
        }
        install::apt(&[("podman", "podman"), ("/bin/busybox", "busybox-static")])?;
        let place = Place {
            scratch: Scratch::new(Backing::Here)?,
            run: tempfile::tempdir_in("/tmp")?,
        };
        let tried = output(&mut podman(&place, "/tmp:/data", "exit 0")?)?;
        if !tried.status.success() {
            let said = said_on_stderr(&tried);
            return Err(missing(format!(
                "a machine that can start containers: {said}"
            )));
        }
        body(&place)
    })
}

fn mount(source: &Path, mountpoint: &Path) -> Outcome {
    let mut mount = Command::new(thrufs()?);
    succeed(mount.arg("mount").args([source, mountpoint])).map(|_| ())
}

fn unmount(mountpoint: &Path) -> Outcome {
    let mut umount = Command::new(thrufs()?);
    succeed(umount.arg("umount").arg(mountpoint)).map(|_| ())
}

#[test]
fn container_given_a_mount_reads_and_writes_source() -> Outcome {
    with_podman(|scratch| {
        let (source, mnt) = (scratch.source(), scratch.mountpoint());
        let _leftover = Leftover(mnt.clone());
        std::fs::write(source.join("f"), "content")?;
        mount(&source, &mnt)?;
        let volume = format!("{}:/data", mnt.display());
        let script = "busybox cat /data/f; echo written >/data/g";
        equal(
            "read",
            succeed(&mut podman(scratch, &volume, script)?)?,
            "content".to_owned(),
        )?;
        holds(source.join("g"), "written\n")?;
        unmount(&mnt)
    })
}

/// A directory with an empty `mnt`, on a mount of its own, which is shared whatever the machine's are.
fn shared(scratch: &Scratch) -> Result<PathBuf> {
    let above = scratch.path().join("above");
    std::fs::create_dir(&above)?;
    scratch.mount_tmpfs(&above)?;
    succeed(Command::new("mount").arg("--make-shared").arg(&above))?;
    std::fs::create_dir(above.join("mnt"))?;
    Ok(above)
}

/// A container that says a line, waits for one, and says the rest.
struct Waiting {
    container: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Waiting {
    fn start(mut podman: Command) -> Result<Self> {
        podman.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut container = podman.spawn()?;
        let stdout = container.stdout.take().context("stdout")?;
        let mut said = BufReader::new(stdout);
        let mut line = String::new();
        said.read_line(&mut line)?;
        ensure!(line == "waiting\n", "{line}");
        Ok(Self { container, said })
    }

    fn go_on(mut self) -> Result<String> {
        let mut stdin = self.container.stdin.take().context("stdin")?;
        stdin.write_all(b"\n")?;
        drop(stdin);
        let mut rest = String::new();
        self.said.read_to_string(&mut rest)?;
        self.container.wait()?;
        Ok(rest)
    }
}

/// What begins after the container needs a volume that takes part: `rslave`, of the directory above the mount point.
#[test]
fn container_sees_a_mount_that_is_made_later_where_its_volume_is_a_slave() -> Outcome {
    for (propagation, wanted) in [("rslave", "content"), ("rprivate", "")] {
        with_podman(|scratch| {
            let source = scratch.source();
            std::fs::write(source.join("f"), "content")?;
            let above = shared(scratch)?;
            let mnt = above.join("mnt");
            let _leftover = Leftover(mnt.clone());
            let volume = format!("{}:/data:{propagation}", above.display());
            let script = "echo waiting; read line; busybox cat /data/mnt/f";
            let container = Waiting::start(podman(scratch, &volume, script)?)?;
            mount(&source, &mnt)?;
            equal(propagation, container.go_on()?, wanted.to_owned())?;
            unmount(&mnt)
        })?;
    }
    Ok(())
}

/// A volume that is the mount itself stays the dead one.
#[test]
fn container_sees_the_mount_that_replaces_a_dead_one_where_its_volume_is_a_slave() -> Outcome {
    for (is_slave, wanted) in [(true, "content"), (false, "")] {
        with_podman(|scratch| {
            let (source, above) = (scratch.source(), shared(scratch)?);
            std::fs::write(source.join("f"), "content")?;
            let mnt = above.join("mnt");
            let _leftover = Leftover(mnt.clone());
            mount(&source, &mnt)?;
            let (volume, path) = if is_slave {
                (format!("{}:/data:rslave", above.display()), "mnt/f")
            } else {
                (format!("{}:/data", mnt.display()), "f")
            };
            let script = format!("echo waiting; read line; busybox cat /data/{path}");
            let container = Waiting::start(podman(scratch, &volume, &script)?)?;
            let mut status = Command::new(thrufs()?);
            let status = succeed(status.args(["status", "--json"]).arg(&mnt))?;
            let status: serde_json::Value = serde_json::from_str(&status)?;
            let pid = status["pid"].as_i64().context("pid")?;
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
            wait_until("the mount to be dead", SOON, || {
                Ok(stat_error(&mnt) == Some(Errno::ENOTCONN as i32))
            })?;
            let mut again = Command::new(thrufs()?);
            again.args(["mount", "--replace-dead"]);
            succeed(again.args([&source, &mnt]))?;
            equal("read", container.go_on()?, wanted.to_owned())?;
            unmount(&mnt)
        })?;
    }
    Ok(())
}
