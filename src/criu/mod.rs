// SPDX-License-Identifier: Apache-2.0
//! Everything between us and CRIU: finding it, its version, its protocol, its notifications, its log, its statistics.
//!
//! Knows file descriptors and process ids, **not** containers. CRIU itself is a process of its own per operation;
//! no type of `rust-criu` or `protobuf` appears in the interface.
//!
//! ```text
//! Criu::find ─▶ CriuClient::spawn ─▶ dump(DumpRequest, Notify)       ─▶ Dumped{stats}
//!                 (version checked) └▶ restore(RestoreRequest, Notify) ─▶ Restored{pid, pidfd}
//! ```

mod client;
mod config_file;
mod core_image;
mod failure;
mod find;
mod kerndat;
pub mod lock_table;
mod log;
mod mounts;
mod notify;
mod pages;
mod request;
mod rpc;
mod stats;
mod version;

pub use client::{CriuClient, Dumped, Features, Restored, Session, SpawnOptions, Stdio};
pub use config_file::{CONFIG_ANNOTATION, config_file};
pub use core_image::process_names;
pub use failure::{End, Failure, Quoted};
pub use find::{Criu, require_root};
pub use log::{Job, Level, LogError, LogLine, first_error, is_noise, log_lines, printable};
pub use mounts::mounts_from_outside;
pub use notify::{Notify, Silent};
pub use pages::check_pages;
pub use request::{
    AfterDump, CgroupRoot, DumpRequest, ExternalMount, InheritFd, InheritedFd, JoinNamespace, ManageCgroups,
    NetworkLock, Options, PageServer, RestoreRequest, RestoredParent, TcpConnections,
};
pub use stats::{DumpStats, RestoreStats};
pub use version::{Kernel, MINIMUM, Version, check, check_inet_sockets};
