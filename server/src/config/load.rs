//! Where settings come from: flag over environment over file over default.
//!
//! Every setting `a.b_c` can be given in the file, as `KEELSTONE_A_B_C` in the
//! environment, and as `--set a.b_c=VALUE`; the common ones have a flag of
//! their own. In the environment and in flags a list is separated by commas and
//! a map is `NAME=VALUE,NAME=VALUE`.

use super::{ClientTls, Config, PeerTls};
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::{Table, Value};

const PREFIX: &str = "KEELSTONE_";
/// Variables that the command line reads, whatever the command: no settings of a
/// node, and nothing to warn of if they are there.
const OF_THE_COMMAND_LINE: [&str; 8] = [
    "KEELSTONE_CONFIG",
    "KEELSTONE_ENDPOINTS",
    "KEELSTONE_CACERT",
    "KEELSTONE_CERT",
    "KEELSTONE_KEY",
    "KEELSTONE_TIMEOUT",
    "KEELSTONE_OUTPUT",
    "KEELSTONE_BACKUP_URL",
];

/// Settings on the command line.
#[derive(Clone, Debug, Default, Args)]
pub struct Flags {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "KEELSTONE_CONFIG")]
    pub config: Option<PathBuf>,
    /// This node's number in the cluster.
    #[arg(long, value_name = "ID")]
    pub node_id: Option<String>,
    /// Where the node keeps its log, its state and its identity.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// The address to serve clients on.
    #[arg(long, value_name = "ADDRESS")]
    pub client_listen: Option<String>,
    /// HOST:PORT that clients are told.
    #[arg(long, value_name = "HOST:PORT")]
    pub client_advertise: Option<String>,
    /// The address to serve the other replicas on.
    #[arg(long, value_name = "ADDRESS")]
    pub peer_listen: Option<String>,
    /// HOST:PORT that the other replicas are told.
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_advertise: Option<String>,
    /// The address to serve metrics and health on.
    #[arg(long, value_name = "ADDRESS")]
    pub http_listen: Option<String>,
    /// The first members: ID=PEER/CLIENT,ID=PEER/CLIENT,...
    #[arg(long, value_name = "MEMBERS")]
    pub initial_cluster: Option<String>,
    /// Tells clusters apart that are formed on the same addresses.
    #[arg(long, value_name = "TOKEN")]
    pub cluster_token: Option<String>,
    /// Join the cluster of --initial-cluster instead of forming one.
    #[arg(long)]
    pub join: bool,
    /// Failure domains of this node: NAME=VALUE,NAME=VALUE,...
    #[arg(long, value_name = "LABELS")]
    pub labels: Option<String>,
    /// The state engine.
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<String>,
    /// Allow plaintext on addresses that other machines can reach.
    #[arg(long)]
    pub insecure: bool,
    /// Any other setting, such as `limits.connections_max=100`.
    #[arg(long, value_name = "SETTING=VALUE")]
    pub set: Vec<String>,
}

