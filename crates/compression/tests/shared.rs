//! Projections on a basis that many share, against f64: what they are, what they hold, and where
//! the basis goes.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use tch::{Kind, Tensor};

use loract_compression::{Code, Method, Options, Rank, SiteState, decompose};

use drawing::{device, norm, normal};

fn options(rank: i64, factors: Kind) -> Options {
    Options { method: Method::Shared, rank: Rank::Components(rank), keep_norms: false, factors }
}

fn off(actual: &Tensor, expected: &Tensor) -> f64 {
    norm(&(actual.to_kind(Kind::Double) - expected)) / norm(expected)
}

/// `rows` rows that lie near `rank` directions of `columns`, the same for all seeds.
fn rows(rows: i64, columns: i64, rank: i64, seed: u64) -> Tensor {
    normal(rows, rank, seed).matmul(&normal(rank, columns, 4711))
        + 0.01 * normal(rows, columns, seed + 1)
}

#[test]
fn a_code_is_the_projection_on_the_basis_that_is_there() {
    let mut state = SiteState::default();
    for (step, count) in [50, 3, 17].into_iter().enumerate() {
        let a = rows(count, 24, 5, step as u64);
        let code = decompose(&a, &options(5, Kind::Double), 0, &mut state).unwrap();
        let basis = state.shared_basis().unwrap();
        assert!(off(&basis.tr().matmul(basis), &Tensor::eye(5, (Kind::Double, device()))) < 1e-12);
        let expected = a.matmul(basis).matmul(&basis.tr());
        assert!(off(&code.restore(Kind::Double).unwrap(), &expected) < 1e-12);
        let (g, w) = (normal(count, 7, 8), normal(9, 24, 9));
        assert!(off(&code.contract(&g).unwrap(), &g.tr().matmul(&expected)) < 1e-12);
        assert!(off(&code.project(&w).unwrap(), &expected.matmul(&w.tr())) < 1e-12);
        assert_eq!(
            (code.bytes(), code.rank()),
            ((8 * 5 * count) as u64, Some(5)),
            "the basis is the memory's"
        );
    }
    assert_eq!(state.bytes(), 8 * 5 * 24);
}

#[test]
fn products_lie_in_the_basis_whatever_form_components_have() {
    for factors in [Kind::Float, Kind::BFloat16, Kind::Int8] {
        for keep_norms in [false, true] {
            let mut state = SiteState::default();
            let options = Options { keep_norms, ..options(6, factors) };
            let a = rows(40, 30, 6, 1).to_kind(Kind::Float);
            let code = decompose(&a, &options, 0, &mut state).unwrap();
            assert_eq!(code.bytes(), options.bytes(40, 30).unwrap());
            let basis = state.shared_basis().unwrap().to_kind(Kind::Double);
            let product = code
                .contract(&normal(40, 4, 2).to_kind(Kind::Float))
                .unwrap()
                .to_kind(Kind::Double);
            assert!(
                off(&product.matmul(&basis).matmul(&basis.tr()), &product) < 1e-6,
                "{factors:?}"
            );
            assert!(
                off(&code.restore(Kind::Float).unwrap(), &a.to_kind(Kind::Double)) < 0.03,
                "{factors:?}"
            );
        }
    }
}

#[test]
fn ranks_that_add_up_what_they_saw_find_the_space_of_all() {
    // Each rank sees four of the eight directions.
    let of = |rank: u64, step: u64| {
        let seen = normal(60, 4, 100 * step + rank).matmul(&normal(4, 32, 11 + rank));
        seen + 1e-3 * normal(60, 32, 900 + 100 * step + rank)
    };
    let mut states = [SiteState::default(), SiteState::default()];
    let lost = |states: &mut [SiteState; 2], step: u64| -> f64 {
        let of_rank = |(rank, state): (usize, &mut SiteState)| {
            let a = of(rank as u64, step);
            state.observe(true);
            let code = decompose(&a, &options(8, Kind::Double), 0, state).unwrap();
            assert_eq!(state.bytes(), 2 * 8 * 8 * 32, "twice while it looks");
            off(&code.restore(Kind::Double).unwrap(), &a)
        };
        let worst = states.iter_mut().enumerate().map(of_rank).fold(0.0, f64::max);
        let sum = states[0].accumulated().unwrap() + states[1].accumulated().unwrap();
        states.iter_mut().for_each(|state| state.sync(&sum).unwrap());
        worst
    };
    for step in 0..3 {
        lost(&mut states, step);
    }
    assert_eq!(states[0].shared_basis().unwrap(), states[1].shared_basis().unwrap());
    assert!(lost(&mut states, 3) < 2e-3, "all eight directions are in it");
    assert!(states[0].accumulated().is_none() && states[0].bytes() == 8 * 8 * 32);
}

#[test]
fn every_token_has_the_same_say() {
    let few = normal(2, 4, 1).matmul(&normal(4, 16, 2)) * 1e4;
    let many = normal(200, 4, 3).matmul(&normal(4, 16, 4));
    let a = Tensor::cat(&[few, many.copy()], 0);
    let mut state = SiteState::default();
    for _ in 0..3 {
        state.observe(true);
        decompose(&a, &options(4, Kind::Double), 0, &mut state).unwrap();
        let seen = state.accumulated().unwrap().copy();
        state.sync(&seen).unwrap();
    }
    let basis = state.shared_basis().unwrap();
    assert!(off(&many.matmul(basis).matmul(&basis.tr()), &many) < 0.1);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut state = SiteState::default();
    decompose(&rows(20, 16, 4, 1), &options(4, Kind::Double), 0, &mut state).unwrap();
    let narrower = decompose(&rows(20, 12, 4, 1), &options(4, Kind::Double), 0, &mut state)
        .unwrap_err()
        .to_string();
    assert!(narrower.contains("[12, 4] for the shared basis"), "{narrower}");
    assert!(state.sync(&normal(16, 3, 1)).unwrap_err().to_string().contains("[16, 4]"));
    let none = Code::rank(
        &decompose(&normal(3, 16, 1), &options(9, Kind::Double), 0, &mut SiteState::default())
            .unwrap(),
    );
    assert_eq!(none, Some(9), "a basis may have more columns than its first matrix has rows");
}
