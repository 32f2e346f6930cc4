//! Volumes of tasks: named ones, which stay, and those that an image asks for and nobody names, which are in the task's
//! own folder and go with it. A new one begins with what the image has in its place.

use crate::image::view::copy_folder;
use crate::{Error, Result, oci};
use std::path::{Component, Path, PathBuf};
use swarm_api::model::{ImageConfig, MountSource, Task, TaskSpec};

/// A new volume that is not whole yet.
const NEW: &str = ".new-";

/// The volumes that the image asks for and the task has nothing else for: where in the container, and where on the host.
pub(super) fn unnamed(
    task: &TaskSpec,
    image: &ImageConfig,
    task_dir: &Path,
) -> Vec<(String, PathBuf)> {
    let taken: Vec<String> = task.mounts.iter().map(|m| plain(&m.target)).collect();
    let mut volumes: Vec<(String, PathBuf)> = Vec::new();
    for target in image.volumes.iter().map(|v| plain(v)) {
        if target == "/" || taken.contains(&target) || volumes.iter().any(|(t, _)| *t == target) {
            continue;
        }
        let folder = task_dir.join("volumes").join(volumes.len().to_string());
        volumes.push((target, folder));
    }
    volumes
}

/// Makes what is not there of a task's volumes. `layers` are its image's, topmost first.
///
/// # Errors
/// [`Error::NotFound`] where a folder of the host is missing; or what the disk says.
pub(super) fn make_ready(
    task: &Task,
    image: &ImageConfig,
    layers: &[PathBuf],
    task_dir: &Path,
    volumes: &Path,
) -> Result<()> {
    for mount in &task.spec.mounts {
        match &mount.source {
            MountSource::Volume(name) => {
                let path = oci::volume_path(volumes, name)?;
                begin(&path, layers, &mount.target, &task.id.to_string())?;
            }
            MountSource::Bind(path) if !Path::new(path).exists() => {
                return Err(Error::NotFound(format!(
                    "the folder or file {path} is not on this host; make it, or use a named volume"
                )));
            }
            _ => {}
        }
    }
    for (target, path) in unnamed(&task.spec, image, task_dir) {
        begin(&path, layers, &target, &task.id.to_string())?;
    }
    Ok(())
}

/// Makes a volume with what the image has at `target`, unless it is there.
fn begin(path: &Path, layers: &[PathBuf], target: &str, task: &str) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().unwrap_or(Path::new("/"));
    let new = above.join(format!("{NEW}{task}"));
    let making = |e| Error::io(format!("make the volume {}", path.display()), e);
    if new.exists() {
        std::fs::remove_dir_all(&new).map_err(making)?;
    }
    std::fs::create_dir_all(&new).map_err(making)?;
    let copied = copy_folder(layers, target, &new);
    // Whole before it has its name; another task may have been faster.
    let settled = copied.and_then(|_| match std::fs::rename(&new, path) {
        Err(_) if path.is_dir() => Ok(()),
        other => other.map_err(making),
    });
    if new.exists() {
        let _ = std::fs::remove_dir_all(&new);
    }
    settled
}

/// A path without `.`, `..` and doubled slashes.
fn plain(path: &str) -> String {
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::model::Mount;

    #[test]
    fn an_image_s_volume_is_unnamed_where_the_task_has_nothing_for_it() {
        let image = ImageConfig {
            volumes: vec![
                "/data/".into(),
                "/var//log".into(),
                "/data".into(),
                "/".into(),
            ],
            ..ImageConfig::default()
        };
        let mut task = TaskSpec::default();
        let of = |task: &TaskSpec| -> Vec<String> {
            let volumes = unnamed(task, &image, Path::new("/t"));
            volumes
                .into_iter()
                .map(|(t, p)| format!("{t} {}", p.display()))
                .collect()
        };
        assert_eq!(of(&task), ["/data /t/volumes/0", "/var/log /t/volumes/1"]);
        task.mounts.push(Mount {
            source: MountSource::Tmpfs,
            target: "/data".into(),
            read_only: false,
        });
        assert_eq!(of(&task), ["/var/log /t/volumes/0"]);
    }

    #[test]
    fn a_volume_begins_with_the_image_s_files_once() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        std::fs::create_dir_all(layer.join("data")).unwrap();
        std::fs::write(layer.join("data/first"), "of the image").unwrap();
        let volume = dir.path().join("volumes/v");
        let begin = || begin(&volume, std::slice::from_ref(&layer), "/data", "t");
        begin().unwrap();
        let file = volume.join("first");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "of the image");
        std::fs::write(&file, "of a task").unwrap();
        begin().unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "of a task");
        assert_eq!(
            std::fs::read_dir(dir.path().join("volumes"))
                .unwrap()
                .count(),
            1
        );
    }
}
