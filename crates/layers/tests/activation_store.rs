//! What sites share and remember, and attention with a compressed output.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use std::sync::{Arc, Mutex};

use tch::{Kind, Tensor};

use compression::{Method, Options, Rank, TestMatrix};
use layers::{
    Activation, ActivationStore, Mask, Observer, Projection, SavePolicy, SavedInput, Scope, Site,
    SiteId, reference,
};
use loract_layers as layers;

use drawing::{assert_close, gradients, normal, values};

fn policy(method: Method) -> SavePolicy {
    SavePolicy::Code(Options {
        method,
        rank: Rank::Components(3),
        keep_norms: true,
        factors: Kind::Double,
    })
}

#[test]
fn a_warm_site_remembers_its_own_basis_and_no_other_site_s() {
    let store = Arc::new(ActivationStore::default());
    let scope = |layer| Scope::training(1, store.clone()).layer(layer).site(Site::MlpIn);
    let warm = policy(Method::RowSpace { test_matrix: TestMatrix::Warm, unit_rows: true });
    let spread = values(&(0..16).map(|j| 0.8f64.powi(j)).collect::<Vec<_>>());
    let turn = compression::orthonormalize(&normal(&[16, 16], 3)).unwrap();
    let batch = |seed| (normal(&[40, 16], seed) * &spread).matmul(&turn);
    let lost = |policy: &SavePolicy, x: &Tensor, layer| {
        compression::per_token_error(x, &policy.save(x, &scope(layer)).unwrap().restore().unwrap())
            .unwrap()
    };
    let afresh = lost(&warm, &batch(1), 0);
    assert_eq!(store.state_bytes(), 8 * 16 * 3);
    let norm = policy(Method::RowSpace { test_matrix: TestMatrix::Norm, unit_rows: true });
    assert_eq!(
        lost(&warm, &batch(2), 1),
        lost(&norm, &batch(2), 2),
        "layer 1 has seen nothing yet"
    );
    assert_eq!(store.state_bytes(), 2 * 8 * 16 * 3);
    assert_eq!(afresh, lost(&norm, &batch(1), 2));
    let [warm_started, cold] =
        [&warm, &norm].map(|policy| (2..9).map(|seed| lost(policy, &batch(seed), 0)).sum::<f64>());
    assert!(warm_started < cold, "{warm_started} {cold}");
    assert_eq!(store.state_bytes(), 2 * 8 * 16 * 3, "other methods remember nothing");
}

#[test]
fn an_automatic_rank_is_what_it_comes_to_and_exact_where_that_is_smaller() {
    let store = Arc::new(ActivationStore::default());
    let scope = Scope::training(1, store.clone());
    let auto = |error| {
        SavePolicy::Code(Options {
            method: Method::Svd,
            rank: Rank::Auto { error, max_rank: 16 },
            keep_norms: false,
            factors: Kind::Double,
        })
    };
    let x = normal(&[40, 3], 1).matmul(&normal(&[3, 16], 2));
    let saved = auto(1e-6).save(&x, &scope).unwrap();
    assert_eq!((saved.bytes(), store.saved_bytes().held()), (8 * 3 * 56, 8 * 3 * 56));
    let noise = normal(&[40, 16], 3);
    let saved = auto(1e-6).save(&noise, &scope).unwrap();
    assert_eq!((saved.bytes(), saved.restore().unwrap()), (saved.exact_bytes(), noise));
}

