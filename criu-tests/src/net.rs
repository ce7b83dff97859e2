// SPDX-License-Identifier: Apache-2.0
//! A network for containers with connections: two hosts that have each a network namespace at the same path, and a third one where their
//! peers are, all on one bridge. The first host's namespace has the address that moves.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::bundle::Bundle;
use crate::command::Running;
use crate::host::Host;
use crate::large_pipes::LargePipes;
use crate::stage::Stage;
use crate::wait::{PATIENCE, wait_until};

/// The address that moves, and its network's size.
const OWN: &str = "10.7.0.2/24";

/// The hosts, and what runs there as long as they are needed.
#[derive(Debug)]
pub struct Net {
    /// Where the container is first.
    pub a: Host,
    /// Where it goes.
    pub b: Host,
    /// Where its peers are.
    pub switch: Host,
    besides: Vec<Running>,
    /// The path of the namespace on both hosts.
    path: String,
    _pipes: LargePipes,
}

fn run(host: &Host, line: &str) -> String {
    let argv: Vec<&str> = line.split_whitespace().collect();
    host.command(&argv).run().succeeded()
}

impl Net {
    /// Makes it.
    ///
    /// # Panics
    /// When something of it cannot be made.
    pub fn new(stage: &Stage) -> Self {
        let (a, b, switch) = (stage.host("a"), stage.host("b"), stage.host("switch"));
        run(&switch, "ip link add br0 type bridge");
        run(&switch, "ip addr add 10.7.0.1/24 dev br0");
        run(&switch, "ip link set br0 up");
        let path = stage.path("web");
        std::fs::write(&path, "").expect("make a file");
        let besides = [(&a, "pa"), (&b, "pb")].map(|(host, port)| joined(host, &switch, port, &path)).into();
        let new = Self { a, b, switch, besides, path, _pipes: LargePipes::set() };
        new.inside(&new.a, &format!("ip addr add {OWN} dev eth0"));
        new.inside(&new.a, "ip route add default via 10.7.0.1");
        new
    }

    /// Runs a command in the namespace of a host.
    ///
    /// # Panics
    /// When it fails.
    pub fn inside(&self, host: &Host, line: &str) -> String {
        run(host, &format!("nsenter --net={} {line}", self.path))
    }

    /// This is ended with the network.
    pub fn runs_besides(&mut self, running: Running) {
        self.besides.push(running);
    }

    /// Waits until somebody listens on a host, at this port.
    ///
    /// # Panics
    /// When nobody does.
    pub fn listens(&self, host: &Host, port: u16) {
        wait_until(PATIENCE, "somebody listens", || {
            let listening = run(host, &format!("ss -Hltn sport = {port}"));
            if listening.is_empty() { Err("not yet") } else { Ok(()) }
        });
    }

    /// Gives a container the namespace, and a cgroup that leaves room for another one of the same id.
    #[must_use]
    pub fn joins(&self, bundle: Bundle, id: &str) -> Bundle {
        bundle.edit(|config| {
            config["linux"]["cgroupsPath"] = json!(format!("/{id}-source"));
            for namespace in config["linux"]["namespaces"].as_array_mut().expect("a list") {
                if namespace["type"] == json!("network") {
                    namespace["path"] = json!(self.path);
                }
            }
        })
    }

    /// Whether a host has the address that moves, and the routes with it.
    ///
    /// # Panics
    /// When it has only one of them.
    #[track_caller]
    pub fn has_address(&self, host: &Host) -> bool {
        let (addresses, routes) = (self.inside(host, "ip -4 addr"), self.inside(host, "ip -4 route"));
        let both = [addresses.contains(OWN), routes.contains("default via 10.7.0.1")];
        assert_eq!(both[0], both[1], "{addresses}\n{routes}");
        both[0]
    }

    /// No table is left that keeps packets away.
    ///
    /// # Panics
    /// When there is one.
    #[track_caller]
    pub fn is_open(&self, host: &Host) {
        assert_eq!(self.inside(host, "nft list tables"), "");
    }

    /// Which hardware address the peers know for the container's.
    pub fn known(&self) -> String {
        run(&self.switch, "ip neigh show 10.7.0.2 dev br0")
    }

    /// That of a host.
    ///
    /// # Panics
    /// When it has none.
    pub fn hardware_address(&self, host: &Host) -> String {
        let link = self.inside(host, "ip -brief link show eth0");
        link.split_whitespace().nth(2).expect("name, state and address").to_owned()
    }

    /// Ends it; nothing is left on either host.
    ///
    /// # Panics
    /// When something is.
    #[track_caller]
    pub fn end(mut self) {
        for process in self.besides.drain(..) {
            process.signal(Signal::SIGKILL);
            process.wait();
        }
        for host in [&self.a, &self.b] {
            run(host, &format!("umount {}", self.path));
            host.assert_no_trace();
        }
    }
}

/// Gives a host a network namespace at this path, with an interface whose other end is a port of the switch.
fn joined(host: &Host, switch: &Host, port: &str, path: &str) -> Running {
    let holder = host.command(&["unshare", "--net", "sleep", "1000"]).start();
    let namespace = format!("/proc/{}/ns/net", holder.pid());
    wait_until(PATIENCE, "the holder has its namespace", || {
        let read = |path: &str| run(host, &format!("readlink {path}"));
        let (its, hosts) = (read(&namespace), read("/proc/1/ns/net"));
        if its == hosts { Err(its) } else { Ok(()) }
    });
    run(host, &format!("mount --bind {namespace} {path}"));
    let (of_switch, its) = (switch.outside("/proc/1/ns/net"), host.outside(path));
    let add = format!("ip link add {port} type veth peer name eth0 netns {its}");
    let words = format!("--net={of_switch} {add}");
    let output = Command::new("nsenter").args(words.split(' ')).output().expect("run nsenter(1)");
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    run(switch, &format!("ip link set {port} master br0"));
    run(switch, &format!("ip link set {port} up"));
    for line in ["ip link set lo up", "ip link set eth0 up"] {
        run(host, &format!("nsenter --net={path} {line}"));
    }
    holder
}
