//! What a signal to `xtests suite` or `xtests check` leaves behind, and that two runs do not collide.
//!
//! The suite is xfstests, which mounts itself and needs namespaces and loop devices. Scripts stand
//! in for its checkout, and for the cargo that a stage of the check runs.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::makedev;
use nix::unistd::Pid;
use tempfile::TempDir;
use xtests::support::calls::chmod;
use xtests::support::command::{said, succeed, wait_for_exit};
use xtests::support::process::pid_of;
use xtests::support::wait::wait_until;
use xtests::support::{Outcome, case, missing};

const SOON: Duration = Duration::from_secs(120);
/// Programs of the suite's tests; none of them is called here.
const NOT_CALLED: &[&str] = &[
    "xfs_io", "setfacl", "getfattr", "bc", "gawk", "killall", "quota", "setcap", "perl",
];

/// A file in /tmp after its process id, as a test of the suite makes it, while another run does the same.
const NAMES_A_FILE: &str = r#"
echo $$ >"$MEET/pid.$RUN"
if [ -e /tmp/suite-$$ ]; then
    echo "generic/001         - output mismatch"
    exit 1
fi
touch /tmp/suite-$$
for _ in $(seq 1200); do
    [ "$(ls "$MEET" | wc -l)" = 2 ] && break
    sleep 0.05
done
echo "generic/001         1s"
"#;

/// Everything that a test can leave: a process with a session of its own, a mount, a loop device.
const NEVER_ENDS: &str = r#"
setsid sleep 100000 &
mount -t tmpfs tmpfs "$SUITE_TEST_DIR"
for image in "$SUITE_RESULTS/image" "$SUITE_TEST_DIR/image"; do
    truncate -s 1M "$image"
    stat --format=%d:%i "$image" >>"$MEET/images"
    losetup --find "$image"
done
echo $$ >"$MEET/pid.$RUN"
sleep 100000
"#;

/// A stage of the check whose tests mount, and never end.
const CARGO: &str = r#"#!/bin/bash
mkdir "$TMPDIR/scratch"
mount -t tmpfs tmpfs "$TMPDIR/scratch"
touch "$TMPDIR/scratch/file"
sleep 100000 &
echo $$ >"$MEET/pid.$RUN"
wait
"#;

/// A checkout, stand-ins for programs, and a place for temporary files.
struct Machine {
    own: TempDir,
}

impl Machine {
    fn new(check: &str) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err(missing("root: run it as root (sudo)"));
        }
        let own = tempfile::tempdir()?;
        let machine = Self { own };
        for directory in [
            "checkout/ltp",
            "checkout/tests/generic",
            "bin",
            "checkout/meet",
            "tmp",
        ] {
            std::fs::create_dir_all(machine.path(directory))?;
        }
        let files = ["ltp/fsx", "ltp/fsstress", "tests/generic/group.list"];
        let files = files.map(|file| format!("checkout/{file}"));
        for file in files
            .into_iter()
            .chain(NOT_CALLED.iter().map(|name| format!("bin/{name}")))
        {
            std::fs::write(machine.path(&file), "")?;
        }
        let script = machine.path("checkout/check");
        std::fs::write(&script, format!("#!/bin/bash\n{check}"))?;
        chmod(script, 0o755)?;
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.own.path().join(name)
    }

    /// `xtests suite xfstests`, natively.
    fn start(&self, run: &str) -> Result<Child> {
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        path.push(format!(":{}", self.path("bin").display()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtests"));
        command.args(["suite", "xfstests", "--on", "native", "--dir"]);
        self.spawn(command.arg(self.path("checkout")).env("PATH", path), run)
    }

    /// `xtests check`, with [`CARGO`] for cargo.
    fn start_check(&self, run: &str) -> Result<Child> {
        let cargo = self.path("own/cargo");
        std::fs::create_dir(self.path("own"))?;
        std::fs::write(&cargo, CARGO)?;
        chmod(&cargo, 0o755)?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtests"));
        command
            .args(["check", "--stage", "library"])
            .env("PATH", format!("{}:{path}", self.path("own").display()))
            .env("CARGO_TARGET_DIR", self.path("own/target"));
        self.spawn(&mut command, run)
    }

    fn spawn(&self, command: &mut Command, run: &str) -> Result<Child> {
        command
            .env("TMPDIR", self.path("tmp"))
            .env("MEET", self.path("checkout/meet"))
            .env("RUN", run)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().context("xtests")
    }

    /// Waits until the script is past its mounts, and the process that it starts beside it is a sleep:
    /// between fork and exec it bears the script's own name.
    fn wait_for_run(&self, run: &str) -> Outcome {
        let pid = self.path("checkout/meet").join(format!("pid.{run}"));
        let started = wait_until("the script and its process", SOON, || {
            let runs = pid.exists();
            let left = self.left()?;
            Ok(runs && left.iter().any(|what| what.ends_with(" sleep")))
        });
        started.with_context(|| format!("{:#?}", self.left()))
    }

    /// Loop devices on the images of a test, whose files have no path here, and on those of the suite.
    fn loop_devices(&self) -> Result<Vec<String>> {
        let images = self.path("checkout/meet/images");
        let images = std::fs::read_to_string(images).unwrap_or_default();
        let place = self.path("").to_string_lossy().into_owned();
        let mut list = Command::new("losetup");
        list.args([
            "--list",
            "--noheadings",
            "--output=BACK-MAJ:MIN,BACK-INO,NAME,BACK-FILE",
        ]);
        let list = succeed(&mut list)?;
        let is_ours = |line: &&str| {
            let mut fields = line.split_whitespace();
            let device = fields.next().and_then(|device| device.split_once(':'));
            let device = device
                .and_then(|(major, minor)| Some(makedev(major.parse().ok()?, minor.parse().ok()?)));
            let (Some(device), Some(inode)) = (device, fields.next()) else {
                return false;
            };
            let identity = format!("{device}:{inode}");
            line.contains(&place) || images.lines().any(|image| image == identity)
        };
        Ok(list.lines().filter(is_ours).map(str::to_owned).collect())
    }

    /// The processes that a run has started.
    fn processes(&self) -> Result<Vec<i32>> {
        let ours = format!("MEET={}", self.path("").display());
        let mut found = Vec::new();
        for process in std::fs::read_dir("/proc")? {
            let path = process?.path();
            // Gone, or none.
            let environment = std::fs::read(path.join("environ")).unwrap_or_default();
            let pid = path
                .file_name()
                .and_then(|name| name.to_str()?.parse::<i32>().ok());
            if String::from_utf8_lossy(&environment).contains(&ours) {
                found.extend(pid);
            }
        }
        Ok(found)
    }

    /// Everything that is left of a run.
    fn left(&self) -> Result<Vec<String>> {
        let place = self.path("").to_string_lossy().into_owned();
        let mut left = Vec::new();
        for pid in self.processes()? {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            left.push(format!("process {pid} {}", name.trim()));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&place))
                .map(str::to_owned),
        );
        left.extend(self.loop_devices()?);
        for entry in std::fs::read_dir(self.path("tmp"))? {
            left.push(entry?.path().display().to_string());
        }
        Ok(left)
    }
}

