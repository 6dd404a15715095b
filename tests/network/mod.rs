//! Several hosts on one machine: network namespaces on a bridge, each with its own address and host
//! name, that mpirun reaches through a script in place of ssh. Links can be cut and slowed.
#![allow(dead_code)] // each test file uses its own part

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use crate::program::times::{HANG_LIMIT, POLL_INTERVAL};

/// Numbers of networks on this machine, `10.77.N.0/24`.
const SUBNETS: u32 = 254;

/// Hosts `node2`, `node3`, … with the addresses `10.77.N.2`, `10.77.N.3`, …; this machine is
/// `10.77.N.1`. Dropped, they are gone.
pub struct Hosts {
    /// What the names of its interfaces and namespaces begin with.
    prefix: String,
    subnet: u32,
    count: u32,
    agent: PathBuf,
}

/// Networks of this process so far.
static MADE: AtomicU32 = AtomicU32::new(0);

impl Hosts {
    /// Makes `count` hosts, whose files are in `folder`. Where this machine does not allow it, says
    /// why and makes none.
    pub fn start(count: u32, folder: &Path) -> Option<Hosts> {
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("lr{:x}x{made}", std::process::id());
        let mut hosts = Hosts { agent: folder.join("agent"), prefix, subnet: 0, count };
        if let Err(why) = hosts.take_subnet().and_then(|()| hosts.make(folder)) {
            println!("skipped: no network of several hosts can be made here: {why}");
            return None;
        }
        Some(hosts)
    }

    /// Takes a number that no other network of this machine has, whoever made it: only one can make
    /// the bridge of that name.
    fn take_subnet(&mut self) -> Result<(), String> {
        for subnet in 1..=SUBNETS {
            match ip(&format!("link add lr-{subnet} type bridge")) {
                Err(why) if why.contains("File exists") => {}
                Err(why) => return Err(why),
                Ok(_) => {
                    self.subnet = subnet;
                    return Ok(());
                }
            }
        }
        Err(format!(
            "all {SUBNETS} networks are taken; remove those that no test uses: ip link del lr-1"
        ))
    }

    fn bridge(&self) -> String {
        format!("lr-{}", self.subnet)
    }

