//! `image import`, `load`, `save`, `commit` and `prune`: archives go to the agent and come from it.

use crate::cli::{CommitArgs, ImportArgs, environment};
use crate::context::Context;
use crate::failure;
use crate::progress::Progress;
use crate::terminal;
use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use std::collections::BTreeSet;
use std::path::Path;
use swarm_api::backend::CommitOptions;
use swarm_api::model::{ImageConfig, ImageReference, Kind, Object, Query};
use swarm_api::{Backend, BoxStream, Error};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes read at once.
const PIECE: usize = 256 << 10;

pub(crate) async fn import(context: &Context, args: ImportArgs) -> Result<()> {
    args.name.parse::<ImageReference>()?;
    let (archive, size) = open(&args.file).await?;
    let config = ImageConfig {
        entrypoint: args.entrypoint.map(|w| w.0).unwrap_or_default(),
        command: args.cmd.map(|w| w.0).unwrap_or_default(),
        env: environment(args.env),
        working_dir: args.workdir,
        user: args.user,
        exposed_ports: args.expose,
        stop_signal: args.stop_signal,
        ..ImageConfig::default()
    };
    let client = context.client().await?;
    let import = |archive| client.import_image(args.name, config, archive);
    let image = Progress::through(size, archive, import).await?;
    context.print(&image?, |i| i.reference.to_string())
}

/// `image push`.
pub(crate) async fn push(context: &Context, name: String, to: Option<String>) -> Result<()> {
    let client = context.client().await?;
    let pushed = crate::pull::push(&client, &name, to).await?;
    context.print(&pushed, |p| format!("{}@{}", p.reference, p.digest))
}

/// `image tag`.
pub(crate) async fn tag(context: &Context, name: String, to: String) -> Result<()> {
    let image = context.client().await?.tag_image(name, to).await?;
    context.print(&image, |i| i.reference.to_string())
}

/// `commit`.
pub(crate) async fn commit(context: &Context, args: CommitArgs) -> Result<()> {
    let options = CommitOptions {
        changes: args.change,
        message: args.message,
        author: args.author,
        no_pause: args.no_pause,
    };
    let client = context.client().await?;
    let image = Progress::of_time("keeping what the container changed")?
        .during(client.commit(args.task, args.name, options))
        .await;
    context.print(&image?, |i| i.reference.to_string())
}

/// `image load`.
pub(crate) async fn load(context: &Context, name: Option<String>, file: &Path) -> Result<()> {
    let (archive, size) = open(file).await?;
    let client = context.client().await?;
    let load = |archive| client.load_images(name, archive);
    let images = Progress::through(size, archive, load).await?;
    context.print(&images?, |images| {
        let names: Vec<_> = images.iter().map(|i| i.reference.to_string()).collect();
        names.join("\n")
    })
}

/// `image save`.
pub(crate) async fn save(context: &Context, file: &Path, names: Vec<String>) -> Result<()> {
    let client = context.client().await?;
    let to_output = file == Path::new("-");
    if to_output && terminal::has_output() {
        bail!(
            "an archive is nothing for a terminal: name a file with -f, or lead the output elsewhere"
        );
    }
    let archive = client.save_images(names).await?;
    if to_output {
        return write(archive, &mut tokio::io::stdout(), "standard output").await;
    }
    // What is there stays until the new one is whole.
    let name = file.display().to_string();
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = Path::new(&unfinished);
    let cannot = || format!("cannot write {name}");
    let mut out = tokio::fs::File::create(unfinished)
        .await
        .with_context(cannot)?;
    let save = async |archive| {
        write(archive, &mut out, &name).await?;
        out.sync_all().await.with_context(cannot)?;
        tokio::fs::rename(unfinished, file)
            .await
            .with_context(cannot)
    };
    let outcome = Progress::through(None, archive, save).await.flatten();
    if outcome.is_err() {
        // It is of no use, and the reason is told.
        let _ = tokio::fs::remove_file(unfinished).await;
    }
    outcome
}

async fn write(
    mut archive: BoxStream<swarm_api::Result<Bytes>>,
    out: &mut (impl AsyncWrite + Unpin),
    name: &str,
) -> Result<()> {
    while let Some(piece) = archive.next().await {
        out.write_all(&piece?)
            .await
            .with_context(|| format!("cannot write {name}"))?;
    }
    out.flush()
        .await
        .with_context(|| format!("cannot write {name}"))
}

/// `image prune`.
pub(crate) async fn prune(context: &Context, force: bool) -> Result<i32> {
    let client = context.client().await?;
    let mut used = BTreeSet::new();
    let mut unused = Vec::new();
    for kind in [Kind::Service, Kind::Task, Kind::Image] {
        let query = Query {
            read: context.read(),
            ..Query::of(kind)
        };
        for object in context.fresh(client.list(query).await?) {
            let name = match object {
                Object::Service(service) => service.spec.task.image,
                Object::Task(task) if !task.status.state.is_final() => task.spec.image,
                Object::Image(image) => {
                    if !image.builtin {
                        unused.push(image.reference.to_string());
                    }
                    continue;
                }
                _ => continue,
            };
            used.insert(
                name.parse::<ImageReference>()
                    .map_or(name, |r| r.to_string()),
            );
        }
    }
    unused.retain(|name| !used.contains(name));
    if !force {
        for name in &unused {
            context.done(name)?;
        }
        if !unused.is_empty() {
            failure::say("nothing was removed; add --force to remove these images");
        }
        return Ok(0);
    }
    super::change::remove(context, Kind::Image, unused, false).await
}

/// The archive in pieces, and its size where it is known.
async fn open(file: &Path) -> Result<(BoxStream<swarm_api::Result<Bytes>>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((pieces(tokio::io::stdin(), "standard input".into()), None));
    }
    let name = file.display().to_string();
    let cannot = || format!("cannot read {name}");
    let opened = tokio::fs::File::open(file).await.with_context(cannot)?;
    let metadata = opened.metadata().await.with_context(cannot)?;
    let size = metadata.is_file().then_some(metadata.len());
    Ok((pieces(opened, name), size))
}

pub(super) fn pieces(
    source: impl AsyncRead + Send + Unpin + 'static,
    name: String,
) -> BoxStream<swarm_api::Result<Bytes>> {
    stream::try_unfold(source, move |mut source| {
        let name = name.clone();
        async move {
            let mut piece = BytesMut::with_capacity(PIECE);
            let count = source
                .read_buf(&mut piece)
                .await
                .map_err(|e| Error::Invalid(format!("cannot read {name}: {e}")))?;
            Ok((count > 0).then(|| (piece.freeze(), source)))
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;

    #[tokio::test]
    async fn a_file_comes_in_pieces_with_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive");
        let content = vec![7u8; PIECE * 2 + 5];
        std::fs::write(&path, &content).unwrap();
        let (archive, size) = open(&path).await.unwrap();
        let all: Vec<Bytes> = archive.try_collect().await.unwrap();
        assert_eq!(size, Some(content.len() as u64));
        assert!(all.len() >= 3 && all.concat() == content);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_named() {
        let error = open(Path::new("/no/such/file")).await.err().unwrap();
        assert!(format!("{error:#}").contains("/no/such/file"));
        let (archive, size) = open(Path::new("/")).await.unwrap();
        let error = archive.try_collect::<Vec<_>>().await.unwrap_err();
        assert!(size.is_none() && error.to_string().contains("cannot read /"));
    }
}
