// SPDX-License-Identifier: Apache-2.0
//! What configurations are planned as, and which are refused.

use serde_json::{Value, json};

use super::super::devices::DeviceKind;
use super::super::tests::default_config;
use super::*;

fn plan_of(config: &Value) -> Result<RootfsPlan> {
    let spec: Spec = serde_json::from_value(config.clone()).expect("the test's config is well formed");
    RootfsPlan::from_spec(&spec, Path::new("/bundle"), Path::new("/bundle/rootfs"), &PlanContext::default())
}

fn with_mount(mount: impl Into<Value>) -> Value {
    let mount: Value = mount.into();
    let mut config = default_config();
    config["mounts"] = json!([mount]);
    config
}

#[test]
fn the_default_configuration_is_planned_in_its_order() {
    let plan = plan_of(&default_config()).expect("valid");
    assert_eq!((plan.entry, plan.readonly_root, plan.bind_devices), (Entry::PivotRoot, true, false));
    assert_eq!(plan.propagation, Propagation { kind: PropagationKind::Slave, recursive: true });
    let destinations: Vec<_> = plan.mounts.iter().map(|mount| mount.destination.to_str()).collect();
    let expected =
        ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"].map(Some);
    assert_eq!(destinations, expected);
    assert!(plan.mounts[1].is_tmpfs() && !plan.mounts[0].is_tmpfs());
    assert_eq!(plan.mounts[1].options.data, ["mode=755", "size=65536k"]);
    assert_eq!(plan.mounts[1].options.set, libc::MS_NOSUID | libc::MS_STRICTATIME);
    assert!(matches!(plan.mounts[6].kind, MountKind::Cgroup { namespace: false, .. }));
    let devices: Vec<_> =
        plan.devices.iter().flatten().map(|device| device.path.display().to_string()).collect();
    assert_eq!(devices, ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"]);
    assert_eq!((plan.masked_paths.len(), plan.readonly_paths.len()), (10, 5));
    assert_eq!(plan.cwd.as_deref(), Some(Path::new("/")));
}

#[test]
fn a_plan_survives_the_journey_to_init() {
    let plan = plan_of(&default_config()).expect("valid");
    let json = serde_json::to_string(&plan).expect("a plan is plain data");
    assert_eq!(serde_json::from_str::<RootfsPlan>(&json).expect("the same text"), plan);
}

#[test]
fn binds_are_recognised_by_type_or_option_and_relative_sources_lie_in_the_bundle() {
    let table = [
        (json!({"destination": "/a", "type": "bind", "source": "data"}), "/bundle/data", false),
        (json!({"destination": "/a", "source": "/host", "options": ["bind", "ro"]}), "/host", false),
        (
            json!({"destination": "/a", "type": "ext4", "source": "/host", "options": ["rbind"]}),
            "/host",
            true,
        ),
        (
            json!({"destination": "/a", "type": "none", "source": "../x", "options": ["rbind"]}),
            "/bundle/../x",
            true,
        ),
    ];
    for (mount, source, recursive) in table {
        let plan = plan_of(&with_mount(mount.clone())).expect("valid");
        let expected = MountKind::Bind { source: PathBuf::from(source), recursive, id_map: None };
        assert_eq!(plan.mounts[0].kind, expected, "{mount}");
        assert_eq!(plan.mounts[0].options.set & (libc::MS_BIND | libc::MS_REC), 0, "{mount}");
    }
}

#[test]
fn destinations_are_absolute_and_clean() {
    for (given, expected) in [
        ("/a/b", "/a/b"),
        ("a", "/a"),
        ("/../../etc/x", "/etc/x"),
        ("/a/./b//c/../d/", "/a/b/d"),
        ("/bundle/rootfs/mnt", "/mnt"),
        ("/bundle/rootfs-other/mnt", "/bundle/rootfs-other/mnt"),
    ] {
        let config = with_mount(json!({"destination": given, "type": "tmpfs", "source": "t"}));
        assert_eq!(plan_of(&config).expect("valid").mounts[0].destination, Path::new(expected), "{given}");
    }
}

#[test]
fn refused_configurations_name_the_field() {
    use ErrorKind::InvalidConfig;
    let tmpfs =
        |options: Value| with_mount(json!({"destination": "/a", "type": "tmpfs", "options": options}));
    let linux = |key: &str, value: Value| {
        let mut config = default_config();
        config["linux"][key] = value;
        config
    };
    let no_mount_namespace = || linux("namespaces", json!([{"type": "pid"}]));
    let device = |device: Value| linux("devices", json!([device]));
    let table = [
        (with_mount(json!({"destination": "/", "type": "tmpfs"})), InvalidConfig, "mounts[0].destination"),
        (
            with_mount(json!({"destination": "/a/..", "type": "tmpfs"})),
            InvalidConfig,
            "mounts[0].destination",
        ),
        (with_mount(json!({"destination": "", "type": "tmpfs"})), InvalidConfig, "mounts[0].destination"),
        (with_mount(json!({"destination": "/a"})), InvalidConfig, "mounts[0].type"),
        (with_mount(json!({"destination": "/a", "type": "bind"})), InvalidConfig, "mounts[0].source"),
        (
            with_mount(
                json!({"destination": "/a", "type": "bind", "source": "/x", "options": ["size=1", "journal=off"]}),
            ),
            InvalidConfig,
            "mounts[0].options",
        ),
        (tmpfs(json!(["idmap"])), InvalidConfig, "mounts[0].uidMappings: id-mapped mounts are only"),
        (
            with_mount(json!({"destination": "/a", "source": "/x", "options": ["bind", "idmap"]})),
            InvalidConfig,
            "mounts[0].uidMappings: id-mapped mounts must have both uid and gid",
        ),
        (
            with_mount(json!({"destination": "/bundle/rootfs", "type": "tmpfs"})),
            InvalidConfig,
            "mounts[0].destination: mountpoint /bundle/rootfs is on the top of rootfs",
        ),
        (linux("rootfsPropagation", json!("sideways")), InvalidConfig, "linux.rootfsPropagation"),
        (linux("maskedPaths", json!(["/a", "proc/x"])), InvalidConfig, "linux.maskedPaths[1]"),
        (linux("readonlyPaths", json!(["x"])), InvalidConfig, "linux.readonlyPaths[0]"),
        (
            linux("mountLabel", json!("system_u:object_r:x")),
            InvalidConfig,
            "linux.mountLabel: selinux label is specified in config, but selinux is disabled",
        ),
        (device(json!({"path": "/dev/x", "type": "a"})), InvalidConfig, "linux.devices[0].type"),
        (device(json!({"path": "x", "type": "p"})), InvalidConfig, "linux.devices[0].path"),
        (device(json!({"path": "/", "type": "p"})), InvalidConfig, "linux.devices[0].path"),
        (
            device(json!({"path": "/dev/x", "type": "c", "major": -1, "minor": 0})),
            InvalidConfig,
            "linux.devices[0].major",
        ),
        (no_mount_namespace(), InvalidConfig, "linux.maskedPaths: unable to restrict"),
    ];
    for (config, kind, field) in table {
        let error = plan_of(&config).expect_err(field);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(field), "{error} does not name {field}");
    }
}

