// SPDX-License-Identifier: Apache-2.0
//! A report as text for people. Whatever comes from the checkpoint is printed so that a terminal does not obey it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::report::{MemoryReport, OpenDescriptor, ProcessReport, Report, SocketReport};

/// Longest command line in the tree, in characters.
const COMMAND: usize = 100;
/// Kinds and files of memory that are listed of a process.
const AREAS: usize = 12;
/// How deep a tree is drawn.
const DEPTH: usize = 32;

/// A part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The processes.
    Tree,
    /// Descriptors.
    Files,
    /// Sockets.
    Sockets,
    /// Mounts.
    Mounts,
    /// Memory.
    Memory,
    /// Environments.
    Environment,
}

impl Report {
    /// The text: these sections, or, without any, of which container it is, the processes, and how much of what there is.
    /// What could not be read is told in both.
    pub fn text(&self, sections: &[Section]) -> String {
        let mut out = String::new();
        if sections.is_empty() {
            self.overview(&mut out);
            out.push('\n');
            self.tree(&mut out);
        }
        for section in sections {
            match section {
                Section::Tree => self.tree(&mut out),
                Section::Files => self.files(&mut out),
                Section::Sockets => self.sockets(&mut out),
                Section::Mounts => self.mounts(&mut out),
                Section::Memory => self.memory(&mut out),
                Section::Environment => self.environment(&mut out),
            }
        }
        if !self.is_whole() {
            out.push_str("\nnot read:\n");
            self.problems.iter().for_each(|problem| line(&mut out, &format!("  {}", shown(problem))));
        }
        out
    }

    fn overview(&self, out: &mut String) {
        let header = &self.checkpoint;
        let size = &self.size;
        let mut row = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                line(out, &format!("{name:<13}{}", shown(value)));
            }
        };
        row(self.form, Some(&self.path));
        row("id", header.id.as_deref());
        row("name", header.name.as_deref());
        row("image", header.image.as_deref());
        row("hostname", header.hostname.as_deref());
        row(
            "addresses",
            Some(&header.addresses.join(" ")).filter(|text| !text.is_empty()).map(String::as_str),
        );
        row("engine", header.engine.as_deref());
        row("runtime", header.runtime.as_deref());
        row("created", header.created.as_deref());
        row("frozen at", header.frozen_at.as_deref());
        row("written by", header.tool.as_deref());
        row("criu", header.criu.as_deref());
        row("kernel", header.kernel.as_deref());
        row("arch", header.arch.as_deref());
        row("cgroups", header.cgroup_version.map(|version| format!("v{version}")).as_deref());
        let schema = header.archive_schema.map(|schema| format!("schema {schema}"));
        let form =
            [header.layout.clone(), schema, header.compression.as_ref().map(|c| format!("compression {c}"))];
        let form: Vec<String> = form.into_iter().flatten().collect();
        row("format", Some(&form.join(", ")).filter(|text| !text.is_empty()).map(String::as_str));
        row("digest", header.digest.as_deref());
        row("needs", Some(&header.bases.join(", ")).filter(|list| !list.is_empty()).map(String::as_str));
        row("base", header.rootfs_base.as_deref());
        row("volumes", Some(&header.volumes.join(", ")).filter(|list| !list.is_empty()).map(String::as_str));
        let sizes = (self.form != "container").then(|| {
            format!(
                "{} ({} unpacked: {} of images, of that {} of memory; {} of root filesystem)",
                bytes(size.file),
                bytes(size.unpacked),
                bytes(size.images),
                bytes(size.memory_pages),
                bytes(size.rootfs)
            )
        });
        row("size", sizes.as_deref());
        let found = &self.summary;
        row(
            "holds",
            Some(&format!(
                "{} processes, {} threads, {} descriptors, {} sockets, {} mounts",
                found.processes, found.threads, found.descriptors, found.sockets, found.mounts
            )),
        );
        let statistics = self.statistics.map(|stats| {
            format!(
                "freezing {} µs, frozen {} µs, memory dumped {} µs, written {} µs, {} pages",
                stats.freezing_time,
                stats.frozen_time,
                stats.memdump_time,
                stats.memwrite_time,
                stats.pages_written
            )
        });
        row("statistics", statistics.as_deref());
        let differing = self.host.iter().filter(|row| matches!(row.verdict, "differs" | "hinders"));
        let told: Vec<String> = differing
            .map(|row| {
                let value = |text: &Option<String>| text.clone().unwrap_or_default();
                format!("{} {}: {}, here {}", row.name, row.verdict, value(&row.checkpoint), value(&row.host))
            })
            .collect();
        let told = if told.is_empty() { "nothing known differs".to_owned() } else { told.join("; ") };
        row("this host", Some(&told[..]).filter(|_| !self.host.is_empty()));
    }

    /// Draws the processes from those without a parent on. A process that no such one leads to, as one that is its own
    /// ancestor, is drawn as if it had none.
    fn tree(&self, out: &mut String) {
        let pids: BTreeSet<u32> = self.processes.iter().map(|process| process.pid).collect();
        let mut children: BTreeMap<u32, Vec<&ProcessReport>> = BTreeMap::new();
        for process in self.processes.iter().filter(|process| process.pid != process.parent) {
            children.entry(process.parent).or_default().push(process);
        }
        let has_parent =
            |process: &&ProcessReport| process.parent != process.pid && pids.contains(&process.parent);
        let roots = self.processes.iter().filter(|process| !has_parent(process));
        let mut drawn = BTreeSet::new();
        for root in roots.chain(&self.processes) {
            // Depth first, without recursion: a hostile tree may be as deep as it has processes.
            let mut stack = vec![(root, 0, String::new())];
            while let Some((process, depth, prefix)) = stack.pop() {
                if !drawn.insert(process.pid) {
                    continue;
                }
                line(out, &format!("{prefix}{}", about(process)));
                let indent = prefix.replace("├─ ", "│  ").replace("└─ ", "   ");
                let below = children.get(&process.pid).map(Vec::as_slice).unwrap_or_default();
                for (i, child) in below.iter().enumerate().rev() {
                    let branch = if i + 1 == below.len() { "└─ " } else { "├─ " };
                    let prefix = if depth < DEPTH { format!("{indent}{branch}") } else { prefix.clone() };
                    stack.push((child, depth + 1, prefix));
                }
            }
        }
    }

    fn files(&self, out: &mut String) {
        for process in &self.processes {
            line(out, &title(process));
            for open in &process.descriptors {
                line(out, &format!("  {:>4}  {}", open.fd, descriptor(open)));
            }
        }
    }

    fn sockets(&self, out: &mut String) {
        for process in &self.processes {
            let sockets =
                process.descriptors.iter().filter_map(|open| Some((open.fd, open.socket.as_ref()?)));
            let mut lines =
                sockets.map(|(fd, socket)| format!("  {fd:>4}  {}", about_socket(socket))).peekable();
            if lines.peek().is_some() {
                line(out, &title(process));
                lines.for_each(|text| line(out, &text));
            }
        }
    }

    fn mounts(&self, out: &mut String) {
        for mount in &self.mounts {
            let from =
                mount.external.as_ref().map_or_else(String::new, |key| format!("  external {}", shown(key)));
            let (place, source) = (shown(&mount.mountpoint), shown(&mount.source));
            let (kind, options) = (shown(&mount.kind), shown(&mount.options.join(",")));
            line(out, &format!("{place:<32} {kind:<10} {source:<16} {options}{from}"));
        }
    }

    fn memory(&self, out: &mut String) {
        for process in &self.processes {
            let Some(memory) = &process.memory else { continue };
            line(out, &title(process));
            line(out, &format!("  {}", about_memory(memory)));
            for area in memory.areas.iter().take(AREAS) {
                let path = area.path.as_deref().map(shown).unwrap_or_default();
                let text =
                    format!("  {:>10}  {:<13} {:>4} areas  {path}", bytes(area.bytes), area.kind, area.count);
                line(out, text.trim_end());
            }
            if let Some(more) = memory.areas.len().checked_sub(AREAS).filter(|more| *more > 0) {
                line(out, &format!("  and {more} more"));
            }
        }
    }

    fn environment(&self, out: &mut String) {
        for process in &self.processes {
            line(out, &title(process));
            match &process.environment {
                Some(words) => words.iter().for_each(|word| line(out, &format!("  {}", shown(word)))),
                None => line(out, "  (its memory is not here)"),
            }
        }
    }
}

