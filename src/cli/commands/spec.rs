// SPDX-License-Identifier: Apache-2.0
//! `migrate spec`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use crate::cgroup::{Hierarchies, Layout};
use crate::{Context, Error, ErrorKind, Result, spec, sys};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Directory to write config.json to [default: the working directory]
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    bundle: PathBuf,
    /// Write a configuration for a container of the caller, who need not be root
    #[arg(long)]
    rootless: bool,
}

impl Args {
    pub(in crate::cli) fn run(&self) -> Result<()> {
        let unified = Hierarchies::detect().is_ok_and(|h| h.layout() == Layout::Unified);
        let path = self.bundle.join("config.json");
        let mut template = spec::template(unified);
        if self.rootless {
            let (uid, gid) = sys::process::effective_ids();
            spec::make_rootless(&mut template, uid, gid);
        }
        let mut text = serde_json::to_string_pretty(&template).context(|| "serialise the template")?;
        text.push('\n');
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .and_then(|mut f| f.write_all(text.as_bytes()));
        match written {
            // runc's words.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::new(ErrorKind::AlreadyExists, "File config.json exists. Remove it first")
                    .with_hint(format!("it is {}", path.display())))
            }
            other => other.context(|| format!("write {}", path.display())),
        }
    }
}
