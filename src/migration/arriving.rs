// SPDX-License-Identifier: Apache-2.0
//! The containers that come to this host together: what of each has come, its restore, and its processes once there are any. Must not
//! know what is decided, nor whom to tell.

use std::fs::File;
use std::io::Write;

use super::claim::Claim;
use super::handoff::{Owner, Recorded, Side, Tree};
use super::id::Tag;
use super::landing::Landing;
use super::members::{each, together};
use super::place::Place;
use super::protocol::Frame;
use super::stored::Stored;
use crate::archive::UnpackOptions;
use crate::engine::{ContainerId, ProcessIo, StateRoot};
use crate::pages::store::StoreWriter;
use crate::restore::{RESTORED_ROOTFS, RestoreOptions, Source, restore};
use crate::{Context, Error, ErrorKind, Result, sys};

/// The journal's note that a container is being made anew while others run that came with it.
const ANEW: &str = "anew";

/// Its note of the boot in which a root filesystem has come, if that has come before the archive: it need not outlive that boot.
const ROOTFS: &str = "rootfs";

/// So often one is.
const ATTEMPTS: usize = 3;

/// All of them.
pub(super) struct Arrivals<'a> {
    root: &'a StateRoot,
    members: Vec<Arriving>,
    /// The number of the one that is coming.
    now: usize,
}

/// One of them.
struct Arriving {
    id: ContainerId,
    stored: Stored,
    /// A file of memory that is coming.
    memory: Option<File>,
    /// Until all of them have come.
    pages: Option<StoreWriter>,
    /// Until all of it has come.
    rootfs: Option<Landing>,
    archive: Option<File>,
    complete: bool,
}

impl<'a> Arrivals<'a> {
    /// Those of which nothing has come; there is a place for each.
    pub(super) fn new(root: &'a StateRoot, ids: Vec<ContainerId>, place: &Place) -> Result<Self> {
        let members: Vec<Arriving> =
            (0..).zip(ids).map(|(n, id)| Arriving::new(id, place.stored(n))).collect();
        each(&members, |member| member.stored.make().and_then(|()| member.stored.memory().map(drop)))?;
        Ok(Self { root, members, now: 0 })
    }

    /// Those of which all has come that will, in an earlier connection.
    pub(super) fn again(root: &'a StateRoot, ids: Vec<ContainerId>, place: &Place) -> Self {
        let members = (0..).zip(ids).map(|(n, id)| Arriving::again(id, place.stored(n))).collect();
        Self { root, members, now: 0 }
    }

    /// Those of a migration of which nothing was written down when it began, and not which they are: what may be left of their files is
    /// never restored.
    pub(super) fn unknown(root: &'a StateRoot, ids: Vec<ContainerId>, place: &Place) -> Self {
        let members = (0..).zip(ids).map(|(n, id)| Arriving::new(id, place.stored(n))).collect();
        Self { root, members, now: 0 }
    }

    pub(super) fn ids(&self) -> Vec<ContainerId> {
        self.members.iter().map(|member| member.id.clone()).collect()
    }

    /// What comes from now on is of the one of this number.
    pub(super) fn turn_to(&mut self, number: usize) -> Result<()> {
        self.members.get(number).ok_or_else(out_of_turn)?;
        self.now = number;
        Ok(())
    }

    /// [`Arriving::keep`] of the one that is coming.
    pub(super) fn keep(
        &mut self,
        frame: Frame,
        room: &mut u64,
        place: &mut Place,
        unpack: &dyn Fn() -> UnpackOptions,
    ) -> Result<()> {
        let number = self.now;
        let member = self.members.get_mut(number).ok_or_else(out_of_turn)?;
        member.keep(frame, room, (place, &numbered(ROOTFS, number)), unpack)
    }

    /// Nobody lays files any more when this returns.
    pub(super) fn end_landings(&mut self) {
        self.members.iter_mut().for_each(|member| member.rootfs = None);
    }

