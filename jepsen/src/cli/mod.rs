//! The command line.

mod arguments;
mod commands;
mod matrix;

use arguments::{Command, Program};
use clap::Parser as _;
use std::io::Write as _;
use std::process::ExitCode;

use crate::net::Enclosure;

/// The exit code of a command that could not do its work.
const UNABLE: u8 = 3;

/// Runs the command that the arguments name.
pub(crate) fn main() -> ExitCode {
    let program = Program::parse();
    let outcome = match program.command {
        Command::Doctor => commands::doctor(),
        Command::List => commands::list(),
        Command::Check(arguments) => commands::check(&arguments),
        // Each of its runs has an enclosure of its own.
        Command::Matrix(arguments) => matrix::matrix(&arguments),
        Command::LatePackets { ms, jitter_ms, seed } => {
            crate::net::serve_late(ms, jitter_ms, seed).map(|()| ExitCode::SUCCESS)
        }
        command if Enclosure::current().is_none() => {
            // Everything else makes networks and disks: that is done inside.
            let _ = command;
            Enclosure::best().enter()
        }
        Command::Run(arguments) => commands::run(&arguments),
        Command::Repro(arguments) => commands::repro(&arguments),
        Command::Failover(arguments) => commands::failover(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        tell(&format!("error: {error:#}"));
        ExitCode::from(UNABLE)
    })
}

/// Says something to whoever looks on.
pub(crate) fn tell(text: &str) {
    // Nobody may be there to read it.
    writeln!(std::io::stderr(), "{text}").ok();
}

/// Prints a result.
pub(crate) fn print(text: &str) {
    writeln!(std::io::stdout(), "{text}").ok();
}
