// SPDX-License-Identifier: Apache-2.0
//! Sockets: connections whose other end is elsewhere, families that CRIU does not know, addresses that are taken.

use super::{If, Rule};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "tcp-connection",
        seen: &["inet: Connected TCP socket, consider using"],
        cause: "{who} has an open TCP connection{fd}",
        remedy: "pass --tcp-established to take open TCP connections along",
        ..Rule::DUMP
    },
    Rule {
        name: "tcp-connection-in-images",
        seen: &["inet: Connected TCP socket in image", "Need to set the --tcp-close options"],
        cause: "{who} had an open TCP connection at the checkpoint",
        remedy: "pass --tcp-established to the restore as well; the container needs the addresses that it had",
        ..Rule::RESTORE
    },
    Rule {
        name: "tcp-connection-being-set-up",
        seen: &["inet: In-flight connection (l) for"],
        cause: "a TCP connection of {who} is still being set up, or waits to be accepted{fd}",
        remedy: "pass --tcp-skip-in-flight to leave such connections out, or try again when it is accepted",
        ..Rule::DUMP
    },
    Rule {
        name: "tcp-closed-with-bytes-to-send",
        seen: &["Can't restore not-sent send queue data"],
        cause: "a TCP connection of {who} was shut down at the checkpoint with bytes still to be sent",
        remedy: "make another checkpoint when the peer has taken them",
        ..Rule::RESTORE
    },
    Rule {
        name: "multipath-tcp",
        seen: &["inet: Unsupported proto 262 for socket"],
        cause: "{who} has a Multipath TCP socket{fd}, which CRIU cannot dump",
        remedy: "start the program without Multipath TCP; for Go: GODEBUG=multipathtcp=0 in process.env",
        ..Rule::DUMP
    },
    Rule {
        name: "internet-protocol",
        seen: &["inet: Unsupported proto {proto} for socket"],
        cause: "{who} has a socket of the internet protocol {proto}{fd}, which CRIU cannot dump",
        remedy: "have the program close it before the checkpoint; CRIU knows TCP, UDP, UDP-Lite, ICMP and raw sockets",
        ..Rule::DUMP
    },
    Rule {
        name: "internet-socket-type",
        seen: &["Only stream, dgram and raw are supported"],
        cause: "{who} has an internet socket that is neither stream, datagram nor raw{fd}",
        remedy: "have the program close it before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "corked-datagram",
        seen: &["inet: Can't dump corked dgram socket"],
        cause: "{who} has a UDP socket with UDP_CORK set{fd}",
        remedy: "try again when the program has sent what it collects there",
        ..Rule::DUMP
    },
    Rule {
        name: "socket-family",
        seen: &["Unknown socket collected (family {family})", "sockets: Sockets (family {family} proto"],
        cause: "{who} has a socket of {family}{fd}, which CRIU does not know",
        remedy: "have the program close it before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "netlink-unread",
        seen: &["netlink: The socket has data to read"],
        cause: "the kernel's answer on a netlink socket of {who} was not read yet{fd}",
        remedy: "try again: mostly it is read a moment later; else the program has to read it or close the socket",
        ..Rule::DUMP
    },
    Rule {
        name: "netlink-groups",
        seen: &[
            "netlink: The netlink socket {} has more than 32 groups",
            "netlink: Groups above 32 are not supported",
        ],
        cause: "{who} listens to a netlink group above 32{fd}, which CRIU cannot dump",
        remedy: "have the program close the socket before the checkpoint",
        ..Rule::DUMP
    },
    Rule {
        name: "message-with-credentials",
        seen: &["skqueue: Control messages in queue, not supported"],
        cause: "a unix socket of {who} has an unread message with the sender's credentials{fd}",
        remedy: "try again: mostly it is read a moment later",
        ..Rule::DUMP
    },
    Rule {
        name: "unix-stream-outside",
        seen: &["unix: Can't dump half of stream unix connection"],
        cause: "a stream unix socket of a process is connected to one outside of the container",
        remedy: "no flag helps: have the program close the connection before the checkpoint and connect again after it",
        ..Rule::DUMP
    },
    Rule {
        name: "unix-socket-outside",
        seen: &["unix: External socket is used"],
        cause: "a unix socket of a process is connected to one outside of the container",
        remedy: "pass --ext-unix-sk to leave the other end of datagram sockets behind; stream sockets must be closed first",
        ..Rule::DUMP
    },
    Rule {
        name: "unix-peer-elsewhere",
        seen: &["unix: Unix socket {} without peer", "unix: Unix socket {} with unreachable peer"],
        cause: "{who} is connected to a unix socket outside of the container's network namespace{fd}",
        remedy: "no flag helps: have the program close the connection before the checkpoint and connect again after it",
        ..Rule::DUMP
    },
    Rule {
        name: "unix-peer-gone",
        seen: &["unix: Dangling connection"],
        cause: "the other end of a unix socket of {who} is gone, or outside of the container and has not accepted it{fd}",
        remedy: "have the program close the connection before the checkpoint and connect again after it",
        ..Rule::DUMP
    },
    Rule {
        name: "unix-connection-waits",
        seen: &[
            "unix: Non-empty write queue on an in-flight socket",
            "unix: Found a closed in-flight socket",
            "unix: In-flight connection on non-listening socket",
        ],
        cause: "a connection to a unix socket of {who} waits to be accepted and has sent data, or was closed already",
        remedy: "try again when it is accepted: CRIU cannot take such a connection along",
        ..Rule::DUMP
    },
    Rule {
        name: "unix-peer-without-name",
        seen: &["unix: Can't dump name-less external socket"],
        cause: "a process is connected to a unix socket outside of the container that has no name",
        remedy: "have the program close the connection before the checkpoint: nobody could find the other end again",
        ..Rule::DUMP
    },
    Rule {
        name: "unix-socket-of-another-network",
        seen: &["unix: Unix socket {} not found"],
        cause: "{who} has a unix socket that was made outside of the container's network namespace{fd}",
        remedy: "give the container pipes instead of sockets, or make the socket in the container's network namespace",
        ..Rule::DUMP
    },
    Rule {
        name: "unix-socket-outside-in-images",
        seen: &["unix: External socket found in image"],
        cause: "the images hold a unix socket whose other end was outside of the container",
        remedy: "pass --ext-unix-sk to the restore as well",
        ..Rule::RESTORE
    },
    Rule {
        name: "unix-outside-is-missing",
        only: If::Given("--ext-unix-sk"),
        seen: &[
            "unix: Can't connect {} socket: No such file",
            "unix: Can't connect {} socket: Connection refused",
        ],
        cause: "nobody listens on the unix socket outside to which {who} was connected",
        remedy: "start the program that listens there before the restore",
        ..Rule::RESTORE
    },
    Rule {
        name: "address-in-use",
        seen: &[
            "an't bind inet socket {}: Address already in use",
            "Can't listen on a socket: Address already in use",
        ],
        cause: "a port of {who} is in use already in the network namespace that the container is restored to",
        remedy: "`ss -ltnup` there tells by whom: end that program, or restore with a network namespace of its own",
        ..Rule::RESTORE
    },
    Rule {
        name: "address-missing",
        seen: &["an't bind inet socket {}: Cannot assign requested address"],
        cause: "an address that {who} had is not there in the network namespace that the container is restored to",
        remedy: "give the namespace the addresses of the checkpoint (`ip addr add`) before the restore",
        ..Rule::RESTORE
    },
    Rule {
        name: "connection-unreachable",
        seen: &[
            "an't connect inet socket back: Network is unreachable",
            "an't connect inet socket back: No route to host",
        ],
        cause: "the other end of a TCP connection of {who} cannot be reached from the restored container's network",
        remedy: "give its network namespace the addresses and routes of the checkpoint, and set `lo` up, before the restore",
        ..Rule::RESTORE
    },
    Rule {
        name: "connection-address-missing",
        seen: &["Can't connect inet socket back: Cannot assign requested address"],
        cause: "the address from which {who} had a TCP connection is not there any more",
        remedy: "give the network namespace the addresses of the checkpoint, or pass --tcp-close to drop connections",
        ..Rule::RESTORE
    },
    Rule {
        name: "unix-name-in-use",
        seen: &["unix: Can't bind id {} addr {path}: Address already in use"],
        cause: "the unix socket {path} of {who} exists already",
        remedy: "remove it, or restore with the files of the checkpoint",
        ..Rule::RESTORE
    },
    Rule {
        name: "unix-directory-missing",
        seen: &["unix: Can't bind id {} addr {path}: No such file or directory"],
        cause: "the directory of the unix socket {path} of {who} is missing",
        remedy: "restore with the files of the checkpoint",
        ..Rule::RESTORE
    },
    Rule {
        name: "socket-diagnostics-missing",
        seen: &["sockets: Diag module missing", "Can't create sock diag socket"],
        cause: "the kernel does not tell CRIU about sockets: a module for socket diagnostics is missing",
        remedy: "modprobe -a inet_diag tcp_diag udp_diag raw_diag unix_diag netlink_diag af_packet_diag",
        ..Rule::ANY
    },
    Rule {
        name: "packet-interface-missing",
        seen: &["packet: Can't bind packet socket", "packet: Can't get interface name"],
        cause: "{who} has a packet socket on a network interface that is not there",
        remedy: "give the network namespace the interfaces of the checkpoint before the restore",
        ..Rule::ANY
    },
    Rule {
        name: "bound-interface-missing",
        seen: &["inet: couldn't find ifindex for {path}", "inet: couldn't find ifname for {}, can't bind"],
        cause: "{who} has a socket that is bound to a network interface that is not there",
        remedy: "give the network namespace the interfaces of the checkpoint before the restore",
        ..Rule::ANY
    },
];
