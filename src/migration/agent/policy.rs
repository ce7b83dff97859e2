// SPDX-License-Identifier: Apache-2.0
//! What a host that sends containers may have of this one, as `policy.json` says:
//!
//! ```text
//! { "default": RULES, "peers": { NAME: RULES } }
//! ```
//! A field of a peer's own rules stands in place of the default's. What is not granted is refused; without the file that is everything
//! that `migrate spec` would not have written. Must not know how a configuration is judged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::read;
use crate::migration::ReceiveOptions;
use crate::restore::MappedMount;
use crate::spec::{Grant, HostAccess};
use crate::{Context, Error, ErrorKind, Result};

/// How many connections a peer has at once, and how many migrations that are not finished, when nothing else is said.
const MIGRATIONS: u32 = 4;

/// The rules of a host.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    path: PathBuf,
    written: Written,
}

/// The file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    default: Rules,
    #[serde(default)]
    peers: BTreeMap<String, Rules>,
}

/// What a peer may bring.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[non_exhaustive]
pub struct Rules {
    /// Everything of these kinds, as with `--allow`.
    pub allow: Option<Vec<String>>,
    /// Sources of bind mounts, with what is beneath.
    pub mounts: Option<Vec<PathBuf>>,
    /// What is bound at a place in the container, whatever the configuration says.
    pub map_mounts: Option<BTreeMap<String, PathBuf>>,
    /// `c 10:229`, `b 8:*`.
    pub devices: Option<Vec<String>>,
    /// Network interfaces that are moved into a container.
    pub interfaces: Option<Vec<String>>,
    /// Programs that are run as hooks.
    pub hooks: Option<Vec<PathBuf>>,
    /// Paths of namespaces, or `host:network`.
    pub namespaces: Option<Vec<String>>,
    /// `CAP_NET_ADMIN`.
    pub capabilities: Option<Vec<String>>,
    /// Ids of containers, with `*` for anything.
    pub containers: Option<Vec<String>>,
    /// The most memory of a container, in bytes; it must have a limit of its own.
    pub memory: Option<u64>,
    /// The most bytes that are kept of a container on its way.
    pub disk: Option<u64>,
    /// How many connections at once, and how many migrations that are not finished.
    pub migrations: Option<u32>,
}

impl Policy {
    /// That of a file; if there is none, nothing is granted.
    ///
    /// # Errors
    /// It cannot be read or understood, or others may write to it.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = read(path, 0o022)?;
        let written = bytes.map(|bytes| parse(&bytes)).transpose();
        let written = written.context(|| format!("understand the policy {}", path.display()))?;
        Ok(Self { path: path.to_owned(), written: written.unwrap_or_default() })
    }

    /// The rules for a peer.
    pub fn rules(&self, peer: &str) -> Rules {
        let default = self.written.default.clone();
        match self.written.peers.get(peer) {
            Some(own) => own.clone().or(default),
            None => default,
        }
    }

    /// Where a peer would be granted more, for people.
    fn place(&self, peer: &str) -> String {
        let section = match self.written.peers.contains_key(peer) {
            true => format!("peers.{peer}"),
            false => "default".to_owned(),
        };
        format!("`{section}` of {}", self.path.display())
    }

    /// Makes options those for a peer, besides what they say already.
    ///
    /// # Errors
    /// Never, when the policy was read by [`Policy::load`].
    pub fn apply(&self, peer: &str, options: &mut ReceiveOptions) -> Result<()> {
        let rules = self.rules(peer);
        options.limits.migrations = rules.migrations.unwrap_or(MIGRATIONS);
        (options.limits.containers, options.limits.disk) = (rules.containers.clone(), rules.disk);
        options.limits.place = self.place(peer);
        (options.grants.memory, options.grants.disk) = (rules.memory, rules.disk);
        options.grants.place = Some(self.place(peer));
        options.grants.list.extend(rules.grants());
        for kind in rules.allow.iter().flatten() {
            options.allow.extend(accesses(kind)?);
        }
        let mounts = rules.map_mounts.into_iter().flatten();
        options.map_mounts.extend(mounts.map(|(destination, source)| MappedMount { destination, source }));
        Ok(())
    }
}

