// SPDX-License-Identifier: Apache-2.0
//! Locks and leases, which CRIU dumps when it is told to.

exhibits![flock_exclusive => |row| row.flags(&["--file-locks"])];
