// SPDX-License-Identifier: Apache-2.0
//! The network lock, and what is in a network namespace.

use super::Rule;

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "network-lock-nftables",
        seen: &[
            "Locking network failed using nftables",
            "Locking connection failed using nftables",
            "Can't create nftables table",
        ],
        cause: "packets to open connections could not be held back with nftables during the checkpoint",
        remedy: "load the kernel module nf_tables, and use a criu that is built with nftables, or pass --network-lock iptables",
        ..Rule::ANY
    },
    Rule {
        name: "network-lock-iptables",
        seen: &[
            "net: Locking network failed: iptables-restore returned",
            "Iptables configuration failed",
            "Locking network failed",
        ],
        cause: "packets to open connections could not be held back with iptables during the checkpoint",
        remedy: "install iptables, load the kernel module xt_mark, or pass --network-lock nftables",
        ..Rule::ANY
    },
    Rule {
        name: "link-kind",
        seen: &["net: Unsupported link {} (type {} kind {kind})", "net: Unsupported link type {kind}"],
        cause: "the container has a network interface of the kind {kind}, which CRIU cannot dump",
        remedy: "give the container its network namespace by path, so that it is not part of the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "link-exists",
        seen: &["net: Can't restore link: -17", "net: Can't restore link: -16"],
        cause: "a network interface of the container, or its other end on this machine, exists already",
        remedy: "remove the old one (`ip link del`), or restore into a network namespace by path",
        ..Rule::RESTORE
    },
    Rule {
        name: "link-not-made",
        seen: &["net: Can't restore link: {errno}"],
        cause: "a network interface of the container cannot be made here (error {errno})",
        remedy: "load the module of its kind (modprobe veth macvlan tun bridge), or restore into a network namespace by path",
        ..Rule::RESTORE
    },
    Rule {
        name: "iptables-of-the-old-kind",
        seen: &["no legacy version present"],
        cause: "the images hold iptables rules of the old kind, and this machine has no iptables-legacy",
        remedy: "install iptables-legacy",
        ..Rule::RESTORE
    },
    Rule {
        name: "ip-missing",
        seen: &["net: IP tool failed on", "execvp(\"ip\", ...) failed", "exec(ip, ...) failed"],
        cause: "the program ip failed or is missing; CRIU saves addresses and routes with it",
        remedy: "install iproute2",
        ..Rule::ANY
    },
    Rule {
        name: "tun-device",
        seen: &["tun: No tun device for file {path}", "tun: Can't dump", "tun: No info about"],
        cause: "{who} has a tun or tap device that is not complete{fd}",
        remedy: "have the program attach or close it before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "tun-not-made",
        seen: &["tun: Can't create tun device", "tun: Can't open tun device"],
        cause: "a tun or tap device of the container cannot be made here",
        remedy: "modprobe tun; /dev/net/tun must be there",
        ..Rule::RESTORE
    },
];
