//! Several ranks under `mpirun`, in order and in trouble. Started by cargo, this program is the
//! driver; started by `mpirun`, it is one rank and does what its first argument says.
#![allow(clippy::unwrap_used, unsafe_code)]

mod driver;
mod faults;
mod misuse;
mod mpirun;
mod nccl;
mod operations;
mod times;

use collective::{Mpi, MpiOptions, ProcessGroup as _, launched_by_mpi};

/// A test of the driver: its name and what it does.
type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("one_rank_computes_what_a_reference_does", || operations::start(1)),
    ("two_ranks_compute_what_a_reference_does", || operations::start(2)),
    ("three_ranks_compute_what_a_reference_does", || operations::start(3)),
    ("misuse_is_an_error_on_the_only_rank", || misuse::start(1)),
    ("misuse_is_an_error_on_both_ranks", || misuse::start(2)),
    ("misuse_is_an_error_on_all_three_ranks", || misuse::start(3)),
    ("one_rank_computes_over_nccl", || nccl::start(1)),
    ("three_ranks_compute_over_nccl", || nccl::start(3)),
    ("one_rank_computes_on_a_gpu", || nccl::on_a_gpu(1)),
    ("two_ranks_compute_on_one_gpu", || nccl::on_a_gpu(2)),
    ("without_nccl_no_rank_joins", nccl::without_the_library),
    ("a_rank_that_does_not_meet_the_others_ends_the_job", nccl::absent),
    ("a_rank_may_leave_a_group_over_nccl_before_the_others", nccl::leaving),
    ("an_error_after_a_call_of_nccl_ends_the_job", nccl::late_error),
    ("a_panic_ends_the_job_and_names_the_rank", || faults::start("panic")),
    ("a_panic_on_another_thread_ends_the_job_and_names_the_rank", || faults::start("thread-panic")),
    ("an_early_error_ends_the_job_and_names_the_rank", || faults::start("error")),
    ("an_early_error_past_the_guard_ends_the_job_and_names_the_rank", || faults::start("return")),
    ("a_panic_without_the_hook_ends_the_job_and_names_the_rank", || {
        faults::start("unhooked-panic")
    }),
    ("an_early_exit_ends_the_job_and_names_the_rank", || faults::start("exit")),
    ("a_killed_rank_ends_the_job_and_is_named", || faults::start("kill")),
    ("a_stopped_rank_ends_the_job_and_is_named", || faults::start("stop")),
    ("a_rank_that_hangs_ends_the_job_and_is_named", || faults::start("hang")),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if launched_by_mpi().is_none() {
        return driver::run_tests(TESTS, &arguments);
    }
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if arguments[0] == "on-a-gpu" {
        // SAFETY: no other thread has been started.
        unsafe { std::env::set_var("NCCL_HOSTID", format!("host-{:?}", collective::rank_hint())) };
        arguments.remove(0);
    }
    match arguments[..] {
        ["operations"] => collective::run(|group| operations::check(&*group)).unwrap(),
        ["operations", "chunked"] => {
            collective::install_panic_hook();
            let group = Mpi::initialize_with(MpiOptions { check: false, chunk_bytes: 24 }).unwrap();
            assert_eq!(group.options(), MpiOptions { check: false, chunk_bytes: 24 });
            operations::check(&group).unwrap();
            group.barrier().unwrap();
        }
        ["nccl", "operations"] => nccl::join(|group| operations::check(group)),
        ["nccl", "misuse", directory] => {
            nccl::join(|group| misuse::check(group, directory.as_ref()))
        }
        ["nccl", "leave"] => nccl::join(nccl::leave),
        ["nccl", "error"] => nccl::join(nccl::wait_for_an_error),
        ["misuse", directory] => {
            collective::run(|group| misuse::check(&*group, directory.as_ref())).unwrap()
        }
        ["fault", fault, directory] => faults::fail(fault, directory.as_ref()),
        _ => panic!("a rank does not know what {arguments:?} means"),
    }
}
