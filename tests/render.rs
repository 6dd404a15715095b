//! Job files for schedulers: what they ask for, and what they do between a signal and the queue, with the schedulers' own programs replaced by
//! stand-ins that run the ranks here.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{Ended, Place};
use rustix::process::Signal;
use serde::Deserialize;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

const SCHEDULERS: [&str; 4] = ["slurm", "pbs", "lsf", "mpijob"];

/// A run of one rank that is slow enough to be interrupted.
fn place() -> Place {
    let place = Place::new();
    let ids: Vec<i64> = (0..16 * 48).map(|index: i64| 3 + index * 31 % (program::VOCABULARY - 3)).collect();
    place.write_batches("batches.safetensors", [1, 16, 48], &ids);
    place.edit("steps = 8\nbatch_size = 2", "steps = 60\nbatch_size = 16\nmicro_batch_size = 1");
    place.edit("sequence_length = 16", "sequence_length = 48");
    place
}

fn render(place: &Place, scheduler: &str, set: &[&str]) -> Ended {
    let mut command = place.loract(&["render", scheduler]);
    command.arg(place.config());
    for set in set {
        command.args(["--set", set]);
    }
    place.run(&mut command)
}

fn rendered(place: &Place, scheduler: &str, set: &[&str]) -> String {
    let ended = render(place, scheduler, set);
    assert!(ended.status.success(), "{}", ended.stderr);
    ended.stdout
}

#[test]
fn they_ask_for_what_the_configuration_says() {
    let place = place();
    let full = [
        "cluster.ranks=8",
        "cluster.nodes=2",
        "cluster.cpus_per_rank=3",
        "cluster.gpus_per_node=4",
        "cluster.memory=64G",
        "cluster.time=\"01:30:00\"",
        "cluster.queue=long",
        "cluster.account=physics",
        "cluster.name=tune-7",
        "cluster.setup=[\"module load openmpi\"]",
        "cluster.mpirun_args=[\"--mca\", \"a\", \"b c\"]",
    ];
    for (scheduler, lines) in [
        (
            "slurm",
            &[
                "#SBATCH --job-name=tune-7\n#SBATCH --nodes=2\n#SBATCH --ntasks=8\n#SBATCH --ntasks-per-node=4\n#SBATCH --cpus-per-task=3\n\
                 #SBATCH --gpus-per-node=4\n#SBATCH --mem=64G\n#SBATCH --time=01:30:00\n#SBATCH --partition=long\n#SBATCH --account=physics\n",
                "#SBATCH --signal=B:USR1@120\n",
                "\nmodule load openmpi\n",
                "srun --mpi=pmix --kill-on-bad-exit=1 loract train ",
            ][..],
        ),
        (
            "pbs",
            &[
                "#PBS -l select=2:ncpus=12:mpiprocs=4:ompthreads=3:ngpus=4:mem=64GB\n#PBS -l walltime=01:30:00\n#PBS -q long\n#PBS -A physics\n",
                "sleep 5280 & wait",
                "\nmpirun --mca a 'b c' -n 8 loract train ",
            ],
        ),
        ("lsf", &["#BSUB -n 8\n", "span[ptile=4] affinity[core(3)]", "#BSUB -W 90\n", "-wa USR1 -wt 2\n", "#BSUB -Q \"75\"\n"]),
        (
            "mpijob",
            &[
                "name: tune-7\n",
                "slotsPerWorker: 4\n",
                "nvidia.com/gpu: 4\n",
                "memory: 64Gi\n",
                "cpu: 12\n",
                "--mca a 'b c' -n 8 -x OMP_NUM_THREADS=3",
            ],
        ),
    ] {
        let job = rendered(&place, scheduler, &full);
        lines.iter().for_each(|line| assert!(job.contains(line), "{scheduler} lacks {line:?}: {job}"));
        assert!(job.contains("--set 'cluster.setup=[\"module load openmpi\"]'"), "{scheduler}: keys are handed on, quoted: {job}");
        let plain = rendered(&place, scheduler, &[]);
        assert!(!plain.contains("{{") && !plain.contains("{%") && !plain.contains("None"), "{scheduler}: {plain}");
    }
}

