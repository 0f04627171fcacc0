//! The `keelstone` program. All of it is in the library's `cli` module.

use std::process::ExitCode;

fn main() -> ExitCode {
    keelstone_server::cli::main()
}
