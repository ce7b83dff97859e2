// SPDX-License-Identifier: Apache-2.0
//! Interfaces in a container: `lo`, those of the host that it takes over (`linux.netDevices`), and the pairs that the
//! engine makes for users of the library.

use criu_tests::{Bundle, Host, Inspection, PATIENCE, Stage, embedder, wait_until};
use serde_json::{Value, json};

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("not JSON: {e}\n{text}"))
}

/// Runs `ip` on the host.
fn ip(host: &Host, args: &str) -> String {
    let argv: Vec<&str> = ["ip"].into_iter().chain(args.split_whitespace()).collect();
    host.command(&argv).run().succeeded()
}

/// The host's interfaces.
fn links(host: &Host) -> Vec<String> {
    let list = parse(&ip(host, "-j link show"));
    list.as_array().into_iter().flatten().filter_map(|l| Some(l["ifname"].as_str()?.to_owned())).collect()
}

/// The host's addresses of an interface that count as somebody's setting, with whether it is up.
fn setting(host: &Host, name: &str) -> (bool, Vec<String>) {
    let all = parse(&ip(host, &format!("-j addr show dev {name}")));
    let link =
        all.as_array().and_then(|l| l.iter().find(|l| l["ifname"] == json!(name))).expect("it is there");
    let up = link["flags"].as_array().is_some_and(|f| f.contains(&json!("UP")));
    let addresses = link["addr_info"].as_array().into_iter().flatten();
    let addresses = addresses
        .filter(|a| a["scope"] == json!("global"))
        .map(|a| format!("{}/{}", a["local"].as_str().unwrap_or_default(), a["prefixlen"]));
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort();
    (up, addresses)
}

/// A host with a veth pair `dev0`/`peer0`, up, the first with addresses of all kinds.
fn with_pair(stage: &Stage) -> Host {
    let host = stage.host("a");
    ip(&host, "link add dev0 mtu 1400 address 02:42:ac:00:00:07 type veth peer peer0");
    ip(&host, "addr add 10.7.0.2/24 brd + dev dev0");
    ip(&host, "addr add 169.254.7.7/16 scope link dev dev0");
    ip(&host, "addr add fd00:7::2/64 nodad dev dev0");
    ip(&host, "addr add fd00:7::3/64 nodad valid_lft 1000 preferred_lft 1000 dev dev0");
    ip(&host, "link set dev0 up");
    ip(&host, "link set peer0 up");
    host
}

#[test]
fn a_new_namespace_has_lo_and_nothing_else() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let seen = Inspection::of(&stage, &host, &[], |_| {});
    assert_eq!(seen["interfaces"], json!(["lo up"]));
    assert_eq!(seen["addresses"]["lo"], json!(["127.0.0.1/8", "::1/128"]));
    host.assert_no_trace();
}

#[test]
fn a_device_of_the_host_moves_in_with_the_addresses_that_somebody_gave_it() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = with_pair(&stage);
    let probes = [
        "--read",
        "/sys/class/net/eth0/mtu",
        "--read",
        "/sys/class/net/eth0/address",
        "--read",
        "/proc/sys/net/ipv4/conf/eth0/rp_filter",
    ];
    let seen = Inspection::of(&stage, &host, &probes, |config| {
        config["linux"]["netDevices"] = json!({"dev0": {"name": "eth0"}});
        // Kernel parameters may be those of the interface.
        config["linux"]["sysctl"] = json!({"net.ipv4.conf.eth0.rp_filter": "2"});
    });
    assert_eq!(seen["interfaces"], json!(["eth0 up", "lo up"]));
    let addresses: Vec<&str> = seen["addresses"]["eth0"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        // The kernel gives this one by itself.
        .filter(|a| !a.starts_with("fe80:"))
        .collect();
    assert_eq!(addresses, ["10.7.0.2/24", "fd00:7::2/64"]);
    let read = |path: &str| seen["read"][path]["ok"].as_str().unwrap_or_default().trim().to_owned();
    assert_eq!(read(probes[1]), "1400");
    assert_eq!(read(probes[3]), "02:42:ac:00:00:07");
    assert_eq!(read(probes[5]), "2");
    // Nobody brings it back: it ends with its namespace, and the pair with it.
    wait_until(PATIENCE, "the pair is gone", || match links(&host) {
        links if links == ["lo"] => Ok(()),
        links => Err(links),
    });
    host.assert_no_trace();
}

