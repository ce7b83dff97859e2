// SPDX-License-Identifier: Apache-2.0
//! What is asked of CRIU.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use protobuf::EnumOrUnknown;

use super::*;

fn null() -> File {
    File::open("/dev/null").expect("/dev/null")
}

#[test]
fn an_external_mount_is_spelt_as_criu_does() {
    let parse = |object: &str| ExternalMount::parse(object).map(|mount| (mount.key, mount.value));
    assert_eq!(parse("mnt[/a]:/b"), Some(("/a".to_owned(), "/b".to_owned())));
    for other in ["mnt[]:sm", "mnt[/a]", "file[7:9]", "veth[a]:b", ""] {
        assert_eq!(parse(other), None, "{other}");
    }
}

#[test]
fn a_plain_dump_says_the_defaults_aloud() {
    let dir = null();
    let opts = DumpRequest::new(42, dir.as_fd()).message().expect("nothing odd");
    assert_eq!(opts.images_dir_fd, Some(dir.as_raw_fd()));
    assert_eq!((opts.pid, opts.log_level), (Some(42), Some(4)));
    assert_eq!(opts.log_file.as_deref(), Some("dump.log"));
    assert_eq!(opts.notify_scripts, Some(true));
    assert_eq!(opts.manage_cgroups, Some(true));
    assert_eq!(opts.manage_cgroups_mode, Some(EnumOrUnknown::new(Criu_cg_mode::SOFT)));
    assert_eq!(opts.tcp_established, Some(false));
    for absent in [opts.leave_running, opts.leave_stopped, opts.track_mem, opts.rst_sibling] {
        assert_eq!(absent, None);
    }
    assert!(opts.network_lock.is_none() && opts.empty_ns.is_none() && opts.work_dir_fd.is_none());
    assert!(
        opts.root.is_none() && opts.freeze_cgroup.is_none() && opts.timeout.is_none() && opts.ps.is_none()
    );
}

