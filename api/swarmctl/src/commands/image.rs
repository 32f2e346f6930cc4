//! `image import`: a file or standard input goes to the agent, with a progress bar where it takes long.

use crate::cli::{ImportArgs, environment};
use crate::context::Context;
use crate::terminal;
use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::Path;
use std::time::Duration;
use swarm_api::model::{ImageConfig, ImageReference};
use swarm_api::{Backend, BoxStream, Error};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes read at once.
const PIECE: usize = 256 << 10;
/// What takes less has no progress bar.
const SOON: Duration = Duration::from_secs(1);

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
    };
    let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::hidden());
    bar.set_style(style(size.is_some())?);
    let counter = bar.clone();
    let archive = archive
        .inspect(move |piece| {
            if let Ok(bytes) = piece {
                counter.inc(bytes.len() as u64);
            }
        })
        .boxed();
    let client = context.client().await?;
    let importing = client.import_image(args.name, config, archive);
    tokio::pin!(importing);
    let image = tokio::select! {
        image = &mut importing => image,
        () = tokio::time::sleep(SOON) => {
            if terminal::has_error() {
                bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.enable_steady_tick(Duration::from_millis(200));
            }
            importing.await
        }
    };
    bar.finish_and_clear();
    context.print(&image?, |i| i.reference.to_string())
}

fn style(known: bool) -> Result<ProgressStyle> {
    Ok(ProgressStyle::with_template(if known {
        "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"
    } else {
        "{spinner} {bytes}, {bytes_per_sec}"
    })?)
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

fn pieces(
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

    #[test]
    fn the_progress_bars_are_well_formed() {
        style(true).unwrap();
        style(false).unwrap();
    }
}
