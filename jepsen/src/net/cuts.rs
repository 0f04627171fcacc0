//! Links that are cut or lose packets, by direction.
//!
//! Two nftables containers on the bridge hold them, a set of cut links and a
//! map of lossy ones. They are replaced in one transaction, so that there is no
//! moment between two shapes of a partition.

use super::tool;
use anyhow::{Context as _, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Permille of packets that a lossy link can lose.
const LOSSES: [u16; 5] = [20, 50, 100, 200, 300];

/// From one address to another, not back.
pub(crate) type Link = (Ipv4Addr, Ipv4Addr);

/// All faults of links at one time, each under the name of what caused it.
#[derive(Debug)]
pub(crate) struct LinkFaults {
    available: bool,
    cut: BTreeMap<String, BTreeSet<Link>>,
    lossy: BTreeMap<String, (BTreeSet<Link>, u16)>,
}

impl LinkFaults {
    /// None yet. Makes the table if faults are `available` here.
    pub(super) fn create(available: bool) -> Result<Self> {
        if available {
            let mut table = String::from(
                "table bridge jepsen {\n set cut { type ipv4_addr . ipv4_addr; }\n \
                 map lossy { type ipv4_addr . ipv4_addr : verdict; }\n",
            );
            for loss in LOSSES {
                let _ = writeln!(
                    table,
                    " chain lose{loss} {{ numgen random mod 1000 < {loss} drop; }}"
                );
            }
            table.push_str(
                " chain between { type filter hook forward priority -300; policy accept; \
                 ip saddr . ip daddr @cut drop; ip saddr . ip daddr vmap @lossy; }\n}\n",
            );
            tool::run_with_input("nft", &["-f", "-"], &table).context("make the table of links")?;
        }
        Ok(Self { available, cut: BTreeMap::new(), lossy: BTreeMap::new() })
    }

    /// Cuts `links` until [`Self::heal`] is called with the same cause.
    ///
    /// # Errors
    ///
    /// Fails if links cannot be cut here.
    pub(crate) fn cut(&mut self, cause: &str, links: impl IntoIterator<Item = Link>) -> Result<()> {
        self.cut.insert(cause.to_owned(), links.into_iter().collect());
        self.install()
    }

    /// Loses about `permille` of the packets on `links`; the nearest loss there
    /// is a chain for.
    ///
    /// # Errors
    ///
    /// Fails if links cannot be made lossy here.
    pub(crate) fn lose(
        &mut self,
        cause: &str,
        links: impl IntoIterator<Item = Link>,
        permille: u16,
    ) -> Result<()> {
        let nearest = LOSSES.into_iter().min_by_key(|loss| loss.abs_diff(permille));
        let loss = nearest.expect("the list is not empty");
        self.lossy.insert(cause.to_owned(), (links.into_iter().collect(), loss));
        self.install()
    }

    /// Ends what `cause` began.
    ///
    /// # Errors
    ///
    /// Fails if the links cannot be changed.
    pub(crate) fn heal(&mut self, cause: &str) -> Result<()> {
        self.cut.remove(cause);
        self.lossy.remove(cause);
        self.install()
    }

    /// Ends everything.
    ///
    /// # Errors
    ///
    /// Fails if the links cannot be changed.
    pub(crate) fn heal_all(&mut self) -> Result<()> {
        self.cut.clear();
        self.lossy.clear();
        if self.available { self.install() } else { Ok(()) }
    }

    fn install(&self) -> Result<()> {
        ensure!(self.available, "links cannot be cut here");
        let mut script =
            String::from("flush set bridge jepsen cut\nflush map bridge jepsen lossy\n");
        let cut: BTreeSet<&Link> = self.cut.values().flatten().collect();
        for (from, to) in &cut {
            let _ = writeln!(script, "add element bridge jepsen cut {{ {from} . {to} }}");
        }
        let lossy: BTreeMap<&Link, u16> = self
            .lossy
            .values()
            .flat_map(|(links, loss)| links.iter().map(|link| (link, *loss)))
            .collect();
        for ((from, to), loss) in lossy {
            let _ = writeln!(
                script,
                "add element bridge jepsen lossy {{ {from} . {to} : jump lose{loss} }}"
            );
        }
        tool::run_with_input("nft", &["-f", "-"], &script).context("change the links")?;
        Ok(())
    }
}
