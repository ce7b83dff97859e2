// SPDX-License-Identifier: Apache-2.0
//! What is in the way of a migration, on either side, all of it before anything is stopped or sent.
//!
//! Must not change anything. What only the images tell is found out later, when the processes can still go on.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;

use super::protocol::{Answer, Blocker, Offer};
use super::receiving::ReceiveOptions;
use crate::cgroup::{Cgroup, Hierarchies, Layout};
use crate::checkpoint::{CheckpointOptions, dumpable};
use crate::criu::{Criu, CriuClient, SpawnOptions, Version, require_root};
use crate::engine::{Container, ContainerId, MovingAddresses, StateRoot, Status};
use crate::restore::{allows, can_bring_memory};
use crate::spec::Config;
use crate::{Context, Error, ErrorKind, Result, sys};

/// The destination's word on the offers of a migration.
pub(super) fn judge(root: &StateRoot, offers: &[Offer], options: &ReceiveOptions) -> Answer {
    let mut answer = Answer { kernel: sys::proc::kernel_release().unwrap_or_default(), ..Answer::default() };
    let mut blockers = Vec::new();
    let mut look = |looked: Result<()>| blockers.extend(looked.err().map(|error| Blocker::from(&error)));
    look(require_root());
    let images = offers.iter().map(|offer| offer.criu).max().unwrap_or_default();
    look(criu(options.criu.as_deref()).and_then(|version| {
        answer.criu = version.to_string();
        not_older(version, images)
    }));
    look(has_freezer());
    look(options.peer.as_ref().map_or(Ok(()), |peer| options.limits.has_room(root, peer)));
    let memory = offers.iter().fold(0, |all: u64, offer| all.saturating_add(offer.memory));
    look(options.limits.has_disk(memory));
    look(free_space(root).and_then(|free| {
        answer.free = free;
        if free >= memory {
            return Ok(());
        }
        let message = format!(
            "{} has {free} bytes free, and the container's memory is {memory}",
            root.path().display()
        );
        Err(Error::new(ErrorKind::Storage, message)
            .with_hint("choose a state root on a larger file system with --root"))
    }));
    for offer in offers {
        let own = of_one(root, offer, options).into_iter();
        blockers
            .extend(own.map(|blocker| if offers.len() > 1 { blocker.of(&offer.container) } else { blocker }));
    }
    answer.blockers = blockers
        .into_iter()
        .map(|blocker| Blocker { what: format!("there: {}", blocker.what), ..blocker })
        .collect();
    answer.takes_pages = offers.iter().all(|offer| can_bring_memory(in_user_namespace(offer)));
    answer.takes_files = true;
    answer
}

/// What is in the way of one container here.
fn of_one(root: &StateRoot, offer: &Offer, options: &ReceiveOptions) -> Vec<Blocker> {
    let mut blockers = Vec::new();
    let mut look = |looked: Result<()>| blockers.extend(looked.err().map(|error| Blocker::from(&error)));
    look(same_machine(&offer.arch));
    look(is_free(root, &offer.container));
    look(has_room(offer));
    // What is not allowed is not looked at.
    look(allows(&offer.config, &options.restore(offer.flags)).and_then(|()| has_interfaces(offer)));
    look(options.limits.has_name(&offer.container));
    blockers
}

fn in_user_namespace(offer: &Offer) -> bool {
    let namespaces = offer.config.pointer("/linux/namespaces").and_then(serde_json::Value::as_array);
    namespaces.into_iter().flatten().any(|namespace| namespace.get("type").is_some_and(|kind| kind == "user"))
}

/// What the source finds in its own way.
pub(super) fn at_source(container: &Container, options: &CheckpointOptions) -> Vec<Blocker> {
    let mut blockers = Vec::new();
    let mut look = |looked: Result<()>| blockers.extend(looked.err().map(|error| Blocker::from(&error)));
    look(container.require_owned());
    look(container.require_whole());
    look(is_ours(container));
    look(runs(container));
    look(has_freezer());
    look(container.config().and_then(|config| without_terminal(&config)));
    look(dumpable(container, options));
    blockers
}

/// CRIU's version here.
pub(super) fn criu(chosen: Option<&Path>) -> Result<Version> {
    let client = CriuClient::spawn(&Criu::find(chosen)?, SpawnOptions::default())?;
    Ok(client.version())
}

/// The addresses that are to move with the container.
pub(super) fn addresses(container: &Container, options: &CheckpointOptions) -> Result<MovingAddresses> {
    if !options.addresses_leave {
        return Ok(MovingAddresses::default());
    }
    container.moving_addresses()?.ok_or_else(|| {
        let message = "the container has no network namespace by path, whose addresses could move with it";
        Error::new(ErrorKind::NotAllowed, message).with_hint(
            "leave out --move-address: addresses of a network namespace of its own move anyway, and those of the host stay there",
        )
    })
}

fn has_interfaces(offer: &Offer) -> Result<()> {
    if offer.addresses.is_empty() {
        return Ok(());
    }
    let of = |namespace: &&serde_json::Value| {
        namespace.get("type").and_then(serde_json::Value::as_str) == Some("network")
    };
    let namespaces = offer.config.pointer("/linux/namespaces").and_then(serde_json::Value::as_array);
    let network = namespaces.and_then(|all| all.iter().find(of));
    let path = network.and_then(|network| network.get("path")?.as_str()).unwrap_or_default();
    offer.addresses.require_interfaces(Path::new(path))
}

