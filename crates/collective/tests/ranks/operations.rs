//! Every operation with every dtype on odd sizes, against what each rank computes alone.

use tch::{Device, Kind, Tensor};

use collective::{Error, Mpi, ProcessGroup, Reduce};

use crate::driver::{self, device};

const KINDS: [Kind; 5] = [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16, Kind::Int64];
const SHAPES: [&[i64]; 8] = [&[], &[0], &[1], &[3, 0, 2], &[2, 3], &[7], &[1, 13, 1, 5], &[1031]];

pub fn start(world_size: usize) {
    driver::mpirun(world_size, &["operations"]).expect_success();
    driver::mpirun_with(
        world_size,
        &["operations", "chunked"],
        &[("OMPI_MCA_btl_tcp_links", "3"), ("LORACT_TEST_LINKS", "3")],
    )
    .expect_success();
}

/// Small whole numbers that differ from rank to rank: their sums are exact in every dtype.
fn numbers(rank: usize, shape: &[i64]) -> Vec<i64> {
    (0..shape.iter().product::<i64>())
        .map(|index| (index * 7 + rank as i64 * 5) % 23 - 11)
        .collect()
}

fn tensor(numbers: &[i64], kind: Kind, shape: &[i64]) -> Tensor {
    Tensor::from_slice(numbers).to_kind(kind).view(shape).to_device(device())
}

/// `[world_size, ...]`: each row is its number everywhere.
fn rank_marks(world_size: usize, kind: Kind, shape: &[i64]) -> Tensor {
    let rows: Vec<Tensor> =
        (0..world_size).map(|row| Tensor::full(shape, row as i64, (kind, device()))).collect();
    Tensor::stack(&rows, 0)
}

pub fn check(group: &dyn ProcessGroup) -> Result<(), Error> {
    let (rank, world_size) = (group.rank(), group.world_size());
    assert_eq!(Some(rank), collective::rank_hint());
    assert!(
        (0..world_size).all(|rank| !group.host(rank).is_empty() && group.host(rank) != "unknown")
    );
    assert!(matches!(Mpi::initialize(), Err(Error::AlreadyInitialised)));
    // What the user says of TCP holds.
    let links = std::env::var("LORACT_TEST_LINKS").unwrap_or("2".to_owned());
    assert_eq!(std::env::var("OMPI_MCA_btl_tcp_links"), Ok(links));
    let (before, mut sent) = (group.sent_bytes(), 0);

    for kind in KINDS {
        for shape in SHAPES {
            let all: Vec<Vec<i64>> = (0..world_size).map(|rank| numbers(rank, shape)).collect();
            let column = |index: usize| all.iter().map(move |numbers| numbers[index]);
            let own = || tensor(&all[rank], kind, shape);
            let size = own().numel() * kind.elt_size_in_bytes();

            for reduce in [Reduce::Sum, Reduce::Max, Reduce::Min] {
                let expected: Vec<i64> = (0..all[0].len())
                    .map(|index| match reduce {
                        Reduce::Sum => column(index).sum(),
                        Reduce::Max => column(index).max().unwrap(),
                        Reduce::Min => column(index).min().unwrap(),
                    })
                    .collect();
                let mut reduced = own();
                group.all_reduce(&mut reduced, reduce)?;
                assert_eq!(
                    reduced,
                    tensor(&expected, kind, shape),
                    "{reduce:?} of {kind:?} {shape:?}"
                );
                sent += size;

                // Row r of each rank, as if it were rank r further on: other numbers, and other
                // ones in each row.
                let row = |rank: usize, row: usize| &all[(rank + row) % world_size];
                let rows: Vec<Tensor> =
                    (0..world_size).map(|index| tensor(row(rank, index), kind, shape)).collect();
                let scattered = group.reduce_scatter(
                    &(Tensor::stack(&rows, 0) + rank_marks(world_size, kind, shape)),
                    reduce,
                )?;
                // Rank `rank` keeps row `rank`, whose numbers are those of all ranks again; its
                // mark was added once by each.
                let mark = if reduce == Reduce::Sum { rank * world_size } else { rank };
                let marked: Vec<i64> = expected.iter().map(|number| number + mark as i64).collect();
                assert_eq!(
                    scattered,
                    tensor(&marked, kind, shape),
                    "rows, {reduce:?} of {kind:?} {shape:?}"
                );
                sent += size * world_size;
            }
            for (root, numbers) in all.iter().enumerate() {
                let mut received = own();
                group.broadcast(&mut received, root)?;
                assert_eq!(
                    received,
                    tensor(numbers, kind, shape),
                    "{kind:?} {shape:?} from {root}"
                );
                sent += if rank == root { size } else { 0 };
            }
            let gathered = group.all_gather(&own())?;
            let parts: Vec<Tensor> =
                all.iter().map(|numbers| tensor(numbers, kind, shape)).collect();
            assert_eq!(gathered, Tensor::stack(&parts, 0), "{kind:?} {shape:?}");
            sent += size;
        }
    }
    sent += check_bytes(group)?;
    assert_eq!(group.sent_bytes() - before, sent as u64);
    check_rounding(group)?;
    check_nan(group)?;
    check_duplicate(group)
}

