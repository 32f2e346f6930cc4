use super::*;

fn plan(json: &str) -> Result<Plan> {
    let spec: Spec = serde_json::from_str(json).unwrap();
    Plan::new(&spec, true, true, None)
}

#[test]
fn masked_and_readonly_paths_must_stay_in_the_container() {
    let good =
        plan(r#"{"ociVersion":"1.2.0","linux":{"maskedPaths":["/proc/kcore","/proc//acpi/"]}}"#)
            .unwrap();
    assert_eq!(
        good.masked,
        [PathBuf::from("/proc/kcore"), PathBuf::from("/proc/acpi")]
    );
    assert!(plan(r#"{"ociVersion":"1.2.0","linux":{"maskedPaths":["/proc/../etc"]}}"#).is_err());
    assert!(plan(r#"{"ociVersion":"1.2.0","linux":{"readonlyPaths":["../etc"]}}"#).is_err());
    assert!(plan(r#"{"ociVersion":"1.2.0","linux":{"rootfsPropagation":"sideways"}}"#).is_err());
}

#[test]
fn a_device_of_the_spec_replaces_the_usual_one() {
    let plan = plan(
        r#"{"ociVersion":"1.2.0","linux":{"devices":[{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":384},
            {"path":"/dev/fuse","type":"c","major":10,"minor":229}]}}"#,
    )
    .unwrap();
    let modes: Vec<u32> = plan
        .devices
        .iter()
        .filter(|d| d.path == Path::new("/dev/null"))
        .map(|d| d.mode & 0o777)
        .collect();
    assert_eq!(modes, [0o600]);
    assert!(
        plan.devices
            .iter()
            .any(|d| d.minor == 229 && d.mode & 0o777 == 0o666)
    );
}

#[test]
fn without_a_device_cgroup_only_bound_devices_work_unless_all_are_allowed() {
    let spec: Spec = serde_json::from_str(r#"{"ociVersion":"1.2.0"}"#).unwrap();
    let limited = Plan::new(&spec, true, false, None).unwrap();
    assert!(limited.nodev && limited.bind_devices);
    let privileged = r#"{"ociVersion":"1.2.0","linux":{"resources":{"devices":[{"allow":true,"access":"rwm"}]}}}"#;
    let all = Plan::new(
        &serde_json::from_str(privileged).unwrap(),
        true,
        false,
        None,
    )
    .unwrap();
    assert!(!all.nodev && !all.bind_devices);
}

#[test]
fn a_mount_that_cannot_be_made_as_asked_is_refused() {
    let mount = |json: &str| plan(&format!(r#"{{"ociVersion":"1.2.0","mounts":[{json}]}}"#));
    assert!(mount(r#"{"destination":"/a","type":"bind"}"#).is_err());
    assert!(
        mount(r#"{"destination":"/a","type":"bind","source":"/x","options":["size=1"]}"#).is_err()
    );
    assert!(mount(r#"{"destination":"/a/../b","type":"tmpfs"}"#).is_err());
    assert!(mount(r#"{"destination":"/a","type":"tmpfs","options":["tmpcopyup"]}"#).is_err());
    assert!(mount(r#"{"destination":"/a","type":"tmpfs","options":["size=1m"]}"#).is_ok());
}
