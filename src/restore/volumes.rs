// SPDX-License-Identifier: Apache-2.0
//! What an archive of ours had of its host's directories: where the caller says that they are here, or, of those that travelled
//! along, in the bundle.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::RestoreOptions;
use super::base::open;
use super::foreign::{is_bind, without};
use super::import::open_dir;
use crate::archive::{Progress, UnpackOptions, VolumeFacts, lay_over_base};
use crate::{Context, Error, ErrorKind, Result};

/// The directory of the bundle in which those are that the caller has no place for.
pub(super) const VOLUMES: &str = "volumes";

/// Bind mounts that are answered for.
#[derive(Debug)]
pub(super) struct Answered {
    /// Their positions in the configuration.
    positions: Vec<usize>,
    /// Those that the archive has the content of, by their names there, and where it goes.
    volumes: Vec<(String, PathBuf)>,
}

/// Makes the sources of bind mounts those of this host.
///
/// # Errors
/// `InvalidArchive` for a volume that is not mounted.
pub(super) fn answer(
    config: &mut Value,
    volumes: &[VolumeFacts],
    options: &RestoreOptions,
    bundle: &Path,
) -> Result<Answered> {
    let mut answered = Answered { positions: Vec::new(), volumes: Vec::new() };
    let mounts = config.get_mut("mounts").and_then(Value::as_array_mut);
    for (position, mount) in mounts.into_iter().flatten().enumerate() {
        let destination = mount["destination"].as_str().unwrap_or_default().to_owned();
        let mapped = options.map_mounts.iter().find(|mapped| mapped.destination == destination);
        let volume = volumes.iter().find(|volume| volume.destination == destination);
        if !is_bind(mount) || (mapped.is_none() && volume.is_none()) {
            continue;
        }
        let inside = |volume: &VolumeFacts| bundle.join(VOLUMES).join(&volume.name);
        let place = mapped.map(|mapped| mapped.source.clone()).or_else(|| volume.map(inside));
        let place =
            std::path::absolute(place.unwrap_or_default()).context(|| "resolve the place of a volume")?;
        mount["source"] = json!(place.to_string_lossy());
        answered.positions.push(position);
        answered.volumes.extend(volume.map(|volume| (volume.name.clone(), place)));
    }
    let unmounted =
        volumes.iter().find(|volume| !answered.volumes.iter().any(|(name, _)| *name == volume.name));
    match unmounted {
        Some(volume) => {
            let message =
                format!("the archive has a volume for {}, where nothing is mounted", volume.destination);
            Err(Error::new(ErrorKind::InvalidArchive, message))
        }
        None => Ok(answered),
    }
}

impl Answered {
    /// Whether the mount at this position is answered for.
    pub(super) fn is_of(&self, position: usize) -> bool {
        self.positions.contains(&position)
    }

    /// What of the configuration is left to be allowed.
    pub(super) fn rest(&self, config: &Value) -> Value {
        without(config, &self.positions)
    }

    /// Unpacks the volumes. All their places are looked at before the first one is written to.
    ///
    /// # Errors
    /// `AlreadyExists` for a place with files in it, unless that is wanted; else as unpacking a root filesystem.
    pub(super) fn fill(
        &self,
        unpacked: &Path,
        overwrite: bool,
        unpack: &UnpackOptions,
        progress: &mut (dyn Progress + Send),
    ) -> Result<()> {
        for (_, place) in &self.volumes {
            let empty = match fs::read_dir(place) {
                Ok(mut entries) => entries.next().is_none(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(error) => return Err(error).context(|| format!("list {}", place.display())),
            };
            if !empty && !overwrite {
                let message =
                    format!("{} has files already: the archive's would be laid over them", place.display());
                return Err(Error::new(ErrorKind::AlreadyExists, message)
                    .with_hint("name an empty directory, or say --overwrite-volumes"));
            }
        }
        for (name, place) in &self.volumes {
            fs::create_dir_all(place).context(|| format!("make {}", place.display()))?;
            let tar = open(&unpacked.join(VOLUMES), &format!("{name}.tar"))?;
            lay_over_base(tar, open_dir(place)?.as_fd(), unpack, progress)
                .context(|| format!("unpack volume {name} into {}", place.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::MappedMount;

    #[test]
    fn only_what_is_answered_for_needs_no_permission() {
        let mut options = RestoreOptions::default();
        options.map_mounts.push(MappedMount { destination: "/mapped".into(), source: "/here".into() });
        let mount =
            |destination: &str| json!({"destination": destination, "source": "/there", "options": ["rbind"]});
        let mut config = json!({"mounts": [mount("/mapped"), mount("/volume"), mount("/other"),
            {"destination": "/mapped", "type": "tmpfs", "source": "tmpfs"}]});
        let volumes = [VolumeFacts::new("1-volume", "/volume")];
        let answered = answer(&mut config, &volumes, &options, Path::new("/b")).expect("mounted");
        assert_eq!(answered.positions, [0, 1]);
        assert_eq!(answered.volumes, [("1-volume".to_owned(), PathBuf::from("/b/volumes/1-volume"))]);
        assert_eq!(config["mounts"][0]["source"], "/here");
        assert_eq!(config["mounts"][1]["source"], "/b/volumes/1-volume");
        assert_eq!(config["mounts"][2]["source"], "/there");
        let rest = answered.rest(&config);
        assert_eq!(rest["mounts"].as_array().map(Vec::len), Some(2), "{rest}");
        let volumes = [VolumeFacts::new("1-gone", "/gone")];
        let error = answer(&mut config, &volumes, &options, Path::new("/b")).expect_err("not mounted");
        assert_eq!(error.kind(), ErrorKind::InvalidArchive);
    }
}