/// What a failed test has left.
impl Drop for Machine {
    fn drop(&mut self) {
        for pid in self.processes().unwrap_or_default() {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for line in self.loop_devices().unwrap_or_default() {
            let device = line.split_whitespace().nth(2).unwrap_or_default();
            let _gone = Command::new("losetup").args(["--detach", device]).status();
        }
    }
}

/// Fifteen tests failed that passed after the other run was over.
#[test]
fn xfstests_twice_at_the_same_time_do_not_share_tmp() -> Outcome {
    case(|| {
        let machine = Machine::new(NAMES_A_FILE)?;
        let runs = [machine.start("first")?, machine.start("second")?];
        for run in runs {
            let output = run.wait_with_output()?;
            let text = said(&output);
            ensure!(output.status.success(), "{text}");
            ensure!(text.contains("1/0/0"), "{text}");
        }
        let pids = ["first", "second"].map(|run| {
            std::fs::read_to_string(machine.path("checkout/meet").join(format!("pid.{run}")))
        });
        let [first, second] = pids;
        ensure!(
            first? == second?,
            "with other process ids this shows nothing"
        );
        let left = machine.left()?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    })
}

/// The suite is ended in the middle.
fn ended_by(signal: Signal) -> Outcome {
    let machine = Machine::new(NEVER_ENDS)?;
    let run = machine.start("only")?;
    machine.wait_for_run("only")?;
    let devices = machine.loop_devices()?;
    ensure!(devices.len() == 4, "{devices:#?}");
    end(&machine, run, signal)
}

/// Ends xtests, and waits for everything of it to be gone.
fn end(machine: &Machine, mut run: Child, signal: Signal) -> Outcome {
    kill(pid_of(&run), signal)?;
    let status = wait_for_exit(&mut run, "xtests to end", SOON)?;
    ensure!(!status.success(), "{status}");
    let text = said(&run.wait_with_output()?);
    ensure!(text.contains("ended by a signal"), "{text}");
    // The files of a killed process are closed a moment later.
    let gone = wait_until("all of it to be gone", SOON, || {
        Ok(machine.left()?.is_empty())
    });
    gone.with_context(|| format!("{:#?}\n{text}", machine.left()))
}

/// The suite went on for an hour, with an ext4 on a loop device that stayed mounted.
#[test]
fn xfstests_ended_by_sigterm_leaves_no_process_no_mount_and_no_loop_device() -> Outcome {
    case(|| ended_by(Signal::SIGTERM))
}

#[test]
fn xfstests_ended_by_sigint_leaves_no_process_no_mount_and_no_loop_device() -> Outcome {
    case(|| ended_by(Signal::SIGINT))
}

/// The tests went on, and their mounts stayed when they were ended in turn.
#[test]
fn check_ended_by_sigterm_leaves_no_process_and_no_mount() -> Outcome {
    case(|| {
        let machine = Machine::new("")?;
        let run = machine.start_check("only")?;
        machine.wait_for_run("only")?;
        let before = machine.left()?;
        ensure!(
            before.iter().any(|what| what.contains("/scratch ")),
            "{before:#?}"
        );
        end(&machine, run, Signal::SIGTERM)
    })
}
