// SPDX-License-Identifier: Apache-2.0
//! The harness of the end-to-end tests: a [`Stage`] with its [`Host`]s, the [`Bundle`]s on them, the [`Container`]s that
//! run there, and [`wait_until`], the only way in which a test waits.
//!
//! A host is a mount, network and pid namespace with a directory of its own and a first process that reaps, as on a
//! machine. When a test ends, however it ends, its hosts go down and take every process with them.
//!
//! ```text
//!   Stage::set(needs) ──▶ stage.host("a") ──▶ Bundle::new(&host, ..) ──▶ host.run_detached(id, &bundle) ──▶ Container
//!                                                                          container.status(), goes_on(), delete()
//!                         host.assert_no_trace()
//! ```
//! Environment: `MIGRATE_BIN` names the binary under test; `MIGRATE_CRIU` a CRIU; `MIGRATE_TEST_ALL=1` makes a missing
//! requirement a failure instead of a reason to ignore the test, and `vm` also one that only a virtual machine has;
//! `MIGRATE_TEST_FULL=1` asks for everything ([`in_full`]).

mod bundle;
mod cgroup_files;
mod command;
mod container;
mod containerd;
mod contents;
mod docker_registry;
mod held_criu;
mod host;
mod huge_pages;
mod image;
mod inspect;
mod large_pipes;
mod machine;
mod migration;
mod net;
mod podman;
mod programs;
pub mod protocol;
mod relay;
mod replay;
mod requirements;
mod sshd;
mod stage;
mod status;
mod systemd;
mod terminal;
mod tokens;
mod trace;
mod wait;

pub use bundle::Bundle;
pub use command::{Command, Output, Running};
pub use container::Container;
pub use containerd::Containerd;
pub use contents::{contents, put_back};
pub use docker_registry::DockerRegistry;
pub use held_criu::{HeldCriu, Moment};
pub use host::Host;
pub use huge_pages::HugePages;
pub use inspect::Inspection;
pub use large_pipes::LargePipes;
pub use machine::{Armed, CRASH, MACHINE_PATIENCE, Machine};
pub use migration::{Receiver, Silent, frame, journal, migration, recorded, say};
pub use net::Net;
pub use podman::Podman;
pub use programs::{checkpointctl, crun, embedder, example, migrate, workload};
pub use relay::{Deal, End, Relay};
pub use replay::{read_trace, replay};
pub use requirements::{Need, criu, in_full, rounds};
pub use sshd::Sshd;
pub use stage::Stage;
pub use status::Status;
pub use systemd::{Cgroups, Systemd};
pub use terminal::{Terminal, receive_descriptor};
pub use tokens::Tokens;
pub use wait::{PATIENCE, wait_until};
