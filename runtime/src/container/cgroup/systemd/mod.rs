//! Cgroups that systemd makes: an engine that leaves the tree to it (`--systemd-cgroup`) wants a transient unit for each container. What
//! is written to the cgroup's files is not its business, but that systemd knows the same values is. Must not know of processes beyond the
//! one that it hands over.

mod bus;
mod properties;
mod unit;

use super::{delegation, resources::Limit};
use crate::{Error, Result, container::rootless};
use bus::{Address, Bus, Fault, Message};
use properties::Property;
use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
};
use zbus::wire::OwnedObjectPath;

pub use unit::{Manager, Unit};

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// Where systemd says that it is this host's first process (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

const OTHERWISE: &str = "the cgroupfs driver does without: leave out --systemd-cgroup (podman: --cgroup-manager=cgroupfs; Docker: \
                         --exec-opt native.cgroupdriver=cgroupfs)";

/// What a new unit is made with.
#[derive(Debug)]
pub(in crate::container) struct Wanted<'a> {
    pub(in crate::container) unit: &'a Unit,
    /// The container's name.
    pub(in crate::container) id: &'a str,
    /// The spec's annotations.
    pub(in crate::container) annotations: &'a HashMap<String, String>,
    /// A process that waits in the cgroup until the container's is there: without one a scope ends. A slice takes none.
    pub(in crate::container) placeholder: i32,
}

/// Makes the unit; returns its cgroup, relative to the hierarchy's root.
pub(super) fn start(wanted: &Wanted<'_>, limits: &[Limit]) -> Result<PathBuf> {
    let unit = wanted.unit;
    let mut all = properties::of_unit(
        unit,
        &format!("container {}", wanted.id),
        unit.slice()
            .and_then(|_| u32::try_from(wanted.placeholder).ok()),
    );
    all.extend(properties::of_limits(limits));
    all.extend(properties::of_annotations(wanted.annotations)?);
    let mut systemd = Systemd::reach(unit.manager())?;
    let base = systemd.base()?;
    systemd.start(unit, &all)?;
    Ok(base.join(unit.path()?))
}

/// Has systemd know the limits.
pub(super) fn update(unit: &Unit, limits: &[Limit]) -> Result<()> {
    let properties = properties::of_limits(limits);
    if properties.is_empty() {
        return Ok(());
    }
    // For as long as the unit is there, like all of it.
    let runtime = true;
    Systemd::reach(unit.manager())?
        .call("SetUnitProperties", &(unit.name(), runtime, properties))
        .map(drop)
        .map_err(|fault| told(&format!("set the limits of {}", unit.name()), fault))
}

/// Ends the unit, whose processes have ended; no error if it is not there.
pub(super) fn stop(unit: &Unit) -> Result<()> {
    // An empty scope ends by itself, and without its systemd there is none.
    let Ok(mut systemd) = Systemd::reach(unit.manager()) else {
        return Ok(());
    };
    systemd.stop(unit)
}

/// Goes where an ordinary user may move processes into the cgroups that the user's systemd makes: into one of these. The session that it
/// was started from may be elsewhere (`session-1.scope`), which needs root.
pub(super) fn approach(to: &Unit) -> Result<()> {
    let manager = to.manager();
    if manager == Manager::System {
        return Ok(());
    }
    let own = fs::read_to_string("/proc/self/cgroup")
        .map_err(|e| Error::io("read /proc/self/cgroup", e))?;
    let mut systemd = Systemd::reach(manager)?;
    let base = systemd.base()?;
    if delegation::own_path(&own).is_some_and(|own| own.starts_with(&base)) {
        return Ok(());
    }
    let pid = std::process::id();
    let unit = Unit::own(pid, manager);
    let all = properties::of_unit(&unit, "container runtime", Some(pid));
    systemd.start(&unit, &all)
}

/// A systemd that is spoken to.
struct Systemd {
    bus: Bus,
}

impl Systemd {
    fn reach(manager: Manager) -> Result<Self> {
        if !Path::new(BOOTED).exists() {
            return Err(Error::Unsupported(format!(
                "systemd cannot be asked for a cgroup: it does not run here ({BOOTED} is not there); {OTHERWISE}"
            )));
        }
        let mut tried = Vec::new();
        for address in addresses(manager) {
            match Bus::connect(address, SERVICE) {
                Ok(bus) => return Ok(Self { bus }),
                Err(error) => tried.push(error.to_string()),
            }
        }
        Err(Error::Unsupported(format!(
            "{} cannot be asked for a cgroup: {}; {OTHERWISE}",
            match manager {
                Manager::System => "systemd",
                Manager::User => "the user's systemd",
            },
            if tried.is_empty() {
                "XDG_RUNTIME_DIR is not set".to_owned()
            } else {
                tried.join(", ")
            }
        )))
    }

    /// The cgroup that all its units are in, relative to the hierarchy's root.
    fn base(&mut self) -> Result<PathBuf> {
        let get = (INTERFACE, "ControlGroup");
        let value: zbus::OwnedVariant = self
            .bus
            .call(OBJECT, "org.freedesktop.DBus.Properties", "Get", &get)
            .map_err(|fault| told("learn systemd's own cgroup", fault))?
            .read()?;
        let path = String::try_from(value)
            .map_err(|e| Error::Internal(format!("systemd's own cgroup is no text: {e}")))?;
        Ok(PathBuf::from(path.trim_start_matches('/')))
    }