#[test]
fn each_choice_becomes_its_option() {
    type Change = fn(&mut DumpRequest<'_>);
    type Check = fn(&Criu_opts) -> bool;
    let table: &[(&str, Change, Check)] = &[
        ("leave running", |r| r.after = AfterDump::Run, |o| o.leave_running == Some(true)),
        ("leave stopped", |r| r.after = AfterDump::Stop, |o| o.leave_stopped == Some(true)),
        ("keep tcp", |r| r.options.tcp = TcpConnections::Keep, |o| o.tcp_established() && !o.tcp_close()),
        ("close tcp", |r| r.options.tcp = TcpConnections::Close, |o| !o.tcp_established() && o.tcp_close()),
        ("skip in flight", |r| r.tcp_skip_in_flight = true, Criu_opts::tcp_skip_in_flight),
        ("shell job", |r| r.options.shell_job = true, Criu_opts::shell_job),
        ("unix", |r| r.options.ext_unix_sk = true, Criu_opts::ext_unix_sk),
        ("locks", |r| r.options.file_locks = true, Criu_opts::file_locks),
        ("links", |r| r.link_remap = true, Criu_opts::link_remap),
        ("evasive", |r| r.options.evasive_devices = true, Criu_opts::evasive_devices),
        ("pts", |r| r.options.orphan_pts_master = true, Criu_opts::orphan_pts_master),
        ("dedup", |r| r.options.auto_dedup = true, Criu_opts::auto_dedup),
        ("netns", |r| r.options.empty_netns = true, |o| o.empty_ns == Some(0x4000_0000)),
        ("ghost", |r| r.ghost_limit = Some(7), |o| o.ghost_limit == Some(7)),
        ("track", |r| r.track_memory = true, Criu_opts::track_mem),
        ("cpu", |r| r.options.cpu_cap = Some(3), |o| o.cpu_cap == Some(3)),
        ("page server", |r| r.page_server = Some(PageServer::Socket(InheritedFd(4))), |o| o.ps.fd == Some(4)),
        (
            "page server elsewhere",
            |r| r.page_server = Some(PageServer::Address { address: "::1".into(), port: 7 }),
            |o| (o.ps.address(), o.ps.port()) == ("::1", 7),
        ),
        ("lazy", |r| r.lazy_pages = true, Criu_opts::lazy_pages),
        ("root", |r| r.options.root = Some("/r".into()), |o| o.root.as_deref() == Some("/r")),
        ("freezer", |r| r.freeze_cgroup = Some("/f".into()), |o| o.freeze_cgroup.as_deref() == Some("/f")),
        ("parent", |r| r.parent_images = Some("../0".into()), |o| o.parent_img.as_deref() == Some("../0")),
        ("config", |r| r.options.config_file = Some("/c".into()), |o| o.config_file.as_deref() == Some("/c")),
        (
            "timeout is rounded up",
            |r| r.options.timeout = Some(Duration::from_millis(1500)),
            |o| o.timeout == Some(2),
        ),
        ("no timeout of 0", |r| r.options.timeout = Some(Duration::ZERO), |o| o.timeout == Some(1)),
        ("external", |r| r.options.external.push("net[1]:x".to_owned()), |o| o.external == ["net[1]:x"]),
        (
            "mounts",
            |r| r.options.external_mounts.push(ExternalMount { key: "/a".into(), value: "/b".into() }),
            |o| o.ext_mnt.len() == 1 && o.ext_mnt[0].key() == "/a" && o.ext_mnt[0].val() == "/b",
        ),
    ];
    let dir = null();
    for (name, change, check) in table {
        let mut request = DumpRequest::new(1, dir.as_fd());
        assert!(!check(&request.message().expect(name)), "{name} must not be the default");
        change(&mut request);
        assert!(check(&request.message().expect(name)), "{name}");
    }
}

#[test]
fn enumerations_have_crius_numbers() {
    let dir = null();
    let mut request = DumpRequest::new(1, dir.as_fd());
    let cgroups = [
        (ManageCgroups::Ignore, 0),
        (ManageCgroups::None, 1),
        (ManageCgroups::Properties, 2),
        (ManageCgroups::Soft, 3),
        (ManageCgroups::Full, 4),
        (ManageCgroups::Strict, 5),
    ];
    for (mode, number) in cgroups {
        request.options.manage_cgroups = mode;
        let opts = request.message().expect("nothing odd");
        assert_eq!(opts.manage_cgroups_mode.map(|m| m.value()), Some(number));
        assert_eq!(opts.manage_cgroups, Some(number != 0));
    }
    let locks = [
        (NetworkLock::Default, None),
        (NetworkLock::Iptables, Some(1)),
        (NetworkLock::Nftables, Some(2)),
        (NetworkLock::Skip, Some(3)),
    ];
    for (lock, number) in locks {
        request.options.network_lock = lock;
        let opts = request.message().expect("nothing odd");
        assert_eq!(opts.network_lock.map(|m| m.value()), number);
    }
    assert_eq!(request.options.needs().map(|(version, _)| version), Some(Version::new(3, 19, 0)));
}

#[test]
fn a_restore_carries_its_lists() {
    let (dir, work) = (null(), null());
    let mut request = RestoreRequest::new(dir.as_fd());
    request.options.work_dir = Some(work.as_fd());
    request.inherit_fds.push(InheritFd { key: "pipe:[7]".into(), fd: InheritedFd::STDOUT });
    request.cgroup_roots.push(CgroupRoot { controllers: String::new(), path: "/c".into() });
    request.join_ns.push(JoinNamespace { kind: "ipc".into(), file: "/proc/1/ns/ipc".into() });
    request.lsm_profile = Some("apparmor:x".into());
    request.skip_file_rwx_check = true;
    let opts = request.message().expect("nothing odd");
    assert_eq!(opts.log_file.as_deref(), Some("restore.log"));
    assert_eq!(opts.work_dir_fd, Some(work.as_raw_fd()));
    assert_eq!(opts.rst_sibling, Some(true));
    assert_eq!((opts.inherit_fd[0].key(), opts.inherit_fd[0].fd()), ("pipe:[7]", 1));
    assert_eq!((opts.cg_root[0].ctrl.as_deref(), opts.cg_root[0].path()), (Some(""), "/c"));
    assert_eq!((opts.join_ns[0].ns(), opts.join_ns[0].ns_file()), ("ipc", "/proc/1/ns/ipc"));
    assert_eq!(opts.lsm_profile.as_deref(), Some("apparmor:x"));
    assert!(opts.skip_file_rwx_check());
    request.parent = RestoredParent::Criu;
    assert_eq!(request.message().expect("nothing odd").rst_sibling, Some(false));
}

#[test]
fn what_the_protocol_cannot_carry_is_refused() {
    let dir = null();
    let mut request = DumpRequest::new(1, dir.as_fd());
    request.options.root = Some(OsStr::from_bytes(b"/\xff").into());
    assert_eq!(request.message().expect_err("not UTF-8").kind(), ErrorKind::InvalidInput);
    let mut request = RestoreRequest::new(dir.as_fd());
    request.inherit_fds.push(InheritFd { key: "a\0b".into(), fd: InheritedFd::STDIN });
    assert_eq!(request.message().expect_err("a NUL byte").kind(), ErrorKind::InvalidInput);
}
