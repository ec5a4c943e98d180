//! Programs that are started with a config file and listen on one port.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

use crate::lock;
use crate::process::{POLL, Process, scratch};
use crate::server::bind;

/// Long enough for a busy machine: each takes a fraction of a second.
const START: Duration = Duration::from_secs(30);

/// What the shell exits with where there is no such program.
const NOT_FOUND: i32 = 127;

/// What is to be started.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    /// Its name, which is on the PATH.
    pub(crate) name: &'static str,
    /// The Debian package that has it.
    pub(crate) package: &'static str,
    /// What stands before the config file.
    pub(crate) arguments: &'static [&'static str],
}

/// A program that takes a config file, listens on a port, and can be taken away and brought back there.
pub struct Daemon {
    program: Program,
    config: String,
    answers: fn(SocketAddr) -> io::Result<()>,
    address: SocketAddr,
    /// Bound and never listened on: the program, which sets `SO_REUSEADDR` as we do, can listen on the port,
    /// and the OS gives it to nobody who asks for a free one.
    _port: TcpSocket,
    process: Mutex<Option<Process>>,
}

impl Daemon {
    /// Starts it on a free port of 127.0.0.1, and waits until it answers; fails where it is not installed.
    #[track_caller]
    pub(crate) fn start(
        program: Program,
        config: impl FnOnce(SocketAddr) -> String,
        answers: fn(SocketAddr) -> io::Result<()>,
    ) -> Result<Daemon, String> {
        let port = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = port.local_addr().expect("a bound socket has an address");
        let config = config(address);
        let process = Mutex::new(None);
        let daemon = Daemon { program, config, answers, address, _port: port, process };
        daemon.launch()?;
        Ok(daemon)
    }

    /// Starts the program and waits until it answers. Fails where it is not installed; whatever else goes
    /// wrong is a defect and nothing that a machine lacks.
    #[track_caller]
    fn launch(&self) -> Result<(), String> {
        let Program { name: program, package, arguments } = self.program;
        let dir = scratch();
        let config = dir.path().join("config");
        fs::write(&config, &self.config)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", config.display()));
        let mut command = Command::new(program);
        command.args(arguments).arg(config).current_dir(dir.path());
        // Debian keeps some of them where only root looks.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin"));
        let process = Process::start(&command, dir)
            .unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        let deadline = Instant::now() + START;
        while let Err(error) = (self.answers)(self.address) {
            if let Some(status) = process.exit_status() {
                if status.code() == Some(NOT_FOUND) {
                    return Err(format!("no `{program}` on the PATH; install Debian's {package}"));
                }
                panic!("{program} ended at once ({status}):\n{}", process.log());
            }
            if Instant::now() > deadline {
                panic!("{program} did not answer within {START:?}: {error}\n{}", process.log());
            }
            sleep(POLL);
        }
        *lock(&self.process) = Some(process);
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it where it is: connections stay open, the kernel accepts new ones, and nothing answers.
    #[track_caller]
    pub fn pause(&self) {
        self.with_process(Process::pause);
    }

    /// Ends [`Daemon::pause`]; what was asked meanwhile is answered now.
    #[track_caller]
    pub fn resume(&self) {
        self.with_process(Process::resume);
    }

    /// Kills it: connections break, and new ones are refused.
    pub fn stop(&self) {
        lock(&self.process).take();
    }

    /// Starts it anew, on the same port.
    #[track_caller]
    pub fn restart(&self) {
        self.stop();
        self.launch().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Everything it printed since it was started last.
    pub fn log(&self) -> String {
        lock(&self.process).as_ref().map(Process::log).unwrap_or_default()
    }

    #[track_caller]
    fn with_process(&self, act: impl FnOnce(&Process)) {
        match lock(&self.process).as_ref() {
            Some(process) => act(process),
            None => panic!("{} was stopped", self.program.name),
        }
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.program.name, self.address)
    }
}
