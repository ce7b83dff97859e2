// SPDX-License-Identifier: Apache-2.0
//! Processes that share what processes seldom share.

exhibits![shared_descriptors => |row| row.capabilities(&["CAP_SYS_PTRACE"])];
