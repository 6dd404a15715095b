//! Jobs for Kubernetes: their fields are those that the CRDs publish, and their launcher starts the
//! ranks of several "pods", which are network namespaces, as the operators would.
#![allow(clippy::unwrap_used, missing_docs)]

mod manifest;
mod network;
mod program;

use manifest::Manifest;
use network::Hosts;
use program::{Ended, Place};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::symlink,
    process::Command,
    sync::mpsc::{Receiver, channel},
};

const OPERATORS: [&str; 2] = ["mpijob", "trainjob"];

fn render(place: &Place, operator: &str, set: &[&str]) -> Ended {
    let mut command = place.loract(&["render", operator]);
    command.arg(place.config());
    set.iter().for_each(|set| {
        command.args(["--set", set]);
    });
    place.run(&mut command)
}

fn rendered(place: &Place, operator: &str, set: &[&str]) -> Manifest {
    let ended = render(place, operator, set);
    assert!(ended.status.success(), "{}", ended.stderr);
    Manifest::read(&ended.stdout)
}

/// Every key that has to do with Kubernetes.
const FULL: [&str; 17] = [
    "cluster.ranks=6",
    "cluster.nodes=3",
    "cluster.cpus_per_rank=4",
    "cluster.gpus_per_node=2",
    "cluster.memory=8G",
    "cluster.time=\"02:00:00\"",
    "cluster.name=tune-7",
    "cluster.queue=team-a",
    "cluster.volume=data",
    "cluster.image=here:1",
    "cluster.image_pull_secrets=[\"registry\", \"123\"]",
    "cluster.tolerations=[\"nvidia.com/gpu=yes:NoSchedule\", \"spot\"]",
    "cluster.priority_class=high",
    "cluster.ttl_seconds_after_finished=60",
    "cluster.shared_memory=2G",
    "cluster.rdma={ \"rdma/hca\" = 2 }",
    "cluster.environment={ NCCL_IB_HCA = \"mlx5: #1\", ON = \"true\" }",
];

#[test]
fn every_field_is_one_of_the_crd_and_every_key_arrives() {
    let place = Place::new();
    for operator in OPERATORS {
        rendered(&place, operator, &[]);
        let job = rendered(&place, operator, &FULL);
        let [launcher, worker] = job.pods();
        for pod in [launcher, worker] {
            assert_eq!(pod["priorityClassName"], "high");
            assert_eq!(pod["imagePullSecrets"], json!([{"name": "registry"}, {"name": "123"}]));
            assert_eq!(
                pod["tolerations"],
                json!([
                    {"key": "nvidia.com/gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
                    {"key": "spot", "operator": "Exists"},
                ])
            );
            assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "data");
            let container = &pod["containers"][0];
            assert_eq!(
                (&container["image"], &container["workingDir"]),
                (&json!("here:1"), &json!("/work"))
            );
            assert_eq!(container["volumeMounts"][0], json!({"name": "work", "mountPath": "/work"}));
        }
        assert_eq!(launcher["terminationGracePeriodSeconds"], 120, "there is time to save");
        let variables = launcher["containers"][0]["env"].as_array().unwrap();
        for (name, value) in [("NCCL_IB_HCA", "mlx5: #1"), ("ON", "true")] {
            assert!(variables.contains(&json!({"name": name, "value": value})), "{variables:?}");
        }
        let container = &worker["containers"][0];
        assert_eq!(
            container["resources"]["limits"],
            json!({"cpu": 8, "memory": "8Gi", "nvidia.com/gpu": 2, "rdma/hca": 2})
        );
        assert_eq!(container["securityContext"]["capabilities"]["add"], json!(["IPC_LOCK"]));
        assert_eq!(
            worker["volumes"][1]["emptyDir"],
            json!({"medium": "Memory", "sizeLimit": "2Gi"})
        );
        assert_eq!(container["volumeMounts"][1]["mountPath"], "/dev/shm");
        let script = job.script();
        assert!(
            script.contains("\nmpirun --bind-to none --hostfile /etc/mpi/hostfile \"${forward[@]}\" -n 6 loract train "),
            "{script}"
        );
    }
}

