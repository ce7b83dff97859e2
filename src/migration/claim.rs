// SPDX-License-Identifier: Apache-2.0
//! What a migration may do to the container on this host: hold it, look at its tree, let it run, end it. Everything can be
//! done again by whoever takes over, and nothing is done to a container that the migration does not hold: the id may have
//! another one by now, or the container may be its host's again.
//!
//! Must not know what is decided, nor why.

use super::handoff::{Owner, Tree};
use super::id::Tag;
use crate::engine::{Container, ContainerId, Ownership, StateRoot, Status};
use crate::{Context, Error, ErrorKind, Result, checkpoint, restore};

/// A migration's claim to one container.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Where the container is written down.
    pub root: &'a StateRoot,
    /// The container.
    pub id: &'a ContainerId,
    /// The migration, and the attempt.
    pub tag: Tag,
}

impl Claim<'_> {
    /// Sets who owns it.
    ///
    /// # Errors
    /// [`ErrorKind::WrongStatus`] when another migration has it, or it has changed hands meanwhile;
    /// [`ErrorKind::NotFound`] when it is to be held and is not there.
    pub fn own(&self, owner: Owner) -> Result<()> {
        let Some(mut container) = self.container()? else {
            return match owner {
                // What is gone needs no owner.
                Owner::Here | Owner::Elsewhere => Ok(()),
                Owner::Held => {
                    Err(Error::new(ErrorKind::NotFound, format!("container does not exist: {}", self.id)))
                }
            };
        };
        let (by, epoch) = (self.tag.migration.to_string(), self.tag.epoch.number());
        let next = match owner {
            Owner::Here => Ownership::Here,
            Owner::Held => Ownership::Held { by: by.clone(), epoch },
            Owner::Elsewhere => Ownership::Elsewhere { by: by.clone(), epoch },
        };
        let now = container.ownership()?;
        if now == next {
            return Ok(());
        }
        let free = now.is_here() && owner == Owner::Held;
        let ours = matches!(&now, Ownership::Held { by: holder, .. } if *holder == by);
        if free || ours {
            return container.swap_ownership(&now, next);
        }
        if owner == Owner::Here {
            // It was given back before, and another migration has it by now.
            return Ok(());
        }
        container.require_owned()?;
        let message = format!("container {} is not held by migration {by} any more", self.id);
        Err(Error::new(ErrorKind::WrongStatus, message))
    }

    /// What its tree is like.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn tree(&self) -> Result<Tree> {
        let Some(container) = self.container()? else { return Ok(Tree::Absent) };
        match (container.ownership()?, container.status()?) {
            (_, Status::Stopped | Status::Creating) => Ok(Tree::Absent),
            (Ownership::Here, _) => Ok(Tree::Running),
            (Ownership::Held { by, .. }, status) if by == self.tag.migration.to_string() => match status {
                Status::Paused if container.lost_memory()?.is_some() => Ok(Tree::Broken),
                Status::Paused => Ok(Tree::Frozen),
                _ => Ok(Tree::Running),
            },
            // Another migration's.
            _ => Ok(Tree::Absent),
        }
    }

    /// Lets it run, if it is frozen and whole, and packets through to it. What a checkpoint has left that was killed is cleared up first.
    ///
    /// # Errors
    /// When it cannot be thawed: it is frozen still.
    pub fn thaw(&self) -> Result<()> {
        let tree = self.tree()?;
        let Some(mut container) = self.container()? else { return Ok(()) };
        match tree {
            Tree::Frozen => {}
            Tree::Running => return container.lower_fence(),
            Tree::Absent | Tree::Broken => return Ok(()),
        }
        checkpoint::settle(&mut container, false)?;
        let _lock = container.lock()?;
        container.lower_fence()?;
        container.cgroup()?.thaw().context(|| format!("let container {} go on", self.id))
    }

    /// Kills its processes and removes it, if the migration holds it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn end(&self) -> Result<()> {
        let Some(mut container) = self.container()? else { return Ok(()) };
        if !self.holds(&container)? {
            return Ok(());
        }
        checkpoint::settle(&mut container, true)?;
        restore::settle(&mut container)?;
        container.delete(true)
    }

    /// Whether the migration holds it.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn holds(&self, container: &Container) -> Result<bool> {
        let by = self.tag.migration.to_string();
        Ok(matches!(container.ownership()?, Ownership::Held { by: holder, .. } if holder == by))
    }

    fn container(&self) -> Result<Option<Container>> {
        match self.root.load(self.id) {
            Ok(container) => Ok(Some(container.acting_for(self.tag.migration.to_string()))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}
