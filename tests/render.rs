//! Job files for schedulers: what they ask for, and what they do between a signal and the queue,
//! with the schedulers' own programs replaced by stand-ins that run the ranks here.
#![allow(clippy::unwrap_used, missing_docs)]

mod mpijob;
mod program;

use mpijob::{CleanPods, LauncherCreation, MpiImplementation, MpiJob, Replicas, Restart};
use program::{Ended, Place};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

const SCHEDULERS: [&str; 4] = ["slurm", "pbs", "lsf", "mpijob"];

/// A run of one rank.
fn place() -> Place {
    let place = Place::new();
    let ids: Vec<i64> =
        (0..16 * 48).map(|index: i64| 3 + index * 31 % (program::VOCABULARY - 3)).collect();
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
                "srun --mpi=pmix --kill-on-bad-exit=0 --wait=120 loract train ",
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
        (
            "lsf",
            &[
                "#BSUB -n 8\n",
                "span[ptile=4] affinity[core(3)]",
                "#BSUB -W 90\n",
                "-wa USR1 -wt 2\n",
                "#BSUB -Q \"75\"\n",
            ],
        ),
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
        lines
            .iter()
            .for_each(|line| assert!(job.contains(line), "{scheduler} lacks {line:?}: {job}"));
        assert!(
            job.contains("--set 'cluster.setup=[\"module load openmpi\"]'"),
            "{scheduler}: keys are handed on, quoted: {job}"
        );
        let plain = rendered(&place, scheduler, &[]);
        assert!(
            !plain.contains("{{") && !plain.contains("{%") && !plain.contains("None"),
            "{scheduler}: {plain}"
        );
    }
}

