//! Replicas as processes of this machine, each with its own directory, ports and
//! log file.
//!
//! The processes are real: the same binary, the same `serve` command, real
//! sockets and real disks. They end with their parent, however that ends,
//! because each watches its standard input.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Why a local cluster could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A file or a process could not be made.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// No replica has this id.
    #[error("there is no replica {0}")]
    NoSuchReplica(u64),
    /// The replica is in the wrong state for the request.
    #[error("replica {id} {state}")]
    State {
        /// The replica.
        id: u64,
        /// What it is.
        state: String,
    },
}

/// How a local cluster is made.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The `keelstone` binary.
    pub binary: PathBuf,
    /// Where configurations, logs and data go. Made if it is not there.
    pub dir: PathBuf,
    /// How many voters; three unless a test wants otherwise.
    pub replicas: u64,
    /// Settings that every replica's configuration gets besides its own, as
    /// TOML.
    pub settings: toml::Table,
    /// Environment for the processes, such as a log filter.
    pub environment: Vec<(String, String)>,
    /// Programs that the replicas are started under, such as `strace`.
    pub wrapper: Vec<String>,
}

impl LocalOptions {
    /// Three replicas of `binary` below `dir`.
    pub fn new(binary: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            dir: dir.into(),
            replicas: 3,
            settings: toml::Table::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
        }
    }
}

/// One replica: its place on this machine and, if it runs, its process.
#[derive(Debug)]
pub struct LocalReplica {
    /// Its node id.
    pub id: u64,
    /// Where it serves clients.
    pub client: SocketAddr,
    /// Where it serves peers.
    pub peer: SocketAddr,
    /// Where it serves health and metrics.
    pub http: SocketAddr,
    /// Its own directory.
    pub dir: PathBuf,
    child: Option<Child>,
}

impl LocalReplica {
    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    /// What it wrote to its standard error.
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("log.txt")
    }

    /// Where clients reach it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.client)
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }
}

/// Replicas on this machine. Dropping it kills them; their files stay.
#[derive(Debug)]
pub struct LocalCluster {
    options: LocalOptions,
    replicas: Vec<LocalReplica>,
}

impl LocalCluster {
    /// Chooses ports and writes configurations; starts nothing yet.
    ///
    /// # Errors
    ///
    /// Fails if a port or a file cannot be had.
    pub fn create(options: LocalOptions) -> Result<Self, LocalError> {
        let mut replicas = Vec::new();
        for id in 1..=options.replicas {
            replicas.push(new_replica(id, &options.dir)?);
        }
        let cluster = Self { options, replicas };
        for replica in &cluster.replicas {
            cluster.write_config(replica, false)?;
        }
        Ok(cluster)
    }

    /// The replicas.
    pub fn replicas(&self) -> &[LocalReplica] {
        &self.replicas
    }

    /// One replica.
    ///
    /// # Errors
    ///
    /// Fails if there is none with this id.
    pub fn replica(&mut self, id: u64) -> Result<&mut LocalReplica, LocalError> {
        self.replicas
            .iter_mut()
            .find(|replica| replica.id == id)
            .ok_or(LocalError::NoSuchReplica(id))
    }

    /// Where clients reach the replicas.
    pub fn endpoints(&self) -> Vec<String> {
        self.replicas.iter().map(LocalReplica::endpoint).collect()
    }

    /// Adds a replica that waits to be added to the membership. `id` is what it
    /// is called here; as a member it is given another.
    ///
    /// # Errors
    ///
    /// Fails if a port or a file cannot be had.
    pub fn add_joining(&mut self, id: u64) -> Result<(), LocalError> {
        let replica = new_replica(id, &self.options.dir)?;
        self.write_config(&replica, true)?;
        self.replicas.push(replica);
        Ok(())
    }

    /// Starts every replica that does not run.
    ///
    /// # Errors
    ///
    /// Fails if a process cannot be started.
    pub fn start_all(&mut self) -> Result<(), LocalError> {
        let ids: Vec<_> = self.replicas.iter().map(|replica| replica.id).collect();
        for id in ids {
            if !self.replica(id)?.is_running() {
                self.start(id)?;
            }
        }
        Ok(())
    }

    /// Starts a replica.
    ///
    /// # Errors
    ///
    /// Fails if it runs already or cannot be started.
    pub fn start(&mut self, id: u64) -> Result<(), LocalError> {
        let options = self.options.clone();
        let replica = self.replica(id)?;
        if replica.is_running() {
            return Err(LocalError::State { id, state: "runs already".to_owned() });
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(replica.log_file())
            .map_err(context("open the replica's log file"))?;
        let mut words = options.wrapper.clone();
        words.push(options.binary.display().to_string());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(["serve", "--stop-with-parent", "--config"])
            .arg(replica.config_file())
            .envs(options.environment)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(context("share the log file"))?)
            .stderr(log);
        let child = command.spawn().map_err(context("start a replica"))?;
        replica.child = Some(child);
        Ok(())
    }

    /// Ends a replica at once, as a crash would (SIGKILL).
    ///
    /// # Errors
    ///
    /// Fails if it does not run.
    pub fn kill(&mut self, id: u64) -> Result<ExitStatus, LocalError> {
        let mut child = self.take_child(id)?;
        child.kill().map_err(context("kill a replica"))?;
        child.wait().map_err(context("wait for a killed replica"))
    }

