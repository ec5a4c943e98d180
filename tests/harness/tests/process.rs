//! Programs end with the process that started them, however that ends.
//!
//! The process to end is this test binary again, running only [`victim`].

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::process::{Process, scratch};

const VICTIM: &str = "MESHGATE_HARNESS_VICTIM";

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_program_ends_when_dropped_with_what_it_started() {
    let (program, pids) = family();
    assert!(pids.iter().all(alive));
    assert_eq!(program.pid().to_string(), pids[0]);
    drop(program);
    assert_gone(&pids);
}

#[test]
fn a_program_ends_when_its_test_panics() {
    let mut pids = Vec::new();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let (_program, found) = family();
        pids = found;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_gone(&pids);
}

#[test]
fn a_program_ends_when_its_test_is_killed() {
    let (mut victim, dir, pids) = start_victim();
    victim.kill().expect("kill -9");
    victim.wait().expect("its end");
    assert_gone(&pids);
    assert!(!dir.exists());
}

#[test]
fn a_program_ends_on_ctrl_c() {
    let (mut victim, dir, pids) = start_victim();
    shell(&format!("kill -s INT -- -{}", victim.id()));
    victim.wait().expect("its end");
    assert_gone(&pids);
    assert!(!dir.exists());
}

#[test]
fn a_programs_own_exit_status_and_output_are_seen() {
    let mut command = Command::new("sh");
    command.args(["-c", "read line; echo \"[$line] $MARK\"; exit 7"]).env("MARK", "here");
    let program = Process::start(&command, scratch()).expect("sh");
    program.wait_for_log("[] here", SOON);
    let deadline = Instant::now() + SOON;
    while program.exit_status().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(program.exit_status().and_then(|status| status.code()), Some(7));
}

#[test]
fn a_missing_program_says_so() {
    let program = Process::start(&Command::new("no-such-program"), scratch()).expect("sh");
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        program.wait_for_log("ready", SOON)
    }));
    let message = waited.expect_err("it cannot print that");
    let message = message.downcast_ref::<String>().expect("a message");
    assert!(message.contains("no-such-program") && message.contains("not found"), "{message}");
}

/// Does nothing, unless another test runs it as a process to end.
#[test]
fn victim() {
    if std::env::var_os(VICTIM).is_some() {
        let (program, pids) = family();
        println!("victim {} {}", program.dir().display(), pids.join(" "));
        std::thread::sleep(Duration::from_secs(600));
    }
}

/// The victim, its program's directory, and the pids of its programs.
fn start_victim() -> (Child, PathBuf, Vec<String>) {
    let mut victim = Command::new(std::env::current_exe().expect("this test binary"))
        .args(["--exact", "victim", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("this test binary again");
    let output = BufReader::new(victim.stdout.take().expect("piped"));
    let mut lines = output.lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("victim /")).expect("its line");
    let mut words = line.split(' ').skip_while(|word| !word.starts_with('/'));
    let dir = PathBuf::from(words.next().expect("a directory"));
    (victim, dir, words.map(Into::into).collect())
}

/// A program that ignores polite signals, and a child of it.
fn family() -> (Process, Vec<String>) {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' INT TERM HUP; sleep 600 & echo \"pids $$ $! .\"; wait"]);
    let program = Process::start(&command, scratch()).expect("sh");
    program.wait_for_log(" .\n", SOON);
    let log = program.log();
    let pids = log.split_whitespace().skip(1).take(2).map(Into::into).collect();
    (program, pids)
}

#[track_caller]
fn assert_gone(pids: &[String]) {
    let deadline = Instant::now() + SOON;
    while pids.iter().any(alive) {
        assert!(Instant::now() < deadline, "still there: {pids:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn alive(pid: &String) -> bool {
    // A zombie is dead; in a container, nobody may come for it.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.contains(") Z ") && shell(&format!("kill -0 {pid} 2>/dev/null"))
}

fn shell(script: &str) -> bool {
    Command::new("sh").args(["-c", script]).status().is_ok_and(|status| status.success())
}
