//! Wrong uses: an error on every rank, and a group that works afterwards.

use std::path::Path;

use tch::{Kind, Tensor};

use collective::{Error, ProcessGroup, Reduce};

use crate::driver::{self, device};
use crate::times::POLL_INTERVAL;

pub fn start(world_size: usize) {
    let directory = driver::empty_directory(&format!("misuse-{world_size}"));
    driver::mpirun(world_size, &["misuse", directory.to_str().unwrap()]).expect_success();
    std::fs::remove_dir_all(directory).unwrap();
}

fn zeros(size: i64, kind: Kind) -> Tensor {
    Tensor::zeros([size], (kind, device()))
}

pub fn check(group: &dyn ProcessGroup, directory: &Path) -> Result<(), Error> {
    everyone_is_wrong(group);
    still_works(group)?;
    if group.world_size() > 1 {
        the_last_rank_is_wrong(group)?;
        two_threads_at_once(group, directory)?;
    }
    Ok(())
}

/// The group is usable, and in step.
fn still_works(group: &dyn ProcessGroup) -> Result<(), Error> {
    let mut ranks = Tensor::from(group.rank() as i64).to_device(device());
    group.all_reduce(&mut ranks, Reduce::Sum)?;
    assert_eq!(ranks.int64_value(&[]), (0..group.world_size() as i64).sum::<i64>());
    Ok(())
}

fn everyone_is_wrong(group: &dyn ProcessGroup) {
    let matrix = Tensor::zeros([2, 3], (Kind::Float, device()));
    let wrong = [
        (Tensor::new(), "undefined", &[][..]),
        (matrix.tr(), "not contiguous", &[3, 2]),
        (matrix.to_sparse_sparse_dim(2), "sparse", &[2, 3]),
        (zeros(4, Kind::Int), "dtype", &[4]),
        (zeros(4, Kind::ComplexFloat), "dtype", &[4]),
    ];
    for (mut tensor, expected, expected_shape) in wrong {
        let errors = [
            group.all_reduce(&mut tensor, Reduce::Sum).unwrap_err(),
            group.broadcast(&mut tensor, 0).unwrap_err(),
            group.all_gather(&tensor).unwrap_err(),
            group.reduce_scatter(&tensor, Reduce::Sum).unwrap_err(),
        ];
        for (error, name) in
            errors.iter().zip(["all_reduce", "broadcast", "all_gather", "reduce_scatter"])
        {
            let Error::Unsupported { operation, reason, shape, rank, .. } = error else {
                panic!("{error}")
            };
            assert!(
                *operation == name && reason.contains(expected) && *rank == group.rank(),
                "{error}"
            );
            assert_eq!(shape, expected_shape);
        }
    }
    for rows in [
        Tensor::from(1.0).to_device(device()),
        zeros(0, Kind::Float),
        zeros(group.world_size() as i64 + 1, Kind::Float),
    ] {
        let error = group.reduce_scatter(&rows, Reduce::Sum).unwrap_err();
        assert!(error.to_string().contains("it has not one row for each rank"), "{error}");
    }
    for error in [
        group.broadcast(&mut zeros(1, Kind::Float), group.world_size()).unwrap_err(),
        group.broadcast_bytes(&mut Vec::new(), group.world_size()).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Root { root, .. } if root == group.world_size()), "{error}");
    }
}

