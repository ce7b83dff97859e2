// SPDX-License-Identifier: Apache-2.0
//! A container that runs, as a report: what a checkpoint of it would hold, as far as `/proc` tells. Nothing is stopped, so a process
//! that ends meanwhile is not there, and what changes is told as of one moment or another. What processes say of themselves is hostile
//! here, too. Must not know what a container is beyond [`RunningContainer`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::Path;

use nix::unistd::Pid;

use super::processes::{AREAS, PROCESSES};
use super::report::{
    Environment, MappedArea, MemoryReport, MountReport, ProcessReport, Report, SCHEMA, Sizes, Summary,
};
use super::running_files::Files;
use super::{Header, InspectOptions};
use crate::sys::proc::{self, Stat, read_short};
use crate::sys::{self, mountinfo};
use crate::{Context, Error, ErrorKind, Result};

/// What is read of a command line, and of an environment, as out of a checkpoint.
const ARGUMENTS: usize = 32 << 10;
const ENVIRONMENT: usize = 256 << 10;

/// What its engine knows of a container.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RunningContainer {
    /// Its id.
    pub id: String,
    /// Its host name.
    pub hostname: Option<String>,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// Its first process.
    pub init: i32,
    /// The processes in its cgroup.
    pub pids: Vec<i32>,
    /// Where descriptors of its first process lead that were given to it from outside.
    pub outside: Vec<String>,
}

/// Looks at a container that runs, or is paused.
///
/// # Errors
/// `WrongStatus` if its first process is gone; else when `/proc` cannot be read.
pub fn inspect_running(container: &RunningContainer, options: &InspectOptions) -> Result<Report> {
    let mut looking = Looking {
        files: Files::new(container.init, &container.outside),
        environment: options.environment,
        problems: Vec::new(),
    };
    let processes = looking.processes(container)?;
    let mounts = looking.mounts(&processes)?;
    let processes: Vec<ProcessReport> = processes.into_iter().map(|(_, process)| process).collect();
    let mut problems = looking.problems;
    problems.extend(looking.files.problems());
    Ok(Report {
        schema: SCHEMA,
        path: container.id.clone(),
        form: "container",
        checkpoint: Header {
            id: Some(container.id.clone()),
            engine: Some("migrate".to_owned()),
            hostname: container.hostname.clone(),
            created: container.created.clone(),
            kernel: proc::kernel_release().ok(),
            arch: Some(sys::arch::NAME.to_owned()),
            cgroup_version: Some(proc::cgroup_version().into()),
            ..Header::default()
        },
        size: Sizes::default(),
        summary: Summary::of(&processes, &mounts),
        statistics: None,
        host: Vec::new(),
        processes,
        mounts,
        problems,
    })
}

/// What is looked at, and what was seen of it.
struct Looking {
    files: Files,
    environment: Environment,
    problems: Vec<String>,
}

impl Looking {
    /// The processes of the tree that a checkpoint takes, parents first, each with its number on the host.
    fn processes(&mut self, container: &RunningContainer) -> Result<Vec<(i32, ProcessReport)>> {
        let init = container.init;
        let mut found = Vec::new();
        let mut numbers = BTreeMap::new();
        let mut next = vec![(init, 0)];
        let mut seen = HashSet::new();
        while let Some((pid, parent)) = next.pop() {
            if !seen.insert(pid) {
                continue;
            }
            if found.len() == PROCESSES {
                self.problems.push(format!("more than {PROCESSES} processes are not told"));
                break;
            }
            let parent = numbers.get(&parent).copied().unwrap_or(0);
            match self.process(pid, parent) {
                Ok(process) => {
                    numbers.insert(pid, process.pid);
                    found.push((pid, process));
                }
                // It has ended meanwhile.
                Err(error) if is_gone(&error) && pid != init => continue,
                Err(error) if is_gone(&error) => {
                    return Err(
                        Error::new(ErrorKind::WrongStatus, "the container has ended").with_source(error)
                    );
                }
                Err(error) => return Err(error).context(|| format!("look at process {pid}")),
            }
            let mut children = children(pid);
            children.sort_unstable_by(|a, b| b.cmp(a));
            next.extend(children.into_iter().map(|child| (child, pid)));
        }
        for pid in container.pids.iter().filter(|pid| !seen.contains(pid)) {
            let name = proc::command(Pid::from_raw(*pid)).unwrap_or_default();
            self.problems.push(format!(
                "process {pid} ({name}) does not descend from the first one: it is no part of a checkpoint"
            ));
        }
        Ok(found)
    }

