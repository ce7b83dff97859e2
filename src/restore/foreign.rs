// SPDX-License-Identifier: Apache-2.0
//! From an archive of Podman, CRI-O or containerd to a bundle: the root filesystem is the caller's base with the archive's
//! difference over it, and what the configuration had of that host is the caller's, too.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::base::{copy_base, open};
use super::import::{Bundle, Imported, make_private, open_dir};
use super::volumes::{self, Answered};
use super::{RestoreOptions, allowed};
use crate::archive::{
    ForeignArchive, Progress, UnpackOptions, UnpackedForeign, lay_over, member, remove_deleted,
};
use crate::engine::NewContainer;
use crate::spec::HostAccess;
use crate::{Context, Error, ErrorKind, Result};

/// Where the bundle has what stands in for files of the other engine.
pub(super) const STAND_INS: &str = "stand-ins";

const SHARED_MEMORY: &str = "/dev/shm";

/// Files that engines give to every container, each of another content on each host.
const ENGINE_FILES: [&str; 4] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/.containerenv"];

/// Unpacks such an archive for a new container.
pub(super) fn unpack(
    new: &mut NewContainer,
    archive: ForeignArchive<Box<dyn Read + Send>>,
    options: &RestoreOptions,
    unpack: &UnpackOptions,
    progress: &mut (dyn Progress + Send),
) -> Result<Imported> {
    let unpacked = new.dir().join("import");
    make_private(&unpacked)?;
    let bundle = Bundle::choose(new, options.bundle.as_deref())?;
    let Some(rootfs) = &bundle.rootfs else {
        archive.unpack_into(open_dir(&unpacked)?.as_fd(), unpack, progress)?;
        fs::rename(unpacked.join(member::SPEC), unpacked.join(member::UNPACKED_SPEC))
            .context(|| "rename the archive's configuration")?;
        return Ok(Imported { bundle, unpacked });
    };
    let base = options.base_rootfs.as_deref().ok_or_else(no_base)?;
    let found = archive.unpack_into(open_dir(&unpacked)?.as_fd(), unpack, progress)?;
    let mut config = read_config(&unpacked.join(member::SPEC))?;
    let stand_ins = bundle.path.join(STAND_INS);
    let volumes = volumes::answer(&mut config, &found.volumes, options, &bundle.path)?;
    let mapping = Mapping { options, found: &found, volumes: &volumes, stand_ins: &stand_ins };
    let wanted = mapping.apply(&mut config)?;
    let wishes = serde_json::to_vec(&without(&config, &wanted)).context(|| "serialise the configuration")?;
    allowed::check(&wishes, open_dir(&unpacked.join("checkpoint"))?.as_fd(), options)?;

    fs::create_dir(&stand_ins).context(|| format!("make {}", stand_ins.display()))?;
    mapping.make_stand_ins(&config, &unpacked, unpack, progress)?;
    let root = open_dir(rootfs)?;
    volumes.fill(&unpacked, options.overwrite_volumes, unpack, progress)?;
    copy_base(base, root.as_fd(), progress)?;
    if found.has_difference {
        lay_over(open(&unpacked, member::ROOTFS_OVER)?, root.as_fd(), unpack, progress)?;
    }
    if found.has_deletions {
        remove_deleted(open(&unpacked, member::DELETED)?, root.as_fd(), &unpack.limits)?;
    }
    let bytes = serde_json::to_vec_pretty(&config).context(|| "serialise the configuration")?;
    for path in [bundle.path.join("config.json"), unpacked.join(member::UNPACKED_SPEC)] {
        fs::write(&path, &bytes).context(|| format!("write {}", path.display()))?;
    }
    Ok(Imported { bundle, unpacked })
}

fn no_base() -> Error {
    let message = "the archive is of Podman, CRI-O or containerd, and holds only how the root filesystem differs from its image's";
    Error::new(ErrorKind::InvalidInput, message).with_hint(
        "name a directory with the files of the image with --base-rootfs, or a whole bundle with --bundle",
    )
}

pub(super) fn read_config(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes)
        .context_kind(ErrorKind::InvalidArchive, || "understand the archive's configuration")
}

/// The configuration without the mounts at these positions. Their destinations would not do: another mount may have the same.
pub(super) fn without(config: &Value, positions: &[usize]) -> Value {
    let mut config = config.clone();
    if let Some(mounts) = config.get_mut("mounts").and_then(Value::as_array_mut) {
        let mut position = 0..;
        mounts.retain(|_| position.next().is_none_or(|at| !positions.contains(&at)));
    }
    config
}

/// Where things of the other host are here.
struct Mapping<'a> {
    options: &'a RestoreOptions,
    found: &'a UnpackedForeign,
    /// Mounts that have been answered for.
    volumes: &'a Answered,
    stand_ins: &'a Path,
}