    /// Starts a transient unit and waits until it is there.
    fn start(&mut self, unit: &Unit, properties: &[Property]) -> Result<()> {
        type Auxiliary = Vec<(String, Vec<Property>)>;
        let name = unit.name();
        let call = (name, "fail", properties, Auxiliary::new());
        self.listen()?;
        let begun = match self.call("StartTransientUnit", &call) {
            // What is left of one that has failed.
            Err(fault) if fault.is("org.freedesktop.systemd1.UnitExists") => {
                let _ = self.call("ResetFailedUnit", &name);
                self.call("StartTransientUnit", &call)
            }
            other => other,
        };
        match begun {
            Ok(answer) => self.finish("start", name, &answer),
            Err(fault) if fault.is("org.freedesktop.systemd1.UnitExists") => {
                // A slice may be there for others too.
                if unit.slice().is_none() {
                    return Ok(());
                }
                Err(Error::AlreadyExists(format!(
                    "the unit {name} is there already; give every container its own cgroupsPath"
                )))
            }
            Err(fault) => Err(told(&format!("start the unit {name}"), fault)),
        }
    }

    fn stop(&mut self, unit: &Unit) -> Result<()> {
        let name = unit.name();
        self.listen()?;
        match self.call("StopUnit", &(name, "replace")) {
            Ok(answer) => self.finish("stop", name, &answer)?,
            Err(fault) if fault.is("org.freedesktop.systemd1.NoSuchUnit") => return Ok(()),
            Err(fault) => return Err(told(&format!("stop the unit {name}"), fault)),
        }
        // One whose processes were killed for lack of memory has failed, and would be listed for ever. Others are gone now.
        let _ = self.call("ResetFailedUnit", &name);
        Ok(())
    }

    fn listen(&mut self) -> Result<()> {
        self.bus.listen(INTERFACE, "JobRemoved")?;
        match self.call("Subscribe", &()) {
            Ok(_) => Ok(()),
            Err(fault) if fault.is("org.freedesktop.systemd1.AlreadySubscribed") => Ok(()),
            Err(fault) => Err(told("hear of systemd's jobs", fault)),
        }
    }

    /// Waits for the end of the job that a call has returned.
    fn finish(&mut self, verb: &str, name: &str, answer: &Message) -> Result<()> {
        let job: OwnedObjectPath = answer.read()?;
        let result = self.bus.signal(|member, message| {
            if member != "JobRemoved" {
                return Ok(None);
            }
            let (_, ended, _, result): (u32, OwnedObjectPath, String, String) = message.read()?;
            Ok((ended == job).then_some(result))
        })?;
        if result == "done" {
            return Ok(());
        }
        Err(Error::Conflict(format!(
            "cannot {verb} the unit {name}: systemd says `{result}`; `systemctl status {name}` may know more"
        )))
    }

    fn call<B: serde::Serialize + zbus::Type>(
        &mut self,
        member: &str,
        body: &B,
    ) -> Result<Message, Fault> {
        self.bus.call(OBJECT, INTERFACE, member, body)
    }
}

fn told(attempt: &str, fault: Fault) -> Error {
    match fault {
        Fault::Broken(error) => error,
        refused @ Fault::Refused { .. } => {
            Error::Unsupported(format!("systemd does not {attempt}: {refused}"))
        }
    }
}

/// Where systemd may be reached: over the bus, and at its own socket where no bus runs.
fn addresses(manager: Manager) -> Vec<Address> {
    let bus = |socket: PathBuf| Address {
        socket,
        brokered: true,
    };
    let private = |socket: PathBuf| Address {
        socket,
        brokered: false,
    };
    match manager {
        Manager::System => {
            let named = socket(env::var("DBUS_SYSTEM_BUS_ADDRESS").ok().as_deref());
            let usual = PathBuf::from("/run/dbus/system_bus_socket");
            vec![
                bus(named.unwrap_or(usual)),
                private(PathBuf::from("/run/systemd/private")),
            ]
        }
        Manager::User => {
            let named = socket(env::var("DBUS_SESSION_BUS_ADDRESS").ok().as_deref());
            let folder = rootless::runtime_dir();
            let usual = folder.as_ref().map(|folder| folder.join("bus"));
            let own = folder.map(|folder| folder.join("systemd/private"));
            named
                .or(usual)
                .map(bus)
                .into_iter()
                .chain(own.map(private))
                .collect()
        }
    }
}

/// The first socket with a path in an address of D-Bus: `unix:path=/run/user/1000/bus,guid=…;…`.
fn socket(address: Option<&str>) -> Option<PathBuf> {
    address?.split(';').find_map(|one| {
        one.strip_prefix("unix:")?
            .split(',')
            .find_map(|pair| pair.strip_prefix("path="))
            .map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_found_by_its_address() {
        let of = |text| socket(Some(text)).map(|path| path.display().to_string());
        assert_eq!(
            of("unix:path=/run/user/1000/bus,guid=12").as_deref(),
            Some("/run/user/1000/bus")
        );
        assert_eq!(
            of("unix:abstract=/tmp/x;unix:path=/b").as_deref(),
            Some("/b")
        );
        assert_eq!(of("tcp:host=localhost"), None);
        assert_eq!(socket(None), None);
    }
}
