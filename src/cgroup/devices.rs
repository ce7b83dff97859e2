// SPDX-License-Identifier: Apache-2.0
//! Which devices a cgroup's processes may use: the list of the v1 controller, a program of the kernel's on v2.

use std::os::fd::AsFd as _;

use super::cgroup::Cgroup;
use super::directory::Directory;
use super::limits::explain;
use super::resources::{DeviceProgram, DeviceTable};
use crate::spec::oci::LinuxDeviceCgroup;
use crate::sys::bpf;
use crate::{Context, Result};

impl Cgroup {
    /// Lets the cgroup use the devices that the rules of `linux.resources.devices` allow, and those that every
    /// container has; without rules only the latter. At no moment is more allowed than before or after.
    ///
    /// # Errors
    /// A rule is malformed or, on v1, cannot be expressed; the kernel refuses it.
    pub fn restrict_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<()> {
        if let Some(node) = self.v1_node("devices") {
            let table = DeviceTable::from_rules(rules)?;
            let directory = node.existing()?;
            if table.is_shown_by(&directory.read("devices.list")?) {
                return Ok(());
            }
            return table.writes().iter().try_for_each(|write| {
                directory.write(&write.file, &write.value).map_err(|error| explain(error, write, &directory))
            });
        }
        let Some(node) = self.v2_node() else { return Ok(()) };
        let program = DeviceProgram::from_rules(rules)?;
        let directory = node.existing()?;
        install(&directory, &program)
            .context(|| format!("restrict the devices of cgroup {}", directory.path().display()))
    }
}

fn install(directory: &Directory, program: &DeviceProgram) -> Result<()> {
    let program = bpf::load_device_program(&program.assemble()).context(|| "bpf(BPF_PROG_LOAD)")?;
    let present = bpf::device_programs(directory.as_fd()).context(|| "bpf(BPF_PROG_QUERY)")?;
    let attach = |flags, replaced| {
        bpf::attach_device_program(directory.as_fd(), program.as_fd(), flags, replaced)
            .context(|| "bpf(BPF_PROG_ATTACH)")
    };
    let by_id = |id: &u32| bpf::program_by_id(*id).context(|| "bpf(BPF_PROG_GET_FD_BY_ID)");
    match present.ids.as_slice() {
        [] => attach(bpf::ALLOW_MULTI, None),
        // The only one that there can be is replaced by the next.
        [_] if present.flags & bpf::ALLOW_MULTI == 0 => attach(present.flags, None),
        [one] => attach(bpf::ALLOW_MULTI, Some(by_id(one)?.as_fd())),
        // All must agree: with the new one there, the others can go one by one.
        several => {
            attach(bpf::ALLOW_MULTI, None)?;
            several.iter().try_for_each(|id| {
                bpf::detach_device_program(directory.as_fd(), by_id(id)?.as_fd())
                    .context(|| "bpf(BPF_PROG_DETACH)")
            })
        }
    }
}
