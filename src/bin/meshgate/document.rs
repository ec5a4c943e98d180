//! The meshgate configs in a file: Envoy's YAML or JSON, Istio's, the bare config, or Markdown with any of these.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::yaml::{self, Fault, Kind, Node, Place};

/// The words of `mode`, by which a config of ours is known where nothing else says so.
const MODES: [&str; 4] = ["gateway", "service", "egress", "authz"];

/// What a VM is given for the names of its environment; `None` stands for what the host has.
pub type Given = BTreeMap<String, Option<String>>;

/// Documents of a file.
pub struct Documents {
    /// They, as far as they are YAML.
    pub all: Vec<Node>,
    /// Why others are not.
    pub faults: Vec<Fault>,
}

/// Reads a file. Of Markdown, the blocks that are marked as YAML or JSON and have a `mode`.
pub fn read(text: &str, markdown: bool) -> Documents {
    let mut documents = Documents { all: Vec::new(), faults: Vec::new() };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !markdown {
        match yaml::parse(text) {
            Ok(all) => documents.all = all,
            Err(fault) => documents.faults.push(fault),
        }
        return documents;
    }
    for block in blocks(text) {
        match yaml::parse(&block) {
            // Most blocks of a manual show a part of something.
            Ok(all) => documents.all.extend(
                all.into_iter().filter(|one| one.get("mode").is_some() || is_whole_file(one)),
            ),
            Err(fault) if block.contains("meshgate") => documents.faults.push(fault),
            Err(_) => {}
        }
    }
    documents
}

/// The YAML and JSON blocks of a Markdown text, each behind as many empty lines as stand before it, so that
/// its lines have their numbers.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for (before, line) in text.lines().enumerate() {
        let fence = line.trim_start();
        match &mut open {
            Some(_) if fence.starts_with("```") => blocks.extend(open.take()),
            Some(block) => {
                block.push_str(line);
                block.push('\n');
            }
            None if ["```yaml", "```yml", "```json"].contains(&fence.trim_end()) => {
                open = Some("\n".repeat(before.saturating_add(1)));
            }
            None => {}
        }
    }
    blocks
}

/// A config of ours.
pub struct Site<'a> {
    /// Where it begins.
    pub at: Place,
    /// What is written there.
    pub written: Written<'a>,
    /// The plugin whose config it is, if that is shown.
    pub plugin: Plugin<'a>,
    /// The HTTP filters before it.
    pub before: &'a [Node],
}

/// How a config is written.
pub enum Written<'a> {
    /// As YAML or JSON, and the filter gets it as such.
    Tree(&'a Node),
    /// As a text that holds it.
    Text {
        /// The text.
        text: &'a str,
        /// Whether its lines are lines of the file.
        literal: bool,
    },
    /// Not in a way that the filter gets it; why.
    Not(&'static str),
}

/// Around a config.
#[derive(Clone, Copy)]
pub enum Plugin<'a> {
    /// Envoy's `PluginConfig`.
    Envoy(&'a Node),
    /// The `spec` of Istio's `WasmPlugin`.
    Istio(&'a Node),
    /// Nothing.
    Bare,
}

/// The member of any of these names: protobuf's JSON has two spellings for each.
pub fn either<'a>(node: &'a Node, snake: &str, camel: &str) -> Option<&'a Node> {
    node.get(snake).or_else(|| node.get(camel))
}

impl Plugin<'_> {
    /// What the VM's environment is, where the file shows it.
    pub fn environment(&self) -> Option<Given> {
        let text = |node: &Node| match &node.kind {
            Kind::Text { text, .. } => Some(text.clone()),
            Kind::Plain(value) => Some(value.to_string()),
            Kind::List(_) | Kind::Map(_) => None,
        };
        match self {
            Self::Envoy(plugin) => {
                let vm = either(plugin, "vm_config", "vmConfig")?;
                let mut given = Given::new();
                let Some(variables) = either(vm, "environment_variables", "environmentVariables")
                else {
                    return Some(given);
                };
                let host = either(variables, "host_env_keys", "hostEnvKeys");
                given.extend(
                    host.into_iter()
                        .flat_map(Node::items)
                        .filter_map(text)
                        .map(|name| (name, None)),
                );
                let own = either(variables, "key_values", "keyValues");
                given.extend(
                    own.into_iter()
                        .flat_map(Node::entries)
                        .filter_map(|entry| Some((entry.name.clone()?, text(&entry.value)))),
                );
                Some(given)
            }
            Self::Istio(spec) => {
                let all = spec.find(&["vmConfig", "env"]).into_iter().flat_map(Node::items);
                Some(
                    all.filter_map(|one| {
                        Some((text(one.get("name")?)?, one.get("value").and_then(text)))
                    })
                    .collect(),
                )
            }
            Self::Bare => None,
        }
    }
}

