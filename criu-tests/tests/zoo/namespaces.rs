// SPDX-License-Identifier: Apache-2.0
//! Namespaces of a process that are not those of its container, and mounts that the container makes.

exhibits![
    own_mounts => |row| row.capabilities(&["CAP_SYS_ADMIN"]),
    own_network => |row| row.capabilities(&["CAP_SYS_ADMIN"]),
    mounted_tmpfs => |row| row.capabilities(&["CAP_SYS_ADMIN"]),
    mounted_bind => |row| row.capabilities(&["CAP_SYS_ADMIN"]),
];
