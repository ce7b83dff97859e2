// SPDX-License-Identifier: Apache-2.0
//! The `migrate` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A container's init is this program again: it must get there before anything else happens.
    migrate::engine::init_if_requested();
    migrate::restore::provide_memory_if_requested();
    migrate::restore::guard_if_requested();
    migrate::cli::main()
}
