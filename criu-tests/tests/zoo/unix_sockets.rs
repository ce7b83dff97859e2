// SPDX-License-Identifier: Apache-2.0
//! Unix sockets: all types, what is under way in them, and the names that they have.

exhibits![
    unix_stream_with_data,
    unix_datagrams_in_flight,
    unix_packets_in_flight,
    unix_descriptor_in_flight,
    unix_connection_that_waits,
    unix_abstract_name,
    unix_name_that_is_removed,
    unix_half_that_is_shut_down,
    unix_peer_that_is_gone,
    unix_datagrams_by_name,
    unix_peers_in_two_processes,
    unix_socket_options,
];
