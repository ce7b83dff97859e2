// SPDX-License-Identifier: Apache-2.0
//! One round of an iterative checkpoint: the memory of a container that runs on, so that the last round has less to do.

use std::os::fd::AsFd;

use super::{CheckpointOptions, CheckpointReport, Export, ImagesDir, Ready};
use super::{failure::context, freezer::Freezer, namespaces, open_work_dir, options};
use crate::criu::{AfterDump, CriuClient, DumpRequest, ManageCgroups, NetworkLock, Silent, SpawnOptions};
use crate::diagnose::explained;
use crate::engine::Container;
use crate::sys::namespace::in_private_mount_namespace;
use crate::{Context, Error, ErrorKind, Result};

/// Writes the memory of a container into a directory of images, for the `parent_path` of a later pre-dump or checkpoint.
/// The container runs on.
///
/// # Errors
/// As [`checkpoint`](super::checkpoint), and [`ErrorKind::Unsupported`] where the kernel does not track changes of memory.
pub fn pre_dump(container: &mut Container, options: &CheckpointOptions) -> Result<CheckpointReport> {
    let _lock = container.lock()?;
    container.require_owned()?;
    let context = format!("pre-dump container {}", container.id());
    run(container, options).inspect(|report| report.tell(container)).context(|| context)
}

fn run(container: &Container, options: &CheckpointOptions) -> Result<CheckpointReport> {
    if options.memory.lazy_pages {
        let message =
            "--pre-dump and --lazy-pages exclude each other: a pre-dump is memory, and nothing else";
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    let images = ImagesDir::choose(container, options, None::<&Export>)?;
    options.memory.check(&images.path)?;
    let Ready { status, config, criu } = super::ready(container, options)?;
    let init = super::living_init(container)?;
    let images_fd = images.create()?;
    let work_dir = options.work_path.as_deref().map(open_work_dir).transpose()?;
    let dumped = in_private_mount_namespace(|mounts| {
        let spawn = SpawnOptions::default().namespaces(namespaces::around_criu(&config, init)?);
        let mut client = CriuClient::spawn(&criu, spawn)?;
        client.reuse_kernel_facts(mounts);
        options.memory.check_kernel(&mut client, true)?;
        let freezer = Freezer::prepare(container, status)?;
        let mut request = DumpRequest::new(init.pid, images_fd.as_fd());
        request.after = AfterDump::Run;
        request.freeze_cgroup = freezer.for_criu();
        request.options.work_dir = work_dir.as_ref().map(AsFd::as_fd);
        request.options.root = Some(container.state().rootfs.clone());
        request.options.external = options::external_namespaces(&config, init)?;
        request.options.manage_cgroups = ManageCgroups::Ignore;
        request.options.timeout = options.timeout;
        request.options.config_file = options::further_options(&config);
        if client.version() >= NetworkLock::SKIP_SINCE {
            request.options.network_lock = NetworkLock::Skip;
        }
        options.memory.apply(&mut request);
        request.track_memory = true;
        let dumped = client.pre_dump(&request, &mut Silent);
        dumped.map_err(|error| explained(error, || context(container, &config, options, images_fd.as_fd())))
    });
    let dumped = dumped.context(|| "make a private mount namespace for criu").flatten()?;
    let stood_still = Some(dumped.stood_still);
    Ok(CheckpointReport {
        images_bytes: images.size()?,
        archive_bytes: None,
        stats: dumped.stats,
        stood_still,
    })
}
