// SPDX-License-Identifier: Apache-2.0
//! What a checkpoint writes down of a container's network: `network.json` beside CRIU's images. Data and its file; how it
//! is found is [`survey`](super::survey)'s, how it is made again is [`rebuild`](super::rebuild)'s.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use super::config::{Network, NetworkRoute};
use crate::engine::image_files;
use crate::sys::netlink::{Record, RecordKind};
use crate::{Context, Error, ErrorKind, Result};

const FILE: &str = "network.json";

/// The version of the file that this program writes.
const SCHEMA: u32 = 1;

/// A longer file is none: it has room for a hundred thousand routes.
const LIMIT: u64 = 32 << 20;

/// Who makes the contents of the network namespace again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkContent {
    /// This program: CRIU brings an empty one back.
    Engine,
    /// CRIU, but for what it loses: parameters and neighbours, and the host's ends of pairs.
    Criu,
    /// Nobody: the namespace is not the container's.
    Shared,
}

/// A container's network, as a restore must know it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedNetwork {
    schema: u32,
    pub(super) content: NetworkContent,
    /// What the caller of `create` gave it.
    #[serde(default)]
    pub(super) networks: Vec<Network>,
    /// Routes that the caller of `create` gave it.
    #[serde(default)]
    pub(super) routes: Vec<NetworkRoute>,
    /// The interfaces that were in it and that the engine knows how to bring back, and those that came from outside.
    #[serde(default)]
    pub(super) links: Vec<SavedLink>,
    /// Addresses, routes, rules, neighbours.
    #[serde(default)]
    pub(super) records: Vec<SavedRecord>,
    /// Parameters that differ from those of a new namespace, by their path beneath `/proc/sys/net`.
    #[serde(default)]
    pub(super) parameters: BTreeMap<String, String>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedLink {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) up: bool,
    pub(super) mtu: u32,
    pub(super) queue_length: u32,
    #[serde(default)]
    pub(super) mac: Option<[u8; 6]>,
    pub(super) origin: Origin,
}

/// Where an interface is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Origin {
    /// It is there in every namespace.
    Kernel,
    /// The engine has made it or moved it here.
    Engine,
    /// Somebody else has put it here.
    Outside,
    /// Made inside: CRIU knows it.
    Inside,
}

/// A record in letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedRecord {
    kind: SavedKind,
    /// The kernel's bytes, in hexadecimal.
    body: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SavedKind {
    Address,
    Route,
    Rule,
    Neighbour,
}

impl SavedRecord {
    pub(super) fn of(record: &Record) -> Self {
        let kind = match record.kind {
            RecordKind::Address => SavedKind::Address,
            RecordKind::Route => SavedKind::Route,
            RecordKind::Rule => SavedKind::Rule,
            RecordKind::Neighbour => SavedKind::Neighbour,
        };
        Self { kind, body: record.body().iter().map(|byte| format!("{byte:02x}")).collect() }
    }

    pub(super) fn record(&self) -> Option<Record> {
        let kind = match self.kind {
            SavedKind::Address => RecordKind::Address,
            SavedKind::Route => RecordKind::Route,
            SavedKind::Rule => RecordKind::Rule,
            SavedKind::Neighbour => RecordKind::Neighbour,
        };
        let digits = self.body.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        digits.len().is_multiple_of(2).then_some(())?;
        Record::new(kind, bytes?)
    }
}

impl SavedNetwork {
    pub(super) fn new(content: NetworkContent, networks: &[Network], routes: &[NetworkRoute]) -> Self {
        Self {
            schema: SCHEMA,
            content,
            networks: networks.to_vec(),
            routes: routes.to_vec(),
            links: Vec::new(),
            records: Vec::new(),
            parameters: BTreeMap::new(),
        }
    }

    /// Who makes the contents again.
    pub fn content(&self) -> NetworkContent {
        self.content
    }

    /// What it makes on the host, in words.
    pub fn host_ends(&self) -> impl Iterator<Item = String> {
        self.networks.iter().filter_map(|network| match network {
            Network::Loopback => None,
            Network::Veth(veth) => Some(match &veth.bridge {
                Some(bridge) => format!("connects {:?} with the host's bridge {bridge:?}", veth.name),
                None => format!("connects {:?} with an interface on the host", veth.name),
            }),
        })
    }

