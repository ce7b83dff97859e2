// SPDX-License-Identifier: Apache-2.0
//! Memory that went straight into an archive which was never completed, when it is all there is of the processes: how to find it,
//! and its way to the other images.
//!
//! ```text
//! before the processes are killed   journal: where the half archive's members end · archive.end: what would follow them
//! afterwards                        half archive up to there + archive.end ─▶ checkpoint/pages-*.img ─▶ directory of images
//! ```

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::export::Exporter;
use super::images::open_dir;
use super::journal::{Journal, Memory};
use crate::archive::Seekable;
use crate::archive::member::IMAGES;
use crate::engine::Container;
use crate::{Context, Error, ErrorKind, Result};

/// What would complete the half archive, in the container's directory.
const END: &str = "archive.end";

/// Notes in the journal, which is still to be saved, what is only in the archive, and lets the half archive stay.
pub(super) fn note_memory(
    container: &Container,
    journal: &mut Journal,
    exporter: &mut Exporter<'_>,
) -> Result<()> {
    let Some(ending) = exporter.keep()? else { return Ok(()) };
    container.write_file(END, &ending.bytes)?;
    let target = std::path::absolute(&ending.target).context(|| "resolve the archive's path")?;
    journal.memory = Some(Memory { end: ending.position, inode: ending.inode, target });
    Ok(())
}

/// Brings all memory to the other images. Nothing is lost if it fails, and it can be tried again.
pub(super) fn reclaim(container: &Container, journal: &mut Journal) -> Result<()> {
    let Some(memory) = &journal.memory else { return Ok(()) };
    let context = || format!("take the memory of container {} out of its archive", container.id());
    let file = open(container, journal, memory).context(context)?;
    let archive = Seekable::open(file).context(context)?;
    let mut archive = archive.ok_or_else(|| lost(memory)).context(context)?;
    let images = open_dir(&journal.images)?;
    let prefix = format!("{IMAGES}pages-");
    let names: Vec<_> = archive.members().map(|(name, _)| name.to_owned()).collect();
    for name in names.iter().filter(|name| name.starts_with(&prefix)) {
        let image = Path::new(name.trim_start_matches(IMAGES));
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(images.as_fd(), image, flags, Mode::from_bits_truncate(0o600));
        let mut file = File::from(file.context(|| format!("make image {}", image.display()))?);
        archive.copy(name, &mut file).context(context)?;
    }
    journal.memory = None;
    journal.save(container)?;
    journal.remove_partial()?;
    let _ = fs::remove_file(container.dir().join(END));
    Ok(())
}

/// The half archive, completed, or the complete one that it has become.
fn open(container: &Container, journal: &Journal, memory: &Memory) -> Result<File> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOFOLLOW);
    let same = |file: &File| file.metadata().is_ok_and(|found| found.ino() == memory.inode);
    let partial = journal.partial.as_deref().unwrap_or(&memory.target);
    match options.clone().write(true).open(partial) {
        Ok(mut file) if same(&file) => {
            let end = container.dir().join(END);
            let end = fs::read(&end).context(|| format!("read {}", end.display()))?;
            let completed = file.set_len(memory.end).and_then(|()| {
                file.seek(SeekFrom::Start(memory.end))?;
                file.write_all(&end)
            });
            completed.context(|| format!("complete {}", partial.display()))?;
            return Ok(file);
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(e).context(|| format!("open {}", partial.display()));
        }
        _ => {}
    }
    match options.open(&memory.target) {
        Ok(file) if same(&file) => Ok(file),
        _ => Err(lost(memory)),
    }
}

fn lost(memory: &Memory) -> Error {
    let message = format!("the half archive beside {} is not there any more", memory.target.display());
    Error::new(ErrorKind::NotFound, message)
}
