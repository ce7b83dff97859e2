// SPDX-License-Identifier: Apache-2.0
//! What a journal keeps, and what it makes of what it finds.

use super::*;
use crate::migration::id::Epoch;

const MIGRATION: MigrationId = MigrationId::from_bytes([9; MigrationId::BYTES]);

fn root() -> (tempfile::TempDir, StateRoot) {
    let directory = tempfile::tempdir().expect("a directory");
    let root = StateRoot::at(directory.path()).expect("a state root");
    (directory, root)
}

fn begun(root: &StateRoot) -> Journal {
    let about = About { migration: MIGRATION, side: Side::Source, container: "web", peer: "far" };
    Journal::create(root, &about).expect("a journal")
}

fn record(what: Recorded) -> Record {
    Record { epoch: Epoch::FIRST, what }
}

#[test]
fn what_is_appended_is_there_for_whoever_comes_next() {
    let (_directory, root) = root();
    let mut journal = begun(&root);
    journal.append(record(Recorded::Begun), None).expect("begun");
    journal.note("images", "/var/tmp/a").expect("a note");
    journal.note("images", "/var/tmp/b").expect("a note");
    journal.append(record(Recorded::Fenced(Side::Destination)), Some("it burned")).expect("fenced");
    let history = journal.history().clone();
    drop(journal);
    assert_eq!(migrations(&root).expect("the list"), [MIGRATION]);
    assert_eq!(History::read(&root, MIGRATION).expect("the journal"), history);
    let journal = Journal::open(&root, MIGRATION).expect("the journal");
    assert_eq!(journal.history(), &history);
    assert_eq!(history.records(), [record(Recorded::Begun), record(Recorded::Fenced(Side::Destination))]);
    assert_eq!(history.note("images"), Some("/var/tmp/b"));
    let (_, _, reason) = history.last().expect("two records");
    assert_eq!(reason, Some("it burned"));
    assert!(history.is_over());
    journal.remove().expect("removed");
    assert!(migrations(&root).expect("the list").is_empty());
}

#[test]
fn a_torn_entry_is_cut_off_and_the_next_one_takes_its_place() {
    let (_directory, root) = root();
    let mut journal = begun(&root);
    journal.append(record(Recorded::Begun), None).expect("begun");
    journal.append(record(Recorded::Prepared), None).expect("prepared");
    drop(journal);
    let path = directory(&root, MIGRATION).join(FILE);
    let bytes = fs::read(&path).expect("readable");
    fs::write(&path, &bytes[..bytes.len() - 3]).expect("torn");
    assert_eq!(History::read(&root, MIGRATION).expect("readable").records(), [record(Recorded::Begun)]);
    let mut journal = Journal::open(&root, MIGRATION).expect("torn is not damaged");
    journal.append(record(Recorded::Aborted), None).expect("aborted");
    drop(journal);
    let records = History::read(&root, MIGRATION).expect("readable").records();
    assert_eq!(records, [record(Recorded::Begun), record(Recorded::Aborted)]);
}

#[test]
fn damage_names_the_file_and_the_byte_and_changes_nothing() {
    let (_directory, root) = root();
    let mut journal = begun(&root);
    let first = journal.length.expect("written");
    journal.append(record(Recorded::Begun), None).expect("begun");
    journal.append(record(Recorded::Prepared), None).expect("prepared");
    drop(journal);
    let path = directory(&root, MIGRATION).join(FILE);
    let mut bytes = fs::read(&path).expect("readable");
    // A length that leads past the end looks like a torn entry, and is none.
    let place = usize::try_from(first).expect("small");
    bytes[place] = 0xff;
    fs::write(&path, &bytes).expect("damaged");
    let error = Journal::open(&root, MIGRATION).expect_err("damaged");
    let expected = format!("read {}: it is damaged at byte {first}", path.display());
    assert_eq!(error.chain(), expected);
    assert_eq!(fs::read(&path).expect("readable"), bytes);
}

#[test]
fn a_migration_has_one_journal_and_one_who_writes_it() {
    let (_directory, root) = root();
    let journal = begun(&root);
    let about = About { migration: MIGRATION, side: Side::Destination, container: "web", peer: "far" };
    assert_eq!(Journal::create(&root, &about).expect_err("there is one").kind(), ErrorKind::AlreadyExists);
    let busy = Journal::open(&root, MIGRATION).expect_err("it is being written");
    assert_eq!(busy.kind(), ErrorKind::WrongStatus);
    drop(journal);
    Journal::open(&root, MIGRATION).expect("nobody writes it");
    assert_eq!(find(&root, "0909").expect("the only one"), MIGRATION);
    let missing = MigrationId::from_bytes([1; MigrationId::BYTES]);
    assert_eq!(Journal::open(&root, missing).expect_err("none").kind(), ErrorKind::NotFound);
    assert_eq!(find(&root, "01").expect_err("none").kind(), ErrorKind::NotFound);
}

#[test]
fn what_lies_in_its_place_is_not_followed() {
    let (_directory, root) = root();
    drop(begun(&root));
    let path = directory(&root, MIGRATION).join(FILE);
    let elsewhere = path.with_file_name("elsewhere");
    fs::rename(&path, &elsewhere).expect("moved");
    std::os::unix::fs::symlink(&elsewhere, &path).expect("a link");
    assert!(Journal::open(&root, MIGRATION).expect_err("a link").is_errno(libc::ELOOP));
    fs::remove_file(&path).expect("removed");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("a fifo");
    assert_eq!(History::read(&root, MIGRATION).expect_err("a fifo").kind(), ErrorKind::System);
}

#[test]
fn long_texts_are_cut_between_characters() {
    let long = "ä".repeat(LONGEST_TEXT);
    assert_eq!(shortened(&long).len(), LONGEST_TEXT);
    assert_eq!(shortened(&format!("a{long}")).len(), LONGEST_TEXT - 1);
    assert_eq!(shortened("short"), "short");
}

#[test]
fn no_container_can_have_the_directorys_name() {
    assert!(MIGRATIONS.parse::<crate::engine::ContainerId>().is_err());
}
