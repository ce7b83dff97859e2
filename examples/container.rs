// SPDX-License-Identifier: Apache-2.0
//! One container by means of the library alone: a configuration made in code, a container of it with a network, processes
//! in it with a stdout of their own, numbers, pause and resume, a signal, and the end.
//!
//! ```text
//! sudo target/debug/examples/container STATE_ROOT ID ROOTFS
//! ```
//! ROOTFS holds busybox's programs and an `/etc/passwd` with a user `daemon`, and belongs to the host's user 100000, who is
//! root in the container. The container's network is a pair of interfaces without a way to anywhere else: the host's end
//! would be made a port of a bridge, or given the gateway's address.

use std::error::Error;
use std::io::{Read as _, Write as _, pipe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use migrate::engine::{
    Container, ContainerBuilder, ExecOptions, Network, Process, ProcessIo, StateRoot, VethNetwork,
    init_if_requested,
};
use migrate::spec::oci::{
    Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxPidsBuilder, LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimitBuilder, PosixRlimitType,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// SIGTERM.
const TERMINATE: i32 = 15;

fn main() -> ExitCode {
    // The container's first process is this program, started again.
    init_if_requested();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match &arguments[..] {
        [root, id, rootfs] => show(Path::new(root), id, Path::new(rootfs)),
        _ => Err("usage: container STATE_ROOT ID ROOTFS".into()),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    let text =
        error.downcast_ref::<migrate::Error>().map_or_else(|| error.to_string(), migrate::Error::chain);
    // Nobody is there to read it when this fails.
    let _ = writeln!(std::io::stderr(), "error: {text}");
    ExitCode::FAILURE
}

fn show(root: &Path, id: &str, rootfs: &Path) -> Result<()> {
    let root = StateRoot::builder(root).open()?;
    let builder = ContainerBuilder::from_spec(id.parse()?, configuration()?, rootfs)
        .network(network()?)
        .io(ProcessIo::null()?);
    let mut container = builder.create(&root)?;
    let done = use_it(&mut container);
    // Whatever went wrong, nothing stays.
    let status = container.status()?;
    container.delete(true)?;
    say(&format!("deleted: it was {status}"))?;
    done
}

fn use_it(container: &mut Container) -> Result<()> {
    say(&format!("status: {}", container.status()?))?;
    container.start()?;
    say(&format!("status: {}", container.status()?))?;
    say(&format!("namespaces: {}", container.namespaces().keys().cloned().collect::<Vec<_>>().join(" ")))?;

    let whoami = Process::new(["/bin/sh", "-c", "echo $(id -un) in $PWD says $GREETING; exit 3"])
        .user("daemon")
        .cwd("/tmp")
        .env("GREETING", "hello");
    let (text, code) = output(container, whoami)?;
    say(&format!("output: {}", text.trim_end()))?;
    say(&format!("exit code: {code}"))?;
    let (text, _) = output(container, Process::new(["ip", "-o", "-4", "addr", "show", "eth0"]))?;
    say(&format!("address: {}", text.split_whitespace().nth(3).unwrap_or("none")))?;

    let sleeper = container.exec(Process::new(["sleep", "1000"]), &ExecOptions::default())?;
    say(&format!("processes: {}", container.processes()?.len()))?;
    let stats = container.stats()?;
    say(&format!("cpu: {} ns", stats.cpu.usage.total))?;
    say(&format!("memory: {} of {} bytes", stats.memory.usage.usage, stats.memory.usage.limit))?;
    say(&format!("pids: {} of {}", stats.pids.current, stats.pids.limit))?;
    let io: u64 = stats.blkio.io_service_bytes_recursive.iter().map(|entry| entry.value).sum();
    say(&format!("io: {io} bytes"))?;
    for interface in container.network_stats()? {
        let (received, sent) = (interface.rx_bytes, interface.tx_bytes);
        say(&format!("network: {}: {received} bytes received, {sent} sent", interface.name))?;
    }

    container.pause()?;
    say(&format!("status: {}", container.status()?))?;
    container.resume()?;
    say(&format!("status: {}", container.status()?))?;

    sleeper.signal(TERMINATE)?;
    say(&format!("sleeper ended with {}", sleeper.wait()?))?;
    container.signal(TERMINATE)?;
    say(&format!("first process ended with {}", container.wait()?))?;
    Ok(())
}

/// Runs a process to its end: what it has written to its stdout, and its exit code.
fn output(container: &Container, process: Process) -> Result<(String, i32)> {
    let (mut reader, writer) = pipe()?;
    let running = container.exec(process.stdout(writer), &ExecOptions::default())?;
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    Ok((text, running.wait()?))
}

/// `eth0` in the container; the engine names the host's end.
fn network() -> Result<Network> {
    let mut veth = VethNetwork::new("eth0");
    veth.address = Some("10.88.0.2/24".parse()?);
    veth.gateway = Some("10.88.0.1".parse()?);
    veth.mtu = Some(1400);
    Ok(Network::Veth(veth))
}

fn configuration() -> Result<Spec> {
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(0_u32).gid(0_u32).build()?)
        .args(["/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 1000 & wait; done"].map(str::to_owned))
        .env(["PATH=/bin".to_owned()])
        .cwd("/")
        .capabilities(capabilities()?)
        .rlimits([PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitNofile)
            .soft(512_u64)
            .hard(1024_u64)
            .build()?])
        .no_new_privileges(true)
        .build()?;
    let resources = LinuxResourcesBuilder::default()
        .memory(LinuxMemoryBuilder::default().limit(64 << 20).build()?)
        .pids(LinuxPidsBuilder::default().limit(32).build()?)
        .build()?;
    let linux = LinuxBuilder::default()
        .namespaces(namespaces()?)
        .uid_mappings([ids()?])
        .gid_mappings([ids()?])
        .resources(resources)
        .masked_paths(["/proc/kcore", "/proc/keys", "/sys/firmware"].map(str::to_owned))
        .readonly_paths(["/proc/sys", "/proc/bus"].map(str::to_owned))
        .build()?;
    Ok(SpecBuilder::default()
        .version(migrate::spec::OCI_VERSION)
        .hostname("example")
        // The path is given to the builder of the container.
        .root(RootBuilder::default().path("rootfs").readonly(false).build()?)
        .process(process)
        .mounts(mounts()?)
        .linux(linux)
        .build()?)
}

fn namespaces() -> Result<Vec<LinuxNamespace>> {
    let kinds = [
        LinuxNamespaceType::User,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ];
    kinds.into_iter().map(|kind| Ok(LinuxNamespaceBuilder::default().typ(kind).build()?)).collect()
}

/// Root in the container is user 100000 of the host.
fn ids() -> Result<LinuxIdMapping> {
    Ok(LinuxIdMappingBuilder::default().container_id(0_u32).host_id(100_000_u32).size(65_536_u32).build()?)
}

fn capabilities() -> Result<LinuxCapabilities> {
    let few = [Capability::Kill, Capability::Setuid, Capability::Setgid, Capability::NetBindService];
    let set = || few.into_iter().collect::<std::collections::HashSet<_>>();
    let none = std::collections::HashSet::new;
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set())
        .effective(set())
        .permitted(set())
        .inheritable(none())
        .ambient(none())
        .build()?)
}

fn mounts() -> Result<Vec<Mount>> {
    let table: [(&str, &str, &str, &[&str]); 6] = [
        ("/proc", "proc", "proc", &[]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
    ];
    table
        .into_iter()
        .map(|(destination, kind, source, options)| {
            Ok(MountBuilder::default()
                .destination(destination)
                .typ(kind)
                .source(PathBuf::from(source))
                .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
                .build()?)
        })
        .collect()
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
