//! The files that a container is given in /etc: `resolv.conf`, `hosts`, `hostname`.

use super::types::Dns;
use crate::oci;
use crate::{Error, Result};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use swarm_api::model::{NetworkMode, Task};

/// Writes a task's files into `dir`.
pub(super) fn write(dir: &Path, task: &Task, dns: &Dns, hosts: &[(IpAddr, String)]) -> Result<()> {
    let shared = task.spec.network == NetworkMode::Host;
    let of_host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let resolv = if shared && dns.nameservers.is_empty() {
        of_host("/etc/resolv.conf")
    } else {
        resolv_conf(dns)
    };
    let names = if shared {
        of_host("/etc/hosts")
    } else {
        String::new()
    };
    let files = [
        ("resolv.conf", resolv),
        ("hosts", hosts_file(&names, task, hosts)),
        ("hostname", format!("{}\n", oci::hostname(task))),
    ];
    for (name, text) in files {
        let path = dir.join(name);
        std::fs::write(&path, text)
            .map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    }
    Ok(())
}

fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    if !dns.search.is_empty() {
        let _ = writeln!(text, "search {}", dns.search.join(" "));
    }
    for server in &dns.nameservers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

fn hosts_file(start: &str, task: &Task, more: &[(IpAddr, String)]) -> String {
    let mut text = if start.is_empty() {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned()
    } else {
        format!("{}\n", start.trim_end())
    };
    let name = oci::hostname(task);
    if task.addresses.is_empty() {
        // A program that looks its own name up finds itself.
        let _ = writeln!(text, "127.0.1.1\t{name}");
    }
    for address in &task.addresses {
        let _ = writeln!(text, "{address}\t{name}");
    }
    for (address, name) in more {
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_says_what_was_asked_and_nothing_else() {
        let dns = Dns {
            nameservers: vec!["10.0.0.1".parse().unwrap()],
            search: vec!["swarm".into()],
            options: vec!["ndots:0".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search swarm\nnameserver 10.0.0.1\noptions ndots:0\n"
        );
        assert_eq!(resolv_conf(&Dns::default()), "");
    }
}
