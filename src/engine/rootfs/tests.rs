// SPDX-License-Identifier: Apache-2.0
//! The root filesystem on a real kernel. Needs root.
//!
//! Each test builds its root filesystem in a temporary directory and works in a thread that has a mount namespace
//! and a filesystem context (root, working directory, umask) of its own, which end with the thread.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::resolve::{Links, Mountpoint, Root};
use super::*;
use crate::sys::mountinfo::{self, MountInfo};
use crate::{Error, ErrorKind};

/// What a new bundle's `config.json` says about the root filesystem.
pub(super) fn default_config() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {"cwd": "/", "args": ["sh"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

pub(super) struct Bundle {
    pub(super) directory: TempDir,
    pub(super) config: Value,
    pub(super) context: PlanContext,
}

impl Bundle {
    /// The default configuration over an empty root filesystem.
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        fs::create_dir(directory.path().join("rootfs")).expect("mkdir");
        Self { directory, config: default_config(), context: PlanContext::default() }
    }

    /// Only these mounts; nothing masked, nothing read-only.
    pub(super) fn with_mounts(mounts: Value) -> Self {
        let mut bundle = Self::new();
        bundle.config["root"]["readonly"] = json!(false);
        bundle.config["linux"]["maskedPaths"] = json!([]);
        bundle.config["linux"]["readonlyPaths"] = json!([]);
        bundle.config["mounts"] = mounts;
        bundle
    }

    /// A host path beside the root filesystem.
    pub(super) fn host(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(super) fn rootfs(&self, path: &str) -> PathBuf {
        self.host("rootfs").join(path)
    }

    pub(super) fn mkdir(&self, path: &str) -> PathBuf {
        fs::create_dir_all(self.host(path)).expect("mkdir");
        self.host(path)
    }

    pub(super) fn write(&self, path: &str, text: &str) -> PathBuf {
        fs::write(self.host(path), text).expect("write");
        self.host(path)
    }

    pub(super) fn plan(&self) -> RootfsPlan {
        let spec = serde_json::from_value(self.config.clone()).expect("the configuration is well formed");
        RootfsPlan::from_spec(&spec, self.directory.path(), &self.host("rootfs"), &self.context)
            .expect("the configuration is valid")
    }

    /// Runs `check` inside the finished root filesystem.
    pub(super) fn inside<T: Send>(&self, check: impl FnOnce() -> T + Send) -> T {
        let plan = self.plan();
        in_namespace(|| {
            let built = prepare(&plan, &OwnSources).and_then(Prepared::enter).and_then(Entered::protect);
            built.unwrap_or_else(|error| panic!("{}", error.chain()));
            check()
        })
    }

    /// The error that preparing ends in.
    pub(super) fn refused(&self) -> Error {
        let plan = self.plan();
        in_namespace(|| prepare(&plan, &OwnSources).map(drop).expect_err("preparing must fail"))
    }
}

pub(super) fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
                    .expect("these tests need root (CAP_SYS_ADMIN) for a mount namespace");
                let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("make / private");
                test()
            })
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// The topmost mount at a path of the calling thread's namespace.
fn mount_at(path: &str) -> Option<MountInfo> {
    let mounts = mountinfo::read().expect("mountinfo is readable");
    mounts.into_iter().rev().find(|mount| mount.mount_point == Path::new(path))
}

pub(super) fn mounted(path: &str) -> MountInfo {
    mount_at(path).unwrap_or_else(|| panic!("nothing is mounted on {path}"))
}

#[test]
fn the_default_mounts_appear_with_their_flags_and_nothing_else_does() {
    let bundle = Bundle::new();
    bundle.inside(|| {
        let table = [
            ("/", "", "ro"),
            ("/proc", "proc", "rw,relatime"),
            ("/dev", "tmpfs", "rw,nosuid"),
            ("/dev/pts", "devpts", "rw,nosuid,noexec,relatime"),
            ("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec,relatime"),
            ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec,relatime"),
            ("/sys", "sysfs", "ro,nosuid,nodev,noexec,relatime"),
            ("/sys/fs/cgroup", "tmpfs", "ro,nosuid,nodev,noexec,relatime"),
        ];
        for (path, fstype, options) in table {
            let mount = mounted(path);
            if path == "/" {
                assert!(mount.has_option("ro"));
                continue;
            }
            assert_eq!((mount.fstype.as_str(), mount.options.as_str()), (fstype, options), "{path}");
        }
        assert!(mounted("/dev").super_options.contains("size=65536k"));
        assert!(mounted("/dev/pts").super_options.contains("gid=5,mode=620,ptmxmode=666"));
        assert_eq!(mounted("/dev/shm").source, Path::new("shm"));
        assert_eq!(fs::metadata("/dev/shm").expect("stat").mode() & 0o7777, 0o1777);
        assert_eq!(std::env::current_dir().expect("getcwd"), Path::new("/"));
        // The host is gone: only what was mounted and protected is in the table.
        let protected = ["/proc", "/sys", "/dev"];
        for mount in mountinfo::read().expect("mountinfo is readable") {
            let known = mount.mount_point == Path::new("/")
                || protected.iter().any(|path| mount.mount_point.starts_with(path));
            assert!(known, "{mount:?}");
        }
        let error = fs::write("/x", "").expect_err("/ is read-only");
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    });
}

