// SPDX-License-Identifier: Apache-2.0
//! On a real kernel: what the default configuration makes: mounts, devices, masks, and the words of errors.

use super::*;

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
fn a_node_that_the_configuration_mounts_keeps_its_owner_and_mode() {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let mut bundle = Bundle::new();
    let node = bundle.host("node");
    mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(1, 7)).expect("mknod");
    fs::set_permissions(&node, fs::Permissions::from_mode(0o640)).expect("chmod");
    std::os::unix::fs::chown(&node, Some(3), Some(4)).expect("chown");
    let mounts = bundle.config["mounts"].as_array_mut().expect("a list");
    mounts.push(json!({"destination": "/dev/full", "type": "bind", "source": node, "options": ["bind"]}));
    bundle.config["linux"]["devices"] = json!([{"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o604, "uid": 7, "gid": 9}]);
    let facts = |path: &Path| fs::metadata(path).map(|stat| (stat.mode() & 0o7777, stat.uid(), stat.gid()));
    bundle.inside(|| {
        assert_eq!(mounted("/dev/full").root.file_name(), Some("node".as_ref()));
        assert_eq!(facts(Path::new("/dev/full")).expect("stat"), (0o640, 3, 4));
    });
    assert_eq!(facts(&node).expect("stat"), (0o640, 3, 4));
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
        let name =
            "engine::rootfs::tests::whole::standard_streams_on_the_hosts_null_device_move_to_the_containers";
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
