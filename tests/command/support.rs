//! Running the command, and the configs that the repository shows.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What the command did.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs it in the repository, with nothing in its environment but `variables`.
pub fn meshgate(arguments: &[&str], variables: &[(&str, &str)], stdin: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meshgate"))
        .args(arguments)
        .current_dir(ROOT)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read it closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The command, with nothing of this process's environment that it would look at.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshgate"));
    command.env_remove("MESHGATE_TOKEN");
    command
}

/// All that a run wrote.
pub fn written(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// A directory of this test's own, empty.
pub fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path, extension));
        } else if path.extension().is_some_and(|one| one == extension) {
            all.push(path);
        }
    }
    all.sort();
    all
}

/// What stands below `envoy/` and is for others than meshgate.
fn is_anothers(file: &Path) -> bool {
    file.ends_with("authz-client.yaml")
        || file.parent().is_some_and(|dir| dir.ends_with("prometheus") || dir.ends_with("support"))
}

/// The files below `envoy/`, and those with text.
pub fn shown_files() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let root = Path::new(ROOT);
    let mut texts = files(&root.join("docs"), "md");
    texts.push(root.join("README.md"));
    let mut yaml = files(&root.join("envoy"), "yaml");
    yaml.retain(|file| !is_anothers(file));
    (yaml, texts)
}

/// Every config that the repository shows, with its file.
pub fn shown_configs() -> Vec<(PathBuf, Value)> {
    let (yaml, texts) = shown_files();
    let mut all = Vec::new();
    for file in yaml {
        for document in fs::read_to_string(&file).unwrap().split("\n---\n") {
            let document: Value = yaml_serde::from_str(document).unwrap();
            all.extend(within(&document).into_iter().map(|one| (file.clone(), one.clone())));
        }
    }
    for file in texts {
        for block in fs::read_to_string(&file).unwrap().split("```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            // Others show a part of something.
            if block.lines().any(|line| line.starts_with("mode:")) {
                all.push((file.clone(), yaml_serde::from_str(block).unwrap()));
            }
        }
    }
    all
}

/// The filter configs within a document: Istio's `pluginConfig` and Envoy's `configuration.value`.
pub fn within(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, member)| match name.as_str() {
                "pluginConfig" => vec![member],
                "configuration" => vec![&member["value"]],
                _ => within(member),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(within).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}
