// SPDX-License-Identifier: Apache-2.0
//! Namespaces of a process that are not those of its container, and mounts that the container makes.

use std::fs;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{gethostname, sethostname};

use super::held::content;
use super::{Child, Made, made};
use crate::lifecycle::{Checked, During as _, expect_eq};

super::exhibits![own_host_name, own_mounts, own_network, own_ipc, own_users, mounted_tmpfs, mounted_bind,];

/// A child with a namespace of its own, which is not its parent's before and after.
fn child_with(flag: CloneFlags, kind: &'static str, prepare: fn() -> Checked, look: fn() -> Checked) -> Made {
    let number = move |pid: &str| {
        let at = format!("/proc/{pid}/ns/{kind}");
        fs::read_link(&at).during(&at)
    };
    let mut child = Child::start(move || {
        unshare(flag).during("unshare")?;
        prepare()?;
        Ok(move |_: &str| look().map(|()| String::new()))
    })?;
    let pid = child.pid().to_string();
    made(move || {
        expect_eq("they share it", number("self")? == number(&pid)?, false)?;
        child.check("look around")
    })
}

fn name() -> Result<String, String> {
    gethostname().map(|name| name.to_string_lossy().into_owned()).during("gethostname")
}

fn own_host_name() -> Made {
    let prepare = || sethostname("nested").during("sethostname");
    child_with(CloneFlags::CLONE_NEWUTS, "uts", prepare, || expect_eq("name", name()?.as_str(), "nested"))
}

fn mount_tmpfs() -> Checked {
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::MS_NODEV, Some("size=1m")).during("mount")?;
    fs::write("/tmp/held", content(5000)).during("write")
}

fn propagate(at: &str, how: MsFlags) -> Checked {
    mount(None::<&str>, at, None::<&str>, how, None::<&str>).during("set the propagation")
}

fn look_at_tmpfs() -> Checked {
    expect_eq("the content is right", fs::read("/tmp/held").during("read")? == content(5000), true)
}

fn own_mounts() -> Made {
    let prepare = || {
        propagate("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
        mount_tmpfs()
    };
    child_with(CloneFlags::CLONE_NEWNS, "mnt", prepare, look_at_tmpfs)
}

fn own_network() -> Made {
    child_with(
        CloneFlags::CLONE_NEWNET,
        "net",
        || Ok(()),
        || {
            let text = super::proc::text("/proc/self/net/dev")?;
            expect_eq("interfaces", text.lines().skip(2).count(), 1)
        },
    )
}

fn own_ipc() -> Made {
    child_with(CloneFlags::CLONE_NEWIPC, "ipc", || Ok(()), || Ok(()))
}

fn own_users() -> Made {
    child_with(CloneFlags::CLONE_NEWUSER, "user", || Ok(()), || Ok(()))
}

/// The container itself has mounted it.
fn mounted_tmpfs() -> Made {
    mount_tmpfs()?;
    propagate("/tmp", MsFlags::MS_SHARED)?;
    made(|| {
        let text = super::proc::text("/proc/self/mountinfo")?;
        let line = text.lines().find(|line| line.contains(" /tmp ")).ok_or("it is not mounted")?;
        let as_made = line.contains("nodev") && line.contains("size=1024k") && line.contains(" shared:");
        expect_eq(line, as_made, true)?;
        look_at_tmpfs()
    })
}

/// A directory of the root file system at another place.
fn mounted_bind() -> Made {
    fs::create_dir_all("/root/source").during("mkdir")?;
    fs::write("/root/source/held", content(300)).during("write")?;
    mount(Some("/root/source"), "/run", None::<&str>, MsFlags::MS_BIND, None::<&str>).during("mount")?;
    made(|| {
        let text = super::proc::text("/proc/self/mountinfo")?;
        expect_eq("it is mounted", text.lines().any(|line| line.contains("/root/source /run ")), true)?;
        expect_eq("the content is right", fs::read("/run/held").during("read")? == content(300), true)
    })
}
