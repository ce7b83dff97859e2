// SPDX-License-Identifier: Apache-2.0
//! `migrate agent`.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cli::{Global, output, served};
use crate::migration::agent::{self, Bounds, Door, Fingerprint, Identity, Peers, Policy, admitted};
use crate::migration::protocol::{Receiver, Sender};
use crate::migration::{ReceiveOptions, receive};
use crate::{Context, Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Directory with this host's key, the hosts that it trusts and its policy [default: /etc/migrate/agent]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Receive containers of hosts that are trusted, at this address [default port: 7643]
    #[arg(long, value_name = "tls://ADDR[:PORT]", value_parser = address)]
    listen: Option<(String, u16)>,
    /// How many connections are served at once
    #[arg(long, value_name = "N", default_value_t = Bounds::default().served)]
    connections: usize,
    /// Stdin is a connection, and whether it is served is asked at stdout
    #[arg(long, hide = true)]
    served: bool,
    /// Make this host's key, print its fingerprint; trust a host, forget it, list all
    #[arg(value_name = "init|fingerprint|trust|forget|peers")]
    action: Option<Action>,
    /// trust, forget: the host, under the name that `migrate to tls://NAME` has, too
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// trust: what `migrate agent fingerprint` prints there
    #[arg(value_name = "FINGERPRINT")]
    fingerprint: Option<Fingerprint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Init,
    Fingerprint,
    Trust,
    Forget,
    Peers,
}

impl FromStr for Action {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "init" => Ok(Self::Init),
            "fingerprint" => Ok(Self::Fingerprint),
            "trust" => Ok(Self::Trust),
            "forget" => Ok(Self::Forget),
            "peers" => Ok(Self::Peers),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("agent {text}: no such action"))
                .with_hint("it is init, fingerprint, trust, forget or peers")),
        }
    }
}

/// `tls://ADDR[:PORT]`.
fn address(text: &str) -> std::result::Result<(String, u16), &'static str> {
    text.strip_prefix("tls://").and_then(agent::address).ok_or("not of the form tls://ADDR[:PORT]")
}

impl Args {
    pub(in crate::cli) fn run(&self, global: &Global) -> Result<()> {
        let directory = self.dir.as_deref().unwrap_or(Path::new(agent::DIRECTORY));
        if let Some((host, port)) = &self.listen {
            return match self.action {
                None if self.served => serve(global, directory),
                None => self.listen(directory, host, *port),
                Some(_) => Err(misuse("--listen takes no action")),
            };
        }
        match (self.action, &self.name, self.fingerprint) {
            (Some(Action::Init), None, None) => print(&Identity::make(directory)?),
            (Some(Action::Fingerprint), None, None) => print(&Identity::load(directory)?),
            (Some(Action::Trust), Some(name), Some(fingerprint)) => {
                Peers::trust(directory, name, fingerprint)
            }
            (Some(Action::Forget), Some(name), None) => Peers::forget(directory, name),
            (Some(Action::Peers), None, None) => Peers::load(directory)?
                .list()
                .iter()
                .try_for_each(|peer| output::text(&format!("{} {}\n", peer.name, peer.fingerprint))),
            _ => Err(misuse("these arguments do not go together")),
        }
    }

    fn listen(&self, directory: &Path, host: &str, port: u16) -> Result<()> {
        // What is wrong with them is better said now than to the first who connects.
        Identity::load(directory)?;
        Peers::load(directory)?;
        Policy::load(&agent::policy_of(directory))?;
        let listener =
            TcpListener::bind((host, port)).context(|| format!("listen at {host}, port {port}"))?;
        served::serve_all(&Door::Tcp(listener), Bounds { served: self.connections, ..Bounds::default() })
    }
}

fn misuse(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, message).with_hint(
        "it is `agent init`, `agent fingerprint`, `agent trust NAME FINGERPRINT`, `agent forget NAME`, `agent peers` or `agent --listen`",
    )
}

fn print(identity: &Identity) -> Result<()> {
    output::text(&format!("{}\n", identity.fingerprint()))
}

/// Serves one of those that have connected.
fn serve(global: &Global, directory: &Path) -> Result<()> {
    let root = global.state_root()?;
    let (connection, desk) = admitted()?;
    let (tls, peer) = agent::accept(TcpStream::from(connection), directory)?;
    let mut options = ReceiveOptions::default();
    options.criu.clone_from(&global.criu);
    Policy::load(&agent::policy_of(directory))?.apply(&peer.name, &mut options)?;
    let is_admitted = desk.ask(&peer.name, options.limits.migrations)?;
    tls.admit(is_admitted)?;
    if !is_admitted {
        let message = format!("{} has as many connections to this host as it may", peer.name);
        return Err(Error::new(ErrorKind::System, message)
            .with_hint("`migrations` in the policy and --connections say how many"));
    }
    tracing::info!(peer = peer.name, "connected");
    options.peer = Some(peer);
    let ends = (Sender::new(Box::new(tls.writer())), Receiver::new(Box::new(tls.reader())));
    let received = receive(&root, ends, &options);
    tls.end();
    received
}
