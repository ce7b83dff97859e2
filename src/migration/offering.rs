// SPDX-License-Identifier: Apache-2.0
//! The first words of a source: what it has to give, and what is in the way of that on either host. Must not know what comes after.

use std::os::fd::OwnedFd;

use super::endpoint::{Endpoint, Shell};
use super::id::MigrationId;
use super::link::Link;
use super::members::require_group;
use super::predictor::RoundLimits;
use super::preflight;
use super::protocol::{Answer, Blocker, Flags, Hello, Offer, Said, WITH_FILES, WITH_MEMBERS, WITH_PAGES};
use crate::checkpoint::CheckpointOptions;
use crate::criu::{TcpConnections, Version};
use crate::engine::Container;
use crate::{Context, Error, ErrorKind, Result, sys};

/// What the caller wants of a migration.
#[derive(Debug)]
#[non_exhaustive]
pub struct MoveOptions {
    /// Where to.
    pub destination: Endpoint,
    /// The way there.
    pub shell: Shell,
    /// How the container is checkpointed.
    pub checkpoint: CheckpointOptions,
    /// How much of its memory is sent before it is.
    pub rounds: RoundLimits,
    /// Readable when it shall be given up: [`crate::checkpoint::signals_to_give_up`].
    pub give_up: Option<OwnedFd>,
}

impl MoveOptions {
    /// With nothing out of the ordinary.
    pub fn new(destination: Endpoint) -> Self {
        Self {
            destination,
            shell: Shell::default(),
            checkpoint: CheckpointOptions::default(),
            rounds: RoundLimits::default(),
            give_up: None,
        }
    }
}

/// Asks both sides what is in the way, and changes nothing.
///
/// # Errors
/// The containers or the other side cannot be asked; they cannot move together.
pub fn survey(containers: &[Container], options: &MoveOptions) -> Result<(Vec<Blocker>, Answer)> {
    let ids: Vec<_> = containers.iter().map(|container| container.id().clone()).collect();
    require_group(&ids)?;
    let (mut link, _) = Link::open(&options.destination, &options.shell)?;
    let offered = offer(&mut link, containers, options, MigrationId::random()?)?;
    Ok((offered.blockers, offered.answer))
}

/// What was said of an offer.
pub(super) struct Offered {
    /// What is in the way, on both sides.
    pub(super) blockers: Vec<Blocker>,
    pub(super) answer: Answer,
    /// CRIU's version here, unless it is in the way.
    pub(super) criu: Option<Version>,
}

/// Tells the other side of the containers, and gathers what is in the way on both.
pub(super) fn offer(
    link: &mut Link,
    containers: &[Container],
    options: &MoveOptions,
    migration: MigrationId,
) -> Result<Offered> {
    let several = containers.len() > 1;
    let mut blockers = Vec::new();
    for container in containers {
        let own = preflight::at_source(container, &options.checkpoint).into_iter();
        blockers
            .extend(own.map(|blocker| if several { blocker.of(container.id().as_str()) } else { blocker }));
    }
    let version = greet(link)?;
    if several && version < WITH_MEMBERS {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the other host's migrate moves one container at a time",
        )
        .with_hint("install the same version of migrate on both hosts, or move the containers one by one"));
    }
    let criu = preflight::criu(options.checkpoint.criu.as_deref())
        .inspect_err(|error| blockers.push(Blocker::from(error)))
        .ok();
    for (number, container) in containers.iter().enumerate() {
        let addresses = preflight::addresses(container, &options.checkpoint)
            .inspect_err(|error| blockers.push(Blocker::from(error)))
            .unwrap_or_default();
        let config = container.config()?;
        let offer = Offer {
            migration,
            container: container.id().to_string(),
            config: serde_json::from_slice(&config.bytes)
                .context(|| "understand the container's configuration")?,
            arch: sys::arch::NAME.to_owned(),
            criu: criu.map_or(0, Version::as_number),
            flags: flags(&options.checkpoint),
            memory: container.stats().map_or(0, |stats| stats.memory.usage.usage),
            addresses,
            more: if number == 0 { u32::try_from(containers.len() - 1).unwrap_or(u32::MAX) } else { 0 },
        };
        link.say(&Said::Offer(Box::new(offer)))?;
    }
    let Said::Answer(mut answer) = link.said()? else { return Err(out_of_turn()) };
    answer.takes_pages &= version >= WITH_PAGES;
    answer.takes_files &= version >= WITH_FILES;
    blockers.extend(answer.blockers.iter().cloned());
    Ok(Offered { blockers, answer, criu })
}

/// Tells the version of the protocol that both speak.
pub(super) fn greet(link: &mut Link) -> Result<u32> {
    link.say(&Said::Hello(Hello::own()))?;
    match link.said()? {
        Said::Hello(hello) => hello.common(),
        _ => Err(out_of_turn()),
    }
}

pub(super) fn out_of_turn() -> Error {
    Error::new(ErrorKind::InvalidInput, "the other host says something out of turn")
}

fn flags(options: &CheckpointOptions) -> Flags {
    Flags {
        tcp_established: options.tcp == TcpConnections::Keep,
        tcp_close: options.tcp == TcpConnections::Close,
        ext_unix_sk: options.ext_unix_sk,
        shell_job: options.shell_job,
        file_locks: options.file_locks,
    }
}