#[test]
fn a_device_may_keep_its_name_and_go_into_a_namespace_by_path() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = with_pair(&stage);
    let holder = host.command(&["unshare", "--net", "sleep", "1000"]).start();
    let path = format!("/proc/{}/ns/net", holder.pid());
    wait_until(PATIENCE, "the holder has its namespace", || {
        let read = |path: &str| host.command(&["readlink", path]).run().succeeded();
        let (its, hosts) = (read(&path), read("/proc/1/ns/net"));
        if its == hosts { Err(its) } else { Ok(()) }
    });
    let seen = Inspection::of(&stage, &host, &[], |config| {
        config["linux"]["netDevices"] = json!({"dev0": {}});
        for namespace in config["linux"]["namespaces"].as_array_mut().expect("a list") {
            if namespace["type"] == json!("network") {
                namespace["path"] = json!(path);
            }
        }
    });
    // `lo` is as whoever made the namespace has left it.
    assert_eq!(seen["interfaces"], json!(["dev0 up", "lo down"]));
    holder.signal(nix::sys::signal::Signal::SIGKILL);
    holder.wait();
    host.assert_no_trace();
}

#[test]
fn what_cannot_move_is_told_and_everything_is_as_it_was() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = with_pair(&stage);
    let before = setting(&host, "dev0");
    assert!(before.0);
    let id = stage.id("refused");
    let refuse = |change: &dyn Fn(&mut Value), words: &[&str]| {
        let bundle = Bundle::new(&host, "refused", &["exit"]).edit(change);
        host.migrate(&["run", "-b", &bundle.path(), &id]).failed(1, words);
        bundle.remove();
        assert_eq!(setting(&host, "dev0"), before, "{words:?}");
        assert!(setting(&host, "peer0").0, "{words:?}");
        host.assert_no_trace();
    };
    refuse(&|c| c["linux"]["netDevices"] = json!({"nothing0": {}}), &["linux.netDevices[nothing0]"]);
    refuse(
        &|c| c["linux"]["netDevices"] = json!({"dev0": {"name": "a/b"}}),
        &["linux.netDevices[dev0].name"],
    );
    refuse(&|c| c["linux"]["netDevices"] = json!({"dev0": {"name": "lo"}}), &["linux.netDevices[dev0].name"]);
    refuse(
        &|c| {
            c["linux"]["netDevices"] = json!({"dev0": {}});
            let namespaces = c["linux"]["namespaces"].as_array_mut().expect("a list");
            namespaces.retain(|n| n["type"] != json!("network"));
        },
        &["linux.netDevices", "unable to move network devices without a NET namespace"],
    );
    refuse(
        &|c| {
            c["linux"]["netDevices"] = json!({"dev0": {}});
            for namespace in c["linux"]["namespaces"].as_array_mut().expect("a list") {
                if namespace["type"] == json!("network") {
                    namespace["path"] = json!("/proc/1/ns/net");
                }
            }
        },
        &["linux.netDevices", "unable to move network devices without a private NET namespace"],
    );
    refuse(
        &|c| {
            c["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
            for namespace in c["linux"]["namespaces"].as_array_mut().expect("a list") {
                if namespace["type"] == json!("network") {
                    namespace["path"] = json!("/proc/1/ns/net");
                }
            }
        },
        &["linux.sysctl[net.ipv4.ip_forward]", "not allowed in host network namespace"],
    );
    // Both have moved by then.
    refuse(
        &|c| {
            c["linux"]["netDevices"] = json!({"dev0": {"name": "x0"}, "peer0": {}});
            c["process"]["args"] = json!(["/nothing"]);
        },
        &["/nothing"],
    );
    // The first has moved and the second cannot.
    refuse(&|c| c["linux"]["netDevices"] = json!({"dev0": {"name": "x0"}, "nothing0": {}}), &["nothing0"]);
}

/// Starts a container with these networks and routes through the library.
fn embed(stage: &Stage, host: &Host, networks: &Value, routes: &Value) -> (Bundle, String) {
    let id = stage.id("veth");
    let bundle = Bundle::of_workload(host, "counter", &[]);
    let (networks, routes) = (networks.to_string(), routes.to_string());
    let program = embedder();
    let argv = [&program, "networks", &host.state_root(), &id, &bundle.path(), &networks, &routes];
    let output = host.command(&argv).run();
    output.succeeded();
    (bundle, id)
}

fn inspect(host: &Host, id: &str, probes: &[&str]) -> Value {
    parse(&host.migrate(&[&["exec", id, "/workload", "inspect"], probes].concat()).succeeded())
}

