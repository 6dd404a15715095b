//! Job files for schedulers: what they ask for, and what they do between a signal and the queue,
//! with the schedulers' own programs replaced by stand-ins that run the ranks here.
#![allow(clippy::unwrap_used, missing_docs)]

mod manifest;
mod program;

use manifest::Manifest;
use program::{Ended, Place};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

const SCHEDULERS: [&str; 6] = ["slurm", "pbs", "lsf", "flux", "mpijob", "trainjob"];

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
                "\nmpirun --bind-to none \"${forward[@]}\" --mca a 'b c' -n 8 loract train ",
                "LORACT_LOG",
                "forward+=(-x \"$name\") ;;",
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
            "flux",
            &[
                "\n#flux: --job-name=tune-7\n#flux: --nodes=2\n#flux: --nslots=8\n#flux: --cores-per-slot=3\n\
                 #flux: --gpus-per-slot=1\n#flux: --time-limit=5400s\n#flux: --signal=USR1@120s\n\
                 #flux: --queue=long\n#flux: --bank=physics\n#flux: --output=tune-7-{{id}}.log\n",
                "\nmodule load openmpi\n",
                "\nflux run -o pmi=pmix --nodes=2 --ntasks=8 --cores-per-task=3 --gpus-per-task=1 -o exit-timeout=120s loract train ",
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
                "export OMP_NUM_THREADS=3\n",
                "--mca a 'b c' -n 8 loract train ",
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
            !plain.replace("{{id}}", "").contains("{{")
                && !plain.contains("{%")
                && !plain.contains("None"),
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
            "mpijob" | "trainjob" => Manifest::read(&job).script().to_owned(),
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
        (["cluster.ranks=2", "cluster.array=[\"lora.rank=0\"]"], "[lora] rank: must be > 0"),
    ] {
        let ended = render(&place, "slurm", &set);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
}

#[test]
fn what_only_slurm_does_is_refused_elsewhere() {
    let place = place();
    for scheduler in ["pbs", "lsf", "flux", "mpijob", "trainjob"] {
        let ended = render(&place, scheduler, &["cluster.array=[\"lora.rank=8\"]"]);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains("[cluster] array: is for Slurm alone"), "{}", ended.stderr);
    }
    let ended = render(&place, "flux", &["cluster.ranks=2", "cluster.gpus_per_node=3"]);
    assert!(ended.stderr.contains("[cluster] gpus_per_node: is 3, and Flux"), "{}", ended.stderr);
}

#[test]
fn slurm_starts_ranks_in_containers() {
    let place = place();
    let here = place.at("").canonicalize().unwrap().display().to_string();
    let here = here.trim_end_matches('/');
    let set = ["cluster.image=docker://here#loract:1", "cluster.mounts=[\"/data\", \"/a:/b:ro\"]"];
    for (container, words) in [
        (
            "pyxis",
            format!(
                " --wait=120 '--container-image=docker://here#loract:1' \
                 '--container-mounts={here}:{here},/data:/data,/a:/b:ro' '--container-workdir={here}' loract train "
            ),
        ),
        (
            "apptainer",
            format!(
                " --wait=120 apptainer exec --nv --bind {here} --bind /data --bind /a:/b:ro --pwd {here} \
                 'docker://here#loract:1' loract train "
            ),
        ),
    ] {
        let container = format!("cluster.container={container}");
        let job = rendered(
            &place,
            "slurm",
            &[&set[..], &[&container, "cluster.gpus_per_node=1"]].concat(),
        );
        assert!(job.contains(&words), "{words}\n{job}");
    }
    let ended = render(&place, "slurm", &["cluster.mounts=[\"/data\"]"]);
    assert!(ended.stderr.contains("[cluster] mounts: "), "{}", ended.stderr);
    for (mpi, plugin) in [("openmpi", "pmix"), ("mpich", "pmi2"), ("intel", "pmi2")] {
        let job = rendered(&place, "slurm", &[&format!("cluster.mpi={mpi}")]);
        assert!(job.contains(&format!("srun --mpi={plugin} ")), "{job}");
    }
}

