// SPDX-License-Identifier: Apache-2.0
//! `migrate receive`.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::restore::{AllowArg, mapped_mount};
use crate::cli::{Global, served};
use crate::engine::StateRoot;
use crate::migration::agent::{Bounds, Door, Policy, admitted};
use crate::migration::protocol::{Blocker, Receiver, Said, Sender};
use crate::migration::{ReceiveOptions, receive};
use crate::restore::MappedMount;
use crate::{Context, Error, ErrorKind, Result, sys};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Listen at this unix socket for any number of containers, instead of receiving one on stdin and stdout
    #[arg(long, value_name = "unix:PATH", value_parser = socket)]
    listen: Option<PathBuf>,
    /// What the configuration of a container may have of this host
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    allow: Vec<AllowArg>,
    /// What is mounted at DESTINATION, instead of what the configuration says
    #[arg(long, value_name = "DESTINATION=SOURCE", value_parser = mapped_mount)]
    map_mount: Vec<MappedMount>,
    /// File with what it may have one by one, and how much of this host it may take
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The name under which that file speaks of who sends
    #[arg(long, value_name = "NAME", requires = "policy")]
    peer: Option<String>,
    /// Stdin is a connection, and whether it is served is asked at stdout
    #[arg(long, hide = true)]
    served: bool,
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
        if let Some(policy) = &self.policy {
            Policy::load(policy)?.apply(self.peer.as_deref().unwrap_or_default(), &mut options)?;
        }
        match &self.listen {
            Some(_) if self.served => serve(&root, &options),
            Some(path) => listen(path),
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

/// Serves whoever connects, for ever.
fn listen(path: &Path) -> Result<()> {
    let listener = UnixListener::bind(path).context(|| format!("listen at {}", path.display()))?;
    served::serve_all(&Door::Unix(listener), Bounds::default())
}

/// Serves one of those.
fn serve(root: &StateRoot, options: &ReceiveOptions) -> Result<()> {
    let (connection, desk) = admitted()?;
    let stream = UnixStream::from(connection);
    let end = || stream.try_clone().context(|| "duplicate a socket");
    let (sender, receiver) = (Sender::new(Box::new(end()?)), Receiver::new(Box::new(end()?)));
    // Who may connect to the socket is one and the same.
    if desk.ask("", u32::MAX)? {
        return receive(root, (sender, receiver), options);
    }
    let error = Error::new(ErrorKind::System, "as many containers are being received as may be at once")
        .with_hint("wait for one to arrive");
    sender.say(&Said::Failed(Blocker::from(&error)))?;
    Err(error)
}