fn line(out: &mut String, text: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{text}");
}

fn title(process: &ProcessReport) -> String {
    format!("{} {}", process.pid, shown(&process.name)).trim_end().to_owned()
}

/// A process in the tree.
fn about(process: &ProcessReport) -> String {
    let mut text = title(process);
    if process.state != "alive" {
        let _ = write!(text, " [{}]", process.state);
    }
    if process.threads.len() > 1 {
        let _ = write!(text, " {{{} threads}}", process.threads.len());
    }
    if let Some(uid) = process.uid.filter(|uid| *uid != 0) {
        let _ = write!(text, " uid {uid}");
    }
    if let Some(words) = process.command_line.as_ref().filter(|words| !words.is_empty()) {
        let _ = write!(text, "  {}", command(words));
    }
    text
}

/// The beginning of a command line.
pub(super) fn command(words: &[String]) -> String {
    let line = shown(&words.join(" "));
    let end = line.char_indices().nth(COMMAND).map_or(line.len(), |(at, _)| at);
    let more = if end < line.len() { "…" } else { "" };
    format!("{}{more}", &line[..end])
}

pub(super) fn descriptor(open: &OpenDescriptor) -> String {
    let what = match &open.socket {
        Some(socket) => about_socket(socket),
        None => format!("{:<10} {}", open.kind, open.path.as_deref().map(shown).unwrap_or_default()),
    };
    let position = open.position.filter(|at| *at > 0).map_or_else(String::new, |at| format!(" at {at}"));
    let external = if open.external { " external" } else { "" };
    format!("{what}  {}{position}{external}", open.flags.join(","))
}

fn about_socket(socket: &SocketReport) -> String {
    let protocol = match socket.family {
        "unix" => String::new(),
        _ => format!(" {}", socket.protocol),
    };
    let mut text = format!("{}{protocol} {} {}", socket.family, socket.kind, socket.state);
    for (arrow, address) in [(" ", &socket.local), (" -> ", &socket.remote)] {
        if let Some(address) = address {
            let _ = write!(text, "{arrow}{}", shown(address));
        }
    }
    if let Some(peer) = socket.peer {
        let _ = write!(text, " [{}] peer [{peer}]", socket.inode);
    }
    text
}

fn about_memory(memory: &MemoryReport) -> String {
    let Some(pages) = memory.pages else { return format!("{} mapped", bytes(memory.mapped)) };
    let mut text =
        format!("{} mapped, {} pages here ({})", bytes(memory.mapped), pages.present, bytes(pages.bytes));
    for (count, what) in [(pages.in_parent, "in the parent"), (pages.zero, "zero"), (pages.lazy, "lazy")] {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text
}

/// A size as people read it.
fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// Text from a checkpoint with everything escaped that a terminal might obey.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Marks that turn the direction of writing can make a line look like another.
        if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