    fn make(&self, folder: &Path) -> Result<(), String> {
        let (Hosts { prefix, subnet, .. }, bridge) = (self, self.bridge());
        ip(&format!("addr add 10.77.{subnet}.1/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        for host in self.numbers() {
            let (namespace, port) = (self.namespace(host), self.port(host));
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("link add {port} type veth peer name eth0 netns {namespace}"))?;
            ip(&format!("link set {port} master {bridge} up"))?;
            ip(&format!("-n {namespace} addr add 10.77.{subnet}.{host}/24 dev eth0"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        let tried = Command::new("unshare")
            .args(["--uts", "hostname", "node2"])
            .output()
            .map_err(|cause| format!("unshare: {cause}"))?;
        if !tried.status.success() {
            return Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned());
        }
        let script =
            AGENT.replace("PREFIX", prefix).replace("FOLDER", &folder.display().to_string());
        let bare = BARE_AGENT.replace("AGENT", &self.agent.display().to_string());
        for (path, script) in [(&self.agent, script), (&self.bare_agent(), bare)] {
            fs::write(path, script)
                .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
                .map_err(|cause| cause.to_string())?;
        }
        Ok(())
    }

    /// The agent that hands no environment over, as ssh does not.
    fn bare_agent(&self) -> PathBuf {
        self.agent.with_file_name("bare-agent")
    }

    fn numbers(&self) -> std::ops::Range<u32> {
        2..2 + self.count
    }

    fn namespace(&self, host: u32) -> String {
        format!("{}n{host}", self.prefix)
    }

    /// This machine's end of a host's cable.
    fn port(&self, host: u32) -> String {
        format!("{}p{host}", self.prefix)
    }

    /// `[cluster] mpirun_args`, one rank on each host in order.
    pub fn mpirun_args(&self) -> Vec<String> {
        let net = format!("10.77.{}.0/24", self.subnet);
        let hosts: Vec<String> =
            self.numbers().map(|host| format!("10.77.{}.{host}:1", self.subnet)).collect();
        let settings = [
            ("plm_rsh_agent", self.agent.display().to_string()),
            ("oob_tcp_if_include", net.clone()),
            ("btl_tcp_if_include", net),
            ("btl", "self,tcp".into()),
        ];
        let settings = settings
            .into_iter()
            .flat_map(|(name, value)| ["--mca".to_owned(), name.to_owned(), value]);
        ["--host".to_owned(), hosts.join(",")].into_iter().chain(settings).collect()
    }

    /// The same as a key for `--set`.
    pub fn setting(&self) -> String {
        format!("cluster.mpirun_args={:?}", self.mpirun_args())
    }

    /// A file of hosts as the operators of Kubernetes write it.
    pub fn hostfile(&self) -> String {
        let line = |host| format!("10.77.{}.{host} slots=1\n", self.subnet);
        self.numbers().map(line).collect()
    }

    /// The variables by which Open MPI 4 and 5 start ranks through the agent, and keep to this
    /// network.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let net = format!("10.77.{}.0/24", self.subnet);
        let agent = self.bare_agent().display().to_string();
        vec![
            ("OMPI_ALLOW_RUN_AS_ROOT", "1".into()),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1".into()),
            ("PRTE_ALLOW_RUN_AS_ROOT", "1".into()),
            ("PRTE_ALLOW_RUN_AS_ROOT_CONFIRM", "1".into()),
            ("OMPI_MCA_plm_rsh_agent", agent.clone()),
            ("PRTE_MCA_plm_ssh_agent", agent),
            ("OMPI_MCA_oob_tcp_if_include", net.clone()),
            ("PRTE_MCA_prte_if_include", net.clone()),
            ("OMPI_MCA_btl", "self,tcp".into()),
            ("OMPI_MCA_btl_tcp_if_include", net),
        ]
    }

    /// Takes connections at `port` of every host, as a pod's sshd does.
    pub fn listen(&self, port: u16) {
        self.numbers().for_each(|host| self.listen_on(host, port));
    }

    /// The same on one host.
    pub fn listen_on(&self, host: u32, port: u16) {
        // Its first process ends when the port is open; the second ends with the host.
        let script = format!(
            "$s = IO::Socket::INET->new(LocalPort => {port}, Listen => 9, ReuseAddr => 1) or die; \
             fork and exit; close $s->accept while 1"
        );
        let opened = Command::new("ip")
            .args(["netns", "exec", &self.namespace(host), "perl", "-MIO::Socket::INET", "-e"])
            .arg(script)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(opened.success(), "no port {port} on host {host}");
    }

    /// Kills every process of a host, as the eviction of a pod does.
    pub fn evict(&self, host: u32) {
        for pid in self.processes_of(host) {
            let _ = run("kill", &format!("-KILL {pid}"));
        }
    }

    /// Waits until a host that was evicted has no process.
    pub fn wait_until_evicted(&self, host: u32) {
        let start = Instant::now();
        while !self.processes_of(host).is_empty() {
            assert!(start.elapsed() < HANG_LIMIT, "processes are left on host {host}");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Pulls a host's cable.
    pub fn cut(&self, host: u32) {
        ip(&format!("link set {} down", self.port(host))).unwrap();
    }

    /// Lets no more than `rate` through a host's cable, either way: `64kbit`.
    pub fn slow(&self, host: u32, rate: &str) {
        let limit = format!("root tbf rate {rate} burst 4kb latency 400ms");
        run("tc", &format!("qdisc replace dev {} {limit}", self.port(host))).unwrap();
        run("tc", &format!("-n {} qdisc replace dev eth0 {limit}", self.namespace(host))).unwrap();
    }

    /// Takes the limit away.
    pub fn quicken(&self, host: u32) {
        run("tc", &format!("qdisc del dev {} root", self.port(host))).unwrap();
        run("tc", &format!("-n {} qdisc del dev eth0 root", self.namespace(host))).unwrap();
    }

    /// Waits until no process is left on any host; daemons take a moment longer than ranks.
    pub fn wait_until_empty(&self) {
        let start = Instant::now();
        while !self.processes().is_empty() {
            assert!(start.elapsed() < HANG_LIMIT, "processes are left: {:?}", self.processes());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// The processes on all hosts.
    fn processes(&self) -> Vec<u32> {
        self.numbers().flat_map(|host| self.processes_of(host)).collect()
    }

    fn processes_of(&self, host: u32) -> Vec<u32> {
        let pids = ip(&format!("netns pids {}", self.namespace(host))).unwrap_or_default();
        pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // What was not made cannot be removed, and is not missed.
        for pid in self.processes() {
            let _ = run("kill", &format!("-KILL {pid}"));
        }
        for host in self.numbers() {
            let _ = ip(&format!("netns del {}", self.namespace(host)));
        }
        let _ = ip(&format!("link del {}", self.bridge()));
    }
}

/// Called as ssh is: with the host's address and a command for its shell.
const AGENT: &str = r#"#!/bin/sh
number=${1##*.}; shift
mkdir -p "FOLDER/$number"
[ -e "FOLDER/on-host-$number" ] && begin=". FOLDER/on-host-$number;" || begin=
exec unshare --uts ip netns exec "PREFIXn$number" \
  sh -c "hostname node$number; export TMPDIR=FOLDER/$number; $begin"' exec sh -c "$1"' sh "$*"
"#;

/// The programs and libraries of a pod are those of its image.
const BARE_AGENT: &str = r#"#!/bin/sh
exec env -i HOME=/root PATH="$PATH" LD_LIBRARY_PATH="$LD_LIBRARY_PATH" AGENT "$@"
"#;

fn ip(arguments: &str) -> Result<String, String> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .map_err(|cause| format!("{program}: {cause}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
