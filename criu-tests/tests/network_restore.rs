// SPDX-License-Identifier: Apache-2.0
//! A container's own network namespace comes back with what was in it: interfaces, addresses, routes, rules, neighbours,
//! firewall, kernel parameters.

use criu_tests::{Bundle, Container, Host, Need, Stage, embedder};
use serde_json::{Value, json};

/// Runs a command on the host.
fn run(host: &Host, line: &str) -> String {
    let argv: Vec<&str> = line.split_whitespace().collect();
    host.command(&argv).run().succeeded()
}

/// Runs a command of the host in the container's network namespace.
fn inside(host: &Host, id: &str, line: &str) -> String {
    let pid = host.state(id)["pid"].as_i64().expect("it has a process");
    run(host, &format!("nsenter --net=/proc/{pid}/ns/net {line}"))
}

/// Everything that can be told of a container's network.
fn told(host: &Host, id: &str) -> Vec<String> {
    let mut all = Vec::new();
    for command in [
        "ip link show",
        "ip addr show",
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip rule show",
        "ip -6 rule show",
        "ip neigh show nud permanent",
        "nft list ruleset",
        "sysctl -e -a -r ^net[.](ipv4[.]tcp_keepalive_time|core[.]somaxconn|ipv4[.]ip_forward|ipv4[.]conf)",
        "sysctl -e -a -r ^net[.]ipv6[.]conf[.].*[.](disable_ipv6|forwarding)",
    ] {
        let text = inside(host, id, command);
        // What depends on the time, on the host's end of a pair, or is only settling.
        let settled = text.lines().map(|line| {
            let words = line.split_whitespace().filter(|word| {
                !word.starts_with("eth0@if") && !["tentative", "nodad", "linkdown"].contains(word)
            });
            words.collect::<Vec<_>>().join(" ")
        });
        let gone = ["valid_lft", "fe80", "link/ether"];
        all.extend(settled.filter(|line| !gone.iter().any(|word| line.contains(word))));
    }
    all
}

/// Asserts that the container's network is told in these words.
fn assert_told(host: &Host, container: &Container<'_>, expected: &[String]) {
    let now = told(host, container.id());
    let missing = |from: &[String], all: &[String]| -> Vec<String> {
        from.iter().filter(|line| !all.contains(line)).cloned().collect()
    };
    let (lost, new) = (missing(expected, &now), missing(&now, expected));
    assert!(lost.is_empty() && new.is_empty(), "lost: {lost:#?}\nnew: {new:#?}");
}

/// Checkpoints and restores a container, and asserts that its network is told in the same words.
fn there_and_back(host: &Host, bundle: &Bundle, container: &Container<'_>) -> Value {
    let (before, network) = (container.reports(), told(host, container.id()));
    let images = host.path("images");
    container.checkpoint(&["--image-path", &images]);
    container.restore(&images, bundle);
    assert_told(host, container, &network);
    container.goes_on(&before);
    let saved = std::fs::read(format!("{images}/network.json")).expect("read network.json");
    serde_json::from_slice(&saved).expect("network.json is JSON")
}

#[test]
fn a_plain_namespace_keeps_addresses_routes_and_kernel_parameters() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"]).edit(|config| {
        config["linux"]["sysctl"] =
            json!({"net.ipv4.tcp_keepalive_time": "1234", "net.core.somaxconn": "777"});
    });
    let container = host.run_detached(&stage.id("plain"), &bundle);
    let id = container.id();
    for command in [
        "ip addr add 10.7.0.1/24 dev lo",
        "ip addr add fd00:7::1/64 dev lo",
        "ip route add 10.8.0.0/16 dev lo table 77",
        "ip rule add from 10.7.0.1 lookup 77 priority 100",
        "sysctl -q -w net.ipv4.ip_forward=1",
    ] {
        inside(&host, id, command);
    }
    let saved = there_and_back(&host, &bundle, &container);
    assert_eq!(saved["content"], json!("engine"), "{saved}");
    assert_eq!(saved["parameters"]["core/somaxconn"], json!("777"), "{saved}");
    container.end();
    host.assert_no_trace();
}

/// Setting one of these sets others, which somebody has set back since.
#[test]
fn kernel_parameters_that_follow_others_are_as_they_were() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("follow"));
    for setting in [
        "ipv4.ip_forward=1",
        "ipv4.conf.all.accept_redirects=1",
        "ipv4.conf.lo.forwarding=0",
        "ipv4.conf.default.rp_filter=2",
        "ipv4.conf.lo.rp_filter=0",
        "ipv6.conf.all.disable_ipv6=1",
        "ipv6.conf.lo.disable_ipv6=0",
    ] {
        inside(&host, container.id(), &format!("sysctl -q -w net.{setting}"));
    }
    there_and_back(&host, &bundle, &container);
    container.end();
    host.assert_no_trace();
}

