//! The place where a run happens: namespaces of its own for network, mounts and
//! processes, entered by starting this program again inside.
//!
//! Whatever way a run ends, a panic or SIGKILL included, the kernel removes
//! processes, network and mounts with the namespaces. So several runs can go
//! side by side and none leaves anything behind.

use super::tool;
use anyhow::{Context as _, Result};
use std::process::{Command, ExitCode, Stdio};

/// Tells the program that it was started inside, and by which means. Replicas
/// take variables of the product's name for settings, so it has another.
const MARK: &str = "JEPSEN_ENCLOSURE";

/// What separates the replicas of a run from each other and from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enclosure {
    /// Namespaces made by root: all faults of network and disk.
    Root,
    /// Namespaces inside a user namespace: the faults of the network, none that
    /// needs a loop device.
    User,
    /// None: loopback addresses and plain directories; only processes can be
    /// harmed.
    Bare,
}

impl Enclosure {
    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::User => "user",
            Self::Bare => "bare",
        }
    }

    /// What it is made of.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Root => "namespaces of network, mounts and processes, made by root",
            Self::User => "namespaces within a user namespace",
            Self::Bare => "nothing but addresses; neither root nor user namespaces are there",
        }
    }

    /// Whether replicas have networks of their own.
    pub(crate) fn has_networks(self) -> bool {
        self != Self::Bare
    }

    /// The one that this process is in; `None` outside.
    pub(crate) fn current() -> Option<Self> {
        match std::env::var(MARK).ok()?.as_str() {
            "root" => Some(Self::Root),
            "user" => Some(Self::User),
            "bare" => Some(Self::Bare),
            _ => None,
        }
    }

    /// The best that this machine can make, found by trying.
    pub(crate) fn best() -> Self {
        [Self::Root, Self::User]
            .into_iter()
            .find(|enclosure| enclosure.can_be_made())
            .unwrap_or(Self::Bare)
    }

    fn can_be_made(self) -> bool {
        let mut words = self.unshare();
        words.extend(["ip", "link", "add", "trial", "type", "bridge"].map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        tool::run(words[0], &words[1..]).is_ok()
    }

    fn unshare(self) -> Vec<String> {
        // However this process ends, what it started inside ends with it.
        let mut words = if tool::exists("setpriv") {
            vec!["setpriv", "--pdeathsig", "KILL", "unshare"]
        } else {
            vec!["unshare"]
        };
        if self == Self::User {
            words.extend(["--user", "--map-root-user"]);
        }
        words.extend(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        words.into_iter().map(str::to_owned).collect()
    }

    /// Starts this program again inside, with the same arguments, and waits.
    ///
    /// # Errors
    ///
    /// Fails if the program cannot be started.
    pub(crate) fn enter(self) -> Result<ExitCode> {
        let program = std::env::current_exe().context("find the own program")?;
        let mut words = if self == Self::Bare { Vec::new() } else { self.unshare() };
        words.push(program.display().to_string());
        let status = Command::new(&words[0])
            .args(&words[1..])
            .args(std::env::args_os().skip(1))
            .env(MARK, self.name())
            .stdin(Stdio::null())
            .status()
            .context("start inside of the enclosure")?;
        Ok(status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .map_or(ExitCode::FAILURE, ExitCode::from))
    }
}

/// A word that no other run on this machine has while it lasts: the number of
/// the namespace that its network is in, or of its process where there is none.
pub(crate) fn run_mark() -> String {
    let link = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    let space: String = link.display().to_string().chars().filter(char::is_ascii_digit).collect();
    format!("{space}-{}", std::process::id())
}
