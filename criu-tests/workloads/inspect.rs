// SPDX-License-Identifier: Apache-2.0
//! `inspect`: prints, as one JSON object, what a process inside a container sees of itself and of its surroundings.
//!
//! `--read FILE`, `--write FILE` and `--stat PATH` (each repeatable) add what happens when these are tried.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{getgroups, getpgrp, getresgid, getresuid, getsid};
use serde_json::{Value, json};

use crate::lifecycle::{Checked, During as _};
use crate::options::Options;

pub(crate) fn run(options: &Options) -> Checked {
    let uids = getresuid().during("getresuid")?;
    let gids = getresgid().during("getresgid")?;
    let groups: Vec<u32> =
        getgroups().during("getgroups")?.into_iter().map(nix::unistd::Gid::as_raw).collect();
    let mask = umask(Mode::empty());
    umask(mask);
    let seen = json!({
        "pid": std::process::id(),
        "uid": [uids.real.as_raw(), uids.effective.as_raw(), uids.saved.as_raw()],
        "gid": [gids.real.as_raw(), gids.effective.as_raw(), gids.saved.as_raw()],
        "groups": groups,
        "umask": format!("{:04o}", mask.bits()),
        "cwd": std::env::current_dir().during("getcwd")?,
        "args": std::env::args().collect::<Vec<_>>(),
        "env": std::env::vars().collect::<BTreeMap<_, _>>(),
        "hostname": text("/proc/sys/kernel/hostname")?,
        "session": getsid(None).during("getsid")?.as_raw(),
        "group": getpgrp().as_raw(),
        "status": status()?,
        "oom_score_adj": text("/proc/self/oom_score_adj")?,
        "rlimits": rlimits()?,
        "mounts": mounts()?,
        "namespaces": links("/proc/self/ns")?,
        "cgroups": text("/proc/self/cgroup")?.lines().collect::<Vec<_>>(),
        "fds": links("/proc/self/fd")?,
        "interfaces": interfaces()?,
        "addresses": addresses()?,
        "scheduling": scheduling()?,
        "keyring": crate::sys::session_keyring().during("keyctl(KEYCTL_DESCRIBE)")?,
        "read": tried(options, "read", |path| fs::read_to_string(path).map(|t| json!(t))),
        "write": tried(options, "write", |path| {
            fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).map(|_| json!("done"))
        }),
        "stat": tried(options, "stat", |path| fs::metadata(path).map(|m| json!({
            "mode": format!("{:o}", m.mode()),
            "uid": m.uid(),
            "gid": m.gid(),
            "device": [libc::major(m.rdev()), libc::minor(m.rdev())],
            "size": m.len(),
        }))),
    });
    writeln!(std::io::stdout(), "{seen}").during("write to stdout")
}

fn text(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map(|t| t.trim_end().to_owned()).during(path)
}

/// The lines of /proc/self/status by name: the capability sets, `NoNewPrivs`, `Seccomp`.
fn status() -> Result<BTreeMap<String, String>, String> {
    let lines = text("/proc/self/status")?;
    let pairs = lines.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

/// Soft and hard limit by the name that /proc/self/limits gives.
fn rlimits() -> Result<BTreeMap<String, [String; 2]>, String> {
    let lines = text("/proc/self/limits")?;
    let column =
        |line: &str, from: usize, to: usize| line.get(from..to).unwrap_or_default().trim().to_owned();
    let rows = lines.lines().skip(1);
    Ok(rows.map(|line| (column(line, 0, 26), [column(line, 26, 47), column(line, 47, 68)])).collect())
}

/// One object per line of /proc/self/mountinfo, in its order.
fn mounts() -> Result<Vec<Value>, String> {
    let mut mounts = Vec::new();
    for line in text("/proc/self/mountinfo")?.lines() {
        let (left, right) = line.split_once(" - ").ok_or("mountinfo without ' - '")?;
        let left: Vec<&str> = left.split(' ').collect();
        let mut right = right.split(' ');
        mounts.push(json!({
            "root": left.get(3),
            "destination": left.get(4),
            "options": left.get(5).map(|o| o.split(',').collect::<Vec<_>>()),
            "propagation": left.get(6..),
            "type": right.next(),
            "source": right.next(),
            "super": right.next().map(|o| o.split(',').collect::<Vec<_>>()),
        }));
    }
    Ok(mounts)
}

pub(crate) fn links(dir: &str) -> Result<BTreeMap<String, String>, String> {
    let mut links = BTreeMap::new();
    for entry in fs::read_dir(dir).during(dir)? {
        let entry = entry.during(dir)?;
        // The descriptor of this very listing is gone when its link is read through a new look-up by name.
        if let Ok(target) = fs::read_link(entry.path()) {
            links.insert(
                entry.file_name().to_string_lossy().into_owned(),
                target.to_string_lossy().into_owned(),
            );
        }
    }
    links.retain(|_, target| {
        !(dir.ends_with("/fd") && target.starts_with("/proc/") && target.ends_with("/fd"))
    });
    Ok(links)
}

fn scheduling() -> Result<Value, String> {
    let [policy, nice, io_priority, personality, memory] = crate::sys::scheduling().during("scheduling")?;
    Ok(json!({
        "policy": policy,
        "nice": nice,
        "io_priority": io_priority,
        "personality": personality,
        "memory": memory,
    }))
}

/// The names of the network interfaces, each with its flags in hexadecimal.
fn interfaces() -> Result<Vec<String>, String> {
    let list = nix::ifaddrs::getifaddrs().during("getifaddrs")?;
    let mut names: Vec<String> =
        list.map(|i| format!("{} {}", i.interface_name, if up(i.flags) { "up" } else { "down" })).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// The addresses of each interface, with the lengths of their networks.
fn addresses() -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for interface in nix::ifaddrs::getifaddrs().during("getifaddrs")? {
        let of = |address: Option<nix::sys::socket::SockaddrStorage>| {
            let address = address?;
            let four = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            four.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        };
        let bits = match of(interface.netmask) {
            Some(IpAddr::V4(mask)) => mask.to_bits().count_ones(),
            Some(IpAddr::V6(mask)) => mask.to_bits().count_ones(),
            None => continue,
        };
        if let Some(address) = of(interface.address) {
            all.entry(interface.interface_name).or_default().push(format!("{address}/{bits}"));
        }
    }
    Ok(all)
}

fn up(flags: nix::net::if_::InterfaceFlags) -> bool {
    flags.contains(nix::net::if_::InterfaceFlags::IFF_UP)
}

fn tried(
    options: &Options,
    option: &str,
    attempt: impl Fn(&str) -> std::io::Result<Value>,
) -> BTreeMap<String, Value> {
    let result = |path: &str| match attempt(path) {
        Ok(value) => json!({ "ok": value }),
        Err(e) => json!({ "errno": e.raw_os_error(), "error": e.to_string() }),
    };
    options.values(option).map(|path| (path.to_owned(), result(path))).collect()
}