#[test]
fn a_pair_connects_a_container_to_a_bridge_and_ends_with_it() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    ip(&host, "link add br0 type bridge");
    ip(&host, "addr add 10.9.0.1/24 dev br0");
    ip(&host, "link set br0 up");
    let networks = json!([
        {"type": "loopback"},
        {"type": "veth", "name": "eth0", "bridge": "br0", "address": "10.9.0.2/24", "gateway": "10.9.0.1",
         "ipv6_address": "fd00:9::2/64", "ipv6_gateway": "fd00:9::1", "mtu": 1400, "txqueuelen": 77,
         "mac_address": "02:42:0a:09:00:02", "host_interface_name": "vethtest0", "hairpin_mode": true},
        {"type": "veth", "name": "eth1", "address": "10.8.0.2/24"},
    ]);
    let routes = json!([{"destination": "192.0.2.0/24", "gateway": "10.8.0.1", "interface_name": "eth1"}]);
    let (bundle, id) = embed(&stage, &host, &networks, &routes);
    let seen = inspect(
        &host,
        &id,
        &[
            "--read",
            "/sys/class/net/eth0/mtu",
            "--read",
            "/sys/class/net/eth0/tx_queue_len",
            "--read",
            "/sys/class/net/eth0/address",
            "--read",
            "/proc/net/route",
            "--read",
            "/proc/net/ipv6_route",
        ],
    );
    assert_eq!(seen["interfaces"], json!(["eth0 up", "eth1 up", "lo up"]));
    let addresses = seen["addresses"]["eth0"].to_string();
    assert!(addresses.contains("10.9.0.2/24") && addresses.contains("fd00:9::2/64"), "{addresses}");
    let read = |path: &str| seen["read"][path]["ok"].as_str().unwrap_or_default().trim().to_owned();
    assert_eq!(read("/sys/class/net/eth0/mtu"), "1400");
    assert_eq!(read("/sys/class/net/eth0/tx_queue_len"), "77");
    assert_eq!(read("/sys/class/net/eth0/address"), "02:42:0a:09:00:02");
    let routes: Vec<String> = read("/proc/net/route")
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
        .collect();
    assert!(routes.contains(&"eth0 00000000 0100090A".to_owned()), "{routes:?}");
    assert!(routes.contains(&"eth1 000200C0 0100080A".to_owned()), "{routes:?}");
    let six = read("/proc/net/ipv6_route");
    assert!(six.contains("fd000009000000000000000000000001"), "{six}");
    let host_end = ip(&host, "-d link show vethtest0");
    for words in ["master br0", "hairpin on", "mtu 1400", "qlen 77"] {
        assert!(host_end.contains(words), "{words} should be in {host_end}");
    }
    // What is sent to it arrives, and is counted from its side.
    host.command(&["busybox", "ping", "-c", "2", "-W", "5", "10.9.0.2"]).run().succeeded();
    let events = parse(&host.migrate(&["events", "--stats", &id]).succeeded());
    let interface = &events["data"]["network_interfaces"][0];
    assert_eq!(interface["Name"], json!("vethtest0"), "{events}");
    assert!(interface["RxBytes"].as_u64().is_some_and(|n| n >= 128), "{interface}");
    assert!(interface["TxPackets"].as_u64().is_some_and(|n| n >= 2), "{interface}");
    let record = parse(
        &std::fs::read_to_string(host.outside(&format!("{}/{id}/state.json", host.state_root())))
            .expect("read"),
    );
    assert_eq!(record["network"]["networks"], networks_as_saved(&networks), "{record}");
    host.migrate(&["delete", "--force", &id]).succeeded();
    assert_eq!(links(&host), ["lo", "br0"], "the host's ends go at once");
    bundle.remove();
    host.assert_no_trace();
}

/// Only what a caller says is compared: the record has all fields.
fn networks_as_saved(networks: &Value) -> Value {
    let all = [
        "name",
        "host_interface_name",
        "bridge",
        "mac_address",
        "address",
        "gateway",
        "ipv6_address",
        "ipv6_gateway",
        "mtu",
        "txqueuelen",
        "hairpin_mode",
    ];
    let mut saved = networks.clone();
    for network in saved.as_array_mut().into_iter().flatten().filter(|n| n["type"] == json!("veth")) {
        for field in all {
            if network.get(field).is_none() {
                network[field] = if field == "hairpin_mode" { json!(false) } else { Value::Null };
            }
        }
    }
    saved
}

#[test]
fn a_network_that_cannot_be_leaves_nothing() {
    let Some(stage) = Stage::set(&[]) else { return };
    let host = stage.host("a");
    let id = stage.id("veth");
    let bundle = Bundle::new(&host, "veth", &["exit"]);
    let program = embedder();
    let refuse = |networks: Value, words: &[&str]| {
        let argv =
            [&program, "networks", &host.state_root(), &id, &bundle.path(), &networks.to_string(), "[]"];
        host.command(&argv).run().failed(1, words);
        assert_eq!(links(&host), ["lo"], "{words:?}");
        host.assert_no_trace();
    };
    refuse(json!([{"type": "veth", "name": "eth0", "bridge": "br9"}]), &["network eth0", "br9"]);
    refuse(json!([{"type": "veth", "name": "eth0", "host_interface_name": "lo"}]), &["interface lo already"]);
    refuse(json!([{"type": "veth", "name": "eth0", "gateway": "10.1.1.1"}]), &["10.1.1.1", "gateway"]);
    refuse(json!([{"type": "veth", "name": "eth 0"}]), &["eth 0", "name"]);
}
