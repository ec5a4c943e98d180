//! Programs that end with us: after a test, a panic, Ctrl-C, or `kill -9` of the test process.
//!
//! A program starts as the leader of its own process group, beside a watcher in the same group that reads
//! from a pipe we hold. Once the pipe closes, which the kernel sees to when we die, the watcher kills the
//! group: the program, what it started, and itself. The pid and the exit status are the program's own. Where
//! we died, the watcher removes the program's directory, too.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::lock;

/// Arguments: the program's directory, then the program and its arguments. `$$` is the program's pid and its
/// group's. A line on the pipe says that we look after the directory; without one, we are dead.
const LIFELINE: &str = r#"
exec 3<&0
(
    read -r _ <&3 || { kill -s KILL "$$"; rm -rf -- "$1"; }
    kill -s KILL -- "-$$"
) >/dev/null 2>&1 &
shift
exec "$@" 3<&- </dev/null
"#;

/// How often files and exit statuses are looked at: there is nothing to wait on.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// A running program, killed when dropped. If the test is panicking, the end of its output is printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    lifeline: Option<ChildStdin>,
    dir: TempDir,
}

impl Process {
    /// Starts `command` (program, arguments, variables and working directory are taken from it). Its output
    /// goes to a file in `dir`, which lives as long as the program.
    pub fn start(command: &Command, dir: TempDir) -> io::Result<Process> {
        let output = File::create(log_path(dir.path()))?;
        let mut wrapped = Command::new("sh");
        wrapped
            .args(["-c", LIFELINE, "sh"])
            .arg(dir.path())
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        if let Some(cwd) = command.get_current_dir() {
            wrapped.current_dir(cwd);
        }
        let mut child = wrapped
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()?;
        let name = Path::new(command.get_program()).file_name().unwrap_or_default();
        Ok(Process {
            name: name.to_string_lossy().into(),
            pid: child.id(),
            lifeline: child.stdin.take(),
            child: Mutex::new(child),
            dir,
        })
    }

    /// The program's own process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The directory given at the start.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// All output so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(log_path(self.dir.path())).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the output contains `needle`; panics when it does not in time, or the program exits before.
    #[track_caller]
    pub fn wait_for_log(&self, needle: &str, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        loop {
            // The status comes first: what was printed just before the exit is then in the log.
            let exited = self.exit_status();
            if self.log().contains(needle) {
                return;
            }
            if let Some(status) = exited {
                panic!(
                    "{} ended ({status}) before it printed `{needle}`:\n{}",
                    self.name,
                    tail(&self.log())
                );
            }
            if Instant::now() > deadline {
                panic!(
                    "{} did not print `{needle}` within {timeout:?}:\n{}",
                    self.name,
                    tail(&self.log())
                );
            }
            sleep(POLL);
        }
    }

    /// How the program ended; `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().ok().flatten()
    }

    /// Stops the program where it is: its connections stay open, and it answers nothing.
    #[track_caller]
    pub fn pause(&self) {
        self.signal("STOP");
        // A program with several threads goes on for a moment.
        while !stopped(self.pid) {
            sleep(Duration::from_millis(1));
        }
    }

    /// Ends [`Process::pause`].
    #[track_caller]
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Signals the program alone: the watcher in its group must stay awake.
    #[track_caller]
    fn signal(&self, name: &str) {
        let sent = Command::new("sh")
            .args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &self.pid.to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()), "cannot send {name} to {}", self.name);
    }

    /// Kills the program and everything it started, and waits until it is gone.
    pub fn kill(&mut self) {
        // This ends the whole group. Killing directly, too, works even if somebody killed the watcher.
        if let Some(mut lifeline) = self.lifeline.take() {
            let _ = lifeline.write_all(b"\n");
        }
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- the end of the output of {} ----\n{}", self.name, tail(&self.log()));
        }
    }
}

/// Whether all threads of a process are stopped; also if it is gone.
fn stopped(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state stands behind the name, which is in parentheses.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
    })
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("output.log")
}

/// The last lines of `log`: enough to show a failure and what led to it.
pub(crate) fn tail(log: &str) -> String {
    const LINES: usize = 120;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// A new directory for one program's files, under the target directory.
pub fn scratch() -> TempDir {
    let parent = crate::module::target_dir().join("harness/run");
    fs::create_dir_all(&parent).and_then(|()| TempDir::new_in(&parent)).unwrap_or_else(|error| {
        panic!("cannot create a directory in {}: {error}", parent.display());
    })
}