#[test]
fn masked_and_readonly_paths_are_in_runcs_form() {
    Bundle::new().inside(|| {
        for path in ["/proc/keys", "/proc/timer_list", "/proc/kcore"] {
            let Ok(stat) = fs::metadata(path) else { continue };
            assert!(stat.file_type().is_char_device() && stat.rdev() == libc::makedev(1, 3), "{path}");
            assert_eq!(mounted(path).root, Path::new("/null"), "{path}");
        }
        assert_eq!(fs::read("/proc/keys").expect("the null device is readable"), b"");
        let firmware = mounted("/sys/firmware");
        assert_eq!((firmware.fstype.as_str(), firmware.has_option("ro")), ("tmpfs", true));
        assert_eq!(fs::read_dir("/sys/firmware").expect("readable").count(), 0);
        if Path::new("/proc/acpi").exists() {
            // One superblock for all: the same device number.
            let device = |path| fs::metadata(path).expect("stat").dev();
            assert_eq!(device("/proc/acpi"), device("/sys/firmware"));
        }
        for path in ["/proc/sys", "/proc/irq", "/proc/fs"] {
            let mount = mounted(path);
            assert_eq!((mount.fstype.as_str(), mount.has_option("ro")), ("proc", true), "{path}");
        }
        let error = fs::write("/proc/sys/kernel/hostname", "x").expect_err("read-only");
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        assert!(mount_at("/proc/timer_stats").is_none(), "a path that is missing is left out");
    });
}

#[test]
fn readonly_paths_keep_the_other_flags_of_their_mount() {
    let mut bundle = Bundle::new();
    bundle.config["linux"]["readonlyPaths"] = json!(["/dev/shm"]);
    bundle.inside(|| assert_eq!(mounted("/dev/shm").options, "ro,nosuid,nodev,noexec,relatime"));
}

#[test]
fn device_nodes_and_links_are_made_exactly() {
    let mut bundle = Bundle::new();
    bundle.config["linux"]["devices"] = json!([
        {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o600, "uid": 7, "gid": 9},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
    ]);
    bundle.inside(|| {
        let defaults = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];
        for (name, minor) in defaults {
            let stat = fs::symlink_metadata(Path::new("/dev").join(name)).expect("stat");
            assert!(stat.file_type().is_char_device(), "{name}");
            assert_eq!(
                (stat.rdev(), stat.mode() & 0o7777, stat.uid()),
                (libc::makedev(1, minor), 0o666, 0),
                "{name}"
            );
        }
        assert_eq!(fs::symlink_metadata("/dev/tty").expect("stat").rdev(), libc::makedev(5, 0));
        let tun = fs::symlink_metadata("/dev/net/tun").expect("stat");
        assert_eq!(tun.rdev(), libc::makedev(10, 200));
        assert_eq!((tun.mode() & 0o7777, tun.uid(), tun.gid()), (0o600, 7, 9));
        let pipe = fs::symlink_metadata("/dev/pipe").expect("stat");
        assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o7777 == 0o622);
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            assert_eq!(fs::read_link(Path::new("/dev").join(name)).expect("a link"), Path::new(target));
        }
        assert_eq!(fs::symlink_metadata("/dev/core").is_ok(), Path::new("/proc/kcore").exists());
    });
}

#[test]
fn devices_are_bound_from_the_host_where_mknod_is_not_wanted() {
    let bundle = Bundle::new();
    let plan = RootfsPlan { bind_devices: true, ..bundle.plan() };
    in_namespace(|| {
        let built = prepare(&plan, &OwnSources).and_then(Prepared::enter).and_then(Entered::protect);
        built.unwrap_or_else(|error| panic!("{}", error.chain()));
        let mount = mounted("/dev/null");
        assert_eq!(mount.root, Path::new("/null"));
        assert_eq!(fs::metadata("/dev/null").expect("stat").rdev(), libc::makedev(1, 3));
    });
}

