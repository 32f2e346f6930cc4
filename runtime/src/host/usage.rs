//! What takes up this host's disk. Sizes are blocks on the disk; a file with several names counts once.

use super::gc::Disk;
use super::{Inner, machine};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use swarm_api::model::{
    DiskUsage, Image, ImageUsage, MountSource, Task, TaskUsage, Timestamp, VolumeUsage,
};

/// What a task's record says of the disk.
struct OfTask {
    task: Task,
    image: Option<Image>,
}

impl Inner {
    /// Looks at all of it. Walks what can change, so it takes its time.
    pub(super) fn disk_usage(&self) -> Result<DiskUsage> {
        let tasks: Vec<OfTask> = {
            let table = self.lock();
            let of = |e: &super::table::Entry| OfTask {
                task: e.record.task.clone(),
                image: e.record.image.clone(),
            };
            table.tasks.values().map(of).collect()
        };
        let images = self.store.images();
        let unused = |image: &&Image| {
            let stands = tasks
                .iter()
                .any(|t| t.image.as_ref().is_some_and(|i| i.digest == image.digest));
            !image.builtin && !stands && self.lock().users_of_image(image).is_empty()
        };
        let unused: HashSet<String> = images
            .iter()
            .filter(unused)
            .map(|i| i.reference.to_string())
            .collect();
        let layers = self.store.layer_sizes()?;
        let used_at = |image: &Image| self.store.used_at(&image.reference);
        let (images, reclaimable) = of_images(&images, &tasks, &layers, &unused, used_at);
        let disk = disk(&self.config.data_dir)?;
        Ok(DiskUsage {
            node_name: machine::node(&self.config).name,
            error: None,
            disk_total: disk.total,
            disk_free: disk.free,
            layers: layers.values().sum(),
            reclaimable,
            images,
            volumes: self.of_volumes(&tasks)?,
            tasks: tasks
                .iter()
                .map(|t| self.of_task(&t.task))
                .collect::<Result<_>>()?,
        })
    }

    fn of_task(&self, task: &Task) -> Result<TaskUsage> {
        let dir = self.container_dir(&task.id);
        let mut log = 0;
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("log.") {
                log += entry.metadata().map_or(0, |m| m.blocks() * 512);
            }
        }
        Ok(TaskUsage {
            task: task.name.clone(),
            task_id: task.id.clone(),
            state: task.status.state,
            writable: on_disk(&dir.join("upper"))?,
            limit: task.spec.resources.storage,
            log,
        })
    }

    fn of_volumes(&self, tasks: &[OfTask]) -> Result<Vec<VolumeUsage>> {
        let mut volumes = Vec::new();
        for (name, path) in folders(&self.volumes()) {
            let mounted = |t: &&OfTask| {
                let mut mounts = t.task.spec.mounts.iter();
                !t.task.status.state.is_final()
                    && mounts.any(|m| matches!(&m.source, MountSource::Volume(v) if *v == name))
            };
            volumes.push(VolumeUsage {
                size: on_disk(&path)?,
                tasks: count(tasks.iter().filter(mounted).count()),
                task: None,
                name,
            });
        }
        for OfTask { task, .. } in tasks {
            for (_, path) in folders(&self.disk.task_dir(&task.id).join("volumes")) {
                volumes.push(VolumeUsage {
                    name: String::new(),
                    task: Some(task.name.clone()),
                    size: on_disk(&path)?,
                    tasks: u32::from(!task.status.state.is_final()),
                });
            }
        }
        Ok(volumes)
    }
}

/// The file system that a folder is on.
pub(super) fn disk(path: &Path) -> Result<Disk> {
    let disk = rustix::fs::statvfs(path)
        .map_err(|e| Error::io(format!("look at {}", path.display()), e))?;
    let reserved = disk.f_bfree.saturating_sub(disk.f_bavail);
    Ok(Disk {
        // Without what is root's alone, as df(1) counts.
        total: disk
            .f_blocks
            .saturating_sub(reserved)
            .saturating_mul(disk.f_frsize),
        free: disk.f_bavail.saturating_mul(disk.f_frsize),
    })
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The folders in a folder that are whole, in the order of their names.
fn folders(path: &Path) -> Vec<(String, std::path::PathBuf)> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let named = entries.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path()));
    let mut folders: Vec<_> = named
        .filter(|(n, p)| !n.starts_with('.') && p.is_dir())
        .collect();
    folders.sort();
    folders
}

