// SPDX-License-Identifier: Apache-2.0
//! The `migrate` command.
fn main() {}