#[test]
fn a_node_that_is_not_the_device_is_refused_and_left_alone() {
    let bundle = Bundle::with_mounts(json!([]));
    bundle.mkdir("rootfs/dev");
    let victim = bundle.write("victim", "untouched");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("chmod");
    symlink(&victim, bundle.rootfs("dev/null")).expect("symlink");
    let error = bundle.refused();
    assert!(error.to_string().contains("/dev/null"), "{}", error.chain());
    assert_eq!(fs::metadata(&victim).expect("stat").mode() & 0o7777, 0o600);
}

/// CVE-2025-31133: another container that shares `/dev` puts a link where the mask's source is expected.
#[test]
fn a_null_device_that_was_swapped_is_not_used_as_a_mask() {
    let bundle = Bundle::new();
    let plan = bundle.plan();
    in_namespace(|| {
        let prepared = prepare(&plan, &OwnSources).unwrap_or_else(|error| panic!("{}", error.chain()));
        let null = bundle.rootfs("dev/null");
        fs::remove_file(&null).expect("unlink");
        symlink("/proc/sys/kernel/core_pattern", &null).expect("symlink");
        let error = prepared.enter().and_then(Entered::protect).expect_err("the mask's source is a link");
        assert!(error.chain().contains("/dev/null"), "{}", error.chain());
        assert!(mount_at("/proc/keys").is_none());
    });
}

#[test]
fn proc_and_sys_must_be_real_directories() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new();
        bundle.mkdir("rootfs/etc");
        symlink("/etc", bundle.rootfs(name)).expect("symlink");
        let error = bundle.refused();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{}", error.chain());
        assert!(error.chain().contains("symbolic link"), "{}", error.chain());
    }
}

#[test]
fn nothing_leads_out_of_the_root() {
    let mut bundle = Bundle::with_mounts(json!([]));
    let source = bundle.mkdir("source");
    let outside = bundle.mkdir("outside");
    symlink(&outside, bundle.rootfs("absolute")).expect("symlink");
    symlink("../../../../../../../../etc", bundle.rootfs("relative")).expect("symlink");
    symlink("dangling/far", bundle.rootfs("dangling-link")).expect("symlink");
    let bind = |destination: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind"]});
    bundle.config["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        bind("/absolute/x"), bind("/relative/y"), bind("/../../z"), bind("/dangling-link")
    ]);
    let landed = bundle.inside(|| {
        let mut points: Vec<PathBuf> = mountinfo::read()
            .expect("mountinfo is readable")
            .into_iter()
            .map(|mount| mount.mount_point)
            .filter(|point| !point.starts_with("/proc") && point != Path::new("/"))
            .collect();
        points.sort();
        points
    });
    let mut expected =
        vec![outside.join("x"), PathBuf::from("/etc/y"), PathBuf::from("/z"), PathBuf::from("/dangling/far")];
    expected.sort();
    assert_eq!(landed, expected);
    assert_eq!(fs::read_dir(&outside).expect("readable").count(), 0, "the host's directory is untouched");
    assert!(!Path::new("/etc/y").exists());
}

#[test]
fn loops_and_mounts_on_the_root_or_in_proc_are_refused() {
    let procfs = json!({"destination": "/proc", "type": "proc", "source": "proc"});
    let tmpfs = |path: &str| json!({"destination": path, "type": "tmpfs", "source": "tmpfs"});
    let table = [
        (json!([tmpfs("/loop")]), "mounts[0]"),
        (json!([tmpfs("/to-root")]), "mounts[0].destination"),
        (json!([procfs, tmpfs("/proc/sys")]), "mounts[1].destination"),
        (json!([procfs, tmpfs("/to-proc/irq")]), "mounts[1].destination"),
        (json!([tmpfs("/proc")]), "mounts[0].destination"),
        (
            json!([{"destination": "/proc", "type": "bind", "source": "/etc", "options": ["bind"]}]),
            "mounts[0]",
        ),
    ];
    for (mounts, field) in table {
        let bundle = Bundle::with_mounts(mounts);
        symlink("loop", bundle.rootfs("loop")).expect("symlink");
        symlink("/", bundle.rootfs("to-root")).expect("symlink");
        symlink("/proc", bundle.rootfs("to-proc")).expect("symlink");
        let error = bundle.refused();
        assert!(error.chain().contains(field), "{} does not name {field}", error.chain());
    }
}

#[test]
fn files_that_stand_in_for_procfs_files_are_mounted() {
    let mut bundle = Bundle::with_mounts(json!([]));
    let source = bundle.write("cpuinfo", "one processor");
    bundle.config["mounts"] = json!([
        {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]},
        {"destination": "/proc/cpuinfo", "type": "bind", "source": source, "options": ["bind", "ro"]},
    ]);
    bundle.inside(|| {
        assert_eq!(fs::read_to_string("/proc/cpuinfo").expect("readable"), "one processor");
    });
}

