//! The kept corpora, through the same functions, so that what a fuzzer has found once stays found.

use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        // A failure names the input.
        println!("{}", path.display());
        run(&std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn kept_inputs_of_exec() {
    replay("exec", super::exec);
}

#[test]
fn kept_inputs_of_spec() {
    replay("spec", super::spec);
}

#[test]
fn kept_inputs_of_paths() {
    replay("paths", super::paths);
}

#[test]
fn kept_inputs_of_seccomp() {
    replay("seccomp", super::seccomp);
}

#[test]
fn kept_inputs_of_layer() {
    replay("layer", super::layer);
}

#[test]
fn kept_inputs_of_registry() {
    replay("registry", super::registry);
}

#[test]
fn kept_inputs_of_frames() {
    replay("frames", super::frames);
}