#[test]
fn scripts_are_sound() {
    let place = place();
    for scheduler in SCHEDULERS {
        let job = rendered(&place, scheduler, &["cluster.time=\"01:00:00\""]);
        let script = match scheduler {
            "mpijob" => mpi_job(&job).script(),
            _ => job,
        };
        fs::write(place.at("job.sh"), script).unwrap();
        let checked = Command::new("bash").arg("-n").arg(place.at("job.sh")).output().unwrap();
        assert!(checked.status.success() && checked.stderr.is_empty(), "{scheduler}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn what_cannot_be_is_refused_at_its_key() {
    let place = place();
    for (set, says) in [
        (["cluster.ranks=3", "cluster.nodes=2"], "[cluster] nodes: is 2, by which the 3 ranks cannot be divided"),
        (["cluster.ranks=2", "cluster.time=0:01:00"], "[cluster] warning_seconds: is 120, and the whole job has 60 seconds"),
    ] {
        let ended = render(&place, "slurm", &set);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
}

/// USR1 to the script, as the scheduler sends it, leads to a checkpoint, code 75 and the queue; submitted again, the run ends.
#[test]
fn a_warning_saves_and_requeues_and_the_next_start_goes_on() {
    for (scheduler, requeued) in [("slurm", Some("requeue 7")), ("pbs", Some("7")), ("lsf", None)] {
        let place = place();
        let bin = place.at("bin");
        fs::create_dir(&bin).unwrap();
        symlink(env!("CARGO_BIN_EXE_loract"), bin.join("loract")).unwrap();
        let folder = place.at("").display().to_string();
        // The starter of ranks: its own options left out, it becomes the rank.
        let start = format!("echo $$ >{folder}/rank.pid\nwhile [ \"$1\" != loract ]; do shift; done\nexec \"$@\"\n");
        let queue = format!("echo \"$@\" >{folder}/requeued\n");
        for (name, text) in [
            ("srun", start.clone()),
            ("mpirun", start),
            ("scancel", format!("kill -USR1 \"$(cat {folder}/rank.pid)\"\n")),
            ("scontrol", queue.clone()),
            ("qrerun", queue),
        ] {
            fs::write(bin.join(name), format!("#!/bin/bash\n{text}")).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(place.at("job.sh"), rendered(&place, scheduler, &[])).unwrap();
        let submit = || {
            let mut command = Command::new("bash");
            command.arg(place.at("job.sh")).env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
            command.env("SLURM_JOB_ID", "7").env("PBS_JOBID", "7");
            command
        };
        let mut job = place.start(&mut submit());
        job.until("a step", || fs::read_to_string(place.metrics()).is_ok_and(|text| text.lines().count() >= 2));
        job.process().signal(Signal::USR1);
        let ended = job.wait();
        assert_eq!(ended.status.code(), Some(75), "{scheduler}: {}", ended.stderr);
        assert!(fs::read_dir(place.run_dir().join("checkpoints")).unwrap().count() > 0);
        assert_eq!(fs::read_to_string(place.at("requeued")).ok().as_deref().map(str::trim), requeued, "{scheduler}");
        let ended = place.run(&mut submit());
        assert!(ended.status.success(), "{scheduler}: {}", ended.stderr);
        assert_eq!(fs::read_to_string(place.metrics()).unwrap().lines().count(), 60, "each step once");
    }
}

/// The fields of kubeflow/mpi-operator's v2beta1, those of Kubernetes' own pods left open.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct MpiJob {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Spec {
    slots_per_worker: u32,
    mpi_implementation: String,
    launcher_creation_policy: String,
    run_policy: RunPolicy,
    mpi_replica_specs: Replicas,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RunPolicy {
    clean_pod_policy: String,
    backoff_limit: u32,
    active_deadline_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Replicas {
    launcher: Replica,
    worker: Replica,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Replica {
    replicas: u32,
    restart_policy: Option<String>,
    template: serde_json::Value,
}

impl MpiJob {
    /// What the launcher's shell is given.
    fn script(&self) -> String {
        self.spec.mpi_replica_specs.launcher.template["spec"]["containers"][0]["args"][0].as_str().unwrap().to_owned()
    }
}

fn mpi_job(text: &str) -> MpiJob {
    serde_yaml_ng::from_str(text).unwrap_or_else(|fault| panic!("{fault}: {text}"))
}

#[test]
fn an_mpi_job_has_the_fields_of_the_operator() {
    let place = place();
    let job =
        mpi_job(&rendered(&place, "mpijob", &["cluster.ranks=6", "cluster.nodes=3", "cluster.time=\"02:00:00\"", "cluster.volume=data"]));
    assert_eq!((job.api_version.as_str(), job.kind.as_str(), job.metadata.name.as_str()), ("kubeflow.org/v2beta1", "MPIJob", "run"));
    let MpiJob { spec, .. } = &job;
    assert_eq!((spec.slots_per_worker, spec.mpi_implementation.as_str()), (2, "OpenMPI"));
    assert_eq!(spec.launcher_creation_policy, "WaitForWorkersReady");
    assert_eq!((spec.run_policy.clean_pod_policy.as_str(), spec.run_policy.active_deadline_seconds), ("Running", Some(7200)));
    assert!(spec.run_policy.backoff_limit > 0, "a launcher that saved and stopped is started again");
    let Replicas { launcher, worker } = &spec.mpi_replica_specs;
    assert_eq!((launcher.replicas, launcher.restart_policy.as_deref(), worker.replicas), (1, Some("OnFailure"), 3));
    assert!(worker.restart_policy.is_none());
    for replica in [launcher, worker] {
        let pod = &replica.template["spec"];
        assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "data");
        assert_eq!(pod["containers"][0]["volumeMounts"][0]["name"], pod["volumes"][0]["name"]);
        assert!(pod["containers"][0]["resources"]["limits"]["cpu"].is_number());
    }
    assert_eq!(worker.template["spec"]["containers"][0]["readinessProbe"]["tcpSocket"]["port"], 22);
    assert!(job.script().contains("mpirun --allow-run-as-root -n 6 "), "{}", job.script());
}