/// The configs in a document.
pub struct Found<'a> {
    /// Ours.
    pub ours: Vec<Site<'a>>,
    /// How many there are of other plugins.
    pub others: usize,
}

/// Finds the configs in a document.
pub fn find(document: &Node) -> Found<'_> {
    let mut search = Search { resource: document, ours: Vec::new(), others: 0 };
    search.walk(document, &[]);
    let Search { mut ours, others, .. } = search;
    let bare = document.get("mode").is_some() || document.get("providers").is_some();
    if ours.is_empty() && others == 0 && bare && !is_whole_file(document) {
        ours.push(Site {
            at: document.at,
            written: Written::Tree(document),
            plugin: Plugin::Bare,
            before: &[],
        });
    }
    Found { ours, others }
}

/// The one config in `file`, as JSON. Where there are several, the one of this `mode`.
///
/// # Errors
/// Where there is none, or not one alone. Nothing of the file is quoted.
pub fn config(file: &Path, mode: Option<&str>) -> Result<Vec<u8>, String> {
    let place = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("{place}: {error}"))?;
    let documents = read(&text, false);
    if let Some(Fault { at, message }) = documents.faults.first() {
        return Err(format!("{place}:{}:{}: {message}", at.line, at.column));
    }
    let mut configs = Vec::new();
    for site in documents.all.iter().flat_map(|document| find(document).ours) {
        configs.push(
            site.written
                .to_json()
                .map_err(|why| format!("{place}:{}:{}: {why}", site.at.line, site.at.column))?,
        );
    }
    let word =
        |config: &Value| config.get("mode").and_then(Value::as_str).unwrap_or("gateway").to_owned();
    let modes: Vec<String> = configs.iter().map(word).collect();
    configs.retain(|config| mode.is_none_or(|mode| word(config) == mode));
    match (configs.as_slice(), mode) {
        ([one], _) => Ok(one.to_string().into_bytes()),
        ([], None) => Err(format!("{place}: there is no meshgate config in it")),
        ([], Some(mode)) => Err(format!("{place}: it has no config with `mode: {mode}`")),
        (_, _) => Err(format!(
            "{place}: it has {} meshgate configs ({}), choose one by --mode or give it a file of its own",
            modes.len(),
            modes.join(", ")
        )),
    }
}

/// Whether a text has a JWT in it: its header begins with `{"`.
pub fn looks_like_token(text: &str) -> bool {
    text.contains("eyJ") && text.matches('.').count() >= 2
}

/// The text with something else for each JWT in it.
pub fn without_tokens(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let words = text.split_inclusive(|c| !is_part(c));
    words
        .map(|word| {
            let end = word.trim_start_matches(is_part);
            if looks_like_token(word) { format!("(a token){end}") } else { word.to_owned() }
        })
        .collect()
}

/// Whether this is Envoy's or Kubernetes's, so not a bare config.
fn is_whole_file(document: &Node) -> bool {
    ["static_resources", "staticResources", "apiVersion", "@type"]
        .iter()
        .any(|name| document.get(name).is_some())
}

struct Search<'a> {
    /// The Kubernetes resource that is looked at, which may be one of a list.
    resource: &'a Node,
    ours: Vec<Site<'a>>,
    others: usize,
}

impl<'a> Search<'a> {
    fn walk(&mut self, node: &'a Node, before: &'a [Node]) {
        if node.get("spec").is_some() {
            self.resource = node;
        }
        if let Some(config) = node.get("pluginConfig") {
            let name = self.resource.find(&["metadata", "name"]);
            let marks = [name, node.get("pluginName"), node.get("url")];
            self.take(config.at, Written::Tree(config), Plugin::Istio(node), before, &marks);
            return;
        }
        if let Some(config) = node.get("configuration").filter(|config| is_config_of(node, config))
        {
            let code = either(node, "vm_config", "vmConfig").and_then(|vm| vm.get("code"));
            let marks = [
                node.get("name"),
                either(node, "root_id", "rootId"),
                code.and_then(|code| code.find(&["local", "filename"])),
                code.and_then(|code| {
                    let uri = either(code.get("remote")?, "http_uri", "httpUri")?;
                    uri.get("uri")
                }),
            ];
            let (at, written) = within(config);
            self.take(at, written, Plugin::Envoy(node), before, &marks);
            return;
        }
        for entry in node.entries() {
            let filters = matches!(entry.name.as_deref(), Some("http_filters" | "httpFilters"));
            if filters {
                for (place, item) in entry.value.items().iter().enumerate() {
                    self.walk(item, entry.value.items().get(..place).unwrap_or_default());
                }
            } else {
                self.walk(&entry.value, before);
            }
        }
        for item in node.items() {
            self.walk(item, before);
        }
    }

