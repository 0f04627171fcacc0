//! The `keelstone` program. All of it is in the library's `cli` module.

use mimalloc::MiMalloc;
use std::process::ExitCode;

// A write is many small allocations on several threads; glibc's allocator took
// a fifth of a leader's time under load.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    keelstone_server::cli::main()
}
