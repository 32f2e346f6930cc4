//! `cp`: files between here and a task's container, as `docker cp` has it. What is copied to where is decided here; `local`
//! reads and writes the files of this side.

use super::local;
use crate::context::Context;
use crate::progress::Progress;
use crate::terminal;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use std::path::{Path, PathBuf};
use swarm_api::backend::{FileKind, FileStat};
use swarm_api::grpc::Client;
use swarm_api::{Backend, BoxStream, Error};
use tokio::io::AsyncWriteExt;

/// As many links are followed as Linux does.
const LINKS: usize = 40;

/// How files are copied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// What a symbolic link leads to, in its place.
    pub(crate) follow: bool,
    /// Owners stay.
    pub(crate) archive: bool,
}

/// One side.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Task { task: String, path: String },
    Local(PathBuf),
    Stream,
}

impl Side {
    fn read(text: &str) -> Result<Self> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        // A file here with a colon in its name is written with its folder, such as ./a:b.
        let here = text.starts_with(['/', '.']);
        match text.split_once(':') {
            Some((task, path)) if !here && !task.is_empty() && !task.contains('/') => {
                if path.is_empty() {
                    bail!("{text} names no path in the container: write {task}:/PATH");
                }
                Ok(Self::Task {
                    task: task.into(),
                    path: path.into(),
                })
            }
            _ => Ok(Self::Local(text.into())),
        }
    }
}

pub(crate) async fn copy(
    context: &Context,
    source: &str,
    target: &str,
    options: Options,
) -> Result<()> {
    match (Side::read(source)?, Side::read(target)?) {
        (Side::Task { task, path }, Side::Local(target)) => {
            let container = Container::new(context, task).await?;
            container.copy_out(&path, &target, options).await
        }
        (Side::Task { task, path }, Side::Stream) => {
            let container = Container::new(context, task).await?;
            container.stream_out(&path, options).await
        }
        (Side::Local(source), Side::Task { task, path }) => {
            let container = Container::new(context, task).await?;
            container.copy_in(&source, &path, options).await
        }
        (Side::Stream, Side::Task { task, path }) => {
            let container = Container::new(context, task).await?;
            container.stream_in(&path).await
        }
        (Side::Task { .. }, Side::Task { .. }) => bail!(
            "files are not copied from one container to another: copy them here first, or lead them through a pipe, as \
             in `swarmctl cp {source} - | swarmctl cp - {target}`"
        ),
        _ => bail!(
            "neither {source} nor {target} is in a container: write TASK:PATH for one of them"
        ),
    }
}

struct Container {
    client: Client,
    task: String,
}

/// Something in the container, with the path at which it is when its links are followed.
struct Found {
    path: String,
    stat: FileStat,
}

impl Found {
    fn is_directory(&self) -> bool {
        self.stat.kind == FileKind::Directory
    }
}

impl Container {
    async fn new(context: &Context, task: String) -> Result<Self> {
        let client = context.client().await?;
        Ok(Self { client, task })
    }

    async fn stat(&self, path: &str) -> swarm_api::Result<FileStat> {
        self.client.stat_path(self.task.clone(), path.into()).await
    }