#[test]
fn an_observer_sees_each_tensor_once_with_its_place() {
    type Tensors = Vec<(SiteId, Vec<i64>)>;
    struct Recorder(Arc<Mutex<Tensors>>);
    impl Observer for Recorder {
        fn observe(&self, site_id: SiteId, tensor: &Tensor) {
            self.0.lock().unwrap().push((site_id, tensor.size()));
        }
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let scope =
        Scope::training(1, Arc::new(ActivationStore::with_observer(Recorder(seen.clone()))))
            .layer(7);
    let (x, weight) = (normal(&[2, 5, 16], 1), normal(&[16, 16], 2).set_requires_grad(true));
    let one = Projection::new(&weight);
    let y =
        layers::project(&x, &[one, one], policy(Method::Svd), &scope.site(Site::AttnIn)).unwrap();
    drop(
        layers::gated(
            Activation::Silu,
            &y[0],
            &y[1],
            &SavePolicy::Exact,
            [scope.site(Site::Gate), scope.site(Site::Up)],
        )
        .unwrap(),
    );
    let at = |site| SiteId { layer: Some(7), site: Some(site) };
    let shape = |width| vec![2, 5, width];
    assert_eq!(
        *seen.lock().unwrap(),
        [(at(Site::AttnIn), vec![10, 16]), (at(Site::Gate), shape(16)), (at(Site::Up), shape(16))]
    );
    assert_eq!(at(Site::AttnIn).to_string(), "layer 7, attn_in");
}

#[test]
fn attention_and_the_map_after_it_read_its_compressed_output() {
    let store = Arc::new(ActivationStore::default());
    let scope = Scope::training(5, store.clone());
    let policy = policy(Method::Qb { test_matrix: TestMatrix::Norm });
    let leaves: Vec<Tensor> =
        (0..3).map(|seed| normal(&[2, 9, 2, 8], seed).set_requires_grad(true)).collect();
    let weight = normal(&[5, 16], 4).set_requires_grad(true);
    let (out, saved) =
        layers::attention(&leaves[0], &leaves[1], &leaves[2], &Mask::Causal, 0.3, &policy, &scope)
            .unwrap();
    let plain = reference::attention(&leaves[0], &leaves[1], &leaves[2], &Mask::Causal, 0.3);
    assert_close(&out, &plain, 1e-12, "the forward is exact");
    let one = Projection::new(&weight);
    let y = layers::project(
        &out,
        &[one],
        SavedInput::Saved(saved.unwrap()),
        &scope.site(Site::AttnOut),
    )
    .unwrap()
    .remove(0);
    let all = [
        leaves[0].shallow_clone(),
        leaves[1].shallow_clone(),
        leaves[2].shallow_clone(),
        weight.shallow_clone(),
    ];
    let ours = gradients(&all, vec![y]);

    // The same formulas at the restored output O: dW = dyᵀ O; dv needs no O; dS = P ∘ (dP −
    // rowsum(dO ∘ O)).
    let restored = policy
        .save(&out, &Scope::training(5, Arc::default()).site(Site::AttnOut))
        .unwrap()
        .restore()
        .unwrap();
    let dy = normal(&[2, 9, 5], 77);
    assert_close(&ours[3], &dy.flatten(0, 1).tr().matmul(&restored.flatten(0, 1)), 1e-9, "weight");
    let heads = |x: &Tensor| x.reshape([2, 9, 2, 8]).transpose(1, 2);
    let (q, k, v) =
        (heads(&leaves[0].detach()), heads(&leaves[1].detach()), heads(&leaves[2].detach()));
    let later = Tensor::ones([9, 9], (Kind::Bool, q.device())).triu(1);
    let p = (q.matmul(&k.transpose(2, 3)) * 0.3)
        .masked_fill(&later, f64::NEG_INFINITY)
        .softmax(-1, Kind::Double);
    let d_out = heads(&dy.matmul(&weight.detach()));
    let share = (&d_out * heads(&restored)).sum_dim_intlist(-1, true, Kind::Double);
    let ds = &p * (d_out.matmul(&v.transpose(2, 3)) - share) * 0.3;
    let back = |x: Tensor| x.transpose(1, 2);
    assert_close(&ours[0], &back(ds.matmul(&k)), 1e-9, "q");
    assert_close(&ours[1], &back(ds.transpose(2, 3).matmul(&q)), 1e-9, "k");
    assert_close(&ours[2], &back(p.transpose(2, 3).matmul(&d_out)), 1e-9, "v");
    assert_eq!(store.saved_bytes().held(), 0);
}
