//! Gradients of several processes under `mpirun`, against the reference. Started by cargo, this
//! program is the driver; started by `mpirun`, it is one rank. Where there is a GPU, one and two
//! ranks on it do the same by NCCL.
#![allow(clippy::unwrap_used, unsafe_code)]

#[path = "../../../collective/tests/ranks/mpirun.rs"]
#[allow(dead_code)]
mod mpirun;
#[path = "../simulation/mod.rs"]
mod simulation;
#[path = "../../../collective/tests/ranks/times.rs"]
#[allow(dead_code)]
mod times;

use std::process::Command;
use std::sync::Arc;

use tch::{Cuda, Device, Kind, Tensor};

use collective::{ProcessGroup, launched_by_mpi};
use reduce::{Config, GradientReducer, Method, PowerSgdConfig};

use simulation::{Reference, device, gradient, parameters, relative_error, set_gradient};

const SHAPES: &[&[i64]] = &[&[24, 18], &[24, 18], &[5], &[30, 4, 5]];

fn main() {
    if launched_by_mpi().is_some() {
        if device() != Device::Cpu {
            // Several ranks on one GPU: NCCL takes each for a host of its own.
            // SAFETY: no other thread has been started.
            unsafe {
                std::env::set_var("NCCL_HOSTID", format!("host-{:?}", collective::rank_hint()))
            };
        }
        return collective::run(check).unwrap();
    }
    let on_gpu: &[(usize, &str)] =
        if Cuda::is_available() { &[(1, "cuda"), (2, "cuda")] } else { &[] };
    for (ranks, device) in [(2, "cpu"), (3, "cpu")].iter().chain(on_gpu) {
        // mpirun keeps a folder there, which it shares with no other test.
        let scratch = tempfile::tempdir().unwrap();
        let output = Command::new("timeout")
            .args(["-k", "5", &times::HANG_LIMIT.as_secs().to_string()])
            .args(mpirun::mpirun())
            .args(["-n", &ranks.to_string()])
            .arg(std::env::current_exe().unwrap())
            .env("OMP_NUM_THREADS", "1")
            .env("TMPDIR", scratch.path())
            .env("LORACT_TEST_DEVICE", device)
            .output()
            .expect("mpirun and timeout are on the PATH");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{ranks} ranks ended with {}:\n{text}", output.status);
        println!("test {ranks}_ranks_follow_the_reference_on_{device} ... ok");
    }
}

fn check(group: Arc<dyn ProcessGroup>) -> Result<(), reduce::Error> {
    let group = group.with_device(device())?;
    let world_size = group.world_size();
    let powersgd = PowerSgdConfig { rank: 2, start_step: 2, ..PowerSgdConfig::default() };
    for method in [Method::Exact, Method::PowerSgd(powersgd)] {
        let parameters = parameters(SHAPES, Kind::Float);
        let sent_before = group.sent_bytes();
        let mut reducer = GradientReducer::new(
            Arc::clone(&group),
            &parameters,
            Config { method, ..Config::default() },
        )?;
        let sent_at_start = group.sent_bytes() - sent_before;
        assert_eq!(sent_at_start, 16, "two fingerprints");
        let mut references: Vec<Option<Reference>> = SHAPES.iter().map(|_| None).collect();
        for (name, query) in reducer.state().iter().filter(|(name, _)| name.starts_with("query.p"))
        {
            let index: usize = name["query.p".len()..].parse().unwrap();
            references[index] = Some(Reference::new(query, SHAPES[index][0], world_size, true));
        }
        assert_eq!(
            references.iter().flatten().count(),
            if method == Method::Exact { 0 } else { 3 }
        );

        for step in 0..8 {
            let sent = group.sent_bytes();
            // Every other step, gradients leave as they become complete.
            if step % 2 == 1 {
                reducer.begin(step);
            }
            for (index, (_, parameter)) in parameters.iter().enumerate() {
                set_gradient(parameter, &gradient(SHAPES[index], group.rank(), step, index));
            }
            let traffic = reducer.reduce(step)?;
            let agreement = 24 + 8 * SHAPES.len() as u64;
            assert_eq!(group.sent_bytes() - sent, traffic.bytes + agreement);
            for (index, (name, parameter)) in parameters.iter().enumerate() {
                let all: Vec<Tensor> = (0..world_size)
                    .map(|rank| gradient(SHAPES[index], rank, step, index))
                    .collect();
                let expected = match &mut references[index] {
                    Some(reference) if step >= 2 => {
                        let matrices: Vec<Tensor> =
                            all.iter().map(|tensor| tensor.view([SHAPES[index][0], -1])).collect();
                        reference.step(&matrices).view(SHAPES[index])
                    }
                    _ => {
                        all.iter().fold(all[0].zeros_like(), |sum, next| sum + next)
                            / world_size as f64
                    }
                };
                let error = relative_error(&parameter.grad(), &expected);
                assert!(error < 1e-3, "{name} at step {step} is off by {error}");
                let gathered = group.all_gather(&parameter.grad())?;
                assert!(
                    (0..world_size).all(|rank| gathered.get(rank as i64) == gathered.get(0)),
                    "{name} differs between ranks"
                );
            }
        }
    }
    Ok(())
}
