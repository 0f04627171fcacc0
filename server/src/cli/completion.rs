//! `keelstone completion`.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print completions for a shell, for example into
/// `/etc/bash_completion.d/keelstone`.
#[derive(Debug, Args)]
pub(super) struct Completion {
    /// The shell.
    shell: Shell,
}

impl Completion {
    pub(super) fn run<C: CommandFactory>(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut C::command(), "keelstone", &mut script);
        super::output::line(String::from_utf8(script)?.trim_end())
    }
}
