//! Which images of this host are in nobody's way and may go: those that nobody has used for long, and the longest unused
//! ones while the disk is fuller than it should be. Pure: no I/O, no clock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use swarm_api::model::{ImageReference, Timestamp};

/// When images go by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcPolicy {
    /// Unused for so long; never for that alone if none.
    pub age: Option<Duration>,
    /// Where the disk is used to more than so many percent…
    pub high: u8,
    /// … until it is used to no more than so many.
    pub low: u8,
    /// How often it is looked after; never if none.
    pub interval: Option<Duration>,
}

impl Default for GcPolicy {
    fn default() -> Self {
        Self {
            age: Some(Duration::from_secs(30 * 24 * 3600)),
            high: 85,
            low: 75,
            interval: Some(Duration::from_secs(300)),
        }
    }
}

impl GcPolicy {
    /// Nothing goes by itself.
    pub const OFF: Self = Self {
        age: None,
        high: 100,
        low: 100,
        interval: None,
    };
}

/// One image's name.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) reference: ImageReference,
    pub(super) digest: String,
    pub(super) layers: Vec<String>,
    pub(super) used_at: Timestamp,
    /// It must stay: it came with the binary, or it is used, or wanted.
    pub(super) kept: bool,
    /// It can be had again: from its registry, or from another host.
    pub(super) elsewhere: bool,
}

/// The file system that images are on, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    pub(super) total: u64,
    /// What programs without privileges may still fill.
    pub(super) free: u64,
}

/// The names that may go, in the order in which they should; when they were used last, so that one which is used meanwhile
/// can be told. `layers` are all that are here with their bytes; those `held` stay whatever goes.
pub(super) fn doomed(
    policy: &GcPolicy,
    disk: Disk,
    images: &[Candidate],
    layers: &HashMap<String, u64>,
    held: &HashSet<String>,
    now: Timestamp,
) -> Vec<(ImageReference, Timestamp)> {
    // Names of one image stand or fall together: what one is used by, the other is here for as well.
    let mut by_digest: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for image in images {
        by_digest.entry(&image.digest).or_default().push(image);
    }
    let last = |names: &[&Candidate]| names.iter().map(|i| i.used_at).max().unwrap_or_default();
    let mut idle: Vec<Vec<&Candidate>> = by_digest
        .into_values()
        .filter(|names| names.iter().all(|i| !i.kept && i.elsewhere))
        .collect();
    idle.sort_by_key(|names| last(names));
    let mut users: HashMap<&str, usize> = HashMap::new();
    let mut seen = HashSet::new();
    for image in images {
        if seen.insert(&image.digest) {
            for layer in image.layers.iter().collect::<HashSet<_>>() {
                *users.entry(layer).or_default() += 1;
            }
        }
    }
    let percent = |p: u8| disk.total / 100 * u64::from(100 - p.min(100));
    let (enough, mut free) = (percent(policy.low), disk.free);
    let pressed = policy.high < 100 && disk.free < percent(policy.high);
    let mut going = Vec::new();
    for names in idle {
        let old = policy.age.is_some_and(|age| now.since(last(&names)) >= age);
        let needed = pressed && free < enough;
        if !(old || needed) {
            continue;
        }
        for layer in names[0].layers.iter().collect::<HashSet<_>>() {
            let left = users.entry(layer).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 && !held.contains(layer) {
                free += layers.get(layer).copied().unwrap_or(0);
            }
        }
        going.extend(names.iter().map(|i| (i.reference.clone(), i.used_at)));
    }
    going
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GB: u64 = 1 << 30;
    const DAY: u64 = 86_400_000;

    fn image(name: &str, layers: &[&str], used: u64) -> Candidate {
        Candidate {
            reference: name.parse().unwrap(),
            digest: name.split(':').next().unwrap().into(),
            layers: layers.iter().map(|l| (*l).to_owned()).collect(),
            used_at: Timestamp(used),
            kept: false,
            elsewhere: true,
        }
    }

    fn going(policy: &GcPolicy, free: u64, images: &[Candidate], now: u64) -> Vec<String> {
        let layers = ["base", "a", "b", "c"].map(|l| (l.to_owned(), 10 * GB));
        let disk = Disk {
            total: 100 * GB,
            free,
        };
        let (layers, held) = (HashMap::from(layers), HashSet::new());
        doomed(policy, disk, images, &layers, &held, Timestamp(now))
            .into_iter()
            .map(|(r, _)| r.to_string())
            .collect()
    }

    #[test]
    fn what_is_long_unused_goes_and_what_is_used_under_any_name_stays() {
        let mut images = vec![
            image("a:1", &["base", "a"], DAY),
            image("a:2", &["base", "a"], 2 * DAY),
            image("b", &["base", "b"], DAY),
            image("c", &["c"], 40 * DAY),
        ];
        let policy = GcPolicy::default();
        let of = |images: &[Candidate], now| going(&policy, 90 * GB, images, now);
        assert!(of(&images, 30 * DAY).is_empty());
        assert_eq!(of(&images, 31 * DAY), ["b:latest"]);
        assert_eq!(of(&images, 32 * DAY), ["b:latest", "a:1", "a:2"]);
        images[0].kept = true;
        images[2].elsewhere = false;
        assert!(of(&images, 60 * DAY).is_empty());
        let never = GcPolicy {
            age: None,
            ..GcPolicy::default()
        };
        assert!(going(&never, 90 * GB, &images, 999 * DAY).is_empty());
    }

    #[test]
    fn a_full_disk_loses_the_longest_unused_until_it_is_no_more_so() {
        let images = [
            image("c", &["c"], 3),
            image("a", &["base", "a"], 1),
            image("b", &["base", "b"], 2),
        ];
        let policy = GcPolicy::default();
        let of = |free| going(&policy, free, &images, 10);
        assert!(of(15 * GB).is_empty());
        // 14 + 10 (a alone; base is b's as well), and then both of b's.
        assert_eq!(of(14 * GB), ["a:latest", "b:latest"]);
        assert_eq!(of(GB), ["a:latest", "b:latest"]);
        assert_eq!(of(0).len(), 2);
        assert!(going(&GcPolicy::OFF, 0, &images, 10).is_empty());
    }

    proptest! {
        #[test]
        fn nothing_goes_that_must_stay(
            images in prop::collection::vec((0u8..6, 0u64..100, any::<bool>(), any::<bool>()), 0..12),
            free in 0u64..100,
        ) {
            let candidates: Vec<Candidate> = images.iter().enumerate().map(|(n, (digest, used, kept, elsewhere))| Candidate {
                digest: digest.to_string(),
                used_at: Timestamp(*used),
                kept: *kept,
                elsewhere: *elsewhere,
                ..image(&format!("i{n}:1"), &["base"], 0)
            }).collect();
            let gone = going(&GcPolicy { age: Some(Duration::from_millis(50)), ..GcPolicy::default() }, free * GB, &candidates, 100);
            for candidate in &candidates {
                let of_digest = |c: &&Candidate| c.digest == candidate.digest;
                let must = candidates.iter().filter(of_digest).any(|c| c.kept || !c.elsewhere);
                let names = candidates.iter().filter(of_digest).all(|c| gone.contains(&c.reference.to_string()));
                prop_assert!(!(must && gone.contains(&candidate.reference.to_string())));
                // Names of one image go together.
                prop_assert!(names == gone.contains(&candidate.reference.to_string()));
            }
        }
    }
}