    fn process(&mut self, pid: i32, parent: u32) -> io::Result<ProcessReport> {
        let handle = Pid::from_raw(pid);
        let status = read_short(Path::new(&format!("/proc/{pid}/status")))?;
        let status = String::from_utf8_lossy(&status);
        let words = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_ascii_whitespace().collect::<Vec<_>>()
        };
        // The last is that in the innermost pid namespace.
        let last = |name| words(name).last().and_then(|number| number.parse().ok()).unwrap_or(0);
        let effective = |name| words(name).get(1).and_then(|id| id.parse().ok());
        let stat = Stat::of(handle)?;
        let ended = stat.ended();
        let state = match stat.state {
            _ if ended => "zombie",
            b'T' | b't' => "stopped",
            _ if proc::is_stopped_by_signal(handle)? => "stopped",
            _ => "alive",
        };
        let number = last("NSpid:");
        let mut threads: Vec<u32> = proc::threads(pid)?
            .into_iter()
            .filter_map(|thread| proc::innermost_id(thread).ok()??.try_into().ok())
            .collect();
        threads.sort_unstable();
        let text = |name: &str, most: usize| -> Option<Vec<String>> {
            let mut file = fs::File::open(format!("/proc/{pid}/{name}")).ok()?;
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(&mut file, most as u64), &mut bytes).ok()?;
            Some(split(&bytes))
        };
        Ok(ProcessReport {
            pid: number,
            parent,
            group: last("NSpgid:"),
            session: last("NSsid:"),
            threads,
            name: proc::command(handle)?,
            command_line: if ended { None } else { text("cmdline", ARGUMENTS) },
            state,
            exit_status: if ended { exit_status(pid) } else { None },
            uid: effective("Uid:"),
            gid: effective("Gid:"),
            program: link(pid, "exe"),
            directory: link(pid, "cwd"),
            environment: match self.environment {
                Environment::Shown if !ended => text("environ", ENVIRONMENT),
                _ => None,
            },
            descriptors: if ended { Vec::new() } else { self.files.of(pid)? },
            memory: if ended {
                None
            } else {
                Some(memory(&read_short(format!("/proc/{pid}/maps").as_ref())?))
            },
        })
    }

    /// The mounts of each mount namespace, that of the first process first.
    fn mounts(&mut self, processes: &[(i32, ProcessReport)]) -> Result<Vec<MountReport>> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for (at, (pid, _)) in processes.iter().enumerate() {
            let path = format!("/proc/{pid}/mountinfo");
            let table = proc::namespace_inode(Pid::from_raw(*pid), "mnt").and_then(|inode| {
                let table = if seen.insert(inode) {
                    mountinfo::parse(&read_short(path.as_ref())?)?
                } else {
                    Vec::new()
                };
                Ok((u32::try_from(inode).unwrap_or(0), table))
            });
            let (namespace, table) = match table {
                Ok(found) => found,
                Err(_) if at > 0 => continue,
                Err(error) => return Err(error).context(|| format!("read {path}")),
            };
            if found.len() + table.len() > PROCESSES {
                self.problems.push(format!("more than {PROCESSES} mounts are not told"));
                break;
            }
            found.extend(table.into_iter().map(|mount| {
                MountReport {
                    mountpoint: mount.mount_point.to_string_lossy().into_owned(),
                    kind: mount.fstype,
                    source: mount.source.to_string_lossy().into_owned(),
                    root: mount.root.to_string_lossy().into_owned(),
                    // What is the default goes without saying, and a filesystem may say again what the mount says.
                    options: [mount.options, mount.super_options]
                        .iter()
                        .flat_map(|options| options.split(','))
                        .filter(|option| !option.is_empty() && *option != "rw")
                        .map(str::to_owned)
                        .fold(Vec::new(), |mut options, option| {
                            if !options.contains(&option) {
                                options.push(option);
                            }
                            options
                        }),
                    external: None,
                    namespace,
                }
            }));
        }
        Ok(found)
    }
}

/// The children of all threads of a process.
fn children(pid: i32) -> Vec<i32> {
    let threads = proc::threads(pid).unwrap_or_default();
    let lists = threads
        .into_iter()
        .filter_map(|thread| read_short(format!("/proc/{pid}/task/{thread}/children").as_ref()).ok());
    lists
        .flat_map(|list| {
            let list = String::from_utf8_lossy(&list).into_owned();
            list.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<i32>>()
        })
        .collect()
}

