// SPDX-License-Identifier: Apache-2.0
use crate::cli::Global;
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {}
impl Args {
    pub(in crate::cli) fn run(&self, _: &Global) -> crate::Result<()> {
        Ok(())
    }
}