    fn take(
        &mut self,
        at: Place,
        written: Written<'a>,
        plugin: Plugin<'a>,
        before: &'a [Node],
        marks: &[Option<&Node>],
    ) {
        // Of a path or an address, the last part counts.
        let named = marks
            .iter()
            .flatten()
            .filter_map(|mark| mark.text())
            .any(|mark| mark.rsplit('/').next().is_some_and(|last| last.contains("meshgate")));
        if named || has_our_mode(&written) {
            self.ours.push(Site { at, written, plugin, before });
        } else {
            self.others = self.others.saturating_add(1);
        }
    }
}

/// Whether this is the config of a proxy-wasm plugin, `configuration` being a common word.
fn is_config_of(plugin: &Node, config: &Node) -> bool {
    let beside = ["vm_config", "vmConfig", "root_id", "rootId", "failure_policy", "failurePolicy"];
    let held = config
        .get("@type")
        .and_then(Node::text)
        .is_some_and(|kind| kind.contains("google.protobuf."));
    held || beside.iter().any(|name| plugin.get(name).is_some())
}

/// The config within a protobuf `Any`.
fn within(config: &Node) -> (Place, Written<'_>) {
    let kind = config
        .get("@type")
        .and_then(Node::text)
        .map(|kind| kind.rsplit('/').next().unwrap_or(kind));
    match (kind, config.get("value")) {
        (Some("google.protobuf.Struct"), Some(value)) => (value.at, Written::Tree(value)),
        (Some("google.protobuf.StringValue"), Some(value)) => match &value.kind {
            Kind::Text { text, literal } => (value.at, Written::Text { text, literal: *literal }),
            Kind::Plain(_) | Kind::List(_) | Kind::Map(_) => (
                value.at,
                Written::Not(
                    "the `value` of a `google.protobuf.StringValue` must be a text, write `google.protobuf.Struct` for YAML",
                ),
            ),
        },
        (Some("google.protobuf.Struct" | "google.protobuf.StringValue"), None) => {
            (config.at, Written::Not("has no `value`, which is the config"))
        }
        (Some(_), _) => (
            config.at,
            Written::Not(
                "`@type` must be `type.googleapis.com/google.protobuf.Struct` or `type.googleapis.com/google.protobuf.StringValue`",
            ),
        ),
        (None, _) => (
            config.at,
            Written::Not(
                "has no `@type`, write `\"@type\": type.googleapis.com/google.protobuf.Struct` and the config as its `value`",
            ),
        ),
    }
}

fn has_our_mode(written: &Written<'_>) -> bool {
    let ours = |node: &Node| {
        node.get("mode").and_then(Node::text).is_some_and(|mode| MODES.contains(&mode))
    };
    match written {
        Written::Tree(node) => ours(node),
        Written::Text { text, .. } => yaml::parse(text).is_ok_and(|all| all.iter().any(ours)),
        Written::Not(_) => false,
    }
}

