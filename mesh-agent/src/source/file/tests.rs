use super::FileSource;
use crate::{
    config::FilesConfig,
    source::{
        testing::{Control, node, until, writer},
        writer::StateWriter,
    },
};
use std::{fs, path::Path, time::Duration};

fn watch(path: &Path, poll: Duration) -> (FileSource, StateWriter, Control) {
    let (writer, control, _snapshots) = writer(&["file"]);
    let config = FilesConfig { path: path.to_owned(), poll };
    (FileSource::spawn(config, node(), writer.clone()), writer, control)
}

/// Far longer than a test's wait, so that only notifications can be what is seen.
const NEVER: Duration = Duration::from_secs(600);

fn services(control: &Control) -> Vec<String> {
    control.lock().unwrap().shown().0
}

async fn wait(control: &Control, want: &[&str]) {
    until(&format!("{want:?}"), || services(control) == want).await;
}

#[tokio::test]
async fn edits_of_every_kind_take_effect() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    fs::write(file("a.yaml"), "services: {a: {}}").unwrap();
    fs::write(file("notes.txt"), "services: {no: {}}").unwrap();
    fs::write(file(".a.yaml"), "services: {no: {}}").unwrap();
    let (_source, writer, control) = watch(dir.path(), NEVER);
    wait(&control, &["a"]).await;
    until("synced", || *writer.all_synced().borrow()).await;
    // Created, written in place, replaced by rename, removed.
    fs::write(file("b.yml"), "services: {b: {}}").unwrap();
    wait(&control, &["a", "b"]).await;
    fs::write(file("a.yaml"), "services: {a: {}, a2: {}}").unwrap();
    wait(&control, &["a", "a2", "b"]).await;
    fs::write(file(".b.yml.tmp"), "services: {c: {}}").unwrap();
    fs::rename(file(".b.yml.tmp"), file("b.yml")).unwrap();
    wait(&control, &["a", "a2", "c"]).await;
    fs::remove_file(file("a.yaml")).unwrap();
    wait(&control, &["c"]).await;
}

#[tokio::test]
async fn a_bad_edit_is_shown_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, "services: {a: {}}").unwrap();
    let (_source, writer, control) = watch(dir.path(), NEVER);
    wait(&control, &["a"]).await;
    let writes = control.lock().unwrap().writes;
    fs::write(&file, "services: {a: {prots: [1]}}").unwrap();
    until("the error", || !writer.statuses()[0].errors.is_empty()).await;
    let want = format!("{}:1: services.a.prots: is no known key: did you mean \"ports\"?", file.display());
    assert_eq!(writer.statuses()[0].errors, [want]);
    assert_eq!((services(&control), control.lock().unwrap().writes), (vec!["a".to_owned()], writes));
    fs::write(&file, "services: {b: {}}").unwrap();
    wait(&control, &["b"]).await;
    until("no error", || writer.statuses()[0].errors.is_empty()).await;
    assert_eq!(writer.statuses()[0].services, 1);
}

#[tokio::test]
async fn a_folder_that_vanishes_takes_nothing_along() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("services");
    let (_source, writer, control) = watch(&folder, NEVER);
    until("the error", || writer.statuses()[0].errors.len() == 1).await;
    assert!(!*writer.all_synced().borrow(), "nothing is known yet");
    let fill = |text: &str| {
        let fresh = dir.path().join("fresh");
        fs::create_dir(&fresh).unwrap();
        fs::write(fresh.join("a.yaml"), text).unwrap();
        fs::rename(&fresh, &folder).unwrap();
    };
    fill("services: {a: {}}");
    wait(&control, &["a"]).await;
    fs::rename(&folder, dir.path().join("old")).unwrap();
    until("the error", || writer.statuses()[0].errors.len() == 1).await;
    assert_eq!(services(&control), ["a"]);
    fill("services: {b: {}}");
    wait(&control, &["b"]).await;
    // The new folder is watched as the old one was.
    fs::write(folder.join("c.yaml"), "services: {c: {}}").unwrap();
    wait(&control, &["b", "c"]).await;
}

#[tokio::test]
async fn one_file_may_be_watched_and_the_poll_alone_suffices() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("only.yaml");
    fs::write(&file, "services: {a: {}}").unwrap();
    fs::write(dir.path().join("other.yaml"), "services: {no: {}}").unwrap();
    let (_source, _writer, control) = watch(&file, NEVER);
    wait(&control, &["a"]).await;
    fs::write(&file, "services: {b: {}}").unwrap();
    wait(&control, &["b"]).await;
    // A link's target outside the folder makes no notification.
    let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir(&inside).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("x"), "services: {x: {}}").unwrap();
    std::os::unix::fs::symlink(outside.join("x"), inside.join("x.yaml")).unwrap();
    let (_source, _writer, control) = watch(&inside, Duration::from_millis(100));
    wait(&control, &["x"]).await;
    fs::write(outside.join("x"), "services: {y: {}}").unwrap();
    wait(&control, &["y"]).await;
}

#[tokio::test]
async fn too_much_is_refused_and_what_ran_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), "services: {a: {}}").unwrap();
    let (_source, writer, control) = watch(dir.path(), NEVER);
    wait(&control, &["a"]).await;
    fs::write(dir.path().join("a.yaml"), vec![b'#'; 5 << 20]).unwrap();
    until("the error", || writer.statuses()[0].errors.iter().any(|e| e.contains("larger than 4 MiB"))).await;
    assert_eq!(services(&control), ["a"]);
}