/// Two threads at once, each with a group of its own, in an order left to chance.
fn check_duplicate(group: &dyn ProcessGroup) -> Result<(), Error> {
    let other = group.duplicate()?;
    assert_eq!(
        (other.rank(), other.world_size(), other.host(0)),
        (group.rank(), group.world_size(), group.host(0))
    );
    // Ranks that share a GPU take turns on it, tens of milliseconds each.
    let calls = if device() == Device::Cpu { 200 } else { 5 };
    let sent = group.sent_bytes();
    let sums = |group: &dyn ProcessGroup, start: i64| -> Result<(), Error> {
        for call in start..start + calls {
            let mut sum = tensor(&[call, call * group.rank() as i64], Kind::Int64, &[2]);
            group.all_reduce(&mut sum, Reduce::Sum)?;
            let (world_size, ranks) =
                (group.world_size() as i64, (0..group.world_size() as i64).sum::<i64>());
            assert_eq!(sum, tensor(&[call * world_size, call * ranks], Kind::Int64, &[2]));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| sums(&*other, 1000));
        sums(group, 0)?;
        beside.join().unwrap()
    })?;
    assert_eq!(group.sent_bytes() - sent, 2 * calls as u64 * 16, "both are counted");
    Ok(())
}

/// Bytes of lengths that differ from rank to rank; returns how many this rank has sent.
fn check_bytes(group: &dyn ProcessGroup) -> Result<usize, Error> {
    let text = |rank: usize, length: usize| vec![rank as u8 + 65; rank * length];
    let mut sent = 0;
    for length in [0, 1, 17, 1000] {
        let own = text(group.rank(), length);
        let all: Vec<Vec<u8>> = (0..group.world_size()).map(|rank| text(rank, length)).collect();
        assert_eq!(group.all_gather_bytes(&own)?, all);
        sent += own.len();
        for (root, expected) in all.iter().enumerate() {
            let mut bytes = own.clone();
            group.broadcast_bytes(&mut bytes, root)?;
            assert_eq!(bytes, *expected);
            sent += if root == group.rank() { bytes.len() } else { 0 };
        }
        group.barrier()?;
    }
    Ok(sent)
}

/// Sums that are rounded: close to the reference, and the same bits on every rank.
fn check_rounding(group: &dyn ProcessGroup) -> Result<(), Error> {
    let values = |rank: usize| {
        Tensor::arange(999, (Kind::Double, device())).multiply_scalar(rank as f64 + 0.37).sin()
    };
    let exact = (0..group.world_size()).map(values).reduce(|sum, next| sum + next).unwrap();
    for (kind, tolerance) in
        [(Kind::Float, 1e-6), (Kind::Double, 1e-14), (Kind::Half, 4e-3), (Kind::BFloat16, 3e-2)]
    {
        let mut sum = values(group.rank()).to_kind(kind);
        group.all_reduce(&mut sum, Reduce::Sum)?;
        let off = |sum: &Tensor| (sum.to_kind(Kind::Double) - &exact).abs().max().double_value(&[]);
        assert!(off(&sum) <= tolerance, "{kind:?} is off by {}", off(&sum));
        let rows = values(group.rank())
            .to_kind(kind)
            .expand([group.world_size() as i64, -1], false)
            .contiguous();
        let own = group.reduce_scatter(&rows, Reduce::Sum)?;
        assert!(off(&own) <= tolerance, "a row of {kind:?} is off by {}", off(&own));
        let all = group.all_gather(&sum)?;
        assert!(
            (0..group.world_size()).all(|rank| all.get(rank as i64) == sum),
            "{kind:?} differs between ranks"
        );
    }
    Ok(())
}

/// NaN of one rank reaches all, whatever the reduction.
fn check_nan(group: &dyn ProcessGroup) -> Result<(), Error> {
    for kind in [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16] {
        for reduce in [Reduce::Sum, Reduce::Max, Reduce::Min] {
            let value = if group.rank() + 1 == group.world_size() { f64::NAN } else { 1.0 };
            let mut tensor = Tensor::from_slice(&[value, 2.0]).to_kind(kind).to_device(device());
            group.all_reduce(&mut tensor, reduce)?;
            assert!(
                tensor.double_value(&[0]).is_nan() && tensor.double_value(&[1]).is_finite(),
                "{reduce:?} of {kind:?}"
            );
            let rows = Tensor::from_slice(&[value, 2.0]).to_kind(kind).to_device(device());
            let own = group.reduce_scatter(
                &rows.expand([group.world_size() as i64, 2], false).contiguous(),
                reduce,
            )?;
            assert!(
                own.double_value(&[0]).is_nan() && own.double_value(&[1]).is_finite(),
                "a row, {reduce:?} of {kind:?}"
            );
        }
    }
    Ok(())
}
