// SPDX-License-Identifier: Apache-2.0
//! Everything between us and CRIU: finding it, its version, its protocol, its notifications, its log, its images.
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
mod failure;
mod find;
pub mod image;
mod kerndat;
pub mod lock_rules;
pub mod lock_table;
mod log;
mod notify;
mod request;
mod rpc;
mod version;

pub use client::{
    CriuClient, Dumped, Features, PROGRAMS, Restored, Session, SpawnOptions, StartingCriu, Stdio,
};
pub use config_file::{CONFIG_ANNOTATION, config_file, lazy_socket};
pub use failure::{End, Failure, Quoted};
pub use find::{Criu, require_root, search_path};
pub use image::{
    DumpStats, LeftLock, RestoreStats, has_image, left_lock, mounts_from_outside, process_names,
    require_complete,
};
pub use log::{
    Job, Level, LogError, LogLine, beginning as log_beginning, first_error, is_noise, log_lines, printable,
};
pub use notify::{Notify, Silent};
pub use request::{
    AfterDump, CgroupRoot, DumpRequest, ExternalMount, InheritFd, InheritedFd, JoinNamespace, ManageCgroups,
    NetworkLock, Options, PageServer, RestoreRequest, RestoredParent, TcpConnections,
};
pub use version::{Kernel, MINIMUM, Version, check, check_inet_sockets};