#[test]
fn a_path_that_is_swapped_all_the_time_never_leads_out() {
    let bundle = Bundle::with_mounts(json!([]));
    let outside = bundle.mkdir("outside");
    bundle.mkdir("rootfs/a");
    symlink(&outside, bundle.rootfs("b")).expect("symlink");
    let (a, b) = (bundle.rootfs("a"), bundle.rootfs("b"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, &a, AT_FDCWD, &b, RenameFlags::RENAME_EXCHANGE).expect("exchange");
            }
        });
        let root = Root::open_host(&bundle.host("rootfs")).expect("open");
        for round in 0..3000 {
            let path = PathBuf::from(format!("/a/deep/{round}"));
            // Losing a race may be an error; it must not be an escape.
            if let Ok(found) = root.open_or_create(&path, Mountpoint::Directory, Links::Follow) {
                root.container_path(found.fd.as_fd()).expect("inside the root filesystem");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(&outside).expect("readable").count(), 0);
}

#[test]
fn binds_of_files_and_directories_nest_and_take_their_flags() {
    let mut bundle = Bundle::with_mounts(json!([]));
    bundle.mkdir("data/sub");
    bundle.write("data/file", "in data");
    bundle.write("resolv.conf", "nameserver ::1");
    bundle.mkdir("other");
    bundle.config["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "nosuid", "noatime"]},
        {"destination": "/data/nested", "type": "bind", "source": "other", "options": ["bind", "ro", "nodev"]},
        {"destination": "/etc/resolv.conf", "type": "bind", "source": "resolv.conf", "options": ["bind", "ro"]},
    ]);
    bundle.inside(|| {
        assert_eq!(fs::read_to_string("/data/file").expect("readable"), "in data");
        assert_eq!(fs::read_to_string("/etc/resolv.conf").expect("readable"), "nameserver ::1");
        assert_eq!(mounted("/data").options, "rw,nosuid,noatime");
        assert!(mounted("/data/nested").options.starts_with("ro,nodev"));
        assert!(mounted("/etc/resolv.conf").has_option("ro"));
        for path in ["/data/nested/x", "/etc/resolv.conf"] {
            let error = fs::write(path, "").expect_err("read-only");
            assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{path}");
        }
        fs::write("/data/new", "").expect("writable");
    });
    assert!(bundle.host("data/new").exists() && bundle.host("data/nested").is_dir());
    assert!(bundle.rootfs("etc/resolv.conf").is_file());
}

#[test]
fn a_bind_without_flags_keeps_those_of_its_source_and_with_flags_replaces_them() {
    let bundle = Bundle::with_mounts(json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/plain", "type": "bind", "source": "source", "options": ["rbind", "rprivate"]},
        {"destination": "/flags", "type": "bind", "source": "source", "options": ["rbind", "nodev"]},
        {"destination": "/recursive", "type": "bind", "source": "source", "options": ["rbind", "rro", "rnosuid"]},
    ]));
    let source = bundle.mkdir("source");
    let plan = bundle.plan();
    in_namespace(|| {
        let tmpfs = |path: &Path| {
            mount(Some("t"), path, Some("tmpfs"), MsFlags::MS_NOEXEC, None::<&str>).expect("mount");
        };
        tmpfs(&source);
        fs::create_dir(source.join("sub")).expect("mkdir");
        tmpfs(&source.join("sub"));
        let built = prepare(&plan, &OwnSources).and_then(Prepared::enter).and_then(Entered::protect);
        built.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(mounted("/plain").options, "rw,noexec,relatime");
        assert_eq!(mounted("/flags").options, "rw,nodev,relatime");
        assert_eq!(mounted("/flags/sub").options, "rw,noexec,relatime");
        assert_eq!(mounted("/recursive").options, "ro,nosuid,noexec,relatime");
        assert_eq!(mounted("/recursive/sub").options, "ro,nosuid,noexec,relatime");
    });
}

#[test]
fn propagation_is_applied_to_mounts_and_to_the_root() {
    for (word, marks) in [("shared", "shared:"), ("rshared", "shared:"), ("unbindable", "unbindable")] {
        let mut bundle = Bundle::with_mounts(json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/peer", "type": "tmpfs", "source": "t", "options": ["shared"]},
            {"destination": "/slave", "type": "bind", "source": "source", "options": ["bind", "shared", "slave"]},
        ]));
        bundle.mkdir("source");
        bundle.config["linux"]["rootfsPropagation"] = json!(word);
        bundle.inside(|| {
            let root = mounted("/").propagation;
            assert!(root.iter().any(|mark| mark.starts_with(marks)), "{word}: {root:?}");
            assert!(mounted("/peer").propagation.iter().any(|mark| mark.starts_with("shared:")), "{word}");
        });
    }
    Bundle::new().inside(|| {
        for mount in mountinfo::read().expect("mountinfo is readable") {
            assert!(!mount.propagation.iter().any(|mark| mark.starts_with("shared:")), "{mount:?}");
        }
    });
}