/// A script whose rank notes its arguments and what it is given, and ends.
fn arguments_of_rank(
    place: &Place,
    scheduler: &str,
    set: &[&str],
    environment: &[(&str, &str)],
) -> String {
    let bin = place.at("stand-in");
    fs::create_dir_all(&bin).unwrap();
    for starter in ["srun", "mpirun", "flux"] {
        fs::write(bin.join(starter), "#!/bin/bash\necho \"$@\"; env\n").unwrap();
        fs::set_permissions(bin.join(starter), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir_all(place.run_dir()).unwrap();
    fs::write(place.run_dir().join("summary.json"), "{}").unwrap();
    fs::write(place.at("job.sh"), rendered(place, scheduler, set)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = place.command("bash");
    command.arg(place.at("job.sh")).env("PATH", path).envs(environment.iter().copied());
    let ended = place.run(&mut command);
    assert!(ended.status.success(), "{}", ended.stderr);
    ended.stdout
}

#[test]
fn an_mpirun_that_ends_early_with_success_is_a_failure_of_the_job() {
    for scheduler in ["pbs", "lsf"] {
        let place = place();
        let job = Job::new(&place, scheduler, "");
        fs::write(place.at("bin/mpirun"), "#!/bin/bash\n").unwrap();
        let ended = place.run(&mut job.submit());
        assert_eq!(ended.status.code(), Some(1), "{scheduler}: {}", ended.stderr);
    }
}

#[test]
fn each_task_of_an_array_is_a_run_of_its_own() {
    let place = place();
    let set = ["cluster.array=[\"lora.rank=8\", \"optimizer.learning_rate=1e-3\"]"];
    let job = rendered(&place, "slurm", &set);
    assert!(job.contains("#SBATCH --array=0-1\n#SBATCH --output=run-%A_%a.log\n"), "{job}");
    let task = [("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_JOB_ID", "7")];
    let said = arguments_of_rank(&place, "slurm", &set, &task);
    let words = format!(
        "--set optimizer.learning_rate=1e-3 --set run.dir={}-1\n",
        place.run_dir().display()
    );
    assert!(said.contains(&words), "{words}\n{said}");
    // The number of the job alone would put all tasks back into the queue.
    assert!(
        job.contains("scontrol requeue \"$job\"") && job.contains("scancel --signal=USR1 \"$job\"")
    );
}

#[test]
fn the_environment_of_ranks_is_handed_on_to_other_hosts() {
    let place = place();
    let set = [
        "cluster.environment={ UCX_TLS = \"rc,self\", MINE = \"a 'b\" }",
        "cluster.cpus_per_rank=3",
    ];
    let job = [
        ("NCCL_DEBUG", "INFO"),
        ("NCCL_HOSTID", "one"),
        ("CUDA_VISIBLE_DEVICES", "0"),
        ("FIRST", "1"),
    ];
    for (mpi, words) in [
        ("openmpi", ["-x UCX_TLS", "-x MINE", "-x NCCL_DEBUG", "-x OMP_NUM_THREADS"]),
        (
            "mpich",
            [
                "-genv UCX_TLS rc,self",
                "-genv MINE a 'b",
                "-genv NCCL_DEBUG INFO",
                "-genv OMP_NUM_THREADS 3",
            ],
        ),
    ] {
        for scheduler in ["pbs", "lsf"] {
            let mpi = format!("cluster.mpi={mpi}");
            let set = [&set[..], &[&mpi]].concat();
            let said = arguments_of_rank(&place, scheduler, &set, &job);
            let arguments = said.lines().next().unwrap();
            words
                .iter()
                .for_each(|words| assert!(arguments.contains(words), "{words}: {arguments}"));
            for other in ["NCCL_HOSTID", "CUDA_VISIBLE_DEVICES", "FIRST", "PATH"] {
                let is_handed_on = arguments.split(' ').any(|word| word == other);
                assert!(!is_handed_on, "{other}: {arguments}");
            }
        }
    }
    for scheduler in ["slurm", "flux"] {
        let said = arguments_of_rank(&place, scheduler, &set, &[]);
        assert!(said.contains("\nMINE=a 'b\n") && said.contains("\nUCX_TLS=rc,self\n"), "{said}");
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