#[test]
fn an_untouched_namespace_needs_no_record_of_parameters() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("untouched"));
    let saved = there_and_back(&host, &bundle, &container);
    assert_eq!((&saved["content"], &saved["parameters"]), (&json!("engine"), &json!({})), "{saved}");
    container.end();
    host.assert_no_trace();
}

#[test]
fn what_only_criu_knows_comes_back_and_what_it_loses_does_too() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("bridge"));
    let id = container.id();
    for command in [
        "ip link add br0 type bridge",
        "ip link add v0 type veth peer v1",
        "ip link set v0 master br0",
        "ip addr add 10.7.0.1/24 dev br0",
        "ip addr add 10.7.0.2/24 dev v1",
        "ip link set br0 up",
        "ip link set v0 up",
        "ip link set v1 up",
        "ip route add default via 10.7.0.9 dev br0",
        "ip neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 nud permanent dev br0",
        "nft add table inet mine",
        "nft add chain inet mine input { type filter hook input priority 0; policy accept; }",
        "nft add rule inet mine input tcp dport 7 drop",
        "sysctl -q -w net.ipv4.tcp_keepalive_time=1234",
        "sysctl -q -w net.core.somaxconn=777",
    ] {
        inside(&host, id, command);
    }
    let saved = there_and_back(&host, &bundle, &container);
    assert_eq!(saved["content"], json!("criu"), "{saved}");
    container.end();
    host.assert_no_trace();
}

/// Starts a container with these networks through the library.
fn embed<'h>(stage: &Stage, host: &'h Host, networks: &Value, routes: &Value) -> (Bundle, Container<'h>) {
    let id = stage.id("veth");
    let bundle = Bundle::of_workload(host, "counter", &["--memory", "1048576"]);
    let (networks, routes) = (networks.to_string(), routes.to_string());
    let program = embedder();
    let argv = [&program, "networks", &host.state_root(), &id, &bundle.path(), &networks, &routes];
    host.command(&argv).run().succeeded();
    let container = host.container(&id, &bundle.rootfs());
    container.reports();
    (bundle, container)
}

fn with_bridge(stage: &Stage) -> Host {
    let host = stage.host("a");
    run(&host, "ip link add br0 type bridge");
    run(&host, "ip addr add 10.9.0.1/24 dev br0");
    run(&host, "ip link set br0 up");
    host
}

fn a_pair() -> (Value, Value) {
    let networks = json!([
        {"type": "veth", "name": "eth0", "bridge": "br0", "address": "10.9.0.2/24", "gateway": "10.9.0.1",
         "ipv6_address": "fd00:9::2/64", "mtu": 1400, "txqueuelen": 77, "host_interface_name": "vethtest0",
         "hairpin_mode": true}]);
    (networks, json!([{"destination": "192.0.2.0/24", "gateway": "10.9.0.7", "interface_name": "eth0"}]))
}

#[test]
fn a_pair_is_connected_again_with_what_was_changed_since() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = with_bridge(&stage);
    let (networks, routes) = a_pair();
    let (bundle, container) = embed(&stage, &host, &networks, &routes);
    let id = container.id();
    inside(&host, id, "ip addr add 10.9.0.3/24 dev eth0");
    inside(&host, id, "ip route del 192.0.2.0/24");
    inside(&host, id, "sysctl -q -w net.ipv4.conf.eth0.rp_filter=2");
    let mac = |host: &Host| inside(host, id, "cat /sys/class/net/eth0/address /sys/class/net/eth0/ifindex");
    let before = mac(&host);
    for content in ["engine", "criu"] {
        let saved = there_and_back(&host, &bundle, &container);
        assert_eq!(saved["content"], json!(content), "{saved}");
        assert_eq!(mac(&host), before, "the hardware address and the number");
        let host_end = run(&host, "ip -d link show vethtest0");
        for words in ["master br0", "hairpin on", "mtu 1400", "qlen 77", "state UP"] {
            assert!(host_end.contains(words), "{words} should be in {host_end}");
        }
        run(&host, "busybox ping -c 1 -W 5 10.9.0.2");
        // From here on CRIU has to do it.
        inside(&host, id, "nft add table inet mine");
    }
    let events: Value =
        serde_json::from_str(&host.migrate(&["events", "--stats", id]).succeeded()).expect("JSON");
    assert_eq!(events["data"]["network_interfaces"][0]["Name"], json!("vethtest0"), "{events}");
    host.migrate(&["delete", "--force", id]).succeeded();
    assert!(!run(&host, "ip -o link show").contains("vethtest0"), "the pair goes with the container");
    bundle.remove();
    host.assert_no_trace();
}