#[test]
fn a_tmpfs_takes_the_mode_beneath_it_and_becomes_read_only_last() {
    let bundle = Bundle::with_mounts(json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/existing", "type": "tmpfs", "source": "t", "options": ["ro"]},
        {"destination": "/existing/made", "type": "tmpfs", "source": "t"},
        {"destination": "/given", "type": "tmpfs", "source": "t", "options": ["mode=0711", "size=64k,nr_inodes=8"]},
    ]));
    for path in ["rootfs/existing", "rootfs/given"] {
        let path = bundle.mkdir(path);
        fs::set_permissions(path, fs::Permissions::from_mode(0o1750)).expect("chmod");
    }
    bundle.inside(|| {
        let mode = |path| fs::metadata(path).expect("stat").mode() & 0o7777;
        assert_eq!((mode("/existing"), mode("/given"), mode("/existing/made")), (0o1750, 0o711, 0o1777));
        assert!(mounted("/existing").has_option("ro") && mounted("/existing/made").has_option("rw"));
        assert!(mounted("/given").super_options.contains("size=64k,nr_inodes=8"));
    });
}

#[test]
fn options_that_only_mount2_takes_work_too() {
    let bundle = Bundle::with_mounts(json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["silent", "nosuid", "size=64k", "shared"]},
        {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["remount", "nosuid", "size=128k"]},
    ]));
    bundle.inside(|| {
        let mount = mounted("/t");
        assert_eq!(mount.options, "rw,nosuid,relatime");
        assert!(mount.super_options.contains("size=128k"), "{mount:?}");
        assert_eq!(mount.propagation.len(), 1);
    });
}

#[test]
fn a_missing_working_directory_is_made_before_the_root_becomes_read_only() {
    let mut bundle = Bundle::new();
    bundle.config["process"]["cwd"] = json!("/srv/app");
    bundle.inside(|| assert!(Path::new("/srv/app").is_dir()));
}

#[test]
fn version_1_cgroups_are_bound_and_linked() {
    let mut bundle = Bundle::new();
    let own = bundle.mkdir("cgroup/cpu,cpuacct/own");
    fs::write(own.join("tasks"), "").expect("write");
    bundle.context.cgroups = CgroupLayout::V1(vec![CgroupBind {
        name: "cpu,cpuacct".to_owned(),
        host_path: own,
        fs_data: "cpu,cpuacct".to_owned(),
        symlinks: vec!["cpu".to_owned(), "cpuacct".to_owned()],
    }]);
    bundle.inside(|| {
        assert!(Path::new("/sys/fs/cgroup/cpu/tasks").exists());
        assert_eq!(fs::read_link("/sys/fs/cgroup/cpuacct").expect("a link"), Path::new("cpu,cpuacct"));
        assert_eq!(mounted("/sys/fs/cgroup/cpu,cpuacct").options, "ro,nosuid,nodev,noexec,relatime");
        assert!(mounted("/sys/fs/cgroup").has_option("ro"));
    });
}

#[test]
fn without_a_cgroup_namespace_version_2_is_a_private_copy_of_the_hosts_mount() {
    let mut bundle = Bundle::new();
    let host_mount = bundle.mkdir("unified");
    let host_path = bundle.mkdir("unified/own");
    bundle.context.cgroups = CgroupLayout::V2 { host_mount, host_path };
    bundle.inside(|| {
        assert!(Path::new("/sys/fs/cgroup/own").is_dir());
        let mount = mounted("/sys/fs/cgroup");
        assert_eq!(mount.options, "ro,nosuid,nodev,noexec,relatime");
        assert!(mount.propagation.is_empty());
    });
}