/// Images by digest, and what would be free without those that nothing uses. Pure.
fn of_images(
    images: &[Image],
    tasks: &[OfTask],
    layers: &HashMap<String, u64>,
    unused: &HashSet<String>,
    used_at: impl Fn(&Image) -> Timestamp,
) -> (Vec<ImageUsage>, u64) {
    let mut by_digest: BTreeMap<&str, Vec<&Image>> = BTreeMap::new();
    for image in images {
        by_digest.entry(&image.digest).or_default().push(image);
    }
    let mut users: HashMap<&str, u32> = HashMap::new();
    let mut kept: HashSet<&str> = HashSet::new();
    for names in by_digest.values() {
        let distinct: HashSet<&str> = names[0].layers.iter().map(String::as_str).collect();
        for layer in &distinct {
            *users.entry(layer).or_default() += 1;
        }
        if !names
            .iter()
            .all(|i| unused.contains(&i.reference.to_string()))
        {
            kept.extend(distinct);
        }
    }
    for image in tasks.iter().filter_map(|t| t.image.as_ref()) {
        kept.extend(image.layers.iter().map(String::as_str));
    }
    let free = layers
        .iter()
        .filter(|(layer, _)| !kept.contains(layer.as_str()));
    let reclaimable = free.map(|(_, size)| size).sum();
    let of = |names: &Vec<&Image>| {
        let distinct: HashSet<&String> = names[0].layers.iter().collect();
        let sum = |shared: bool| -> u64 {
            let of = |layer: &&&String| {
                users
                    .get(layer.as_str())
                    .is_some_and(|n| (*n > 1) == shared)
            };
            let layers_of = distinct.iter().filter(of);
            layers_of.filter_map(|layer| layers.get(*layer)).sum()
        };
        let stands = |t: &&OfTask| {
            t.image
                .as_ref()
                .is_some_and(|i| i.digest == names[0].digest)
        };
        ImageUsage {
            names: names.iter().map(|i| i.reference.clone()).collect(),
            digest: names[0].digest.clone(),
            shared: sum(true),
            unique: sum(false),
            tasks: count(tasks.iter().filter(stands).count()),
            used_at: names.iter().map(|i| used_at(i)).max().unwrap_or_default(),
        }
    };
    let mut usages: Vec<ImageUsage> = by_digest.values().map(of).collect();
    usages.sort_by(|a, b| a.names.cmp(&b.names));
    (usages, reclaimable)
}

/// Bytes of a folder and all in it, as on the disk. What vanishes meanwhile is not there.
///
/// # Errors
/// Where something cannot be read.
pub(crate) fn on_disk(path: &Path) -> Result<u64> {
    let (mut sum, mut seen, mut todo) = (0, HashSet::new(), vec![path.to_owned()]);
    while let Some(folder) = todo.pop() {
        let gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
        let reading = |e| Error::io(format!("read {}", folder.display()), e);
        let entries = match std::fs::read_dir(&folder) {
            Err(e) if gone(&e) => continue,
            other => other.map_err(reading)?,
        };
        sum += std::fs::symlink_metadata(&folder).map_or(0, |m| m.blocks() * 512);
        for entry in entries {
            let entry = entry.map_err(reading)?;
            let data = match entry.metadata() {
                Err(e) if gone(&e) => continue,
                other => other.map_err(reading)?,
            };
            if data.is_dir() {
                todo.push(entry.path());
            } else if data.nlink() < 2 || seen.insert((data.dev(), data.ino())) {
                sum += data.blocks() * 512;
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::model::ImageConfig;

    fn image(name: &str, digest: &str, layers: &[&str]) -> Image {
        Image {
            reference: name.parse().unwrap(),
            digest: digest.into(),
            layers: layers.iter().map(|l| (*l).to_owned()).collect(),
            size: 0,
            config: ImageConfig::default(),
            created_at: Timestamp(0),
            builtin: false,
            manifest: None,
        }
    }

    #[test]
    fn a_layer_is_shared_among_images_not_among_names_of_one() {
        let images = [
            image("a:1", "A", &["base", "a"]),
            image("a:2", "A", &["base", "a"]),
            image("b", "B", &["base", "b", "b"]),
        ];
        let layers = HashMap::from([("base", 100), ("a", 10), ("b", 1), ("rest", 1000)]);
        let layers = layers.into_iter().map(|(l, s)| (l.to_owned(), s)).collect();
        let all = HashSet::from(["a:1".to_owned(), "a:2".into(), "b:latest".into()]);
        let of = |unused: &HashSet<String>| {
            of_images(&images, &[], &layers, unused, |i| {
                Timestamp(i.reference.tag().len() as u64)
            })
        };
        let (usages, free) = of(&all);
        let told: Vec<_> = usages
            .iter()
            .map(|u| (u.names.len(), u.shared, u.unique))
            .collect();
        assert_eq!(told, [(2, 100, 10), (1, 100, 1)]);
        assert_eq!(free, 1111);
        // Under one of its names it is used.
        let some = HashSet::from(["a:1".to_owned(), "b:latest".into()]);
        assert_eq!(of(&some).1, 1001);
    }

    #[test]
    fn a_file_with_two_names_takes_its_place_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), vec![1; 1 << 20]).unwrap();
        let once = on_disk(dir.path()).unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert!(once >= 1 << 20);
        assert!(on_disk(dir.path()).unwrap() < once + (1 << 20));
        assert_eq!(on_disk(&dir.path().join("none")).unwrap(), 0);
    }
}