    /// What is at `path`, through its links where they are followed.
    async fn find(&self, path: &str, follow: bool) -> swarm_api::Result<Found> {
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let stat = self.stat(&path).await?;
            if !(follow && stat.kind == FileKind::Symlink) {
                return Ok(Found { path, stat });
            }
            path = beside(&path, &stat.target);
        }
        Err(Error::Invalid(format!(
            "{path} in the container: its symbolic links lead in circles"
        )))
    }

    async fn copy_out(&self, path: &str, target: &Path, options: Options) -> Result<()> {
        let source = self.find(path, options.follow).await?;
        let here = tokio::fs::metadata(target).await.ok();
        let is_folder = here.as_ref().is_some_and(std::fs::Metadata::is_dir);
        let shown = target.display();
        let contents = means_contents(&source.path) || source.stat.name == "/";
        let (path, to) = if source.is_directory() {
            if is_folder && !contents {
                (source.path, local::Target::Folder(target.into()))
            } else if is_folder {
                (
                    format!("{}/.", source.path),
                    local::Target::Folder(target.into()),
                )
            } else if here.is_some() {
                bail!("cannot copy the directory {path} to {shown}: that is a file");
            } else {
                let made = std::fs::create_dir(target);
                made.with_context(|| format!("cannot make the directory {shown}"))?;
                (
                    format!("{}/.", source.path),
                    local::Target::Folder(target.into()),
                )
            }
        } else if is_folder {
            (source.path, local::Target::Folder(target.into()))
        } else if here.is_none() && shown.to_string().ends_with('/') {
            bail!("there is no directory {shown}: make it first");
        } else {
            (source.path, local::Target::File(target.into()))
        };
        let archive = self.client.copy_out(self.task.clone(), path).await?;
        let write = |archive| local::write(archive, to, options.archive);
        Progress::through(None, archive, write).await?
    }

    async fn stream_out(&self, path: &str, options: Options) -> Result<()> {
        if terminal::has_output() {
            bail!(
                "an archive is nothing for a terminal: lead the output to a file or another program"
            );
        }
        let source = self.find(path, options.follow).await?;
        let mut archive = self.client.copy_out(self.task.clone(), source.path).await?;
        let mut output = tokio::io::stdout();
        let cannot = || "cannot write to standard output";
        while let Some(piece) = archive.next().await {
            output.write_all(&piece?).await.with_context(cannot)?;
        }
        output.flush().await.with_context(cannot)
    }

    async fn copy_in(&self, source: &Path, path: &str, options: Options) -> Result<()> {
        let shown = source.display();
        let metadata = if options.follow {
            std::fs::metadata(source)
        } else {
            std::fs::symlink_metadata(source)
        };
        let metadata = metadata.with_context(|| format!("cannot read {shown}"))?;
        let there = match self.find(path, true).await {
            Ok(found) => Some(found),
            Err(Error::NotFound(_)) => None,
            Err(e) => return Err(e.into()),
        };
        let contents = metadata.is_dir() && means_contents(&source.to_string_lossy());
        let (folder, name) = match there {
            Some(found) if found.is_directory() && contents => (found.path, ".".into()),
            Some(found) if found.is_directory() => (found.path, local::name_of(source)?),
            Some(_) if metadata.is_dir() => {
                bail!(
                    "cannot copy the directory {shown} to {path}: that is a file in the container"
                )
            }
            Some(found) => parted(&found.path),
            None if !metadata.is_dir() && path.ends_with('/') => {
                bail!("there is no directory {path} in the container: make it first")
            }
            None => parted(path),
        };
        let archive = local::read(source.into(), name, options.follow, options.archive);
        self.send(folder, archive).await
    }

    async fn stream_in(&self, path: &str) -> Result<()> {
        let found = self.find(path, true).await?;
        if !found.is_directory() {
            bail!("an archive is unpacked into a directory, and {path} in the container is none");
        }
        let archive = super::image::pieces(tokio::io::stdin(), "standard input".into());
        self.send(found.path, archive).await
    }

    async fn send(
        &self,
        folder: String,
        archive: BoxStream<swarm_api::Result<Bytes>>,
    ) -> Result<()> {
        let copy = |archive| self.client.copy_in(self.task.clone(), folder, archive);
        Ok(Progress::through(None, archive, copy).await??)
    }
}

/// Whether a directory's contents are meant and not itself.
fn means_contents(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// Where a link at `path` leads.
fn beside(path: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.into();
    }
    let (folder, _) = parted(path);
    format!("{}/{target}", folder.trim_end_matches('/'))
}

/// The directory of a path, and its last part.
fn parted(path: &str) -> (String, String) {
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some(("", name)) => ("/".into(), name.into()),
        Some((folder, name)) => (folder.into(), name.into()),
        None => ("/".into(), path.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_task_s_unless_it_begins_like_a_path() {
        let task = |task: &str, path: &str| Side::Task {
            task: task.into(),
            path: path.into(),
        };
        assert_eq!(
            Side::read("web.1:/etc/hosts").unwrap(),
            task("web.1", "/etc/hosts")
        );
        assert_eq!(Side::read("web:a:b").unwrap(), task("web", "a:b"));
        assert_eq!(Side::read("-").unwrap(), Side::Stream);
        for here in ["a", "./a:b", "/a:b", "../a:b", "a/b:c", ":a"] {
            assert_eq!(Side::read(here).unwrap(), Side::Local(here.into()));
        }
        assert!(
            Side::read("web.1:")
                .unwrap_err()
                .to_string()
                .contains("web.1:/PATH")
        );
    }

    #[test]
    fn links_are_followed_from_where_they_are() {
        assert_eq!(beside("/a/b", "c"), "/a/c");
        assert_eq!(beside("/a/b", "../c"), "/a/../c");
        assert_eq!(beside("/b", "c"), "/c");
        assert_eq!(beside("b", "/c"), "/c");
        assert_eq!(parted("/a/b/"), ("/a".into(), "b".into()));
        assert_eq!(parted("b"), ("/".into(), "b".into()));
        assert!(means_contents("/a/.") && !means_contents("/a/b."));
    }
}