#[test]
fn with_a_cgroup_namespace_the_hierarchies_are_mounted_anew() {
    let mut bundle = Bundle::new();
    bundle.config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}]);
    bundle.context.cgroups =
        CgroupLayout::V2 { host_mount: bundle.mkdir("unused"), host_path: bundle.mkdir("unused/own") };
    let hierarchies = mountinfo::read().expect("mountinfo is readable");
    let hierarchies: Vec<CgroupBind> = hierarchies
        .into_iter()
        .filter(|mount| mount.fstype == "cgroup" && mount.super_options.contains("pids"))
        .map(|mount| CgroupBind {
            name: "pids".to_owned(),
            host_path: mount.mount_point,
            fs_data: "pids".to_owned(),
            symlinks: Vec::new(),
        })
        .take(1)
        .collect();
    let v2 = bundle.plan();
    bundle.context.cgroups = CgroupLayout::V1(hierarchies.clone());
    let v1 = bundle.plan();
    let check = |plan: &RootfsPlan, path: &str, fstype: &str| {
        in_namespace(|| {
            unshare(CloneFlags::CLONE_NEWCGROUP).expect("unshare the cgroup namespace");
            let built = prepare(plan, &OwnSources).and_then(Prepared::enter).and_then(Entered::protect);
            built.unwrap_or_else(|error| panic!("{}", error.chain()));
            let mount = mounted(path);
            assert_eq!((mount.fstype.as_str(), mount.root.as_path()), (fstype, Path::new("/")));
            assert!(mount.has_option("ro"));
        });
    };
    check(&v2, "/sys/fs/cgroup", "cgroup2");
    if !hierarchies.is_empty() {
        check(&v1, "/sys/fs/cgroup/pids", "cgroup");
    }
}

#[test]
fn without_pivot_root_the_hosts_proc_is_out_of_reach() {
    let mut bundle = Bundle::new();
    bundle.context.no_pivot = true;
    bundle.inside(|| {
        assert_eq!(mounted("/proc").fstype, "proc");
        assert!(Path::new("/dev/null").exists() && !Path::new("/etc").exists());
        let kernel = mountinfo::read().expect("mountinfo is readable");
        assert_eq!(
            kernel.iter().filter(|mount| mount.fstype == "proc" && mount.root == Path::new("/")).count(),
            1,
            "only the container's own"
        );
    });
}

#[test]
fn without_a_mount_namespace_the_mounts_are_the_hosts_until_the_end() {
    let mut bundle = Bundle::with_mounts(json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
    ]));
    bundle.config["linux"]["namespaces"] = json!([{"type": "pid"}]);
    bundle.config["root"]["readonly"] = json!(true);
    bundle.write("rootfs/here", "");
    let (plan, rootfs) = (bundle.plan(), bundle.host("rootfs"));
    in_namespace(|| {
        let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).expect("make / shared");
        // As a user has mounted it, with a peer elsewhere.
        let bind = |to: &Path| {
            mount(Some(&rootfs), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
        };
        bind(&rootfs);
        bind(&bundle.mkdir("peer"));
        let table = || mountinfo::read().expect("mountinfo is readable");
        let before = table();
        let known = host::HostMount::before(&rootfs).expect("a mount");
        known.unbind(&rootfs).expect("nothing to do");
        assert_eq!(table(), before);
        let own = Some(host::bind(&rootfs).expect("bind"));
        thread::scope(|scope| {
            let inside = || {
                unshare(CloneFlags::CLONE_FS).expect("unshare");
                let built = prepare(&plan, &OwnSources).and_then(Prepared::enter).and_then(Entered::protect);
                built.unwrap_or_else(|error| panic!("{}", error.chain()));
                assert!(Path::new("/here").exists() && Path::new("/dev/null").exists());
                let error = fs::write("/x", "").expect_err("/ is read-only");
                assert_eq!(error.raw_os_error(), Some(libc::EROFS));
            };
            scope.spawn(inside).join().unwrap_or_else(|panic| resume_unwind(panic));
        });
        let is_new = |m: &MountInfo| !before.iter().any(|old| old.id == m.id);
        let points: Vec<PathBuf> = table().into_iter().filter(is_new).map(|m| m.mount_point).collect();
        // The bind itself shows at each peer, what is mounted in it does not.
        let inside: Vec<&PathBuf> =
            points.iter().filter(|p| **p != rootfs && **p != bundle.host("peer")).collect();
        assert_eq!(inside, [&rootfs.join("proc"), &rootfs.join("dev")], "{points:?}");
        assert!(points.contains(&rootfs));
        // As when the command was killed before it could write down what it had bound.
        known.unbind(&rootfs).expect("unmount");
        assert_eq!(table(), before, "the user's mounts stay as they were");
        let known = host::HostMount { own, ..known };
        known.unbind(&bundle.host("gone")).expect("nothing there");
        bind(&rootfs);
        let another = table();
        known.unbind(&rootfs).expect("it is another's");
        assert_eq!(table(), another);
    });
}