#[test]
fn a_pair_that_cannot_be_connected_is_told_before_anything() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = with_bridge(&stage);
    let (networks, routes) = a_pair();
    let (bundle, container) = embed(&stage, &host, &networks, &routes);
    let (id, images, before) = (container.id(), host.path("images"), container.reports());
    container.checkpoint(&["--image-path", &images]);
    let restore = ["restore", "-d", "--image-path", &images, "-b", &bundle.path(), id];
    run(&host, "ip link add vethtest0 type bridge");
    host.migrate(&restore).failed(1, &["the host has an interface vethtest0 already"]);
    run(&host, "ip link del vethtest0");
    run(&host, "ip link set br0 name br1");
    host.migrate(&restore).failed(1, &["network eth0", "there is no interface br0"]);
    run(&host, "ip link set br1 name br0");
    assert!(!std::fs::exists(format!("{images}/restore.log")).expect("look"), "CRIU was not started");
    host.assert_no_trace();
    container.restore(&images, &bundle);
    container.goes_on(&before);
    container.end();
    host.assert_no_trace();
}

#[test]
fn a_device_of_the_host_comes_back_and_moves_in_again() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    run(&host, "ip link add dev0 mtu 1400 type veth peer peer0");
    run(&host, "ip addr add 10.7.0.2/24 dev dev0");
    run(&host, "ip addr add 10.7.0.1/24 dev peer0");
    run(&host, "ip link set dev0 up");
    run(&host, "ip link set peer0 up");
    let bundle = Bundle::of_workload(&host, "counter", &["--memory", "1048576"])
        .edit(|config| config["linux"]["netDevices"] = json!({"dev0": {"name": "eth0"}}));
    let container = host.run_detached(&stage.id("dev"), &bundle);
    let id = container.id();
    inside(&host, id, "ip addr add 10.7.0.3/24 dev eth0");
    inside(&host, id, "ip route add default via 10.7.0.1");
    let before = told(&host, id);
    let (report, images) = (container.reports(), host.path("images"));
    container.checkpoint(&["--image-path", &images]);
    let back = run(&host, "ip addr show dev0");
    assert!(back.contains("10.7.0.2/24") && back.contains(",UP"), "it is the host's again: {back}");
    run(&host, "ip link set dev0 name gone0");
    let restore = ["restore", "-d", "--image-path", &images, "-b", &bundle.path(), id];
    host.migrate(&restore).failed(1, &["linux.netDevices[dev0]", "link not found"]);
    host.assert_no_trace();
    run(&host, "ip link set gone0 name dev0");
    container.restore(&images, &bundle);
    container.goes_on(&report);
    assert_told(&host, &container, &before);
    run(&host, "busybox ping -c 1 -W 5 10.7.0.3");
    // With rules that only CRIU could bring back, nobody could bring back both.
    inside(&host, id, "nft add table inet mine");
    container.runs_on_beside(
        &["checkpoint", "--image-path", &host.path("refused"), id],
        1,
        &["an interface of the host's (eth0)", "firewall rules"],
    );
    container.end();
    host.assert_no_trace();
}

/// Others read the addresses in an archive.
#[test]
fn addresses_are_told_to_others() {
    let Some(stage) = Stage::set(&[Need::Criu]) else { return };
    let host = stage.host("a");
    let (bundle, container) = host.run_small(&stage.id("told"));
    for command in [
        "ip link add eth0 address 02:00:00:00:00:07 type veth peer v1",
        "ip addr add 10.9.0.2/24 dev eth0",
        "ip addr add fd00:9::2/64 dev eth0 nodad",
    ] {
        inside(&host, container.id(), command);
    }
    let archive = stage.path("told.tar.zst");
    container.checkpoint(&["--export", &archive]);
    let status = host.command(&["tar", "--zstd", "-xOf", &archive, "network.status"]).run().succeeded();
    let status: Value = serde_json::from_str(&status).expect("network.status is JSON");
    let subnets = json!([{"ipnet": "10.9.0.2/24"}, {"ipnet": "fd00:9::2/64"}]);
    let eth0 = json!({"mac_address": "02:00:00:00:00:07", "subnets": subnets});
    assert_eq!(status, json!({"migrate": {"interfaces": {"eth0": eth0}}}));
    let seen = host.migrate(&["inspect", "--json", &archive]).succeeded();
    let seen: Value = serde_json::from_str(&seen).expect("JSON");
    assert_eq!(seen["checkpoint"]["addresses"], json!(["10.9.0.2/24", "fd00:9::2/64"]));
    bundle.remove();
    host.assert_no_trace();
}
