// SPDX-License-Identifier: Apache-2.0
//! The first words of a source: what it has to give, and what is in the way of that on either host. Must not know what comes after.

use super::id::MigrationId;
use super::link::Link;
use super::preflight;
use super::protocol::{Answer, Blocker, Flags, Hello, Offer, Said, WITH_PAGES};
use super::sending::MoveOptions;
use crate::checkpoint::CheckpointOptions;
use crate::criu::{TcpConnections, Version};
use crate::engine::Container;
use crate::{Context, Error, ErrorKind, Result, sys};

/// Asks both sides what is in the way, and changes nothing.
///
/// # Errors
/// The container or the other side cannot be asked.
pub fn survey(container: &Container, options: &MoveOptions) -> Result<(Vec<Blocker>, Answer)> {
    let (mut link, _) = Link::open(&options.destination, &options.shell)?;
    let offered = offer(&mut link, container, options, MigrationId::random()?)?;
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

/// Tells the other side of a container, and gathers what is in the way on both.
pub(super) fn offer(
    link: &mut Link,
    container: &Container,
    options: &MoveOptions,
    migration: MigrationId,
) -> Result<Offered> {
    let mut blockers = preflight::at_source(container, &options.checkpoint);
    let version = greet(link)?;
    let config = container.config()?;
    let criu = preflight::criu(options.checkpoint.criu.as_deref())
        .inspect_err(|error| blockers.push(Blocker::from(error)))
        .ok();
    let offer = Offer {
        migration,
        container: container.id().to_string(),
        config: serde_json::from_slice(&config.bytes)
            .context(|| "understand the container's configuration")?,
        arch: sys::arch::NAME.to_owned(),
        criu: criu.map_or(0, Version::as_number),
        flags: flags(&options.checkpoint),
        memory: container.stats().map_or(0, |stats| stats.memory.usage.usage),
        addresses: preflight::addresses(container, &options.checkpoint)
            .inspect_err(|error| blockers.push(Blocker::from(error)))
            .unwrap_or_default(),
    };
    link.say(&Said::Offer(Box::new(offer)))?;
    let Said::Answer(mut answer) = link.said()? else { return Err(out_of_turn()) };
    answer.takes_pages &= version >= WITH_PAGES;
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