#[test]
fn nothing_of_a_container_shows_on_the_host() {
    let bundle = Bundle::new();
    let seen_by_host = bundle.inside(|| {
        // The test runner's main thread is still in the host's namespace.
        fs::read(format!("/proc/{}/mountinfo", std::process::id())).expect("readable")
    });
    let directory = bundle.directory.path();
    for mount in mountinfo::parse(&seen_by_host).expect("well formed") {
        assert!(!mount.mount_point.starts_with(directory), "{mount:?}");
    }
    assert!(fs::read_dir(bundle.rootfs("dev")).expect("readable").next().is_none());
}

/// A host whose mounts are shared, as systemd leaves them.
#[test]
fn nothing_propagates_to_a_host_with_shared_mounts() {
    let words = ["", "rslave", "slave", "rprivate", "private", "shared", "rshared", "unbindable"];
    for (word, no_pivot) in words.into_iter().flat_map(|word| [(word, false), (word, true)]) {
        let mut bundle = Bundle::new();
        bundle.config["linux"]["rootfsPropagation"] = json!(word);
        bundle.context.no_pivot = no_pivot;
        let plan = bundle.plan();
        in_namespace(|| {
            let none = None::<&str>;
            let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
            mount(none, "/", none, shared, none).expect("make / shared");
            // Some engines mount the root filesystem themselves.
            if no_pivot {
                let rootfs = bundle.host("rootfs");
                mount(Some(&rootfs), &rootfs, none, MsFlags::MS_BIND, none).expect("bind");
            }
            let before = mountinfo::read().expect("mountinfo is readable");
            let build = || {
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("unshare");
                let built = prepare(&plan, &OwnSources).and_then(Prepared::enter).and_then(Entered::protect);
                built.unwrap_or_else(|error| panic!("{word}: {}", error.chain()));
                mounted("/").propagation
            };
            let propagation =
                thread::scope(|scope| scope.spawn(build).join().unwrap_or_else(|panic| resume_unwind(panic)));
            let is = |kind: &str| propagation.iter().any(|mark| mark.starts_with(kind));
            assert_eq!(is("shared:"), word.ends_with("shared"), "{word}: {propagation:?}");
            // What the host mounts in the root filesystem still arrives.
            // `slave` alone does not reach a root filesystem that is a mount of its own.
            let receives = matches!(word, "" | "rslave") || (word == "slave" && !no_pivot);
            assert_eq!(is("master:"), receives, "{word}: {propagation:?}");
            assert_eq!(mountinfo::read().expect("mountinfo is readable"), before, "{word}");
        });
    }
}

#[test]
fn errors_name_the_entry_and_the_cause() {
    let table = [
        (
            json!({"destination": "/a", "type": "bind", "source": "/no/such/source", "options": ["bind"]}),
            "error mounting \"/no/such/source\" to rootfs at \"/a\" (mounts[0])",
            libc::ENOENT,
        ),
        (
            json!({"destination": "/a", "type": "tmpfs", "source": "t", "options": ["size=lots"]}),
            "set size=lots for tmpfs",
            libc::EINVAL,
        ),
        (json!({"destination": "/file/x", "type": "tmpfs", "source": "t"}), "(mounts[0])", libc::ENOTDIR),
        (
            json!({"destination": "/file", "type": "tmpfs", "source": "t"}),
            "not a directory: the destination, while the source is one",
            libc::ENOTDIR,
        ),
        (
            json!({"destination": "/directory", "type": "bind", "source": "rootfs/file", "options": ["bind"]}),
            "not a directory: the source, while the destination is one",
            libc::EISDIR,
        ),
    ];
    for (mount, text, errno) in table {
        let bundle = Bundle::with_mounts(json!([mount]));
        bundle.write("rootfs/file", "");
        bundle.mkdir("rootfs/directory");
        let error = bundle.refused();
        assert!(error.chain().contains(text), "{}", error.chain());
        assert_eq!(error.errno(), Some(errno), "{}", error.chain());
    }
}