#[test]
fn an_mpi_job_says_what_the_operator_does() {
    let place = Place::new();
    let job = rendered(&place, "mpijob", &FULL);
    let at = |pointer: &str| job.at("MPIJob", pointer).clone();
    assert_eq!(
        at("/metadata"),
        json!({"name": "tune-7", "labels": {"kueue.x-k8s.io/queue-name": "team-a"}})
    );
    assert_eq!(at("/spec/slotsPerWorker"), 2);
    assert_eq!(at("/spec/launcherCreationPolicy"), "WaitForWorkersReady");
    let policy = at("/spec/runPolicy");
    assert_eq!(policy["activeDeadlineSeconds"], 7200);
    assert_eq!(policy["ttlSecondsAfterFinished"], 60);
    assert!(policy["backoffLimit"].as_i64() > Some(0), "a launcher that saved starts again");
    // The launcher comes after the workers, which would wait for it for ever as part of their gang.
    assert_eq!(
        policy["schedulingPolicy"],
        json!({"minAvailable": 3, "queue": "team-a", "priorityClass": "high"})
    );
    assert_eq!(at("/spec/mpiReplicaSpecs/Worker/replicas"), 3);
    assert_eq!(at("/spec/mpiReplicaSpecs/Launcher/restartPolicy"), "OnFailure");
}

