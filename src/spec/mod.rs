// SPDX-License-Identifier: Apache-2.0
//! The OCI runtime specification as data: reading `config.json`, judging it, and writing a first one.
//!
//! Pure but for the one read in [`Config::load`]: bytes in, values or an error that names the field out. It does not
//! know what a container is made of; whether the *kernel* grants what a valid configuration asks is the engine's to
//! find out.

mod differences;
mod grants;
mod host_access;
mod load;
mod namespaces;
mod network;
mod process;
mod resources;
mod seccomp;
mod template;
mod validate;

pub use differences::kept_fields;
pub use grants::{Grant, Grants, TooLarge};
pub use host_access::{HostAccess, Wish, host_access, is_bind};
pub use load::{Config, parse_process};
pub use network::is_interface_name;
pub use oci_spec::runtime as oci;
pub use process::parse_list;
pub use resources::ResourceChange;
pub use seccomp::asks_others;
pub use template::{make_rootless, template};
pub use validate::{parameter_namespace, validate, validate_process};

/// The version of the runtime specification that this crate implements.
pub const OCI_VERSION: &str = "1.3.0";