/// Runs itself again with `/dev/null` as standard input, because the streams belong to the whole process.
#[test]
fn standard_streams_on_the_hosts_null_device_move_to_the_containers() {
    const ROLE: &str = "MIGRATE_TEST_STDIO";
    if std::env::var_os(ROLE).is_none() {
        let name = "engine::rootfs::tests::standard_streams_on_the_hosts_null_device_move_to_the_containers";
        let output = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", name, "--nocapture"])
            .env(ROLE, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .expect("the test binary runs");
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        return;
    }
    let device_of = |fd: BorrowedFd<'_>| nix::sys::stat::fstat(fd).expect("stat").st_dev;
    let before = device_of(io::stdin().as_fd());
    let stdout = device_of(io::stdout().as_fd());
    Bundle::new().inside(|| {
        let container = fs::metadata("/dev/null").expect("stat").dev();
        assert_eq!(device_of(io::stdin().as_fd()), container);
        assert_ne!(before, container);
        assert_eq!(device_of(io::stdout().as_fd()), stdout, "a pipe stays");
    });
}

#[test]
fn destinations_resolve_as_the_container_sees_them() {
    let bundle = Bundle::new();
    bundle.mkdir("rootfs/usr/lib");
    bundle.mkdir("rootfs/run");
    for (link, target) in [
        ("lib", "usr/lib"),
        ("abs", "/usr"),
        ("up", "../../../../usr"),
        ("chain", "abs"),
        ("broken", "/nowhere/at/all"),
        ("usr/self", "."),
        ("twist", "usr/../run/./x/.."),
    ] {
        symlink(target, bundle.rootfs(link)).expect("symlink");
    }
    for (given, expected) in [
        ("/", "/"),
        ("/lib", "/usr/lib"),
        ("/lib/modules", "/usr/lib/modules"),
        ("/abs/lib/x", "/usr/lib/x"),
        ("/up/lib", "/usr/lib"),
        ("/chain/lib", "/usr/lib"),
        ("/broken/deeper", "/nowhere/at/all/deeper"),
        ("/missing/../lib", "/usr/lib"),
        ("/usr/self/self/lib", "/usr/lib"),
        ("/twist", "/run"),
        ("relative/path", "/relative/path"),
        ("/../../run", "/run"),
    ] {
        let resolved = resolve_destination(&bundle.host("rootfs"), Path::new(given)).expect("resolvable");
        assert_eq!(resolved, Path::new(expected), "{given}");
    }
    symlink("round", bundle.rootfs("round")).expect("symlink");
    let error = resolve_destination(&bundle.host("rootfs"), Path::new("/round/x")).expect_err("a loop");
    assert_eq!((error.kind(), error.errno()), (ErrorKind::InvalidConfig, Some(libc::ELOOP)));
    let error = resolve_destination(&bundle.host("none"), Path::new("/x")).expect_err("no root filesystem");
    assert!(error.is_errno(libc::ENOENT));
}

#[test]
fn mount_points_are_prepared_as_create_makes_them() {
    let mut bundle = Bundle::new();
    bundle.mkdir("data");
    bundle.write("file", "");
    bundle.mkdir("rootfs/real");
    symlink("/real", bundle.rootfs("alias")).expect("symlink");
    let bind = |destination: &str, source: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind"]});
    let mounts = bundle.config["mounts"].as_array_mut().expect("a list");
    mounts.extend([
        bind("/data", "data"),
        bind("/data/inner/file", "file"),
        bind("/alias/dir", "data"),
        bind("/etc/hosts", "file"),
        bind("/dev/in-tmpfs", "file"),
        json!({"destination": "/data/tmp", "type": "tmpfs", "source": "t"}),
        bind("/data/tmp/x", "data"),
    ]);
    let plan = bundle.plan();
    prepare_mountpoints(&plan).unwrap_or_else(|error| panic!("{}", error.chain()));
    for directory in ["proc", "dev", "sys", "data", "real/dir"] {
        assert!(bundle.rootfs(directory).is_dir(), "{directory}");
        assert_eq!(fs::metadata(bundle.rootfs(directory)).expect("stat").mode() & 0o777, 0o755);
    }
    assert!(bundle.rootfs("etc/hosts").is_file());
    // Below the bind: in its source, not beneath it.
    assert!(bundle.host("data/inner/file").is_file() && bundle.host("data/tmp").is_dir());
    assert_eq!(fs::read_dir(bundle.rootfs("data")).expect("readable").count(), 0);
    // Below a filesystem that CRIU mounts: nothing.
    assert_eq!(fs::read_dir(bundle.rootfs("dev")).expect("readable").count(), 0);
    assert_eq!(fs::read_dir(bundle.rootfs("sys")).expect("readable").count(), 0);
    assert!(!bundle.host("data/tmp/x").exists());
    for mount in mountinfo::read().expect("mountinfo is readable") {
        assert!(!mount.mount_point.starts_with(bundle.directory.path()), "{mount:?} was left behind");
    }
    prepare_mountpoints(&plan).expect("a second time it is all there");
}

#[test]
fn a_mount_point_that_cannot_be_made_is_named() {
    let bundle = Bundle::with_mounts(json!([{"destination": "/file/x", "type": "tmpfs", "source": "t"}]));
    bundle.write("rootfs/file", "");
    let error = prepare_mountpoints(&bundle.plan()).expect_err("a file is in the way");
    assert!(error.to_string().contains("/file/x (mounts[0])"), "{}", error.chain());
    assert!(error.is_errno(libc::ENOTDIR), "{}", error.chain());
}
