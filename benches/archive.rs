// SPDX-License-Identifier: Apache-2.0
//! Times the writing and the reading of an archive: `cargo bench --bench archive -- DIR [WORK [LEVEL]]`.
//!
//! DIR is archived as a root filesystem into WORK (default: the temporary directory), level 0 meaning no
//! compression, then unpacked there. Prints one line, `write SECONDS read SECONDS in BYTES out BYTES peak KIB`, where
//! peak is the resident memory after writing. `scripts/bench` compares it with `tar c DIR | zstd -1`.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use migrate::archive::{
    Archive, ArchiveFile, ArchiveWriter, Compression, DeviceNodes, Manifest, UnpackOptions, WriteOptions,
};
use nix::sys::resource::{UsageWho, getrusage};

fn main() -> Result<(), Box<dyn Error>> {
    // cargo adds --bench.
    let mut arguments = std::env::args_os().skip(1).filter(|argument| argument != "--bench");
    let Some(tree) = arguments.next().map(PathBuf::from) else {
        return Err("usage: cargo bench --bench archive -- DIR [WORK [LEVEL]]".into());
    };
    let work = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let level = arguments.next().map_or(Ok(1), |level| level.to_string_lossy().parse())?;
    let work = tempfile::tempdir_in(work)?;
    for directory in ["images", "private", "rootfs"] {
        fs::create_dir(work.path().join(directory))?;
    }
    let mut options = WriteOptions::default();
    options.compression = if level == 0 { Compression::None } else { Compression::Zstd { level } };
    let mut manifest = Manifest::new("bench", SystemTime::now());
    manifest.container.rootfs = true;

    let started = Instant::now();
    let target = work.path().join("archive");
    let mut writer = ArchiveWriter::new(ArchiveFile::create(&target)?, &options, &manifest)?;
    writer.spec(b"{}")?;
    writer.images(File::open(work.path().join("images"))?.as_fd(), &mut ())?;
    writer.rootfs(File::open(&tree)?.as_fd(), &mut ())?;
    let (file, summary) = writer.finish()?;
    let written = started.elapsed();
    file.commit()?;
    let peak = getrusage(UsageWho::RUSAGE_SELF)?.max_rss();

    let started = Instant::now();
    let mut options = UnpackOptions::default();
    options.devices = DeviceNodes::Any;
    let private = File::open(work.path().join("private"))?;
    let rootfs = File::open(work.path().join("rootfs"))?;
    Archive::open(File::open(&target)?)?.unpack_into(
        private.as_fd(),
        Some(rootfs.as_fd()),
        &options,
        &mut (),
    )?;
    let read = started.elapsed();
    writeln!(
        std::io::stdout(),
        "write {:.3} read {:.3} in {} out {} peak {peak}",
        written.as_secs_f64(),
        read.as_secs_f64(),
        summary.bytes_in,
        summary.bytes_out,
    )?;
    Ok(())
}