#[test]
fn a_train_job_says_what_kubeflow_trainer_does() {
    let place = Place::new();
    let job = rendered(&place, "trainjob", &FULL);
    let runtime = |pointer: &str| job.at("TrainingRuntime", pointer).clone();
    // The number of launchers; that of nodes is the job's.
    assert_eq!(runtime("/spec/mlPolicy/numNodes"), 1);
    assert_eq!(
        runtime("/spec/mlPolicy/mpi"),
        json!({"numProcPerNode": 2, "mpiImplementation": "OpenMPI", "sshAuthMountPath": "/home/mpiuser/.ssh", "runLauncherAsNode": false})
    );
    let jobs = runtime("/spec/template/spec/replicatedJobs");
    assert_eq!((&jobs[0]["name"], &jobs[1]["name"]), (&json!("node"), &json!("launcher")));
    assert_eq!(jobs[1]["dependsOn"], json!([{"name": "node", "status": "Ready"}]));
    assert_eq!(
        jobs[1]["template"]["metadata"]["labels"],
        json!({"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"})
    );
    // Kubeflow mounts keys and hosts only into containers of this name.
    job.pods().iter().for_each(|pod| assert_eq!(pod["containers"][0]["name"], "node"));
    assert_eq!(runtime("/spec/template/spec/ttlSecondsAfterFinished"), 60);
    let train = |pointer: &str| job.at("TrainJob", pointer).clone();
    assert_eq!(train("/metadata/labels"), json!({"kueue.x-k8s.io/queue-name": "team-a"}));
    assert_eq!(
        train("/spec/runtimeRef"),
        json!({"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "tune-7"})
    );
    assert_eq!(runtime("/metadata/name"), "tune-7");
    assert_eq!(train("/spec/trainer/numNodes"), 3);
    assert_eq!(train("/spec/activeDeadlineSeconds"), 7200);
}

#[test]
fn each_mpi_is_told_in_its_own_words() {
    let place = Place::new();
    for (mpi, implementation, words) in [
        ("mpich", "MPICH", "\nmpirun -bind-to none -f /etc/mpi/hostfile "),
        ("intel", "Intel", "\nmpirun -genv I_MPI_PIN off -f /etc/mpi/hostfile "),
    ] {
        let set = format!("cluster.mpi={mpi}");
        let job = rendered(&place, "mpijob", &[&set]);
        assert_eq!(job.at("MPIJob", "/spec/mpiImplementation"), implementation);
        assert!(job.script().contains(words), "{}", job.script());
        assert!(job.script().contains(r#"forward+=(-genv "$name" "${!name}")"#));
        let ended = render(&place, "trainjob", &[&set]);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("Kubeflow Trainer starts only \"openmpi\""),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn a_name_that_kubernetes_refuses_is_refused_here() {
    let place = Place::new();
    for (name, proposed) in [("7-tune", "run-7-tune"), ("Tune", "tune")] {
        for operator in OPERATORS {
            let ended = render(&place, operator, &[&format!("cluster.name={name:?}")]);
            assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
            assert!(ended.stderr.contains(&format!("write {proposed:?}")), "{}", ended.stderr);
        }
    }
}

#[test]
fn a_field_that_no_crd_has_is_found() {
    let place = Place::new();
    let text = render(&place, "mpijob", &[]).stdout;
    for (old, new) in [
        ("slotsPerWorker:", "slotPerWorker:"),
        ("mpiImplementation: OpenMPI", "mpiImplementation: OpenMPI5"),
        ("tcpSocket: {port: 2222}", "tcpSocket: {ports: 2222}"),
        ("backoffLimit: 10", "backoffLimit: \"10\""),
    ] {
        let changed: Value = serde_yaml_ng::from_str(&text.replace(old, new)).unwrap();
        assert!(!manifest::violations(&changed).is_empty(), "{new}");
    }
}

/// The user, the port and the files of `ci/Dockerfile` are those that the jobs speak of.
#[test]
fn the_jobs_fit_the_image() {
    let image =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/Dockerfile")).unwrap();
    let place = Place::new();
    for operator in OPERATORS {
        let job = rendered(&place, operator, &["cluster.ranks=2", "cluster.nodes=2"]);
        let [launcher, worker] = job.pods();
        assert_eq!(launcher["securityContext"], worker["securityContext"]);
        let user = &worker["securityContext"]["runAsUser"];
        assert!(image.contains(&format!("useradd --create-home --uid {user} mpiuser")));
        let keys = match operator {
            "mpijob" => job.at("MPIJob", "/spec/sshAuthMountPath"),
            _ => job.at("TrainingRuntime", "/spec/mlPolicy/mpi/sshAuthMountPath"),
        };
        assert!(image.contains(&format!("HostKey {}/id_rsa", keys.as_str().unwrap())), "{keys}");
        let container = &worker["containers"][0];
        let port = &container["readinessProbe"]["tcpSocket"]["port"];
        let both = image.matches(&format!("Port {port}'")).count();
        assert_eq!(both, 2, "the server's and the clients': {port}");
        let command = serde_json::to_string(&container["command"]).unwrap().replace(',', ", ");
        assert!(image.contains(&format!("CMD {command}")), "{command}");
    }
}

/// Two pods of one rank each, and what the operator gives to the launcher.
struct Pods {
    place: Place,
    hosts: Hosts,
}

impl Pods {
    /// `None` where no hosts can be made.
    fn start() -> Option<Self> {
        let place = Place::new();
        place.edit("steps = 8", "steps = 30");
        let ids: Vec<i64> =
            (0..30 * 2 * 16).map(|index| 3 + index * 31 % (program::VOCABULARY - 3)).collect();
        place.write_batches("batches.safetensors", [30, 2, 16], &ids);
        let hosts = Hosts::start(2, &place.at(""))?;
        hosts.listen(2222);
        fs::write(place.at("hostfile"), hosts.hostfile()).unwrap();
        fs::create_dir(place.at("bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_loract"), place.at("bin/loract")).unwrap();
        Some(Self { place, hosts })
    }

    /// The launcher of the job that `operator` starts, with the operator's variables. The hosts'
    /// agent stands in for ssh.
    fn launcher(&self, operator: &str, set: &[&str]) -> Command {
        let common = [
            "cluster.ranks=2",
            "cluster.nodes=2",
            "cluster.heartbeat_seconds=3",
            "checkpoint.every=5",
        ];
        let job = rendered(&self.place, operator, &[&common, set].concat());
        let hostfile = self.place.at("hostfile").display().to_string();
        fs::write(
            self.place.at("launcher.sh"),
            job.script().replace("/etc/mpi/hostfile", &hostfile),
        )
        .unwrap();
        let mut command = self.place.command("bash");
        let path = std::env::var("PATH").unwrap();
        // Another Open MPI than the one that the program was built with.
        let other = std::env::var("LORACT_TEST_OPEN_MPI").ok();
        let mpi = other.iter().map(|folder| format!("{folder}/bin:")).collect::<String>();
        command
            .arg(self.place.at("launcher.sh"))
            .env("PATH", format!("{}:{mpi}{path}", self.place.at("bin").display()))
            .env("OMPI_MCA_orte_keep_fqdn_hostnames", "true")
            .envs(self.hosts.environment());
        if let Some(folder) = other {
            let libraries = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
            command.env("LD_LIBRARY_PATH", format!("{folder}/lib:{libraries}"));
        }
        let [launcher, _] = job.pods();
        for variable in launcher["containers"][0]["env"].as_array().unwrap() {
            let text = |key: &str| variable[key].as_str().unwrap().to_owned();
            command.env(text("name"), text("value"));
        }
        command
    }

    fn steps(&self) -> usize {
        fs::read_to_string(self.place.metrics()).map_or(0, |text| text.lines().count())
    }

    fn adapter(&self) -> Vec<u8> {
        fs::read(self.place.run_dir().join("adapter/adapter_model.safetensors")).unwrap()
    }
}

/// A server that takes what is posted, and says so.
fn server() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/status", listener.local_addr().unwrap());
    let (sender, posts) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut got = Vec::new();
            let mut buffer = [0; 4096];
            let body = loop {
                let read = stream.read(&mut buffer).unwrap();
                got.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&got).into_owned();
                let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
                if let Some(posted) = body.and_then(|body| serde_json::from_str(&body).ok()) {
                    break posted;
                }
                assert!(read > 0, "{text}");
            };
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            if sender.send(body).is_err() {
                return;
            }
        }
    });
    (url, posts)
}

/// An evicted pod ends the ranks; the operator makes another and starts the launcher again, which
/// resumes. The result is that of an undisturbed run.
#[test]
fn a_job_survives_an_evicted_pod_and_a_signal_and_ends_as_if_undisturbed() {
    for operator in OPERATORS {
        let Some(pods) = Pods::start() else { return };
        let ended = pods.place.run(&mut pods.launcher(operator, &[]));
        assert!(ended.status.success(), "{operator}: {}", ended.stderr);
        let undisturbed = pods.adapter();
        fs::remove_dir_all(pods.place.run_dir()).unwrap();

        let mut command = pods.launcher(operator, &[]);
        let pause = pods.place.pause(&mut command, 0, 12);
        let mut job = pods.place.start(&mut command);
        let paused = pause.reached(&mut job);
        pods.hosts.evict(3);
        drop(paused);
        let ended = job.wait();
        assert!(!ended.status.success(), "{operator}: {}", ended.stderr);
        pods.hosts.wait_until_evicted(3);
        pods.hosts.listen_on(3, 2222);

        let mut command = pods.launcher(operator, &[]);
        let pause = pods.place.pause(&mut command, 0, 20);
        let mut job = pods.place.start(&mut command);
        let paused = pause.reached(&mut job);
        job.stop(Signal::TERM, paused);
        let ended = job.wait();
        assert_eq!(ended.status.code(), Some(75), "{operator}: {}", ended.stderr);

        let (url, posts) = server();
        let mut command = pods.launcher(operator, &[]);
        let ended = pods.place.run(command.env("KUBEFLOW_TRAINER_SERVER_URL", url));
        assert!(ended.status.success(), "{operator}: {}", ended.stderr);
        assert_eq!(pods.steps(), 30, "each step once");
        assert!(pods.adapter() == undisturbed, "{operator}: another adapter");
        let last = posts.try_iter().last();
        let percentage = last.as_ref().map(|post| &post["trainerStatus"]["progressPercentage"]);
        // Only a TrainJob has the variable, and only its launcher posts.
        assert_eq!(percentage, (operator == "trainjob").then_some(&json!(100)));
    }
}
