// SPDX-License-Identifier: Apache-2.0
//! `migrate receive`.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::restore::{AllowArg, mapped_mount};
use crate::cli::{Global, output};
use crate::engine::StateRoot;
use crate::migration::protocol::{Receiver, Sender};
use crate::migration::{ReceiveOptions, receive};
use crate::restore::MappedMount;
use crate::{Context, Result, sys};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Listen at this unix socket for one container after the other, instead of receiving one on stdin and stdout
    #[arg(long, value_name = "unix:PATH", value_parser = socket)]
    listen: Option<PathBuf>,
    /// What the configuration of a container may have of this host
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    allow: Vec<AllowArg>,
    /// What is mounted at DESTINATION, instead of what the configuration says
    #[arg(long, value_name = "DESTINATION=SOURCE", value_parser = mapped_mount)]
    map_mount: Vec<MappedMount>,
}

/// `unix:PATH`.
fn socket(text: &str) -> std::result::Result<PathBuf, &'static str> {
    let path = text.strip_prefix("unix:").ok_or("not of the form unix:PATH")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() { Err("it names no socket") } else { Ok(path.into()) }
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let root = global.state_root()?;
        let mut options = ReceiveOptions::default();
        options.criu.clone_from(&global.criu);
        options.allow = self.allow.iter().flat_map(|what| what.accesses()).collect();
        options.map_mounts.clone_from(&self.map_mount);
        match &self.listen {
            Some(path) => listen(path, &root, &options),
            None => {
                let duplicate = |number| {
                    let fd = sys::fd::stdio(number).try_clone_to_owned();
                    fd.map(fs::File::from).context(|| "duplicate a standard stream")
                };
                let ends = (Sender::new(Box::new(duplicate(1)?)), Receiver::new(Box::new(duplicate(0)?)));
                receive(&root, ends, &options)
            }
        }
    }
}

/// Serves whoever connects, one after the other, for ever.
fn listen(path: &Path, root: &StateRoot, options: &ReceiveOptions) -> Result<()> {
    let listener = UnixListener::bind(path).context(|| format!("listen at {}", path.display()))?;
    loop {
        let (stream, _) = listener.accept().context(|| format!("accept at {}", path.display()))?;
        if let Err(error) = serve(&stream, root, options) {
            // It is not the last one.
            output::error(&error);
        }
    }
}

fn serve(stream: &UnixStream, root: &StateRoot, options: &ReceiveOptions) -> Result<()> {
    let end = || stream.try_clone().context(|| "duplicate a socket");
    receive(root, (Sender::new(Box::new(end()?)), Receiver::new(Box::new(end()?))), options)
}