impl Rules {
    /// These, and where they say nothing, the other ones.
    fn or(self, other: Self) -> Self {
        Self {
            allow: self.allow.or(other.allow),
            mounts: self.mounts.or(other.mounts),
            map_mounts: self.map_mounts.or(other.map_mounts),
            devices: self.devices.or(other.devices),
            interfaces: self.interfaces.or(other.interfaces),
            hooks: self.hooks.or(other.hooks),
            namespaces: self.namespaces.or(other.namespaces),
            capabilities: self.capabilities.or(other.capabilities),
            containers: self.containers.or(other.containers),
            memory: self.memory.or(other.memory),
            disk: self.disk.or(other.disk),
            migrations: self.migrations.or(other.migrations),
        }
    }

    fn grants(&self) -> Vec<Grant> {
        fn each<T: Clone>(list: &Option<Vec<T>>, grant: fn(T) -> Grant) -> impl Iterator<Item = Grant> {
            list.clone().into_iter().flatten().map(grant)
        }
        each(&self.mounts, Grant::Mount)
            .chain(each(&self.devices, Grant::Device))
            .chain(each(&self.interfaces, Grant::Interface))
            .chain(each(&self.hooks, Grant::Hook))
            .chain(each(&self.namespaces, Grant::Namespace))
            .chain(each(&self.capabilities, Grant::Capability))
            .collect()
    }

    fn check(&self) -> std::result::Result<(), String> {
        let paths = self.mounts.iter().chain(&self.hooks).flatten();
        let mapped = self.map_mounts.iter().flatten();
        let mapped = mapped.flat_map(|(destination, source)| [Path::new(destination), source.as_path()]);
        if let Some(path) = paths.map(PathBuf::as_path).chain(mapped).find(|path| !path.is_absolute()) {
            return Err(format!("{path:?} is no absolute path"));
        }
        if let Some(device) = self.devices.iter().flatten().find(|device| !is_device(device)) {
            return Err(format!("{device:?} is no device: it is written `c 10:229` or `b 8:*`"));
        }
        let is_namespace = |text: &str| text.starts_with('/') || text.starts_with("host:");
        if let Some(text) = self.namespaces.iter().flatten().find(|text| !is_namespace(text)) {
            return Err(format!("{text:?} is no namespace: it is written as a path or `host:network`"));
        }
        if let Some(name) = self.capabilities.iter().flatten().find(|name| !name.starts_with("CAP_")) {
            return Err(format!("{name:?} is no capability: it is written `CAP_NET_ADMIN`"));
        }
        self.allow.iter().flatten().try_for_each(|kind| accesses(kind).map(drop).map_err(|e| e.to_string()))
    }
}

fn accesses(name: &str) -> Result<Vec<HostAccess>> {
    let known = HostAccess::ALL.into_iter().filter(|kind| name == "all" || kind.name() == name);
    let known: Vec<_> = known.collect();
    match known.is_empty() {
        true => Err(Error::new(ErrorKind::InvalidInput, format!("{name:?} is none of what can be allowed"))),
        false => Ok(known),
    }
}

fn is_device(text: &str) -> bool {
    let number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    let Some((typ, numbers)) = text.split_once(' ') else { return false };
    ["a", "b", "c"].contains(&typ)
        && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
}

fn parse(bytes: &[u8]) -> Result<Written> {
    let refuse = |why: String| Error::new(ErrorKind::InvalidInput, why);
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let written: Written = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| refuse(format!("field `{}`: {}", error.path(), error.inner())))?;
    json.end().map_err(|error| refuse(error.to_string()))?;
    written.default.check().map_err(|why| refuse(format!("field `default`: {why}")))?;
    for (name, rules) in &written.peers {
        super::peers::check(name).map_err(|why| refuse(format!("field `peers`: {why}")))?;
        rules.check().map_err(|why| refuse(format!("field `peers.{name}`: {why}")))?;
    }
    Ok(written)
}