/// What the last rank does otherwise, as the others must hear of it.
fn the_last_rank_is_wrong(group: &dyn ProcessGroup) -> Result<(), Error> {
    let last = group.world_size() - 1;
    let is_last = group.rank() == last;
    let pick = |right: Tensor, wrong: Tensor| if is_last { wrong } else { right };
    let sum = |mut tensor: Tensor| group.all_reduce(&mut tensor, Reduce::Sum);
    let name = format!("rank {last} (host {}): ", group.host(last));

    let different_reduction = if is_last { Reduce::Max } else { Reduce::Sum };
    let ranks = group.world_size() as i64;
    let rows = |columns: i64, kind: Kind| Tensor::zeros([ranks, columns], (kind, device()));
    let of_rows = format!("reduce_scatter (max) of {} f32", 2 * ranks);
    let matrix = Tensor::zeros([2, 3], (Kind::Float, device()));
    let cases = [
        (sum(pick(zeros(4, Kind::Float), zeros(5, Kind::Float))), "all_reduce (sum) of 5 f32"),
        (sum(pick(zeros(4, Kind::Half), zeros(4, Kind::BFloat16))), "all_reduce (sum) of 4 bf16"),
        (sum(pick(zeros(0, Kind::Float), zeros(1, Kind::Float))), "all_reduce (sum) of 1 f32"),
        (
            group.all_reduce(&mut zeros(4, Kind::Float), different_reduction),
            "all_reduce (max) of 4 f32",
        ),
        (if is_last { group.barrier() } else { sum(zeros(1, Kind::Float)) }, "barrier"),
        (
            group.broadcast(&mut zeros(2, Kind::Int64), usize::from(is_last)),
            "broadcast (root 1) of 2 i64",
        ),
        (
            group.all_gather(&pick(zeros(3, Kind::Double), zeros(3, Kind::Float))).map(drop),
            "all_gather of 3 f32",
        ),
        (group.broadcast_bytes(&mut vec![1], usize::from(is_last)), "broadcast_bytes (root 1)"),
        (
            group
                .reduce_scatter(
                    &pick(rows(1, Kind::Float), rows(2, Kind::Float)),
                    different_reduction,
                )
                .map(drop),
            &of_rows,
        ),
    ];
    for (result, expected) in cases {
        let error = result.expect_err(expected);
        assert!(matches!(&error, Error::Mismatch { rank, .. } if *rank == group.rank()), "{error}");
        assert!(error.to_string().contains(&format!("{name}{expected}")), "{error}");
    }

    // Where the last rank cannot even take part, it hears of its own mistake, and the others of its
    // reason.
    let refused = [
        (
            sum(pick(matrix.copy(), matrix.tr())),
            "all_reduce was refused its argument (it is not contiguous)",
        ),
        (
            sum(pick(matrix.copy(), Tensor::new())),
            "all_reduce was refused its argument (it is undefined)",
        ),
        (
            group.all_gather(&pick(matrix.copy(), zeros(6, Kind::Bool))).map(drop),
            "all_gather was refused its argument (its dtype is not carried)",
        ),
        (
            group
                .reduce_scatter(
                    &pick(rows(2, Kind::Float), zeros(2 * ranks, Kind::Float)),
                    Reduce::Sum,
                )
                .map(drop),
            "reduce_scatter was refused its argument (it has not one row for each rank)",
        ),
    ];
    for (result, expected) in refused {
        let error = result.expect_err(expected);
        if is_last {
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        } else {
            assert!(error.to_string().contains(&format!("{name}{expected}")), "{error}");
        }
    }
    still_works(group)
}

/// On rank 0 one thread waits in a barrier, and another comes; the others wait until that one was
/// refused.
fn two_threads_at_once(group: &dyn ProcessGroup, directory: &Path) -> Result<(), Error> {
    let refused = directory.join("refused");
    if group.rank() == 0 {
        let enter = || {
            let entered = group.barrier();
            if entered.is_err() {
                std::fs::write(&refused, "").unwrap();
            }
            entered
        };
        // Either may be the first.
        let mut entered = std::thread::scope(|scope| {
            [scope.spawn(enter), scope.spawn(enter)].map(|thread| thread.join().unwrap())
        });
        entered.sort_by_key(Result::is_err);
        assert!(
            matches!(entered, [Ok(()), Err(Error::Busy { operation: "barrier", rank: 0 })]),
            "{entered:?}"
        );
    } else {
        while !refused.exists() {
            std::thread::sleep(POLL_INTERVAL);
        }
        group.barrier()?;
    }
    still_works(group)
}
