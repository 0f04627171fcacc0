//! Addresses of members as they are written in the configuration.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A member of the cluster as the configuration names it:
/// `ID=PEER_ADDRESS/CLIENT_ADDRESS[?LABEL=VALUE[&LABEL=VALUE]...]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct InitialMember {
    /// Its node id.
    pub id: u64,
    /// `HOST:PORT` where it serves the other replicas.
    pub peer: String,
    /// `HOST:PORT` where it serves clients.
    pub client: String,
    /// Its failure domains.
    pub labels: BTreeMap<String, String>,
}

/// Why a text does not name a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not ID=PEER_ADDRESS/CLIENT_ADDRESS[?LABEL=VALUE&...]: {problem}")]
pub struct ParseMemberError {
    text: String,
    problem: &'static str,
}

impl FromStr for InitialMember {
    type Err = ParseMemberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |problem| ParseMemberError { text: text.to_owned(), problem };
        let (id, rest) = text.split_once('=').ok_or_else(|| fail("there is no `=` after an id"))?;
        let id = id.trim().parse().map_err(|_| fail("the id is not a number"))?;
        let (addresses, labels) = rest.split_once('?').unwrap_or((rest, ""));
        let (peer, client) =
            addresses.split_once('/').ok_or_else(|| fail("there is no `/CLIENT_ADDRESS`"))?;
        for address in [peer, client] {
            check_address(address).map_err(fail)?;
        }
        let labels = labels
            .split('&')
            .filter(|label| !label.is_empty())
            .map(|label| label.split_once('=').ok_or_else(|| fail("a label has no `=`")))
            .map(|label| label.map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect::<Result<_, _>>()?;
        Ok(Self { id, peer: peer.to_owned(), client: client.to_owned(), labels })
    }
}

impl fmt::Display for InitialMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}/{}", self.id, self.peer, self.client)?;
        for (index, (name, value)) in self.labels.iter().enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl From<InitialMember> for String {
    fn from(member: InitialMember) -> Self {
        member.to_string()
    }
}

impl TryFrom<String> for InitialMember {
    type Error = ParseMemberError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Whether `address` is `HOST:PORT` with a port that can be dialled.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn check_address(address: &str) -> Result<(), &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("an address has no port")?;
    if host.is_empty() {
        return Err("an address has no host");
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err("an IPv6 host needs brackets");
    }
    match port.parse::<u16>() {
        Ok(0) => Err("port 0 cannot be dialled"),
        Ok(_) => Ok(()),
        Err(_) => Err("the port is not a number"),
    }
}
