//! Self-verifying workloads, one subcommand each.
fn main() {}
