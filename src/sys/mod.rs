// SPDX-License-Identifier: Apache-2.0
//! The only layer with `unsafe`: system calls that the libraries do not wrap, and readers of `/proc`. Thin and typed;
//! no policy, no logging, no knowledge of containers.
#![allow(unsafe_code)]

pub mod ancestry;
pub mod announce;
pub mod apparmor;
pub mod arch;
pub mod beneath;
pub mod bpf;
pub mod clock;
pub mod command;
pub mod detached;
pub mod fd;
pub mod holder;
pub mod id_maps;
pub mod kcmp;
pub mod keyring;
pub mod lease;
pub mod mapping_namespace;
pub mod memory_tracking;
pub mod metadata;
pub mod mount;
pub mod mountinfo;
pub mod namespace;
pub mod net;
pub mod netlink;
pub mod network_parameters;
pub mod pagemap;
pub mod pidfd;
pub mod proc;
pub mod process;
pub mod procfs;
pub mod remote_memory;
pub mod scheduling;
pub mod seccomp;
pub mod self_exe;
pub mod selinux;
pub mod seqpacket;
pub mod socket;
pub mod spawn;
pub mod swrk;
pub mod tcp;
pub mod tracee;
pub mod tty;
pub mod userfault;
pub mod write_tracking;