    /// Whether a packet from outside can come in.
    pub fn is_reachable(&self) -> bool {
        self.content != NetworkContent::Engine || self.links.iter().any(|link| link.origin != Origin::Kernel)
    }

    /// The records, in the order in which they can be put back.
    pub(super) fn records(&self) -> Result<Vec<Record>> {
        let mut records = self
            .records
            .iter()
            .map(|saved| saved.record().ok_or_else(|| invalid("a record is not one of the kernel's")))
            .collect::<Result<Vec<_>>>()?;
        records.sort_by_key(|record| record.kind);
        Ok(records)
    }

    /// Writes it into an image directory.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, images: BorrowedFd<'_>) -> Result<()> {
        let bytes = serde_json::to_vec(self).context(|| "serialise the container's network")?;
        image_files::write(images, FILE, &bytes)
    }

    /// Reads it from an image directory; `None` without the file, as in images of other programs.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for what is none; [`ErrorKind::Unsupported`] for one of a later version.
    pub fn read(images: BorrowedFd<'_>) -> Result<Option<Self>> {
        image_files::read(images, FILE, LIMIT)?.map(|bytes| Self::parse(&bytes)).transpose()
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let understand = || format!("understand {FILE}");
        let version: Version =
            serde_json::from_slice(bytes).context_kind(ErrorKind::InvalidArchive, understand)?;
        if version.schema != SCHEMA {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{FILE} has schema {}, this program knows {SCHEMA}", version.schema),
            )
            .with_hint("restore with the version of migrate that made the checkpoint, or a later one"));
        }
        let saved: Self =
            serde_json::from_slice(bytes).context_kind(ErrorKind::InvalidArchive, understand)?;
        if let Some(link) = saved.links.iter().find(|link| !crate::spec::is_interface_name(&link.name)) {
            return Err(invalid(&format!("{:?} is not the name of an interface", link.name)));
        }
        saved.records()?;
        super::config::check(&saved.networks, &saved.routes)
            .context_kind(ErrorKind::InvalidArchive, understand)?;
        Ok(saved)
    }
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorKind::InvalidArchive, format!("{FILE}: {why}"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_file_reads_back() {
        let dir = tempfile::tempdir().expect("tempdir");
        let images = File::open(dir.path()).expect("open");
        assert!(SavedNetwork::read(images.as_fd()).expect("none is fine").is_none());
        let mut saved = SavedNetwork::new(NetworkContent::Engine, &[Network::Loopback], &[]);
        saved.parameters.insert("core/somaxconn".to_owned(), "777".to_owned());
        let records = [RecordKind::Route, RecordKind::Address]
            .map(|kind| Record::new(kind, vec![0xa7; 12]).expect("a record"));
        saved.records = records.iter().map(SavedRecord::of).collect();
        saved.write(images.as_fd()).expect("write");
        let back = SavedNetwork::read(images.as_fd()).expect("read").expect("there");
        assert_eq!((back.content(), back.parameters), (NetworkContent::Engine, saved.parameters.clone()));
        let [route, address] = &records;
        assert_eq!(saved.records().expect("good"), [address.clone(), route.clone()], "addresses first");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        let refuse = |text: &str| SavedNetwork::parse(text.as_bytes()).expect_err(text);
        assert_eq!(refuse("{}").kind(), ErrorKind::InvalidArchive);
        assert_eq!(refuse(r#"{"schema":1,"content":"magic"}"#).kind(), ErrorKind::InvalidArchive);
        let later = refuse(r#"{"schema":2,"content":"magic"}"#);
        assert_eq!(later.kind(), ErrorKind::Unsupported);
        assert!(later.to_string().contains("schema 2"), "{later}");
        for body in ["7", "7g", "00", "äää"] {
            let text = format!(
                r#"{{"schema":1,"content":"engine","records":[{{"kind":"route","body":"{body}"}}]}}"#
            );
            assert!(refuse(&text).to_string().contains("a record"), "{body}");
        }
        let link = r#"{"name":"../x","index":1,"up":true,"mtu":1,"queue_length":1,"origin":"outside"}"#;
        let named = refuse(&format!(r#"{{"schema":1,"content":"engine","links":[{link}]}}"#));
        assert!(named.to_string().contains("../x"), "{named}");
        refuse(r#"{"schema":1,"content":"engine","networks":[{"type":"veth","name":"lo"}]}"#);
    }
}