    /// Asks a replica to stop (SIGTERM) and waits for it.
    ///
    /// # Errors
    ///
    /// Fails if it does not run, or still does when the time is over; it is
    /// killed then.
    pub fn terminate(&mut self, id: u64, timeout: Duration) -> Result<ExitStatus, LocalError> {
        let mut child = self.take_child(id)?;
        signal(&child, Signal::TERM)?;
        let until = Instant::now() + timeout;
        while Instant::now() < until {
            if let Some(status) = child.try_wait().map_err(context("wait for a replica"))? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().map_err(context("kill a replica"))?;
        child.wait().map_err(context("wait for a killed replica"))?;
        Err(LocalError::State { id, state: format!("did not stop within {timeout:?}") })
    }

    /// Freezes a replica (SIGSTOP), or lets it go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// Fails if it does not run.
    pub fn pause(&mut self, id: u64, paused: bool) -> Result<(), LocalError> {
        let replica = self.replica(id)?;
        let Some(child) = &replica.child else {
            return Err(LocalError::State { id, state: "does not run".to_owned() });
        };
        signal(child, if paused { Signal::STOP } else { Signal::CONT })
    }

    /// Stops all replicas, first asking.
    pub fn stop_all(&mut self, timeout: Duration) {
        let running: Vec<_> = self
            .replicas
            .iter_mut()
            .filter_map(|replica| replica.is_running().then_some(replica.id))
            .collect();
        for id in &running {
            if let Ok(LocalReplica { child: Some(child), .. }) = self.replica(*id) {
                signal(child, Signal::TERM).ok();
            }
        }
        for id in running {
            self.terminate(id, timeout).ok();
        }
    }

    /// Removes the data of a replica that does not run.
    ///
    /// # Errors
    ///
    /// Fails if it runs or its files cannot be removed.
    pub fn wipe(&mut self, id: u64) -> Result<(), LocalError> {
        let replica = self.replica(id)?;
        if replica.is_running() {
            return Err(LocalError::State { id, state: "still runs".to_owned() });
        }
        match fs::remove_dir_all(replica.data_dir()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(context("remove a replica's data")(error))
            }
            _ => Ok(()),
        }
    }

    fn take_child(&mut self, id: u64) -> Result<Child, LocalError> {
        let replica = self.replica(id)?;
        replica
            .child
            .take()
            .ok_or_else(|| LocalError::State { id, state: "does not run".to_owned() })
    }

    fn write_config(&self, replica: &LocalReplica, joining: bool) -> Result<(), LocalError> {
        let mut config = self.options.settings.clone();
        if !joining {
            set(&mut config, "", "node_id", replica.id.cast_signed());
        }
        set(&mut config, "", "data_dir", replica.data_dir().display().to_string());
        set(&mut config, "client", "listen", replica.client.to_string());
        set(&mut config, "peer", "listen", replica.peer.to_string());
        set(&mut config, "http", "listen", replica.http.to_string());
        set(&mut config, "cluster", "mode", if joining { "join" } else { "form" });
        let voters = self.replicas.iter().filter(|other| other.id <= self.options.replicas);
        let members: Vec<toml::Value> = voters
            .map(|other| format!("{}={}/{}", other.id, other.peer, other.client).into())
            .collect();
        set(&mut config, "cluster", "members", members);
        let text = toml::to_string(&config).expect("a table of plain values is valid TOML");
        fs::write(replica.config_file(), text).map_err(context("write node.toml"))
    }
}

/// Sets `section.name`, or `name` if there is no section.
fn set(config: &mut toml::Table, section: &str, name: &str, value: impl Into<toml::Value>) {
    let mut table = config;
    if !section.is_empty() {
        let entry = table.entry(section).or_insert_with(|| toml::Table::new().into());
        let Some(section) = entry.as_table_mut() else { return };
        table = section;
    }
    table.insert(name.to_owned(), value.into());
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for replica in &mut self.replicas {
            if let Some(mut child) = replica.child.take() {
                child.kill().ok();
                child.wait().ok();
            }
        }
    }
}

fn new_replica(id: u64, dir: &Path) -> Result<LocalReplica, LocalError> {
    let dir = dir.join(format!("node-{id}"));
    fs::create_dir_all(&dir).map_err(context("make a replica's directory"))?;
    // The members know each other by address: a replica that is there already
    // keeps its own.
    let before: toml::Table = fs::read_to_string(dir.join("node.toml"))
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_default();
    let address = |section: &str| match listens_on(&before, section) {
        Some(address) => Ok(address),
        None => free_port(),
    };
    let (client, peer, http) = (address("client")?, address("peer")?, address("http")?);
    Ok(LocalReplica { id, client, peer, http, dir, child: None })
}

fn listens_on(config: &toml::Table, section: &str) -> Option<SocketAddr> {
    config.get(section)?.get("listen")?.as_str()?.parse().ok()
}

/// A port that was free a moment ago.
fn free_port() -> Result<SocketAddr, LocalError> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(context("find a free port"))?;
    listener.local_addr().map_err(context("find a free port"))
}

fn signal(child: &Child, signal: Signal) -> Result<(), LocalError> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.expect("a process that was started has a positive id");
    kill_process(pid, signal)
        .map_err(|error| context("send a signal to a replica")(io::Error::from(error)))
}

fn context(what: &str) -> impl FnOnce(io::Error) -> LocalError + '_ {
    move |source| LocalError::Io { what: what.to_owned(), source }
}