    /// Restores all of them at the same time, as `options` says of the one of a number, with their processes frozen at the end.
    ///
    /// # Errors
    /// Of those that cannot be restored. The others are there, and frozen.
    pub(super) fn restore(&self, options: &dyn Fn(usize) -> Result<RestoreOptions>) -> Result<()> {
        let options = (0..self.members.len()).map(options).collect::<Result<Vec<_>>>()?;
        if let ([member], [options]) = (&self.members[..], &options[..]) {
            return member.restore(self.root, options);
        }
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (member, options) in self.members.iter().zip(&options) {
                let thread = std::thread::Builder::new().name("restore".into());
                threads.push(thread.spawn_scoped(scope, move || member.restore(self.root, options)));
            }
            each(threads, |thread| {
                let thread = thread.context(|| "start a thread that restores a container")?;
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    pub(super) fn own(&self, owner: Owner, tag: Tag) -> Result<()> {
        each(&self.members, |member| member.claim(self.root, tag).own(owner))
    }

    /// Ends what was restored, and keeps what it was restored from.
    pub(super) fn end(&self, tag: Tag, place: &Place) -> Result<()> {
        let has_run = place.last() == Some(Recorded::Live);
        each(&self.members, |member| {
            if !has_run {
                member.keep_rootfs(self.root, tag)?;
            }
            member.claim(self.root, tag).end()
        })
    }

    pub(super) fn drop_stores(&self) -> Result<()> {
        each(&self.members, |member| member.stored.drop_store())
    }

    /// What they are together.
    pub(super) fn tree(&self, tag: Tag, place: &Place) -> Result<Tree> {
        Ok(together(Side::Destination, place.last(), &self.trees(tag, place)?))
    }

    fn trees(&self, tag: Tag, place: &Place) -> Result<Vec<Tree>> {
        (0..)
            .zip(&self.members)
            .map(|(number, member)| member.tree(self.root, tag, (number, place)))
            .collect()
    }

    /// Lets them run, if none has to be made anew with all others. If some have been let go before, there is no way back for those that
    /// have lost their memory meanwhile: they are restored again, as `options` says.
    ///
    /// # Errors
    /// One cannot be let go, or restored again. What has come of it is still there.
    pub(super) fn thaw(
        &self,
        tag: Tag,
        place: &mut Place,
        options: &dyn Fn(&Place, usize) -> Result<RestoreOptions>,
    ) -> Result<()> {
        each(0..self.members.len(), |number| self.let_go(number, tag, place, options))
    }

    fn let_go(
        &self,
        number: usize,
        tag: Tag,
        place: &mut Place,
        options: &dyn Fn(&Place, usize) -> Result<RestoreOptions>,
    ) -> Result<()> {
        let Some(member) = self.members.get(number) else { return Ok(()) };
        for _ in 0..ATTEMPTS {
            if member.tree(self.root, tag, (number, place))? != Tree::Broken {
                return member.claim(self.root, tag).thaw();
            }
            if self.tree(tag, place)? == Tree::Broken {
                return Ok(());
            }
            place.note(&numbered(ANEW, number), &true)?;
            member.keep_rootfs(self.root, tag)?;
            member.claim(self.root, tag).end()?;
            member.restore(self.root, &options(place, number)?)?;
            place.note(&numbered(ANEW, number), &false)?;
        }
        let message = format!("container {} has lost its memory again and again", member.id);
        Err(Error::new(ErrorKind::System, message))
    }
}

/// Makes sure that what has come of the root filesystem of this number is still there.
///
/// # Errors
/// This host was started anew meanwhile.
pub(super) fn require_rootfs(place: &Place, number: usize) -> Result<()> {
    match place.noted::<String>(&numbered(ROOTFS, number))? {
        Some(boot) if boot != this_boot()? => {
            let message =
                "its root filesystem came before this host was started anew, which may have lost some of it";
            Err(Error::new(ErrorKind::Storage, message)
                .with_hint("if the source is there, the container goes on there; move it again"))
        }
        _ => Ok(()),
    }
}

fn this_boot() -> Result<String> {
    sys::proc::boot_id().context(|| "look which boot this is")
}

/// The journal's key for what is noted of the container of this number.
pub(super) fn numbered(key: &str, number: usize) -> String {
    if number == 0 { key.to_owned() } else { format!("{key}-{number}") }
}

impl Arriving {
    /// One of which nothing has come.
    fn new(id: ContainerId, stored: Stored) -> Self {
        Self { id, stored, memory: None, pages: None, rootfs: None, archive: None, complete: false }
    }

    /// One of which all has come that will, in an earlier connection.
    fn again(id: ContainerId, stored: Stored) -> Self {
        let complete = stored.archive().is_ok();
        Self { complete, ..Self::new(id, stored) }
    }

    /// Keeps what comes of it, of which there may be no more than `room` has bytes.
    ///
    /// # Errors
    /// There is no room; it is not its turn; it cannot be written.
    fn keep(
        &mut self,
        frame: Frame,
        room: &mut u64,
        (place, rootfs): (&mut Place, &str),
        unpack: &dyn Fn() -> UnpackOptions,
    ) -> Result<()> {
        let in_round = matches!(frame, Frame::Files(_) | Frame::FilesEnd(..));
        if self.complete || (!in_round && self.rootfs.as_ref().is_some_and(Landing::is_open)) {
            return Err(out_of_turn());
        }
        if let Frame::Memory(bytes) | Frame::Archive(bytes) | Frame::Files(bytes) = &frame {
            *room = room.checked_sub(bytes.len() as u64).ok_or_else(full)?;
        }
        match frame {
            Frame::MemoryBegin(name) if self.memory.is_none() => {
                self.memory = Some(self.stored.create_memory(&name)?);
            }
            Frame::Memory(bytes) => write(self.memory.as_mut(), &bytes)?,
            Frame::MemoryEnd => sync(self.memory.take())?,
            Frame::Pages(batch) => {
                if self.pages.is_none() {
                    self.pages = Some(StoreWriter::create(&self.stored.pages())?);
                }
                let pages = self.pages.as_mut().ok_or_else(out_of_turn)?;
                pages.take(&batch, room)?;
            }
            Frame::Memories(processes) => {
                let mut pages = self.pages.take().ok_or_else(out_of_turn)?;
                pages.seal(&processes)?;
            }
            Frame::Files(bytes) => {
                if self.rootfs.is_none() {
                    // There is no further round after the last one.
                    place.noted::<String>(rootfs)?.map_or(Ok(()), |_| Err(out_of_turn()))?;
                    place.note(rootfs, &this_boot()?)?;
                    self.rootfs = Some(Landing::new(self.stored.make_rootfs()?, unpack()));
                }
                self.rootfs.as_mut().ok_or_else(out_of_turn)?.take(bytes)?;
            }
            Frame::FilesEnd(digest, last) => {
                self.rootfs.as_mut().ok_or_else(out_of_turn)?.end(digest)?;
                if last {
                    self.rootfs = None;
                    self.stored.complete_rootfs()?;
                }
            }
            Frame::Archive(bytes) => {
                if self.archive.is_none() {
                    self.archive = Some(self.stored.create_archive()?);
                }
                write(self.archive.as_mut(), &bytes)?;
            }
            Frame::ArchiveEnd if self.memory.is_none() && self.pages.is_none() && self.rootfs.is_none() => {
                sync(self.archive.take())?;
                self.complete = true;
            }
            _ => return Err(out_of_turn()),
        }
        Ok(())
    }

    /// Restores it from what has come, with its processes frozen at the end.
    ///
    /// # Errors
    /// Not all has come; why it cannot be restored.
    fn restore(&self, root: &StateRoot, options: &RestoreOptions) -> Result<()> {
        if !self.complete {
            return Err(Error::new(ErrorKind::InvalidArchive, "not all of the container has come"));
        }
        let source = Source::Peer {
            name: "what the other host has sent".to_owned(),
            bytes: Box::new(self.stored.archive()?),
            memory: self.stored.memory()?,
            store: self.stored.store(),
            rootfs: self.stored.rootfs(),
        };
        let [stdout, stderr] = self.stored.output()?;
        let null = File::open("/dev/null").context(|| "open /dev/null")?;
        let io = ProcessIo {
            stdin: Some(null.into()),
            stdout: Some(stdout.into()),
            stderr: Some(stderr.into()),
            ..ProcessIo::default()
        };
        let container = restore(root, self.id.clone(), source, options, io, &mut ())?;
        self.stored.leave_output(container.dir())
    }

    /// Takes the root filesystem out of a restore that is given up: it may be needed for the next.
    fn keep_rootfs(&self, root: &StateRoot, tag: Tag) -> Result<()> {
        match root.load(&self.id) {
            Ok(container) if self.claim(root, tag).holds(&container)? => {
                self.stored.take_rootfs_back(&container.dir().join(RESTORED_ROOTFS))
            }
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn claim<'a>(&'a self, root: &'a StateRoot, tag: Tag) -> Claim<'a> {
        Claim { root, id: &self.id, tag }
    }

    /// What there is of it. What runs before this side has written down that it may is none of it, or was let go by a CRIU when
    /// everybody was killed who could have frozen it: that one must not go on.
    fn tree(&self, root: &StateRoot, tag: Tag, (number, place): (usize, &Place)) -> Result<Tree> {
        let tree = self.claim(root, tag).tree()?;
        if place.last() == Some(Recorded::Live) {
            let is_unfinished = place.noted(&numbered(ANEW, number))?.unwrap_or(false);
            return Ok(if is_unfinished { Tree::Broken } else { tree });
        }
        if tree != Tree::Running {
            return Ok(tree);
        }
        let held = root.load(&self.id)?.ownership()?;
        Ok(if held.is_here() { Tree::Absent } else { Tree::Broken })
    }
}

pub(super) fn out_of_turn() -> Error {
    Error::new(ErrorKind::InvalidInput, "the other host says something out of turn")
}

fn full() -> Error {
    Error::new(ErrorKind::Storage, "there is no room for more of the container here")
        .with_hint("choose a state root on a larger file system with --root")
}

fn write(to: Option<&mut File>, bytes: &[u8]) -> Result<()> {
    let to = to.ok_or_else(out_of_turn)?;
    to.write_all(bytes).context(|| "keep what the other host sends")
}

fn sync(file: Option<File>) -> Result<()> {
    let file = file.ok_or_else(out_of_turn)?;
    file.sync_all().context(|| "keep what the other host sends")
}