/// Texts that are each ended by a NUL byte.
fn split(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn link(pid: i32, name: &str) -> Option<String> {
    let found = fs::read_link(format!("/proc/{pid}/{name}")).ok()?;
    Some(found.to_string_lossy().into_owned())
}

/// How a zombie has ended, as wait(2) says it: the last field of its stat line.
fn exit_status(pid: i32) -> Option<u32> {
    let line = read_short(format!("/proc/{pid}/stat").as_ref()).ok()?;
    String::from_utf8_lossy(&line).split_ascii_whitespace().next_back()?.parse().ok()
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// What is mapped, by kind and file. Which of its pages a dump has is known to a dump only.
fn memory(maps: &[u8]) -> MemoryReport {
    let mut areas: BTreeMap<(&'static str, Option<String>), MappedArea> = BTreeMap::new();
    for line in maps.split(|byte| *byte == b'\n') {
        let Some((length, kind, path)) = area(&String::from_utf8_lossy(line)) else { continue };
        // As of a checkpoint: tables without end come to one sum.
        let key = if areas.len() < AREAS { (kind, path) } else { ("other", None) };
        let entry = areas.entry(key).or_insert_with_key(|(kind, path)| MappedArea {
            kind,
            path: path.clone(),
            count: 0,
            bytes: 0,
        });
        entry.count += 1;
        entry.bytes = entry.bytes.saturating_add(length);
    }
    let mut areas: Vec<_> = areas.into_values().collect();
    areas.sort_by_key(|area| std::cmp::Reverse(area.bytes));
    let mapped = areas.iter().fold(0_u64, |sum, area| sum.saturating_add(area.bytes));
    MemoryReport { mapped, areas, pages: None }
}

/// A line of proc_pid_maps(5): length, kind in the words of a checkpoint's report, and path of a file.
fn area(line: &str) -> Option<(u64, &'static str, Option<String>)> {
    let mut rest = line;
    let mut field = || {
        let (word, after) = rest.split_once(' ')?;
        rest = after.trim_start();
        Some(word)
    };
    let (start, end) = field()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let length = number(end)?.checked_sub(number(start)?)?;
    let shared = field()?.ends_with('s');
    field()?;
    field()?;
    // Nothing follows the inode of what has no name.
    let name = rest.split_once(' ').map_or("", |(_, name)| name.trim_start());
    let own = |shared_kind, private_kind| if shared { shared_kind } else { private_kind };
    let kind = match name {
        "" => own("shared", "anonymous"),
        "[heap]" => "heap",
        "[stack]" => "stack",
        "[vdso]" => "vdso",
        "[vsyscall]" => "vsyscall",
        _ if name.starts_with("[vvar") => "vvar",
        _ if name.starts_with("[anon") => own("shared", "anonymous"),
        _ if name.starts_with("/memfd:") => "memfd",
        _ if name.starts_with("/SYSV") => "sysv",
        _ if name.starts_with("/dev/zero") => own("shared", "anonymous"),
        _ if name.starts_with("/[aio]") => "aio",
        _ if name.starts_with("socket:") => "socket",
        _ if name.starts_with('/') => own("shared file", "file"),
        _ => "other",
    };
    let has_path = matches!(kind, "file" | "shared file" | "memfd");
    Some((length, kind, has_path.then(|| name.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_have_the_words_of_a_checkpoint() {
        let line = |perms: &str, rest: &str| area(&format!("1000-3000 {perms} 00000000 00:06 12{rest}"));
        for (perms, rest, kind, path) in [
            ("rw-p", " ", "anonymous", None),
            ("rw-s", " ", "shared", None),
            ("rw-p", "                   [heap]", "heap", None),
            ("r--p", " [vvar_vclock]", "vvar", None),
            ("rw-p", " [anon: its own]", "anonymous", None),
            ("r-xp", " /usr/lib/a b.so", "file", Some("/usr/lib/a b.so")),
            ("rw-s", " /data", "shared file", Some("/data")),
            ("rw-s", " /memfd:x (deleted)", "memfd", Some("/memfd:x (deleted)")),
            ("rw-s", " /SYSV00000000 (deleted)", "sysv", None),
            ("rw-s", " /dev/zero (deleted)", "shared", None),
            ("rw-s", " anon_inode:[io_uring]", "other", None),
        ] {
            assert_eq!(line(perms, rest), Some((0x2000, kind, path.map(str::to_owned))), "{rest}");
        }
        for junk in ["", "junk", "3000-1000 rw-p 0 0 0 ", "x-y rw-p 0 0 0 "] {
            assert_eq!(area(junk), None, "{junk}");
        }
    }

    #[test]
    fn texts_end_with_nul() {
        assert_eq!(split(b"a\0b c\0\0"), ["a", "b c", ""]);
        assert_eq!(split(b""), Vec::<String>::new());
        assert_eq!(split(b"rewritten by itself"), ["rewritten by itself"]);
    }

    #[test]
    fn this_process_is_told() {
        let child = std::process::Command::new("sleep").arg("600").spawn();
        let mut child = child.expect("start sleep(1)");
        let own = RunningContainer {
            id: "own".to_owned(),
            init: std::process::id().cast_signed(),
            ..RunningContainer::default()
        };
        let report = inspect_running(&own, &InspectOptions::default());
        child.kill().and_then(|()| child.wait()).expect("end it");
        let report = report.expect("it runs");
        let [first, .., last] = &report.processes[..] else { panic!("two") };
        assert_eq!((first.parent, first.state, &first.environment), (0, "alive", &None));
        assert_eq!(last.parent, first.pid);
        assert!(
            first.memory.as_ref().is_some_and(|memory| memory.areas.iter().any(|area| area.kind == "stack"))
        );
        assert!(report.mounts.iter().any(|mount| mount.mountpoint == "/"));
        let gone = RunningContainer { init: i32::MAX, ..own };
        let error = inspect_running(&gone, &InspectOptions::default()).expect_err("there is no such process");
        assert_eq!(error.kind(), ErrorKind::WrongStatus);
    }
}
