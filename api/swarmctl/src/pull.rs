//! Pulls and pushes an image, with a bar for each layer where there is a terminal and it takes long.

use crate::terminal;
use anyhow::Result;
use futures_util::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use swarm_api::backend::{LayerProgress, PullEvent, PullOptions, PushEvent, Pushed};
use swarm_api::grpc::Client;
use swarm_api::model::{Image, ImageReference};
use swarm_api::{Backend, Error};

/// What takes less has no bars.
const SOON: Duration = Duration::from_millis(500);
/// Bars are drawn so often a second at most.
const RATE: u8 = 10;

/// Has the agent get an image.
pub(crate) async fn pull(client: &Client, name: &str, options: PullOptions) -> Result<Image> {
    name.parse::<ImageReference>()?;
    let mut events = client.pull_image(name.to_owned(), options).await?;
    let mut bars = Bars::new(terminal::has_error(), "unpacks");
    while let Some(event) = events.next().await {
        match event? {
            PullEvent::Resolved(_) => {}
            PullEvent::Layer(layer) => bars.show(&layer)?,
            PullEvent::Node(node) => bars.tell(&match node.failure {
                None => format!("{}: has it", node.name),
                Some(why) => format!("{}: {why}", node.name),
            })?,
            PullEvent::Done(image) => return Ok(image),
        }
    }
    Err(Error::Unavailable(format!("the agent broke off pulling {name}")).into())
}

/// Has the agent put an image into a registry.
pub(crate) async fn push(client: &Client, name: &str, to: Option<String>) -> Result<Pushed> {
    let mut events = client.push_image(name.to_owned(), to).await?;
    let mut bars = Bars::new(terminal::has_error(), "sent");
    while let Some(event) = events.next().await {
        match event? {
            PushEvent::Layer(layer) => bars.show(&layer)?,
            PushEvent::Done(pushed) => return Ok(pushed),
        }
    }
    Err(Error::Unavailable(format!("the agent broke off pushing {name}")).into())
}

/// One bar for each layer; cleared when they are dropped.
struct Bars {
    all: MultiProgress,
    layers: HashMap<String, ProgressBar>,
    begun: Instant,
    visible: bool,
    terminal: bool,
    /// What is said of a layer that has moved and is not ready.
    last: &'static str,
}

impl Bars {
    fn new(terminal: bool, last: &'static str) -> Self {
        Self {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            layers: HashMap::new(),
            begun: Instant::now(),
            visible: false,
            terminal,
            last,
        }
    }

    /// Says something above the bars, where they are shown.
    fn tell(&self, text: &str) -> Result<()> {
        Ok(self.all.println(text)?)
    }

    fn show(&mut self, layer: &LayerProgress) -> Result<()> {
        if !self.visible && self.terminal && self.begun.elapsed() >= SOON {
            self.visible = true;
            let target = ProgressDrawTarget::stderr_with_hz(RATE);
            self.all.set_draw_target(target);
        }
        if !self.layers.contains_key(&layer.digest) {
            let bar = self.all.add(ProgressBar::new(layer.total));
            bar.set_style(style()?);
            bar.set_prefix(short(&layer.digest).to_owned());
            self.layers.insert(layer.digest.clone(), bar);
        }
        if let Some(bar) = self.layers.get(&layer.digest) {
            bar.set_position(layer.done);
            if layer.ready {
                bar.finish_with_message("ready");
            } else if layer.done >= layer.total {
                bar.set_message(self.last);
            }
        }
        Ok(())
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // A terminal that is gone needs no clearing.
        let _ = self.all.clear();
    }
}

fn style() -> Result<ProgressStyle> {
    Ok(ProgressStyle::with_template(
        "{prefix} {bar:30} {bytes} of {total_bytes} {msg}",
    )?)
}

/// The first digits of a digest.
fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layer_has_one_bar_that_follows_it() {
        style().unwrap();
        let mut bars = Bars::new(false, "unpacks");
        for (done, ready) in [(0, false), (5, false), (10, false), (10, true)] {
            let layer = LayerProgress {
                digest: format!("sha256:{:064}", 7),
                done,
                total: 10,
                ready,
            };
            bars.show(&layer).unwrap();
        }
        assert_eq!(bars.layers.len(), 1);
        let bar = bars.layers.values().next().unwrap();
        assert!(bar.is_finished() && bar.position() == 10 && bar.prefix().len() == 12);
    }
}