/// Whether a name is one of those that a pattern stands for: `*` is anything.
pub(in crate::migration) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last star does not fit.
    let mut again = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                again = Some((p + 1, n));
                p += 1;
            }
            Some(byte) if name.get(n) == Some(byte) => (p, n) = (p + 1, n + 1),
            _ => match &mut again {
                Some((after, from)) => {
                    *from += 1;
                    (p, n) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn policy(text: &str) -> Policy {
        Policy { path: "/etc/p.json".into(), written: parse(text.as_bytes()).expect("a policy") }
    }

    #[test]
    fn a_peer_s_own_rules_stand_in_place_of_the_default_s_field_by_field() {
        let policy = policy(
            r#"{"default": {"mounts": ["/srv"], "hooks": ["/bin/x"], "memory": 5},
                "peers": {"a": {"mounts": [], "containers": ["web-*"], "map-mounts": {"/d": "/srv/d"}}}}"#,
        );
        let mut options = ReceiveOptions::default();
        policy.apply("a", &mut options).expect("good");
        assert_eq!(options.grants.list, [Grant::Hook("/bin/x".into())]);
        assert_eq!((options.grants.memory, options.limits.migrations), (Some(5), MIGRATIONS));
        assert_eq!(options.limits.containers, Some(vec!["web-*".to_owned()]));
        assert_eq!(options.map_mounts.len(), 1);
        assert_eq!(options.grants.place.as_deref(), Some("`peers.a` of /etc/p.json"));
        let mut options = ReceiveOptions::default();
        policy.apply("b", &mut options).expect("good");
        assert_eq!(options.grants.list, [Grant::Mount("/srv".into()), Grant::Hook("/bin/x".into())]);
        assert_eq!(options.grants.place.as_deref(), Some("`default` of /etc/p.json"));
        assert!(options.allow.is_empty() && options.limits.containers.is_none());
    }

    #[test]
    fn kinds_are_allowed_as_a_whole() {
        let mut options = ReceiveOptions::default();
        policy(r#"{"default": {"allow": ["hooks"]}}"#).apply("a", &mut options).expect("good");
        assert_eq!(options.allow, [HostAccess::Hooks]);
        policy(r#"{"default": {"allow": ["all"]}}"#).apply("a", &mut options).expect("good");
        assert_eq!(options.allow.len(), 1 + HostAccess::ALL.len());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (text, why) in [
            ("", "field `.`: EOF while parsing a value at line 1 column 0"),
            ("{} x", "trailing characters at line 1 column 4"),
            (
                r#"{"defaults": {}}"#,
                "field `defaults`: unknown field `defaults`, expected `default` or `peers` at line 1 column 11",
            ),
            (
                r#"{"default": {"memory": "5G"}}"#,
                "field `default.memory`: invalid type: string \"5G\", expected u64 at line 1 column 27",
            ),
            (r#"{"default": {"mounts": ["srv"]}}"#, "field `default`: \"srv\" is no absolute path"),
            (
                r#"{"peers": {"a": {"devices": ["fuse"]}}}"#,
                "field `peers.a`: \"fuse\" is no device: it is written `c 10:229` or `b 8:*`",
            ),
            (
                r#"{"peers": {"a": {"capabilities": ["net_admin"]}}}"#,
                "field `peers.a`: \"net_admin\" is no capability: it is written `CAP_NET_ADMIN`",
            ),
            (
                r#"{"peers": {"a": {"namespaces": ["network"]}}}"#,
                "field `peers.a`: \"network\" is no namespace: it is written as a path or `host:network`",
            ),
            (
                r#"{"peers": {"a": {"allow": ["root"]}}}"#,
                "field `peers.a`: \"root\" is none of what can be allowed",
            ),
            (r#"{"peers": {"a b": {}}}"#, "field `peers`: \"a b\" is no name of a host"),
        ] {
            assert_eq!(parse(text.as_bytes()).expect_err(text).to_string(), why);
        }
        parse("[".repeat(1 << 16).as_bytes()).expect_err("too deep");
    }

    #[test]
    fn without_a_file_nothing_is_granted() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("policy.json");
        assert_eq!(Policy::load(&path).expect("none").rules("a"), Rules::default());
        fs::write(&path, "{").expect("write");
        let error = Policy::load(&path).expect_err("no policy");
        assert!(error.to_string().starts_with("understand the policy /"), "{error}");
    }

    #[test]
    fn a_star_is_anything() {
        for (pattern, name, is) in [
            ("*", "", true),
            ("", "a", false),
            ("web-*", "web-1", true),
            ("web-*", "web", false),
            ("*-1", "web-1-1", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_policy_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&bytes));
        }
    }
}