#[test]
fn scripts_are_sound() {
    let place = place();
    for scheduler in SCHEDULERS {
        let job = rendered(&place, scheduler, &["cluster.time=\"01:00:00\""]);
        let script = match scheduler {
            "mpijob" => MpiJob::read(&job).script().to_owned(),
            _ => job,
        };
        fs::write(place.at("job.sh"), script).unwrap();
        let checked = Command::new("bash").arg("-n").arg(place.at("job.sh")).output().unwrap();
        assert!(
            checked.status.success() && checked.stderr.is_empty(),
            "{scheduler}: {}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
}

#[test]
fn what_cannot_be_is_refused_at_its_key() {
    let place = place();
    for (set, says) in [
        (
            ["cluster.ranks=3", "cluster.nodes=2"],
            "[cluster] nodes: is 2, by which the 3 ranks cannot be divided",
        ),
        (
            ["cluster.ranks=2", "cluster.time=0:01:00"],
            "[cluster] warning_seconds: is 120, and the whole job has 60 seconds",
        ),
    ] {
        let ended = render(&place, "slurm", &set);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
}

/// A job script with stand-ins for the schedulers' programs next to it: the ranks' starter becomes
/// the rank, and the queue notes what it is told.
struct Job<'a> {
    place: &'a Place,
}

impl<'a> Job<'a> {
    /// `state` is what Slurm's queue says of the job.
    fn new(place: &'a Place, scheduler: &str, state: &str) -> Self {
        let bin = place.at("bin");
        fs::create_dir(&bin).unwrap();
        symlink(env!("CARGO_BIN_EXE_loract"), bin.join("loract")).unwrap();
        let folder = place.at("").display().to_string();
        let start = format!(
            "echo $$ >{folder}/rank.pid\nwhile [ \"$1\" != loract ]; do shift; done\nexec \"$@\"\n"
        );
        let queue = format!("echo \"$@\" >{folder}/requeued\n");
        for (name, text) in [
            ("srun", start.clone()),
            ("mpirun", start),
            // It takes its time: the rank may have ended when it comes back, and the script shall
            // know how.
            (
                "scancel",
                format!(
                    "rank=$(cat {folder}/rank.pid)\nkill -USR1 $rank\nwhile kill -0 $rank; do sleep 0.01; done 2>/dev/null\n"
                ),
            ),
            ("squeue", format!("echo {state}\n")),
            ("scontrol", queue.clone()),
            ("qrerun", queue),
        ] {
            fs::write(bin.join(name), format!("#!/bin/bash\n{text}")).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(place.at("job.sh"), rendered(place, scheduler, &[])).unwrap();
        Self { place }
    }

    fn submit(&self) -> Command {
        let mut command = self.place.command("bash");
        let path = format!("{}:{}", self.place.at("bin").display(), std::env::var("PATH").unwrap());
        command
            .arg(self.place.at("job.sh"))
            .env("PATH", path)
            .env("SLURM_JOB_ID", "7")
            .env("PBS_JOBID", "7");
        command
    }

    /// Starts the script, sends it `signal` as the scheduler does, and sees it end with 75 after a
    /// checkpoint.
    fn stop(&self, signal: Signal) {
        let mut command = self.submit();
        let pause = self.place.pause(&mut command, 0, 3);
        let mut job = self.place.start(&mut command);
        let paused = pause.reached(&mut job);
        job.stop(signal, paused);
        let ended = job.wait();
        assert_eq!(ended.status.code(), Some(75), "{}", ended.stderr);
        assert!(fs::read_dir(self.place.run_dir().join("checkpoints")).unwrap().count() > 0);
    }

    /// What the queue was told.
    fn requeued(&self) -> Option<String> {
        fs::read_to_string(self.place.at("requeued")).ok().map(|text| text.trim().to_owned())
    }
}

#[test]
fn a_warning_saves_and_requeues_and_the_next_start_goes_on() {
    for (scheduler, requeued) in [("slurm", Some("requeue 7")), ("pbs", Some("7")), ("lsf", None)] {
        let place = place();
        let job = Job::new(&place, scheduler, "RUNNING None");
        job.stop(Signal::USR1);
        assert_eq!(job.requeued().as_deref(), requeued, "{scheduler}");
        let ended = place.run(&mut job.submit());
        assert!(ended.status.success(), "{scheduler}: {}", ended.stderr);
        assert_eq!(
            fs::read_to_string(place.metrics()).unwrap().lines().count(),
            60,
            "each step once"
        );
    }
}

/// Slurm ends a job for `scancel JOB`, `scontrol requeue JOB` and the time limit, and only in the
/// last the queue has to be told; PBS's TERM is qdel's.
#[test]
fn what_the_scheduler_ends_stays_out_of_the_queue() {
    for (scheduler, state, signal, requeued) in [
        ("slurm", "COMPLETING None", Signal::USR1, None),
        ("slurm", "COMPLETING TimeLimit", Signal::USR1, Some("requeue 7")),
        ("pbs", "", Signal::TERM, None),
    ] {
        let place = place();
        let job = Job::new(&place, scheduler, state);
        job.stop(signal);
        assert_eq!(job.requeued().as_deref(), requeued, "{scheduler} {state}");
    }
}

#[test]
fn an_mpi_job_has_the_fields_of_the_operator() {
    let place = place();
    let set = [
        "cluster.ranks=6",
        "cluster.nodes=3",
        "cluster.time=\"02:00:00\"",
        "cluster.volume=data",
        "cluster.memory=8G",
        "cluster.image=here:1",
    ];
    let job = MpiJob::read(&rendered(&place, "mpijob", &set));
    assert_eq!(
        (job.api_version.as_str(), job.kind.as_str(), job.metadata.name.as_str()),
        ("kubeflow.org/v2beta1", "MPIJob", "run")
    );
    let MpiJob { spec, .. } = &job;
    assert_eq!(
        (spec.slots_per_worker, spec.mpi_implementation.as_ref()),
        (Some(2), Some(&MpiImplementation::OpenMpi))
    );
    assert_eq!(spec.launcher_creation_policy, Some(LauncherCreation::WaitForWorkersReady));
    assert_eq!(
        (spec.run_policy.clean_pod_policy.as_ref(), spec.run_policy.active_deadline_seconds),
        (Some(&CleanPods::Running), Some(7200))
    );
    assert!(
        spec.run_policy.backoff_limit > Some(0),
        "a launcher that saved and stopped is started again"
    );
    let Replicas { launcher, worker } = &spec.mpi_replica_specs;
    assert_eq!(
        (launcher.replicas, launcher.restart_policy.as_ref(), worker.replicas),
        (Some(1), Some(&Restart::OnFailure), Some(3))
    );
    assert!(worker.restart_policy.is_none());
    let (launcher, worker) = (&launcher.template.spec, &worker.template.spec);
    for pod in [launcher, worker] {
        let [container] = &pod.containers;
        assert_eq!((container.image.as_str(), container.working_dir.as_str()), ("here:1", "/work"));
        assert_eq!(
            (
                pod.volumes[0].persistent_volume_claim.claim_name.as_str(),
                &container.volume_mounts[0].name
            ),
            ("data", &pod.volumes[0].name)
        );
        assert!(container.resources.limits["cpu"].is_number());
    }
    assert_eq!(worker.containers[0].resources.limits["memory"], "8Gi");
    assert!(launcher.termination_grace_period_seconds > Some(0), "there is time to save");
    assert!(job.script().contains("\nmpirun -n 6 "), "{}", job.script());
}

/// The user, the port and the files of `ci/Dockerfile` are those that the job speaks of.
#[test]
fn an_mpi_job_fits_the_image() {
    let image =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/Dockerfile")).unwrap();
    let place = place();
    let job = MpiJob::read(&rendered(&place, "mpijob", &["cluster.ranks=2", "cluster.nodes=2"]));
    let Replicas { launcher, worker } = &job.spec.mpi_replica_specs;
    let (launcher, worker) = (&launcher.template.spec, &worker.template.spec);
    assert_eq!(launcher.security_context, worker.security_context);
    assert!(image.contains(&format!(
        "useradd --create-home --uid {} mpiuser",
        worker.security_context.run_as_user
    )));
    let keys = job.spec.ssh_auth_mount_path.as_deref().unwrap();
    assert!(image.contains(&format!("HostKey {keys}/id_rsa")), "{keys}");
    let probe = worker.containers[0].readiness_probe.as_ref().unwrap();
    assert_eq!(
        image.matches(&format!("Port {}'", probe["tcpSocket"]["port"])).count(),
        2,
        "the server's and the clients': {probe}"
    );
    let command = serde_json::to_string(&worker.containers[0].command).unwrap().replace(',', ", ");
    assert!(image.contains(&format!("CMD {command}")), "{command}");
}
