// SPDX-License-Identifier: Apache-2.0
//! The container engine: what libcontainer does, from a bundle to a process in its own namespaces and back to nothing.
//!
//! ```text
//!   StateRoot + ContainerBuilder ── create ──▶ Container ── start · exec · kill · delete
//!                     └────────── prepare ──▶ NewContainer (restore fills it with a process that CRIU made)
//! ```
//!
//! Everything is re-entrant from disk: a command may die at any instruction, and the next one derives the truth from
//! the process (pid and start time), the freezer and the fifo. The engine does not know CRIU or archives.

mod attributes;
mod builder;
mod capabilities;
mod cgroup_driver;
mod console;
mod container;
pub mod descriptors;
mod exec;
mod features;
mod first_process;
mod foreground;
mod hooks;
pub mod host_mounts;
mod id;
pub mod image_files;
mod init;
mod intel_rdt;
mod keyring;
mod lock;
mod lsm;
mod memory_notices;
mod namespaces;
mod network;
mod new_container;
mod outstanding_memory;
mod ownership;
mod pause;
mod pidfd_socket;
mod process;
mod program;
mod remains;
mod restore_limits;
mod restored_network;
mod resuming;
pub mod rootfs;
mod rootless;
mod running_process;
mod saved_config;
mod saved_threads;
mod sd_notify;
mod seccomp;
mod signal;
mod state;
mod state_root;
mod stats;
mod status;
mod throttle;
mod time_offsets;
mod update;
mod user;
mod user_namespace;

pub use builder::ContainerBuilder;
pub use cgroup_driver::CgroupDriver;
pub use console::Console;
pub use container::{Container, ContainerLock};
pub use exec::ExecOptions;
pub use features::{Features, features};
pub use foreground::{ExitCode, Foreground};
pub use id::ContainerId;
pub use init::init_if_requested;
pub use intel_rdt::{
    CacheInfo, CacheOccupancy, MemoryBandwidth, MemoryBandwidthInfo, RdtChange, RdtGroups, RdtStats,
};
pub use memory_notices::{MemoryNotices, Notice};
pub use namespaces::Namespaces;
pub use network::{
    AddressedInterface, Cidr, HostEnd, MovingAddresses, Network, NetworkContent, NetworkInterface,
    NetworkRoute, NetworkState, NetworkSurvey, SavedNetwork, TakenDevices, VethNetwork,
};
pub use new_container::NewContainer;
pub use outstanding_memory::OutstandingMemory;
pub use ownership::Ownership;
pub use pidfd_socket::{PidfdSocket, ProcessKind};
pub(crate) use process::ResolvedIo;
pub use process::{Process, ProcessIo};
pub use restore_limits::LimitsDue;
pub use resuming::Resuming;
pub use rootless::Rootless;
pub use running_process::RunningProcess;
pub use saved_threads::SavedThreads;
pub use sd_notify::NotifyProxy;
pub use sd_notify::service_manager_mount;
pub use seccomp::{SeccompFeatures, seccomp_features};
pub use signal::parse_signal;
pub use state::{InitProcess, State};
pub(crate) use state_root::MIGRATIONS;
pub use state_root::{StateRoot, StateRootBuilder};
pub use status::Status;
pub use user::UserId;
pub use user_namespace::{IdMapping, UserNamespace};