#[test]
fn configured_devices_replace_defaults_of_the_same_path() {
    let mut config = default_config();
    config["linux"]["devices"] = json!([
        {"path": "/dev/tty", "type": "c", "major": 5, "minor": 0, "fileMode": 0o620, "uid": 3, "gid": 5},
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
        {"path": "/dev/pipe", "type": "p"},
    ]);
    let devices = plan_of(&config).expect("valid").devices.expect("/dev is the container's own");
    assert_eq!(devices.len(), 8);
    let tty = devices.iter().find(|device| device.path == Path::new("/dev/tty")).expect("planned");
    assert_eq!((tty.mode, tty.uid, tty.gid), (0o620, 3, 5));
    assert_eq!(devices[6].kind, DeviceKind::Char { major: 10, minor: 229 });
    assert_eq!((devices[7].kind, devices[7].mode), (DeviceKind::Fifo, 0o666));
}

#[test]
fn a_bound_dev_gets_no_nodes() {
    let plan = plan_of(&with_mount(
        json!({"destination": "/dev/", "type": "bind", "source": "/dev", "options": ["rbind"]}),
    ));
    assert_eq!(plan.expect("valid").devices, None);
}

#[test]
fn repeated_paths_are_kept_once() {
    let mut config = default_config();
    config["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc//keys", "/proc/acpi"]);
    let plan = plan_of(&config).expect("valid");
    assert_eq!(plan.masked_paths, [Path::new("/proc/keys"), Path::new("/proc/acpi")]);
}

#[test]
fn the_way_in_follows_from_namespace_and_flag() {
    let mut config = default_config();
    config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}, {"type": "user"}]);
    let spec: Spec = serde_json::from_value(config).expect("well formed");
    let context = PlanContext { no_pivot: true, ..PlanContext::default() };
    let plan =
        RootfsPlan::from_spec(&spec, Path::new("/b"), Path::new("/b/rootfs"), &context).expect("valid");
    assert_eq!((plan.entry, plan.bind_devices), (Entry::MoveMount, true));
    assert!(matches!(plan.mounts[6].kind, MountKind::Cgroup { namespace: true, .. }));
}
