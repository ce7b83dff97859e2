// SPDX-License-Identifier: Apache-2.0
//! Sockets of the network within the container, and those to the kernel.

exhibits![
    tcp_listener,
    tcp_connection_within => |row| row.flags(&["--tcp-established"]),
    tcp_that_both_have_closed => |row| row.flags(&["--tcp-established"]),
    tcp_that_is_closed_with_bytes_to_send => |row| row.flags(&["--tcp-established"]),
    tcp_that_the_peer_has_closed => |row| row.flags(&["--tcp-established"]),
    udp_bound,
    udp_connected,
    udp_of_ipv6,
    udp_lite,
    raw_socket => |row| row.capabilities(&["CAP_NET_RAW"]),
    packet_socket => |row| row.capabilities(&["CAP_NET_RAW"]),
    netlink_socket,
    options_of_sockets,
    options_of_connections,
    options_of_addresses,
    bound_to_an_interface,
];