impl Flags {
    /// The settings that were given, by name. `--set` comes last and wins.
    fn given(&self) -> Result<Vec<(&str, &str)>, LoadError> {
        let named = [
            ("node_id", self.node_id.as_deref()),
            ("data_dir", self.data_dir.as_deref()),
            ("client.listen", self.client_listen.as_deref()),
            ("client.advertise", self.client_advertise.as_deref()),
            ("peer.listen", self.peer_listen.as_deref()),
            ("peer.advertise", self.peer_advertise.as_deref()),
            ("http.listen", self.http_listen.as_deref()),
            ("cluster.members", self.initial_cluster.as_deref()),
            ("cluster.token", self.cluster_token.as_deref()),
            ("cluster.mode", self.join.then_some("join")),
            ("labels", self.labels.as_deref()),
            ("state.engine", self.engine.as_deref()),
            ("insecure", self.insecure.then_some("true")),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some(Ok((name, value?))));
        let set = self.set.iter().map(|text| {
            text.split_once('=').ok_or_else(|| LoadError::NotAssigned { text: text.clone() })
        });
        named.chain(set).collect()
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: String,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A setting is unknown or its value is of the wrong kind.
    #[error("{place}: {problem}")]
    Setting {
        /// The file, the variable or the flag.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// A `--set` has no `=`.
    #[error("--set {text}: write SETTING=VALUE")]
    NotAssigned {
        /// What was written.
        text: String,
    },
}

/// Settings, and what was seen on the way.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings. They still have to be asked for their
    /// [`problems`](Config::problems).
    pub config: Config,
    /// Variables that begin with `KEELSTONE_` and mean nothing here. Not an
    /// error, because Kubernetes makes such variables for a service of that
    /// name; worth a warning.
    pub unknown_variables: Vec<String>,
}

/// Reads the settings from all places.
///
/// # Errors
///
/// The first place that cannot be read or understood, see [`LoadError`].
pub fn load(
    flags: &Flags,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, LoadError> {
    let mut table = Table::new();
    if let Some(path) = &flags.config {
        table = read_file(path)?;
    }
    let kinds = kinds();
    let variables: BTreeMap<String, &str> =
        kinds.keys().map(|name| (variable(name), name.as_str())).collect();
    let mut unknown_variables = Vec::new();
    for (name, text) in environment {
        match variables.get(&name) {
            Some(setting) => overlay(&mut table, &kinds, setting, &text, &name)?,
            None if OF_THE_COMMAND_LINE.contains(&name.as_str()) => {}
            None if name.starts_with(PREFIX) => unknown_variables.push(name),
            None => {}
        }
    }
    for (setting, text) in flags.given()? {
        overlay(&mut table, &kinds, setting, text, &format!("flag for {setting}"))?;
    }
    let config =
        Value::Table(table).try_into().map_err(|error: toml::de::Error| LoadError::Setting {
            place: "settings".to_owned(),
            problem: error.to_string().trim_end().to_owned(),
        })?;
    Ok(Loaded { config, unknown_variables })
}

/// Reads and checks the file alone, so that an error in it names its line.
fn read_file(path: &std::path::Path) -> Result<Table, LoadError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|source| LoadError::Read { path: name.clone(), source })?;
    let parsed = toml::from_str::<Config>(&text).and_then(|_| toml::from_str(&text));
    parsed.map_err(|source| LoadError::Parse { path: name, source: Box::new(source) })
}

/// The variable that gives a setting.
pub(super) fn variable(setting: &str) -> String {
    format!("{PREFIX}{}", setting.replace('.', "_").to_uppercase())
}

/// Every setting with a value of its kind. An empty table is a map.
pub(super) fn kinds() -> BTreeMap<String, Value> {
    let mut config = Config::default();
    let file = || Some(PathBuf::new());
    config.client.tls = ClientTls {
        certificate: file(),
        key: file(),
        client_roots: file(),
        client_certificate_required: false,
    };
    config.peer.tls = PeerTls { certificate: file(), key: file(), roots: file() };
    let table = Table::try_from(&config).expect("a configuration is a table");
    let mut kinds = BTreeMap::new();
    collect(&table, "", &mut kinds);
    kinds
}

fn collect(table: &Table, prefix: &str, kinds: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        match value {
            Value::Table(section) if !section.is_empty() => {
                collect(section, &format!("{prefix}{name}."), kinds);
            }
            _ => {
                kinds.insert(format!("{prefix}{name}"), value.clone());
            }
        }
    }
}

fn overlay(
    table: &mut Table,
    kinds: &BTreeMap<String, Value>,
    setting: &str,
    text: &str,
    place: &str,
) -> Result<(), LoadError> {
    let fail = |problem: String| LoadError::Setting { place: place.to_owned(), problem };
    let kind = kinds.get(setting).ok_or_else(|| fail("there is no such setting".to_owned()))?;
    let value = parse(kind, text).map_err(fail)?;
    let (sections, name) = setting.rsplit_once('.').unwrap_or(("", setting));
    let mut at = table;
    for section in sections.split('.').filter(|section| !section.is_empty()) {
        let below = at.entry(section).or_insert_with(|| Value::Table(Table::new()));
        at = below.as_table_mut().ok_or_else(|| fail(format!("{section} is not a section")))?;
    }
    at.insert(name.to_owned(), value);
    Ok(())
}

fn parse(kind: &Value, text: &str) -> Result<Value, String> {
    let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
    Ok(match kind {
        Value::Integer(_) => {
            Value::Integer(text.parse().map_err(|_| format!("`{text}` is not a whole number"))?)
        }
        Value::Boolean(_) => {
            Value::Boolean(text.parse().map_err(|_| format!("`{text}` is not true or false"))?)
        }
        Value::Array(_) => Value::Array(parts().map(|part| Value::String(part.into())).collect()),
        Value::Table(_) => {
            let pairs = parts().map(|part| {
                let (name, value) =
                    part.split_once('=').ok_or_else(|| format!("`{part}` is not NAME=VALUE"))?;
                Ok((name.to_owned(), Value::String(value.to_owned())))
            });
            Value::Table(pairs.collect::<Result<_, String>>()?)
        }
        _ => Value::String(text.to_owned()),
    })
}