fn not_older(here: Version, there: u32) -> Result<()> {
    // Fixes of one version do not change what is in images.
    if here.as_number() / 100 >= there / 100 {
        return Ok(());
    }
    let message = format!("criu {here} is older than the one that makes the images ({there})");
    Err(Error::new(ErrorKind::CriuUnusable, message)
        .with_hint("install the same version of criu on both hosts"))
}

fn same_machine(arch: &str) -> Result<()> {
    if arch == sys::arch::NAME {
        return Ok(());
    }
    let message =
        format!("the container is of a {} machine, this one is {}", arch.escape_debug(), sys::arch::NAME);
    Err(Error::new(ErrorKind::Unsupported, message))
}

fn is_free(root: &StateRoot, id: &str) -> Result<()> {
    let id: ContainerId = id.parse()?;
    if fs::symlink_metadata(root.path().join(id.as_str())).is_err() {
        return Ok(());
    }
    let message = format!("container with given ID already exists: {id}");
    Err(Error::new(ErrorKind::AlreadyExists, message)
        .with_hint(format!("remove that one with `migrate delete {id}`")))
}

/// One that says where its cgroup is gets another beside it if that is taken.
fn has_room(offer: &Offer) -> Result<()> {
    let path = offer.config.pointer("/linux/cgroupsPath").and_then(serde_json::Value::as_str);
    if path.is_some_and(|path| !path.is_empty()) {
        return Ok(());
    }
    Cgroup::plan(&Hierarchies::detect()?, None, &offer.container)?.require_unused()
}

fn has_freezer() -> Result<()> {
    let hierarchies = Hierarchies::detect()?;
    if hierarchies.layout() == Layout::Unified || hierarchies.with_controller("freezer").is_some() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "no freezer is mounted that could hold a container still")
        .with_hint("mount one: mount -t cgroup -o freezer none /sys/fs/cgroup/freezer"))
}

pub(super) fn free_space(root: &StateRoot) -> Result<u64> {
    let existing = root.path().ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let found = statvfs(existing).context(|| format!("look at the free space of {}", existing.display()))?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

fn runs(container: &Container) -> Result<()> {
    match container.status()? {
        Status::Running => Ok(()),
        status => {
            let message =
                format!("container {} is {status}, and only one that runs can be moved", container.id());
            Err(Error::new(ErrorKind::WrongStatus, message))
        }
    }
}

fn without_terminal(config: &Config) -> Result<()> {
    if config.spec.process().as_ref().and_then(crate::spec::oci::Process::terminal) != Some(true) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "field `process.terminal`: a terminal cannot be moved, for nobody would hold its other end",
    )
    .with_hint("use `migrate checkpoint --export` and `migrate restore --import --console-socket`"))
}

/// One that another engine keeps would be gone for that, and a stranger at the destination.
fn is_ours(container: &Container) -> Result<()> {
    let annotations = &container.state().annotations;
    let parent =
        container.init().and_then(|init| sys::proc::Stat::of(init.pid()).ok()).map(|stat| stat.parent);
    let parent = parent.and_then(|pid| sys::proc::command(Pid::from_raw(pid)).ok()).unwrap_or_default();
    let Some((engine, route)) = owner(annotations.get("io.container.manager").map(String::as_str), &parent)
    else {
        return Ok(());
    };
    let message =
        format!("container {} belongs to {engine}, which would not know that it has gone", container.id());
    Err(Error::new(ErrorKind::Unsupported, message).with_hint(route))
}

/// The engine that a container belongs to, and its own way to another host.
fn owner(manager: Option<&str>, parent: &str) -> Option<(&'static str, &'static str)> {
    const PODMAN: &str =
        "move it with `scripts/migrate-host --engine podman`, which keeps its name, volumes and network";
    const CRIO: &str = "make a checkpoint with the kubelet's API, and a pod of its archive";
    const CONTAINERD: &str = "make a checkpoint with `ctr container checkpoint`, and restore it there with `ctr container restore`";
    match manager {
        Some("libpod") => return Some(("Podman", PODMAN)),
        Some("cri-o") => return Some(("CRI-O", CRIO)),
        _ => {}
    }
    match parent {
        "conmon" => Some(("Podman", PODMAN)),
        name if name.starts_with("containerd-shim") => Some(("containerd", CONTAINERD)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_a_container_is_told_by_its_annotation_or_its_parent() {
        for (manager, parent, engine) in [
            (None, "systemd", None),
            (None, "conmon", Some("Podman")),
            (None, "containerd-shim", Some("containerd")),
            (Some("libpod"), "systemd", Some("Podman")),
            (Some("cri-o"), "conmon", Some("CRI-O")),
        ] {
            assert_eq!(owner(manager, parent).map(|(name, _)| name), engine, "{manager:?} {parent}");
        }
    }

    #[test]
    fn an_older_criu_is_in_the_way_and_an_older_fix_is_not() {
        not_older(Version::new(4, 2, 0), 40201).expect("the same minor version");
        not_older(Version::new(4, 3, 0), 40201).expect("a newer one");
        not_older(Version::new(4, 1, 1), 40200).expect_err("an older one");
    }
}
