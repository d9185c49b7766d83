//! A network for a cluster: places with an address each, on one bridge, and what happens to packets that arrive there.
//! All of it is in the network namespace of the process that makes it, and is gone with it.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    process::{self, Process, run, tool, with_system_path},
    wait::wait_until,
};

/// Where the load is, and who looks at metrics: the bridge itself.
pub const HERE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const BRIDGE: &str = "field";
const STEP: Duration = Duration::from_secs(30);

/// A network namespace, which lasts as long as a process, and an address in it.
pub struct Place {
    pub name: String,
    pub address: Ipv4Addr,
    holder: Process,
    /// The bridge's end of its wire.
    near: String,
}

/// The bridge. One for each namespace.
pub fn lay_bridge() {
    run(tool("ip").args(["link", "set", "lo", "up"]));
    run(tool("ip").args(["link", "add", "name", BRIDGE, "type", "bridge"]));
    run(tool("ip").args(["address", "add", &format!("{HERE}/16"), "dev", BRIDGE]));
    run(tool("ip").args(["link", "set", BRIDGE, "up"]));
}

impl Place {
    /// `net` and `host` are the last two numbers of its address.
    pub async fn new(name: &str, net: u8, host: u8, logs: &Path) -> Self {
        let mut command = process::command("unshare");
        command.args(["--net", "sleep", "infinity"]);
        let holder = Process::spawn(&format!("place-{name}"), &mut command, logs);
        let here = fs::read_link("/proc/self/ns/net").unwrap();
        let there = format!("/proc/{}/ns/net", holder.id());
        wait_until("another namespace", STEP, || {
            fs::read_link(&there).is_ok_and(|there| there != here)
        })
        .await;
        let this = Self {
            name: name.to_owned(),
            address: Ipv4Addr::new(198, 18, net, host),
            near: format!("near-{net}-{host}"),
            holder,
        };
        run(tool("ip")
            .args(["link", "add", "name", &this.near, "type", "veth"])
            .args(["peer", "name", "wire", "netns"])
            .arg(this.holder.id().to_string()));
        run(tool("ip").args(["link", "set", &this.near, "master", BRIDGE, "up"]));
        this.run("ip", &["link", "set", "lo", "up"]);
        let address = format!("{}/16", this.address);
        this.run("ip", &["address", "add", &address, "dev", "wire"]);
        this.run("ip", &["link", "set", "wire", "up"]);
        this.nft(
            "add table inet chaos; \
             add chain inet chaos arrives { type filter hook prerouting priority -300; }; \
             add chain inet chaos leaves { type filter hook postrouting priority 300; }",
        );
        this
    }

    /// What a command begins with that runs here.
    pub fn enter(&self) -> Vec<String> {
        let namespace = format!("--net=/proc/{}/ns/net", self.holder.id());
        ["nsenter", &namespace, "--"].map(str::to_owned).to_vec()
    }

    /// Nothing that this one sends arrives here any more.
    fn is_deaf_to(&self, other: Ipv4Addr) {
        self.nft(&format!(
            "add rule inet chaos arrives iifname wire ip saddr {other} drop"
        ));
    }

    /// Talks to these alone: what comes from others and goes to others is lost.
    pub fn talks_to(&self, these: &[Ipv4Addr]) {
        let these: Vec<_> = these.iter().map(ToString::to_string).collect();
        let these = these.join(", ");
        self.nft(&format!(
            "add rule inet chaos arrives iifname wire ip saddr != {{ {these} }} drop; \
             add rule inet chaos leaves oifname wire ip daddr != {{ {these} }} drop"
        ));
    }

    /// The wire is pulled out.
    pub fn unplug(&self) {
        run(tool("ip").args(["link", "set", &self.near, "down"]));
    }

    /// Of what arrives, this much is lost at random.
    pub fn loses(&self, percent: u32) {
        self.nft(&format!(
            "add rule inet chaos arrives iifname wire numgen random mod 100 < {percent} counter drop"
        ));
    }

    /// Packets that were lost at random since it was last well.
    pub fn lost(&self) -> u64 {
        let listed = self.at("nft").arg("list table inet chaos").output();
        let listed = String::from_utf8_lossy(&listed.unwrap().stdout).into_owned();
        let counters = listed.split("counter packets ").skip(1);
        let packets = counters.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        packets.sum()
    }

    /// No more than this goes out, and none more comes in.
    pub fn is_limited_to(&self, kilobits_per_second: f64) {
        let rate = format!("{kilobits_per_second:.0}kbit");
        let limit = [
            "root", "tbf", "rate", &rate, "burst", "16kb", "latency", "1s",
        ];
        run(self
            .at("tc")
            .args(["qdisc", "replace", "dev", "wire"])
            .args(limit));
        run(tool("tc")
            .args(["qdisc", "replace", "dev", &self.near])
            .args(limit));
    }

    /// All is well again with its wire.
    pub fn mend(&self) {
        self.nft("flush chain inet chaos arrives; flush chain inet chaos leaves");
        run(tool("ip").args(["link", "set", &self.near, "up"]));
        // Where there is no limit, there is nothing to delete.
        for (mut command, end) in [(self.at("tc"), "wire"), (tool("tc"), &*self.near)] {
            command.args(["qdisc", "delete", "dev", end, "root"]);
            command.stderr(Stdio::null()).status().unwrap();
        }
    }

    fn nft(&self, rules: &str) {
        self.run("nft", &[rules]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        run(self.at(program).args(arguments));
    }

    fn at(&self, program: &str) -> Command {
        with_system_path(process::within(&self.enter(), program))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The kernel takes its time to end a namespace, and another place may have the name at once.
        let mut delete = tool("ip");
        delete.args(["link", "delete", &self.near]);
        delete.output().ok();
    }
}

/// Nothing goes from one to the other, or back.
pub fn cut(one: &Place, other: &Place) {
    one.is_deaf_to(other.address);
    other.is_deaf_to(one.address);
}