impl Written<'_> {
    /// The config as the filter gets it.
    fn to_json(&self) -> Result<Value, String> {
        match self {
            Self::Tree(node) => Ok(node.to_json(&mut Vec::new())),
            Self::Text { text, .. } => serde_json::from_str(text)
                .map_err(|_| "is not JSON, which the filter reads a text as".to_owned()),
            Self::Not(why) => Err((*why).to_owned()),
        }
    }

    /// The names of variables that must hold a key which signs `ES256`: what they are for can be seen.
    pub fn is_for_es256(&self, name: &str) -> bool {
        fn within(value: &Value, variable: &str) -> bool {
            match value {
                Value::Object(members) => {
                    let is = |field: &str, meant: &dyn Fn(&str) -> bool| {
                        members.get(field).and_then(Value::as_str).is_some_and(meant)
                    };
                    let here = is("alg", &|alg| alg == "ES256")
                        && is("key", &|key| key.contains(variable));
                    here || members.values().any(|member| within(member, variable))
                }
                Value::Array(items) => items.iter().any(|item| within(item, variable)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
            }
        }
        let variable = format!("${{env:{name}}}");
        match self {
            Written::Tree(node) => within(&node.to_json(&mut Vec::new()), &variable),
            Written::Text { text, .. } => {
                serde_json::from_str(text).is_ok_and(|value| within(&value, &variable))
            }
            Written::Not(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> (usize, usize) {
        let documents = read(text, false);
        assert!(documents.faults.is_empty(), "{:?}", documents.faults);
        let found: Vec<_> = documents.all.iter().map(find).collect();
        (found.iter().map(|f| f.ours.len()).sum(), found.iter().map(|f| f.others).sum())
    }

    fn envoy(plugin: &str, config: &str) -> String {
        format!(
            "static_resources:\n  listeners:\n  - http_filters:\n    - typed_config:\n        config: {{{plugin}, configuration: {config}}}\n"
        )
    }

    const STRUCT: &str = "\"@type\": type.googleapis.com/google.protobuf.Struct";
    const STRING: &str = "\"@type\": type.googleapis.com/google.protobuf.StringValue";

    #[test]
    fn a_config_is_ours_by_its_name_its_module_or_its_mode() {
        let a_struct = format!("{{{STRUCT}, value: {{a: 1}}}}");
        for (plugin, config, count) in [
            ("name: meshgate", a_struct.clone(), (1, 0)),
            ("root_id: meshgate", a_struct.clone(), (1, 0)),
            ("rootId: meshgate-egress", a_struct.clone(), (1, 0)),
            (
                "vm_config: {code: {local: {filename: /opt/meshgate-0.1.wasm}}}",
                a_struct.clone(),
                (1, 0),
            ),
            (
                "vm_config: {code: {remote: {http_uri: {uri: 'https://a/meshgate.wasm'}}}}",
                a_struct.clone(),
                (1, 0),
            ),
            (
                "vm_config: {code: {local: {filename: /meshgate/coraza.wasm}}}",
                a_struct.clone(),
                (0, 1),
            ),
            ("name: coraza", a_struct, (0, 1)),
            ("name: edge", format!("{{{STRUCT}, value: {{mode: gateway}}}}"), (1, 0)),
            ("name: edge", format!("{{{STRUCT}, value: {{mode: strict}}}}"), (0, 1)),
            ("name: edge", format!("{{{STRING}, value: '{{\"mode\": \"egress\"}}'}}"), (1, 0)),
            ("name: edge", format!("{{{STRING}, value: 'SecRuleEngine On'}}"), (0, 1)),
            ("name: meshgate, root_id: r", "{mode: gateway}".to_owned(), (1, 0)),
        ] {
            assert_eq!(found(&envoy(plugin, &config)), count, "{plugin} {config}");
        }
    }

    #[test]
    fn istio_and_bare_configs_are_found_and_other_documents_are_not() {
        for (text, count) in [
            ("mode: gateway", (1, 0)),
            ("providers: {}", (1, 0)),
            ("{\"mode\": \"gateway\"}", (1, 0)),
            ("apiVersion: v1\nmode: gateway", (0, 0)),
            ("a: 1", (0, 0)),
            ("", (0, 0)),
            ("kind: WasmPlugin\nmetadata: {name: meshgate}\nspec: {pluginConfig: {a: 1}}", (1, 0)),
            ("kind: WasmPlugin\nspec: {url: 'oci://a/b/meshgate:1', pluginConfig: {}}", (1, 0)),
            ("kind: WasmPlugin\nspec: {url: 'oci://a/waf:1', pluginConfig: {a: 1}}", (0, 1)),
            (
                "kind: List\nitems: [{metadata: {name: meshgate}, spec: {pluginConfig: {a: 1}}}, {metadata: {name: waf}, spec: {pluginConfig: {a: 1}}}]",
                (1, 1),
            ),
            ("kind: A\n---\nmode: gateway\n---\nspec: {pluginConfig: {mode: service}}", (2, 0)),
        ] {
            assert_eq!(found(text), count, "{text}");
        }
    }

    #[test]
    fn blocks_of_markdown_keep_their_lines() {
        let text = "# A\n\n```yaml\na: 1\n```\n\n```yaml\nmode: gateway\nproviders: {}\n```\n```sh\nmode: x\n```\n";
        let documents = read(text, true);
        let lines: Vec<usize> = documents.all.iter().map(|one| one.at.line).collect();
        assert_eq!(lines, [8]);
    }

    #[test]
    fn what_the_vm_is_given_is_read_where_it_is_shown() {
        let text = envoy(
            "name: meshgate, vm_config: {environment_variables: {host_env_keys: [A], key_values: {B: b, C: 1}}}",
            &format!("{{{STRUCT}, value: {{}}}}"),
        );
        let documents = read(&text, false);
        let given = find(&documents.all[0]).ours[0].plugin.environment().unwrap();
        let all: Vec<_> =
            given.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        assert_eq!(all, [("A", None), ("B", Some("b")), ("C", Some("1"))]);

        let text = "spec: {pluginConfig: {mode: gateway}, vmConfig: {env: [{name: A, valueFrom: HOST}, {name: B, value: b}]}}";
        let documents = read(text, false);
        let given = find(&documents.all[0]).ours[0].plugin.environment().unwrap();
        let all: Vec<_> =
            given.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        assert_eq!(all, [("A", None), ("B", Some("b"))]);

        let documents = read("mode: gateway", false);
        assert!(find(&documents.all[0]).ours[0].plugin.environment().is_none());
    }
}
