// SPDX-License-Identifier: Apache-2.0
//! Layouts of the OCI: several tags, nothing lost, and what is damaged or no layout.

use serde_json::{Value, json};

use super::*;

fn layout(directory: &Path, tag: Option<&str>) -> Reference {
    Reference::Layout { directory: directory.join("layout"), tag: tag.map(str::to_owned) }
}

fn contents(reference: &Reference) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = fetch(reference, &RegistryOptions::default(), &mut ())?;
    std::io::Read::read_to_end(&mut file, &mut bytes).context(|| "read")?;
    Ok(bytes)
}

fn index(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("layout/index.json")).expect("read")).expect("JSON")
}

#[test]
fn images_are_added_and_none_is_lost() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = directory.path();
    let file = |name: &str| {
        fs::write(at.join(name), name).expect("write");
        at.join(name)
    };
    let options = RegistryOptions::default();
    for (name, tag) in [("one", "a"), ("two", "b"), ("three", "a"), ("three", "a")] {
        push(&file(name), &layout(at, Some(tag)), &options, &mut ()).expect("pushed");
    }
    assert_eq!(contents(&layout(at, Some("a"))).expect("there"), b"three");
    assert_eq!(contents(&layout(at, Some("b"))).expect("there"), b"two");
    let entries = index(at)["manifests"].as_array().expect("a list").len();
    assert_eq!(entries, 3, "the one that has lost its tag stays: {:#}", index(at));

    // What is not known here stays, too.
    let mut changed = index(at);
    changed["annotations"] = json!({ "of": "others" });
    changed["manifests"][0]["urls"] = json!(["x"]);
    fs::write(at.join("layout/index.json"), changed.to_string()).expect("write");
    push(&file("four"), &layout(at, Some("d")), &options, &mut ()).expect("pushed");
    assert_eq!(index(at)["annotations"]["of"], "others");
    assert_eq!(index(at)["manifests"][0]["urls"][0], "x");

    let error = contents(&layout(at, None)).expect_err("which one");
    assert!(error.hint().is_some_and(|hint| hint.contains("b, a, d")), "{error:?}");
    let error = contents(&layout(at, Some("c"))).expect_err("none");
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let target = at.join("pulled");
    pull(&layout(at, Some("d")), Some(&target), &options, &mut ()).expect("pulled");
    assert_eq!(fs::read(target).expect("read"), b"four");
}

#[test]
fn what_is_no_layout_is_left_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = directory.path();
    let (file, _) = checkpoint(at);
    let options = RegistryOptions::default();
    let error = contents(&layout(at, None)).expect_err("nothing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    fs::create_dir(at.join("layout")).expect("mkdir");
    fs::write(at.join("layout/letter"), "").expect("write");
    let error = push(&file, &layout(at, Some("a")), &options, &mut ()).expect_err("files of others");
    assert!(error.chain().contains("not in the layout of the OCI"), "{}", error.chain());
    fs::write(at.join("layout/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write");
    for text in ["{", "{}", r#"{"manifests":{}}"#] {
        fs::write(at.join("layout/index.json"), text).expect("write");
        let error = push(&file, &layout(at, Some("a")), &options, &mut ()).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::InvalidArchive);
        assert_eq!(fs::read_to_string(at.join("layout/index.json")).expect("read"), text);
    }
    fs::write(at.join("layout/oci-layout"), r#"{"imageLayoutVersion":"2"}"#).expect("write");
    let error = contents(&layout(at, None)).expect_err("a later one");
    assert_eq!(error.kind(), ErrorKind::InvalidArchive);
}

#[test]
fn damaged_blobs_are_found() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = directory.path();
    let (file, bytes) = checkpoint(at);
    push(&file, &layout(at, None), &RegistryOptions::default(), &mut ()).expect("pushed");
    assert_eq!(contents(&layout(at, None)).expect("whole"), bytes);
    let blobs = at.join("layout/blobs/sha256");
    let layer = blobs.join(Digest::of(&bytes).hex());
    let manifest = index(at)["manifests"][0]["digest"].as_str().expect("text").replace("sha256:", "");
    for path in [layer, blobs.join(manifest)] {
        let whole = fs::read(&path).expect("read");
        let mut flipped = whole.clone();
        flipped[10] ^= 1;
        for wrong in [&flipped, &whole[1..]] {
            fs::write(&path, wrong).expect("write");
            let error = contents(&layout(at, None)).expect_err("damaged");
            assert_eq!(error.kind(), ErrorKind::InvalidArchive);
            assert!(error.chain().contains("is not what its name says"), "{}", error.chain());
        }
        fs::write(&path, whole).expect("write");
    }
    assert_eq!(contents(&layout(at, None)).expect("whole again"), bytes);
}