impl Mapping<'_> {
    /// Makes the configuration one of this host; gives the positions of the mounts that the caller answers for.
    fn apply(&self, config: &mut Value) -> Result<Vec<usize>> {
        let invalid = |what: &'static str| Error::new(ErrorKind::InvalidArchive, what);
        let object =
            config.as_object_mut().ok_or_else(|| invalid("the archive's configuration is no object"))?;
        let root = object.entry("root").or_insert_with(|| json!({}));
        let root = root.as_object_mut().ok_or_else(|| invalid("the archive's field `root` is no object"))?;
        root.insert("path".to_owned(), "rootfs".into());
        if let Some(linux) = object.get_mut("linux").and_then(Value::as_object_mut) {
            // A place in the other host's tree: the container gets one of its own.
            linux.remove("cgroupsPath");
        }
        let (mut answered, mut missing) = (Vec::new(), Vec::new());
        let mounts = object.get_mut("mounts").and_then(Value::as_array_mut);
        for (position, mount) in mounts.into_iter().flatten().enumerate() {
            if !is_bind(mount) {
                continue;
            }
            if self.volumes.is_of(position) {
                answered.push(position);
                continue;
            }
            let destination = mount["destination"].as_str().unwrap_or_default().to_owned();
            let source = mount["source"].as_str().unwrap_or_default().to_owned();
            match self.source(&destination) {
                Some(here) => {
                    mount["source"] = json!(here);
                    answered.push(position);
                }
                None if self.options.allow.contains(&HostAccess::Mounts) => {}
                None => missing.push(format!("{destination} (there it was {source})")),
            }
        }
        if missing.is_empty() { Ok(answered) } else { Err(not_mapped(&missing)) }
    }

    /// What is mounted there, if that is known.
    fn source(&self, destination: &str) -> Option<String> {
        let is_ours = ENGINE_FILES.contains(&destination)
            || (destination == SHARED_MEMORY && self.found.has_shared_memory);
        let name = destination.rsplit('/').next().unwrap_or_default();
        is_ours.then(|| self.stand_ins.join(name).to_string_lossy().into_owned())
    }

    /// Makes what the other engine would make for a container, where the configuration mounts it.
    fn make_stand_ins(
        &self,
        config: &Value,
        unpacked: &Path,
        unpack: &UnpackOptions,
        progress: &mut (dyn Progress + Send),
    ) -> Result<()> {
        let name = config["hostname"].as_str().unwrap_or("localhost");
        for mount in config["mounts"].as_array().into_iter().flatten() {
            let Some(source) = mount["source"].as_str().map(Path::new) else { continue };
            if source.parent() != Some(self.stand_ins) || source.exists() {
                continue;
            }
            let attempt = || format!("make {}", source.display());
            if mount["destination"] == SHARED_MEMORY {
                fs::create_dir(source).context(attempt)?;
                fs::set_permissions(source, fs::Permissions::from_mode(0o1777)).context(attempt)?;
                let tree = open_dir(source)?;
                lay_over(open(unpacked, member::DEVSHM)?, tree.as_fd(), unpack, progress)
                    .context(|| format!("unpack {}", member::DEVSHM))?;
                continue;
            }
            let text = match mount["destination"].as_str().unwrap_or_default() {
                "/etc/hostname" => format!("{name}\n").into_bytes(),
                "/etc/hosts" => format!("127.0.0.1 localhost {name}\n::1 localhost\n").into_bytes(),
                "/etc/resolv.conf" => name_servers()?,
                _ => Vec::new(),
            };
            fs::write(source, text).context(attempt)?;
            fs::set_permissions(source, fs::Permissions::from_mode(0o644)).context(attempt)?;
        }
        Ok(())
    }
}

/// Those of the host, which may have none.
fn name_servers() -> Result<Vec<u8>> {
    match fs::read("/etc/resolv.conf") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.context(|| "read /etc/resolv.conf"),
    }
}

pub(super) fn is_bind(mount: &Value) -> bool {
    let mut options = mount["options"].as_array().into_iter().flatten();
    mount["type"] == "bind" || options.any(|option| *option == json!("bind") || *option == json!("rbind"))
}

fn not_mapped(missing: &[String]) -> Error {
    let message =
        format!("the container had directories or files of its host mounted: {}", missing.join(", "));
    Error::new(ErrorKind::InvalidInput, message)
        .with_hint("say what they are here with --map-mount DESTINATION=SOURCE, once for each")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::MappedMount;
    use super::*;

    fn mapped(options: &RestoreOptions, config: &mut Value) -> Result<Vec<usize>> {
        let found = UnpackedForeign::default();
        let volumes = volumes::answer(config, &found.volumes, options, Path::new("/b"))?;
        let stand_ins = Path::new("/b/stand-ins");
        Mapping { options, found: &found, volumes: &volumes, stand_ins }.apply(config)
    }

    #[test]
    fn what_was_of_the_other_host_is_of_this_one() {
        let mut options = RestoreOptions::default();
        let mut config = json!({
            "root": {"path": "/there", "readonly": true}, "linux": {"cgroupsPath": "/there", "x": 1},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/etc/hosts", "type": "bind", "source": "/there/hosts"},
                {"destination": "/data", "source": "/there/data", "options": ["rbind"]},
                {"destination": "/etc/hosts", "type": "ext4", "source": "/dev/sda1"},
            ],
        });
        let mut unmapped = config.clone();
        let error = mapped(&options, &mut unmapped).expect_err("nobody said what /data is here");
        assert!(error.to_string().ends_with("mounted: /data (there it was /there/data)"), "{error}");
        options.map_mounts.push(MappedMount { destination: "/data".into(), source: PathBuf::from("/here") });
        let answered = mapped(&options, &mut config).expect("all is known");
        assert_eq!(answered, [1, 2]);
        assert_eq!(config["root"], json!({"path": "rootfs", "readonly": true}));
        assert_eq!(config["linux"], json!({"x": 1}));
        assert_eq!(config["mounts"][1]["source"], "/b/stand-ins/hosts");
        assert_eq!(config["mounts"][2]["source"], "/here");
        let left = without(&config, &answered);
        let left: Vec<_> = left["mounts"].as_array().into_iter().flatten().map(|m| &m["type"]).collect();
        assert_eq!(left, ["proc", "ext4"], "the caller has not answered for the disk");
    }
}
