//! What fuzzers call here; see `crate::fuzz`.

use super::{hooks::About, mounts, plan::Plan, process};
use crate::fuzz::Bytes;
use crate::oci::Accounts;
use oci_spec::runtime::{Process, Spec};
use std::path::Path;
use swarm_api::backend::ExecSpec;

pub use super::mounts::fuzz::paths;
pub use super::seccomp::fuzz::seccomp;

/// A process to run in a container. Fields, each ended by a zero byte: the process in JSON, whom it runs as by name, the working directory,
/// an argument, an environment line, `/etc/passwd`; then `/etc/group`.
pub fn exec(data: &[u8]) {
    let mut bytes = Bytes(data);
    let Ok(process) = serde_json::from_slice::<Process>(bytes.field()) else {
        return;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (user, cwd) = (text(bytes.field()), text(bytes.field()));
    let (arg, line) = (text(bytes.field()), text(bytes.field()));
    let accounts = Accounts::new(Some(bytes.field().to_vec()), Some(bytes.0.to_vec()));
    planned(&process);
    let wanted = ExecSpec {
        args: vec![arg],
        env: vec![line],
        user: (!user.is_empty()).then_some(user),
        working_dir: (!cwd.is_empty()).then_some(cwd),
        tty: data.len().is_multiple_of(2),
        ..ExecSpec::default()
    };
    if let Ok(made) = crate::oci::exec(&process, &accounts, &wanted) {
        // It gets no more than the container's first process has.
        assert_eq!(made.capabilities(), process.capabilities());
        assert_eq!(made.no_new_privileges(), process.no_new_privileges());
        planned(&made);
    }
}

fn planned(process: &Process) {
    let spec = Spec::default();
    if let Ok(plan) = process::Plan::new(process, &spec) {
        assert!(plan.cwd.is_absolute());
        let caps = plan.caps;
        assert_eq!(caps.effective & !caps.permitted, 0);
        assert_eq!(caps.ambient & !(caps.permitted & caps.inheritable), 0);
    }
}

/// A whole spec, as a bundle has it: what is to be made, and with which limits.
pub fn spec(data: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Spec>(data) else {
        return;
    };
    let _ = About::new("fuzz", Path::new("/bundle"), &spec);
    let maps = Plan::new("fuzz", &spec).ok().and_then(|plan| plan.maps);
    for own in [false, true] {
        for limited in [false, true] {
            if let Ok(plan) = mounts::Plan::new(&spec, own, limited, maps.as_ref()) {
                mounts::fuzz::plan(&plan);
            }
        }
    }
    if let Some(resources) = spec.linux().as_ref().and_then(|l| l.resources().as_ref()) {
        let path = spec
            .linux()
            .as_ref()
            .and_then(|l| l.cgroups_path().as_ref());
        super::cgroup::check(path.map_or(Path::new("x"), |path| path), resources);
    }
}
